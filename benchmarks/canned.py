"""Servers of canned answers in AWS's JSON protocol, each in a process of its own: so clients are measured, and not a server.

canned(module) in a side --starts--> python -m benchmarks.<module> --prints--> its URL, when it is ready
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from benchmarks.comparison import ROOT

Answering: TypeAlias = Callable[[str, dict[str, Any], str], Awaitable[bytes]]
"""Gives the answer's JSON text to an operation with these parameters, asked at this URL."""


@asynccontextmanager
async def canned(module: str, **options: int) -> AsyncIterator[str]:
    """The URL of the server that `benchmarks.<module>` is, started with these options; it ends with the `with`."""
    # No account's: the server looks at no signature, but the client wants to make one.
    os.environ.update(AWS_ACCESS_KEY_ID="benchmark", AWS_SECRET_ACCESS_KEY="benchmark", AWS_EC2_METADATA_DISABLED="true")
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"benchmarks.{module}", *given, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    try:
        yield (await server.stdout.readline()).decode().strip()
    finally:
        server.kill()
        await server.wait()


async def serve(answering: Answering, version: str, port: int) -> None:
    """Until it is cancelled. `version`: of the JSON protocol; `port` 0: a free one."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-{version}\r\ncontent-length: %d\r\n\r\n".encode()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, own = writer.get_extra_info("sockname")[:2]
        try:
            while True:
                asked = await reader.readuntil(b"\r\n\r\n")
                lines = (line.split(": ", 1) for line in asked.decode().split("\r\n")[1:-2])
                headers = {name.lower(): value for name, value in lines}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                operation = headers["x-amz-target"].rpartition(".")[2]
                answer = await answering(operation, json.loads(body), f"http://{host}:{own}")
                writer.writelines((head % len(answer), answer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", port)
    print(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", flush=True)
    await listening.serve_forever()
