"""How fast kept failures are replayed: rows of five records each, chosen by a pattern out of twice as many, into an inline function.

All that a run by name does is in it: listing, claiming, the engine, the marks with their trail, durably. What is judged is CPU a record
(200 microseconds are 5,000 records a second of one CPU), for the rest is waiting for a disk; and that memory does not grow on the way.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

from benchmarks.comparison import Comparison, Limit, Reading, Side
from benchmarks.engine import inline, settings
from benchmarks.usage import resident, settle_down
from poller.failures.journal import Entry, KeptRecord
from poller.failures.runs import Plan, planned
from poller.model import Fault
from poller.policy import Block
from poller.replay import Part, Replay
from poller.replay.listing import listed
from poller.replay.matching import matching
from poller.settings import Filterable
from poller.stores.sqlite import open_store

ROW = 5
"""Records a failure."""
WANTED = '{"body": {"kind": ["order"]}}'
CONCURRENCY = 4
APPENDED = 500
FAULT = Fault("error", "ValueError", "no such order", ("app.py:7 handle",))


def failure(number: int) -> Entry:
    """Every other one is an order."""
    body = json.dumps({"kind": "order" if number % 2 else "refund", "text": "x" * 200})
    names = [f"{number}-{n}" for n in range(ROW)]
    records = tuple(KeptRecord(name, None, 1.0, json.dumps({"messageId": name, "body": body}).encode()) for name in names)
    return Entry(
        id=f"{number:032x}",
        mapping="benchmark",
        source="queue",
        lane="queue",
        function="f",
        reason="RetryAttemptsExhausted",
        attempts=1,
        fault=FAULT,
        first=names[0],
        last=names[-1],
        time=1763686800.0 + number,
        head=b'{"Records":[',
        tail=b"]}",
        records=records,
        identifiers=tuple(f'"{name}"' for name in names),
    )


@asynccontextmanager
async def prepared(records: int, folder: str) -> AsyncIterator[Replay]:
    """A run that has not begun, over a store with so many records to replay."""
    store, wanted = await open_store(Path(folder) / "poller.db"), records // ROW
    try:
        for first in range(0, 2 * wanted, APPENDED):
            await store.journal.append([failure(number) for number in range(first, min(first + APPENDED, 2 * wanted))])
        run = planned("benchmark", "nobody", Plan(pattern=WANTED), time.time())
        await store.runs.put(run)
        over = Filterable(("messageId", "body"), "body")

        async def rows() -> dict[str, int]:
            return (await listed(store.journal, store.runs, run, matching(WANTED, lambda _: over)))["benchmark"]

        mapping, function = settings(1, 10), inline("queue", CONCURRENCY)
        part = Part(run, "benchmark", "nobody", time.time, CONCURRENCY)
        yield Replay(store, part, rows, function, mapping, policy=Block.of(mapping, "cut"), random=Random(1))
        (after,) = await store.runs.select()
        if dict(after.counts) != {"replayed": wanted}:
            raise SystemExit(f"{dict(after.counts)} were replayed: not {wanted} rows")
        await function.aclose()
    finally:
        await store.aclose()


async def cpu(records: int, folder: str) -> Reading:
    """Microseconds of CPU a record, listing included."""
    async with prepared(records, folder) as replay:
        settle_down()
        began = time.process_time()
        await replay.run()
        return Reading((time.process_time() - began) / records * 1e6)


async def memory(records: int, folder: str) -> Reading:
    """Megabytes that the process has grown by, from a tenth of the rows on."""
    grown = [0]
    async with prepared(records, folder) as replay:
        task = asyncio.create_task(replay.run())
        first = 0
        while not task.done():
            await asyncio.sleep(0.02)
            if replay.tally.done_rows >= records // ROW // 10:
                first = first or resident(os.getpid())
                grown.append(resident(os.getpid()) - first)
        await task
    return Reading(max(grown) / 1e6)


SIDES = {"cpu": cpu, "memory": memory}


def comparisons(quick: bool) -> list[Comparison]:
    parameters = {"records": 10_000 if quick else 100_000}
    return [
        Comparison(
            "replay, by a pattern", "us CPU/record", Side("replay", "cpu", parameters, in_folder=True), None, Limit("figure", at_most=200)
        ),
        Comparison("replay, memory", "MB grown", Side("replay", "memory", parameters, in_folder=True), None, Limit("figure", at_most=32)),
    ]
