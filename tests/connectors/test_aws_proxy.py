"""Proxies of the environment, as the lean client of AWS takes them: a loopback server stands for one."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from connectors.aws.json import JsonCaller, Service
from connectors.aws.sigv4 import Credentials
from tests.servers.loopback import Loopback, loopback

pytestmark = pytest.mark.slow

ENDPOINT = "http://kinesis.example"
SERVICE = Service("kinesis", "kinesis", "Kinesis_20131202", "1.1")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def _signing() -> Credentials:
    return Credentials("MINE", "SECRET")


@asynccontextmanager
async def caller(endpoint: str) -> AsyncIterator[JsonCaller]:
    made = JsonCaller("here", SERVICE, endpoint, "eu-west-1", _signing, time.time)
    try:
        yield made
    finally:
        await made.aclose()


async def asked_through(server: Loopback) -> dict[str, str]:
    """The headers that a proxy saw."""
    async with caller(ENDPOINT) as client:
        assert await client.call("GetRecords", {}) == b"{}"
    [(headers, _)] = server.requests
    assert headers["host"] == "kinesis.example"
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=MINE/")
    return headers


@pytest.mark.parametrize("scheme", ["http://", ""])
async def test_a_proxy_of_the_environment_is_asked(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with loopback(lambda _: (200, b"{}")) as server:
        monkeypatch.setenv("http_proxy", scheme + server.url.removeprefix("http://"))
        headers = await asked_through(server)
    assert "proxy-authorization" not in headers


async def test_a_proxy_may_want_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    async with loopback(lambda _: (200, b"{}")) as server:
        monkeypatch.setenv("http_proxy", server.url.replace("http://", "http://me:word@"))
        headers = await asked_through(server)
    assert headers["proxy-authorization"] == f"Basic {b64encode(b'me:word').decode()}"


async def test_who_is_excepted_is_asked_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with loopback(lambda _: (200, b"{}")) as server, caller(server.url) as client:
        assert await client.call("GetRecords", {}) == b"{}"


async def test_a_netrc_file_is_nothing_to_aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its login would stand in the place of the signature."""
    (tmp_path / ".netrc").write_text("default login me password word\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    async with loopback(lambda _: (200, b"{}")) as server, caller(server.url) as client:
        assert await client.call("GetRecords", {}) == b"{}"
        [(headers, _)] = server.requests
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=MINE/")
