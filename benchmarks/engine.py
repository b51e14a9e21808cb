"""What the engine costs a record: a lane in memory to an inline function, beside a loop that builds the same events and calls it too.

The bare loop reads the same lane, and does nothing else: no batching, permits, deadline, policy, progress or counters.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

from benchmarks import function
from benchmarks.comparison import Comparison, Limit, Reading, Side
from benchmarks.records import FORMAT, Record, made
from benchmarks.usage import per_record
from handlers.inline import connect
from poller.errors import LaneEnded
from poller.functions import Function
from poller.lane_runner import FETCH_RECORDS, LaneRunner
from poller.metrics import MappingCounters
from poller.model import Ack, Action, Batch, Fetched, LaneKey
from poller.ordered import OrderedLane
from poller.policy import Block
from poller.protocols import Format, Lane
from poller.settings import Backoff, Batching, Context, FailureSettings, FunctionSettings, MappingSettings
from poller.stores.memory import MemoryStore
from poller.strands import Strands
from poller.turn import Turn
from poller.work import Work

ROUNDS = 3
"""How often the records are run through, each time by a new lane; once before, for a warm start."""

RETENTION = 7 * 86400.0
"""Every stream has one, so every batch is looked at for its age."""


class MemoryLane:
    """A lane over a list that keeps no progress. See `Lane`."""

    def __init__(self, records: Sequence[Record], width: int) -> None:
        self.name = "orders-0"
        self.format: Format = FORMAT
        self.strands = Strands(width, "hash")
        self.leaving: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self.settled = 0
        self._records = records
        self._position = 0

    async def fetch(self, limit: int) -> Fetched:
        records = self._records[self._position : self._position + limit]
        if not records:
            raise LaneEnded(self.name)
        self._position += len(records)
        return Fetched(records)

    async def begin(self, batch: Batch) -> None:
        """Nothing to save."""

    async def settle(self, batch: Batch, actions: Sequence[Action]) -> None:  # noqa: ARG002 (the protocol's)
        for action in actions:
            assert isinstance(action, Ack)
            self.settled += len(action.records)

    async def aclose(self, broken: bool = False) -> None:
        """Nothing is open."""


class MemoryReader:
    """A shard over a list. See `poller.ordered.Reader`."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records

    async def read(self, position: int, origin: str, limit: int) -> tuple[Sequence[Record], int]:  # noqa: ARG002 (the protocol's)
        start = max(0, position)
        records = self._records[start : start + limit]
        if not records:
            raise LaneEnded("orders-0")
        return records, start + len(records)

    async def head(self) -> tuple[int, float] | None:
        return None

    async def aclose(self) -> None:
        """Nothing is open."""


def settings(width: int, size: int) -> MappingSettings:
    """A mapping as the engine sees it."""
    return MappingSettings("orders", "orders", "orders", Batching(size), FailureSettings(), width)


def inline(handler: str, concurrency: int) -> Function:
    """One of benchmarks/function.py, on the loop."""
    file = Path(function.__file__)
    chosen = FunctionSettings("orders", f"{file.name}:{handler}", file.parent, 30.0, concurrency=concurrency, inline="loop")
    return Function(chosen, connect(chosen, lambda *_: None))


async def _ordered_lane(records: Sequence[Record], mapping: MappingSettings) -> OrderedLane:
    store, here = MemoryStore(), Path()
    context = Context(mapping, store, "benchmark", time.time, here, here)
    lease = await store.leases.claim(LaneKey("orders", "memory", "orders-0"), "benchmark", time.time(), 3600.0)
    assert lease is not None
    trusted_until = asyncio.get_running_loop().time() + 3600.0
    return await OrderedLane.open(context, lease, MemoryReader(records), FORMAT, "TRIM_HORIZON", trusted_until)


async def engine(records: int, size: int, width: int = 1, ordered: bool = False) -> Reading:
    """CPU a record of the engine."""
    mapping = settings(width, size)
    source = made(records, time.time())
    policy = Block(10, None, True, Backoff(), retention=RETENTION)
    counters = MappingCounters()
    work = Work(mapping, inline("log", 64), policy, "memory", MemoryStore().journal, counters, time.time, Random(), Turn())

    async def once() -> None:
        lane: Lane = await _ordered_lane(source, mapping) if ordered else MemoryLane(source, width)
        await LaneRunner(lane, work).run()
        if isinstance(lane, MemoryLane) and lane.settled != records:
            raise SystemExit(f"{lane.settled} of {records} records were settled")

    reading = await per_record(once, records, ROUNDS)
    if counters.invoked != records * (ROUNDS + 1) or counters.faults:
        raise SystemExit(f"{counters.invoked} records were invoked, {counters.faults} invocations failed: not what was meant")
    return reading


async def bare(records: int, size: int) -> Reading:
    """CPU a record of the loop without an engine."""
    source = made(records, time.time())

    async def once() -> None:
        lane, handle = MemoryLane(source, 1), function.log
        with suppress(LaneEnded):
            while True:
                fetched = (await lane.fetch(FETCH_RECORDS)).records
                for start in range(0, len(fetched), size):
                    handle(FORMAT.event(fetched[start : start + size]).mapping(), None)

    return await per_record(once, records, ROUNDS)


SIDES = {"engine": engine, "bare": bare}


def comparisons(quick: bool) -> list[Comparison]:
    count = 20_000 if quick else 200_000

    def beside(name: str, limit: Limit | None, size: int, **more: object) -> Comparison:
        parameters: dict[str, object] = {"records": count, "size": size}
        return Comparison(name, "us/record", Side("engine", "engine", {**parameters, **more}), Side("engine", "bare", parameters), limit)

    return [
        beside("a lane in memory, batches of 100", Limit("times", at_most=1.3), 100),
        beside("- batches of 10", None, 10),
        beside("- 4 strands, by key", None, 100, width=4),
        beside("- with progress (OrderedLane)", None, 100, ordered=True),
        beside("- with progress, 4 strands", None, 100, ordered=True, width=4),
    ]
