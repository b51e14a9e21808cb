"""A mapping as the daemon runs it, for as long as a measurement lasts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.comparison import Reading
from benchmarks.engine import inline, settings
from benchmarks.usage import until
from poller.mapping import MappingRunner
from poller.metrics import MappingCounters
from poller.policy import Block
from poller.protocols import Store
from poller.settings import Backoff, Context
from poller.stores.sqlite import open_store
from poller.turn import Turn
from poller.work import Work


@asynccontextmanager
async def running(connector: Any, options: Any, handler: str, folder: Path, size: int, width: int) -> AsyncIterator[MappingCounters]:
    """Batches of `size`, `width` at once, into an inline function; the store is a file in `folder`."""
    store: Store = await open_store(folder / "poller.db")
    mapping, counters = settings(width, size), MappingCounters()
    context = Context(mapping, store, "benchmark", time.time, folder, folder)
    unset = Block(None, None, False, Backoff())  # the source brings its own
    work = Work(mapping, inline(handler, width), unset, "", store.journal, counters, time.time, Random(), Turn())
    runner = MappingRunner(work, lambda: connector.open(options, context))
    task = asyncio.get_running_loop().create_task(runner.run())
    try:
        yield counters
    finally:
        runner.stop(asyncio.get_running_loop().time() + 10.0)
        await task
        await store.aclose()
    if counters.faults:
        raise SystemExit(f"{counters.faults} invocations failed")


async def polled(
    connector: Any,
    options: Any,
    handler: str,
    folder: Path,
    records: int,
    count: Callable[[MappingCounters], int],
    *,
    size: int,
    width: int,
) -> Reading:
    """Microseconds of CPU a record until `records` are counted."""
    async with running(connector, options, handler, folder, size, width) as counters:
        return await until(lambda: count(counters), records)
