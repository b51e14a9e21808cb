"""An HTTP server of the tests' own that answers as told: for what no real server says when asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

Request = tuple[dict[str, str], bytes]
Answer = tuple[int, bytes]


class Loopback:
    """An HTTP server. `answer` may be replaced while it runs; None hangs up. `date`: what it takes for the time, as HTTP writes it."""

    def __init__(self, answer: Callable[[Request], Answer | None]) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self.url = ""
        self.kind = b"application/x-amz-json-1.0"
        self.date: str | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")[1:-2]
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                request = headers, await reader.readexactly(int(headers.get("content-length", "0")))
                self.requests.append(request)
                answer = self.answer(request)
                if answer is None:
                    return
                status, body = answer
                writer.write(b"HTTP/1.1 %d Told\r\ncontent-type: %s\r\n" % (status, self.kind))
                if self.date is not None:
                    writer.write(b"date: %s\r\n" % self.date.encode())
                writer.write(b"content-length: %d\r\n\r\n" % len(body) + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    @property
    def asked(self) -> list[tuple[str, Any]]:
        """(action, parameters) of requests in AWS's JSON protocol."""
        told = [(headers.get("x-amz-target", ""), body) for headers, body in self.requests]
        return [(target.rpartition(".")[2], json.loads(body)) for target, body in told if target]


@asynccontextmanager
async def loopback(answer: Callable[[Request], Answer | None]) -> AsyncIterator[Loopback]:
    served = Loopback(answer)
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    served.url = f"http://{host}:{port}"
    try:
        yield served
    finally:
        server.close()
