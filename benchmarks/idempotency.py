"""What an idempotency window costs a batch: CPU of this process, all threads, with a store in SQLite beside none.

A lane in memory to an inline function, as in engine.py, with four strands; every batch is looked up and put, durably. Besides, it costs
waiting: a commit of the disk for each batch, which those of other strands and lanes share.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path
from random import Random

from msgspec import structs

from benchmarks.comparison import Comparison, Reading, Side
from benchmarks.engine import ROUNDS, MemoryLane, inline, settings
from benchmarks.records import made
from benchmarks.usage import per_record
from poller.guarding import guarding
from poller.idempotency import HASH_BYTES, TIME_BYTES
from poller.lane_runner import LaneRunner
from poller.metrics import MappingCounters
from poller.policy import Block
from poller.settings import Backoff, IdempotencySettings
from poller.stores.sqlite import open_store
from poller.turn import Turn
from poller.work import Work

PUT = 10_000
"""Names a put, where many are put down before."""


async def polled(batches: int, size: int, folder: str, window: bool = True, before: int = 0) -> Reading:
    """CPU a batch. `before`: so many records are remembered already."""
    mapping = settings(4, size)
    if window:
        mapping = replace(mapping, idempotency=IdempotencySettings(3600.0))
    store = await open_store(Path(folder) / f"{'with' if window else 'without'}-{size}-{before}.db")
    try:
        now, dice = time.time(), random.Random(size)
        for first in range(0, before, PUT):
            times = ((round(now * 1000) - before + n).to_bytes(TIME_BYTES, "big") for n in range(first, first + PUT))
            await store.acknowledged.put(mapping.id, [each + dice.randbytes(HASH_BYTES) for each in times], now, now + 3600.0)
        counters = MappingCounters()
        policy = Block(10, None, True, Backoff())
        work = Work(mapping, inline("log", 64), policy, "", store.journal, counters, time.time, Random(), Turn())
        work.guards = guarding(work, store)
        # They came one after the other, ten a millisecond.
        source = [structs.replace(record, time=now + n / 10_000) for n, record in enumerate(made(batches * size, now))]

        async def once() -> None:
            work.source += "again "  # another source's records: none was acknowledged before
            await LaneRunner(MemoryLane(source, 4), work).run()

        reading = await per_record(once, batches, ROUNDS)
    finally:
        await store.aclose()
    if counters.invoked != len(source) * (ROUNDS + 1) or counters.faults or counters.skipped:
        raise SystemExit(f"{counters.invoked} records were invoked, {counters.skipped} skipped: not what was meant")
    return reading


SIDES = {"polled": polled}


def comparisons(quick: bool) -> list[Comparison]:
    def stated(size: int, batches: int, before: int = 0) -> Comparison:
        count = batches // 10 if quick else batches
        remembered = before // 50 if quick else before
        ours = Side("idempotency", "polled", {"batches": count, "size": size, "before": remembered}, in_folder=True)
        other = Side("idempotency", "polled", {"batches": count, "size": size, "window": False}, in_folder=True)
        name = f"batches of {size}" + (f", {remembered:,} remembered" if before else "")
        return Comparison(f"an idempotency window, {name}", "us/batch", ours, other, beside="without")

    return [stated(1, 2_000), stated(10, 1_000), stated(100, 500), stated(100, 500, before=1_000_000)]
