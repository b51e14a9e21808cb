"""What a measurement used: CPU of this process, user and system, all threads; memory. Wall time depends on who else is there; CPU hardly
does."""

from __future__ import annotations

import asyncio
import gc
import resource
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.comparison import Reading

ENOUGH = 10_000
"""Records, for a warm start of their tenth."""

LOOK_SECONDS = 0.02
"""How often `until` looks."""


def settle_down() -> None:
    """What was made so far lives as long as the process: the collector need not look at it again, on any side (the daemon does so too)."""
    gc.collect()
    gc.freeze()


def resident(pid: int) -> int:
    """Bytes that this process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


async def per_record(once: Callable[[], Awaitable[None]], records: int, rounds: int) -> Reading:
    """Microseconds of CPU a record of `rounds` times `once`, after one time for a warm start."""
    await once()
    settle_down()
    began = time.process_time()
    for _ in range(rounds):
        await once()
    return Reading((time.process_time() - began) / (rounds * records) * 1e6)


async def until(count: Callable[[], int], records: int, clock: Callable[[], float] = time.process_time) -> Reading:
    """Microseconds a record while `count` goes from 0 to `records`: of something that is about to run, the first tenth left out.

    Of CPU, or of what else the clock tells.
    """
    # Few records are gone between two looks: that shows that it runs, and is no figure.
    first, began = await _reached(count, records // 10 if records >= ENOUGH else 0, clock)
    last, ended = await _reached(count, records, clock)
    return Reading((ended - began) / (last - first) * 1e6)


async def lasted(count: Callable[[], int], records: int) -> Reading:
    """Seconds from the first one counted until `records` are."""
    _, began = await _reached(count, 1, time.perf_counter, 0.001)
    _, ended = await _reached(count, records, time.perf_counter, 0.001)
    return Reading(ended - began)


async def _reached(count: Callable[[], int], aim: int, clock: Callable[[], float], every: float = LOOK_SECONDS) -> tuple[int, float]:
    # Looking is cheap, and every look takes both: it does not matter that the count is a little over.
    while (reached := count()) < aim:  # noqa: ASYNC110 (what counts must not pay for telling)
        await asyncio.sleep(every)
    return reached, clock()
