"""POSTs to a server on loopback: what it is sent, and what its answers do."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from connectors.http import HttpOptions, kind
from connectors.http.answers import signed
from connectors.kafka.options import Tls
from poller.config.secrets import Secret
from poller.errors import NotConnected
from poller.failures.journal import Delivery
from poller.failures.protocols import Destination
from poller.settings import DestinationContext
from poller.testing.destinations import context, make_delivery, make_record
from tests.servers.webhook import Request, Webhook, webhook

ID = make_delivery().id
TOKEN = "t0ken"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
async def server() -> AsyncIterator[Webhook]:
    async with webhook() as served:
        yield served


@asynccontextmanager
async def opened(server: Webhook, given: DestinationContext | None = None, **options: Any) -> AsyncIterator[Destination]:
    destination = await kind.open(f"{server.url}/services/{TOKEN}?token={TOKEN}", HttpOptions(**options), given or context())
    try:
        yield destination
    finally:
        await destination.aclose()


async def refused(server: Webhook, destination: Destination, status: int, **headers: str) -> NotConnected:
    server.answer = lambda _: web.Response(status=status, headers=headers)
    with pytest.raises(NotConnected) as caught:
        await destination.send(make_delivery())
    # Neither what was sent nor exactly where: many an address is a password.
    assert TOKEN not in str(caught.value)
    assert "order" not in str(caught.value)
    return caught.value


async def test_what_is_sent(server: Webhook, tmp_path: Path) -> None:
    """With secrets as they are when it is sent."""
    (tmp_path / "key").write_text("first\n")
    options = {"headers": {"Authorization": Secret("first", "file:key"), "X-Team": "orders"}, "secret": Secret("first", "file:key")}
    async with opened(server, context(folder=tmp_path), **options) as destination:
        await destination.send(make_delivery())
        (tmp_path / "key").write_text("second\n")
        await destination.send(make_delivery())
    for request, key in zip(server.requests, ("first", "second"), strict=True):
        assert (request.method, request.path) == ("POST", f"/services/{TOKEN}?token={TOKEN}")
        sent = {
            "content-type": "application/json",
            "user-agent": "poller",
            "idempotency-key": ID,
            "authorization": key,
            "x-team": "orders",
            **signed(key, ID, context().clock(), request.body),
        }
        assert sent.items() <= request.headers.items()
        assert json.loads(request.body)["id"] == ID


async def test_who_is_busy_says_when(server: Webhook) -> None:
    async with opened(server) as destination:
        problem = await refused(server, destination, 503, **{"retry-after": "17"})
        assert (problem.permanent, problem.retry_after) == (False, 17)


async def test_a_redirect_is_not_followed(server: Webhook) -> None:
    async with opened(server) as destination:
        problem = await refused(server, destination, 307, location=f"{server.url}/elsewhere?token={TOKEN}")
        assert problem.permanent
        assert f"it redirects to {server.url}, which is not followed" in str(problem)
    assert len(server.requests) == 1


@pytest.mark.parametrize("spilled", [False, True])
async def test_what_is_too_large_for_it_comes_without_the_event(server: Webhook, spilled: bool) -> None:
    def small(request: Request) -> web.Response:
        return web.Response(status=202 if len(request.body) < 100_000 else 413)

    async def spill(delivery: Delivery) -> str:
        return f"s3://failures/{delivery.id}"

    server.answer = small
    large = make_delivery(records=(make_record("7", "x" * 200_000),))
    async with opened(server, context(spill=spill if spilled else None)) as destination:
        await destination.send(large)
        (taken,) = server.taken
        assert json.loads(taken.body)["payloadIn"] == (f"s3://failures/{ID}" if spilled else f"journal:{ID}")
        problem = await refused(server, destination, 413)
        assert problem.permanent


async def test_nobody_is_waited_for_for_ever(server: Webhook) -> None:
    end = asyncio.Event()

    async def silent(request: web.Request) -> web.StreamResponse:
        await end.wait()
        return web.Response()

    server.serve = silent
    async with opened(server, timeout="50ms") as destination:
        with pytest.raises(NotConnected, match=r"no answer within 0.05 s"):
            await destination.send(make_delivery())
    end.set()


async def test_an_answer_without_an_end_is_not_read_to_it(server: Webhook) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(status=200)
        await answer.prepare(request)
        try:
            while True:
                await answer.write(b"x" * 65536)
        except ConnectionError:
            return answer

    server.serve = endless
    async with asyncio.timeout(10), opened(server) as destination:
        await destination.send(make_delivery())


async def test_no_password_of_the_environment_goes_along(server: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password word\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    async with opened(server) as destination:
        await destination.send(make_delivery())
    assert "authorization" not in server.requests[0].headers


async def test_a_proxy_of_the_environment_is_asked(server: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    destination = await kind.open("http://hooks.example/failures", HttpOptions(), context())
    try:
        await destination.send(make_delivery())
    finally:
        await destination.aclose()
    assert server.requests[0].headers["host"] == "hooks.example"
    (finding,) = await kind.probe("http://hooks.example/failures", HttpOptions(), context())
    assert finding.level == "warning"


async def test_certificates_are_looked_at(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(served)
    async with webhook(served) as server:
        given = context(folder=tmp_path)
        async with opened(server, given) as destination:
            with pytest.raises(NotConnected, match=r"its certificate is not trusted .* set tls.ca") as caught:
                await destination.send(make_delivery())
            assert caught.value.permanent
        async with opened(server, given, tls=Tls(ca="ca.pem")) as destination:
            await destination.send(make_delivery())
        for options, level in ((HttpOptions(), "error"), (HttpOptions(tls=Tls(ca="ca.pem")), "ok")):
            (finding,) = await kind.probe(server.url, options, given)
            assert finding.level == level
        assert len(server.requests) == 1
        with pytest.raises(NotConnected, match=r"tls.ca: .*none.pem cannot be read"):
            await kind.open(server.url, HttpOptions(tls=Tls(ca="none.pem")), given)


async def test_what_speaks_no_http_is_said_to() -> None:
    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.com ESMTP\r\n")
        writer.close()

    listening = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        destination = await kind.open(f"http://127.0.0.1:{port}", HttpOptions(), context())
        with pytest.raises(NotConnected, match=rf"^http://127.0.0.1:{port}: "):
            await destination.send(make_delivery())
        await destination.aclose()
