"""An HTTP server that takes what is posted to it, and answers as a test says: for destinations over HTTP."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web


@dataclass(frozen=True)
class Request:
    """`headers` by names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


def taken(request: Request) -> web.Response:
    return web.Response(status=202)


class Webhook:
    """`requests`: all that came; `taken`: those that were answered 2xx. `answer` may be replaced while it runs, and
    `serve`, by what answers in a way of its own."""

    def __init__(self, trusted: ssl.SSLContext | None = None) -> None:
        self.answer: Callable[[Request], web.StreamResponse] = taken
        self.serve: Callable[[web.Request], Awaitable[web.StreamResponse]] = self._serve
        self.requests: list[Request] = []
        self.taken: list[Request] = []
        self._ssl = trusted
        self._port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"{'http' if self._ssl is None else 'https'}://127.0.0.1:{self._port}"

    async def listen(self) -> None:
        """At the port it had before, if it had one."""
        application = web.Application(client_max_size=2**26)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._ssl, reuse_address=True)
        await site.start()
        ((_, self._port),) = self._runner.addresses

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, came: web.Request) -> web.StreamResponse:
        return await self.serve(came)

    async def _serve(self, came: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in came.headers.items()}
        request = Request(came.method, came.path_qs, headers, await came.read())
        self.requests.append(request)
        answer = self.answer(request)
        if 200 <= answer.status < 300:
            self.taken.append(request)
        return answer


@asynccontextmanager
async def webhook(trusted: ssl.SSLContext | None = None) -> AsyncIterator[Webhook]:
    """On loopback; over TLS with a context."""
    served = Webhook(trusted)
    await served.listen()
    try:
        yield served
    finally:
        await served.close()
