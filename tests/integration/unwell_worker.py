"""A worker that lives, and never says how it is: its store is away; with DEAF it does not stop either. Run as `poller.workers.worker`."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

from poller.admin.line import WorkerEnd


async def main() -> None:
    gone = asyncio.Event()

    async def started() -> AsyncIterator[dict[str, Any]]:
        yield {}

    async def hang(**arguments: Any) -> AsyncIterator[dict[str, Any]]:
        await gone.wait()
        yield {}

    end = WorkerEnd(socket.socket(fileno=int(sys.argv[1])), {"started": started, "status": hang, "adopt": hang}, gone.set)
    await end.start()
    await gone.wait()


if "DEAF" in os.environ:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
asyncio.run(main())
