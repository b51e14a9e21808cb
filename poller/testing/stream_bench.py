"""What a test of a stream's lane has to do with: the stream, and workers that run its lane step by step."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from poller.errors import LaneEnded
from poller.model import Ack, Action, Batch, Fault, Record, Retry, Span
from poller.protocols import Lane
from poller.settings import Batching

LIMIT = 20.0
"""Seconds any single wait of the suite may take; reached only by a failure."""

FAULT = Fault("error", "ValueError", "a poison record")
BATCHING = Batching(1000)

T = TypeVar("T")


@dataclass(frozen=True)
class StreamFeatures:
    """What a stream declares. `poll`: an empty fetch waits so many seconds at most, and is `slack` late at most. `origins`: the starting
    positions it knows. `ends`: its shards can be closed."""

    poll: float
    origins: frozenset[str] = frozenset({"TRIM_HORIZON"})
    ends: bool = False
    slack: float = LIMIT


class StreamBench(Protocol):
    """One empty stream of one shard, and its workers."""

    async def put(self, *names: str, key: str = "k") -> None:
        """A record for each name, in this order."""

    async def open(self, owner: str, width: int = 1, *, interval: float = 3600.0, origin: str = "TRIM_HORIZON") -> Lane:
        """The lane in a new life; it is closed with the bench, if not before. `interval`: seconds between saves."""

    async def expire(self) -> None:
        """All leases run out, and no lane knows: as if this process had stood still, or its clock were slow."""

    async def end(self) -> None:
        """Close the shard."""

    @property
    def names(self) -> Callable[[Sequence[Record]], list[str]]:
        """The names of records, as they were put."""


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


async def in_time(waited: Awaitable[T]) -> T:
    """Fails the test when it takes too long."""
    async with asyncio.timeout(LIMIT):
        return await waited


class Worker:
    """Runs a lane step by step, as its runner would. `resumed`: the spans it was handed; `given`: the names of all it was handed."""

    def __init__(self, bench: StreamBench, lane: Lane) -> None:
        self.lane = lane
        self.resumed: list[tuple[Span, list[str]]] = []
        self.given: list[str] = []
        self._bench = bench

    async def read(self, count: int, limit: int = 1000) -> list[Batch]:
        """Until so many more records are here; then a batch for each strand with work, of all it has (or of its first span)."""
        seen, end = 0, now() + LIMIT
        while seen < count:
            assert now() < end, f"{seen} records came, {count} were expected"
            seen += await self._take(limit)
        assert seen == count, f"{seen} records came, {count} were expected"
        return self.batches()

    async def _take(self, limit: int) -> int:
        lane, facts = self.lane, self.lane.format.facts
        fetched = await in_time(lane.fetch(limit))
        assert len(fetched.records) <= limit
        for span, records in fetched.resumed:
            self.resumed.append((span, self._bench.names(records)))
            lane.strands.resume(span, records, facts(records).sizes())
        if fetched.records:
            lane.strands.add(fetched.records, facts(fetched.records), 0.0)
        records = [*fetched.records, *(record for _, span in fetched.resumed for record in span)]
        self.given += self._bench.names(records)
        return len(records)

    def batches(self) -> list[Batch]:
        """What could begin now, cut."""
        taken = [self.lane.strands.take(strand, BATCHING, self.lane.format, 0.0) for strand in self.lane.strands.ready(BATCHING, 0.0)]
        return [batch for batch, _ in filter(None, taken)]

    async def begin(self, batch: Batch) -> None:
        await in_time(self.lane.begin(batch))

    async def settle(self, batch: Batch, *actions: Action) -> None:
        """The strand has nothing more to do with the batch unless some of it is retried."""
        await in_time(self.lane.settle(batch, actions))
        if not any(isinstance(action, Retry) for action in actions):
            self.finish(batch)

    def finish(self, batch: Batch) -> None:
        (strand,) = (strand for strand in self.lane.strands if strand.number == batch.strand)
        self.lane.strands.finish(strand)

    async def ack(self, batch: Batch) -> None:
        await self.begin(batch)
        await self.settle(batch, Ack(batch.records))

    async def fail(self, batch: Batch, delay: float = 0.0) -> Batch:
        """An attempt that fails; returns the next one."""
        await self.begin(batch)
        following = batch.but(attempt=batch.attempt + 1, cause="retry", fault=FAULT)
        await self.settle(batch, Retry(following, delay))
        return following

    async def run_out(self) -> None:
        """Ack all there is, until nothing comes any more, or the lane ends."""
        try:
            while await self._take(1000):
                while batches := self.batches():
                    for batch in batches:
                        await self.ack(batch)
        except LaneEnded:
            pass
