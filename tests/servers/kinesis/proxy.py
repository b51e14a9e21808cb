"""Stands before kinesis-local and adds what it leaves out: an event stream begins with a frame `initial-response`, without which no client
of AWS's reads on. Everything else passes as it is."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from zlib import crc32

from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

from tests.servers.process import free_port

_HOP = {"connection", "content-length", "host", "keep-alive", "transfer-encoding", "date", "server"}


def frame(headers: Mapping[str, str], body: bytes) -> bytes:
    """A message of an event stream (Amazon Transcribe guide, "Event stream encoding")."""
    packed = b"".join(
        struct.pack(">B", len(name)) + name.encode() + struct.pack(">BH", 7, len(value)) + value.encode() for name, value in headers.items()
    )
    prelude = struct.pack(">II", 16 + len(packed) + len(body), len(packed))
    message = prelude + struct.pack(">I", crc32(prelude)) + packed + body
    return message + struct.pack(">I", crc32(message))


INITIAL = frame({":event-type": "initial-response", ":content-type": "application/json", ":message-type": "event"}, b"{}")


class Framing:
    """An HTTP server that passes requests on to `url`."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def pass_on(self, request: web.Request, session: ClientSession) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        # The host is signed.
        headers["Host"] = request.headers["Host"]
        pushes = request.headers.get("X-Amz-Target", "").endswith(".SubscribeToShard")
        async with session.request(request.method, self._url + request.path, headers=headers, data=await request.read()) as answer:
            passed = web.StreamResponse(status=answer.status)
            passed.headers.update({name: value for name, value in answer.headers.items() if name.lower() not in _HOP})
            await passed.prepare(request)
            if pushes and answer.status == 200:
                await passed.write(INITIAL)
            with suppress(ConnectionError):  # whoever asked may have hung up
                async for part in answer.content.iter_any():
                    await passed.write(part)
                await passed.write_eof()
            return passed

    async def serve(self, port: int, ready: threading.Event, stop: asyncio.Event) -> None:
        async with ClientSession(connector=TCPConnector(limit=0), timeout=ClientTimeout(total=None), auto_decompress=False) as session:
            server = web.Server(lambda request: self.pass_on(request, session))  # type: ignore[arg-type]
            runner = web.ServerRunner(server, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            ready.set()
            await stop.wait()
            await runner.cleanup()


@contextmanager
def framing(folder: Path, url: str) -> Iterator[str]:
    """Its URL. It runs in a thread: the loops of the tests come and go."""
    port, ready, loops = free_port(), threading.Event(), list[tuple[asyncio.AbstractEventLoop, asyncio.Event]]()

    async def main() -> None:
        stop = asyncio.Event()
        loops.append((asyncio.get_running_loop(), stop))
        await Framing(url).serve(port, ready, stop)

    thread = threading.Thread(target=asyncio.run, args=(main(),), name=f"framing of {folder.name}", daemon=True)
    thread.start()
    assert ready.wait(20), "the proxy did not start"
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        ((loop, stop),) = loops
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
