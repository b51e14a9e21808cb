"""The connections of one admin server: bounded in number, each served by a task of its own, all ended with the server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Connections:
    """What `asyncio.start_server` calls for each connection; `serve` owns its streams only while it runs.

    When `limit` are open, the oldest one is dropped for the new one: who holds connections without using them locks nobody out.
    """

    def __init__(self, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], limit: int) -> None:
        self._serve = serve
        self._limit = limit
        self._tasks: dict[asyncio.Task[None], None] = {}  # in order of arrival

    def __len__(self) -> int:
        return len(self._tasks)

    def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A plain function: asyncio would run a coroutine as a task of its own, which nobody could end, or wait for, at the stop.
        if len(self._tasks) >= self._limit:
            oldest = next(iter(self._tasks))
            del self._tasks[oldest]
            oldest.cancel()
        task = asyncio.get_running_loop().create_task(self._run(reader, writer))
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def aclose(self) -> None:
        """End what is open. Tolerated twice."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # the other side has gone, or this one is to: either way the connection ends here
        finally:
            writer.transport.abort()
