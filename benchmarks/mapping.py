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
from poller.functions import Function
from poller.mapping import MappingRunner
from poller.metrics import MappingCounters
from poller.policy import Block
from poller.protocols import Store
from poller.settings import Backoff, Context, MappingSettings
from poller.stores.sqlite import open_store
from poller.turn import Turn
from poller.work import Work


@asynccontextmanager
async def running(
    connector: Any, options: Any, folder: Path, mapping: MappingSettings, function: Function
) -> AsyncIterator[MappingCounters]:
    """This mapping, its store a file in `folder`; the function is closed with it."""
    store: Store = await open_store(folder / "poller.db")
    counters = MappingCounters()
    context = Context(mapping, store, "benchmark", time.time, folder, folder)
    unset = Block(None, None, False, Backoff())  # the source brings its own
    work = Work(mapping, function, unset, "", store.journal, counters, time.time, Random(), Turn())
    runner = MappingRunner(work, lambda: connector.open(options, context))
    task = asyncio.get_running_loop().create_task(runner.run())
    try:
        yield counters
    finally:
        runner.stop(asyncio.get_running_loop().time() + 10.0)
        await task
        await function.aclose()
        await store.aclose()


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
    """Microseconds of CPU a record until `records` are counted: batches of `size`, `width` at once, into an inline function."""
    async with running(connector, options, folder, settings(width, size), inline(handler, width)) as counters:
        reading = await until(lambda: count(counters), records)
    if counters.faults:
        raise SystemExit(f"{counters.faults} invocations failed")
    return reading
