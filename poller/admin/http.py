"""A very small HTTP/1.1 server for a few pages: GET only, one request a connection, robust against garbage and slow clients."""

from __future__ import annotations

import asyncio
import errno
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeAlias

from poller.admin.connections import Connections
from poller.errors import ConfigError

HEAD_LIMIT = 8192
"""Bytes that a request line and its headers may have."""

_REQUEST_LINE = re.compile(rb"([A-Za-z]+) (/[!-~]*) HTTP/1\.[01]")
_LISTEN = re.compile(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\[\]:\s]+)):(\d{1,5})")
_CAUSES = {
    errno.EADDRINUSE: "another program listens there already; stop it, or choose another port",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.EACCES: "ports below 1024 need a privilege; choose a higher one",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a page says."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; charset=utf-8"


Page: TypeAlias = Callable[[], Awaitable[Answer]]


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of "127.0.0.1:8780", "[::1]:8780" or "localhost:0"; port 0 lets the system choose. Raises ConfigError."""
    match = _LISTEN.fullmatch(text)
    if match is None or int(match[3]) > 65535:
        raise ConfigError(f'listen = "{text}": write an address and a port, such as "127.0.0.1:8780" (all addresses: "0.0.0.0:8780")')
    return match[1] or match[2], int(match[3])


class HttpServer:
    """Serves `pages`, by path. `timeout` (seconds) bounds each of: the request's arrival, the page, the answer's departure.

    `address` is "host:port" as it came to be: with port 0 it is known after `start`.
    """

    def __init__(self, listen: str, pages: Mapping[str, Page], *, connections: int = 64, timeout: float = 5.0) -> None:
        self.address = listen
        self._host, self._port = parse_listen(listen)
        self._pages = dict(pages)
        self._timeout = timeout
        self._connections = Connections(self._serve, connections)
        self._server: asyncio.Server | None = None

    def __repr__(self) -> str:
        return f"<HttpServer {self.address} [{'open' if self._server else 'closed'}, {len(self._connections)} connections]>"

    async def start(self) -> None:
        """Raises ConfigError when the address cannot be had."""
        try:
            self._server = await asyncio.start_server(self._connections, self._host, self._port, limit=HEAD_LIMIT)
        except OSError as error:
            # From Python 3.13 on, an address that this machine has not got comes without a number.
            cause = _CAUSES.get(error.errno or errno.EADDRNOTAVAIL) or error.strerror or str(error)
            raise ConfigError(f'listen = "{self.address}": {cause}') from error
        host, port = self._server.sockets[0].getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def aclose(self) -> None:
        """Stop listening and drop what is open. Tolerated twice, and before `start`."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            await self._connections.aclose()  # first: from Python 3.12 on, wait_closed waits for connections too
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = await self._answer(reader)
        async with asyncio.timeout(self._timeout):
            writer.write(_head(answer) + answer.body)
            await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
            # The client closes first: what we still buffer is lost when we do, and bytes of the request that are unread would reset the
            # connection, which could take the answer from the client.
            while await reader.read(HEAD_LIMIT):
                pass

    async def _answer(self, reader: asyncio.StreamReader) -> Answer:
        try:
            async with asyncio.timeout(self._timeout):
                head = await reader.readuntil(b"\r\n\r\n")
        except TimeoutError:
            return _plain(HTTPStatus.REQUEST_TIMEOUT, "the request did not arrive in time")
        except asyncio.LimitOverrunError:
            return _plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the request's head is longer than {HEAD_LIMIT} bytes")
        except asyncio.IncompleteReadError:
            return _plain(HTTPStatus.BAD_REQUEST, "the request's head has no end")
        match = _REQUEST_LINE.fullmatch(head.partition(b"\r\n")[0])
        if match is None:
            return _plain(HTTPStatus.BAD_REQUEST, "this is no HTTP/1.1 request")
        if match[1] != b"GET":
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED, "only GET is served here")
        page = self._pages.get(match[2].decode("ascii").partition("?")[0])
        if page is None:
            return _plain(HTTPStatus.NOT_FOUND, "there is no such page, only " + ", ".join(sorted(self._pages)))
        return await self._shown(page)

    async def _shown(self, page: Page) -> Answer:
        try:
            async with asyncio.timeout(self._timeout):
                return await page()
        except TimeoutError:
            return _plain(HTTPStatus.SERVICE_UNAVAILABLE, "the daemon did not answer in time")
        except Exception:  # the edge of the server: a page that breaks must say so to its client, and leave the daemon alone
            _log.exception("an admin page failed")
            return _plain(HTTPStatus.INTERNAL_SERVER_ERROR, "the page failed; see the daemon's log")


def _plain(status: HTTPStatus, text: str) -> Answer:
    return Answer(f"{text}\n".encode(), status)


def _head(answer: Answer) -> bytes:
    lines = (
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        *(("Allow: GET",) if answer.status == HTTPStatus.METHOD_NOT_ALLOWED else ()),
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode("ascii")
