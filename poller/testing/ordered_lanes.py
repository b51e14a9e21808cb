"""What every stream's lane must hold, by property; a test module runs it for each stream, with declared features.

    class TestLocalStream(OrderedLaneContract):
        features = StreamFeatures(poll=1.0, origins=frozenset({"TRIM_HORIZON", "LATEST"}))

        @asynccontextmanager
        async def bench(self) -> AsyncIterator[StreamBench]: ...

A *life* is a worker that has the lane: one that closes it hands it on; one whose lease runs out is thought dead, and goes on not knowing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

import pytest

from poller.errors import LaneEnded, LaneLost
from poller.model import Ack, Action, Batch, Discard, Failure, Fault, Record, Retry, Span
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


class Worker:
    """Runs a lane step by step, as its runner would. `resumed`: the spans it was handed; `given`: the names of all it was handed."""

    def __init__(self, bench: StreamBench, lane: Lane) -> None:
        self.lane = lane
        self.resumed: list[tuple[Span, list[str]]] = []
        self.given: list[str] = []
        self._bench = bench

    async def read(self, count: int, limit: int = 1000) -> list[Batch]:
        """Until so many more records are here; then a batch for each strand with work, of all it has (or of its first span)."""
        seen, end = 0, _now() + LIMIT
        while seen < count:
            assert _now() < end, f"{seen} records came, {count} were expected"
            seen += await self._take(limit)
        assert seen == count, f"{seen} records came, {count} were expected"
        return self.batches()

    async def _take(self, limit: int) -> int:
        lane, facts = self.lane, self.lane.format.facts
        fetched = await _in_time(lane.fetch(limit))
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
        await _in_time(self.lane.begin(batch))

    async def settle(self, batch: Batch, *actions: Action) -> None:
        """The strand has nothing more to do with the batch unless some of it is retried."""
        await _in_time(self.lane.settle(batch, actions))
        if not any(isinstance(action, Retry) for action in actions):
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


class OrderedLaneContract:
    """poller.protocols.Lane, as a stream keeps it: laws 7, 10 and 11 over the lives of a lane."""

    features: ClassVar[StreamFeatures]

    def bench(self) -> AbstractAsyncContextManager[StreamBench]:
        raise NotImplementedError

    # --- reading ------------------------------------------------------------------------------------------------------------------

    async def test_records_come_in_order_and_no_more_than_were_asked_for(self) -> None:
        async with self.bench() as bench:
            names = [f"r{n:02}" for n in range(25)]
            await bench.put(*names)
            worker = Worker(bench, await bench.open("a"))
            await worker.read(25, limit=7)
            assert worker.given == names

    async def test_leaving_ends_a_waiting_fetch_within_its_poll(self) -> None:
        async with self.bench() as bench:
            lane = await bench.open("a")
            fetch = asyncio.create_task(lane.fetch(10))
            await asyncio.sleep(0.05)
            lane.leaving.set_result(_now() + LIMIT)
            left = _now()
            assert not (await _in_time(fetch)).records
            assert _now() - left <= self.features.poll + self.features.slack

    async def test_a_closed_shard_ends_its_lane_after_its_last_record(self) -> None:
        if not self.features.ends:
            pytest.skip("shards of this stream are never closed")
        async with self.bench() as bench:
            await bench.put("r1", "r2")
            await bench.end()
            worker = Worker(bench, await bench.open("a"))
            await worker.read(2)
            with pytest.raises(LaneEnded):
                await worker.lane.fetch(10)

    async def test_a_closed_shard_is_given_again_until_all_of_it_is_settled(self) -> None:
        if not self.features.ends:
            pytest.skip("shards of this stream are never closed")
        async with self.bench() as bench:
            await bench.put("r1", "r2")
            await bench.end()
            first = Worker(bench, await bench.open("a"))
            await first.read(2)
            with pytest.raises(LaneEnded):
                await first.lane.fetch(10)
            await first.lane.aclose()
            await Worker(bench, await bench.open("b")).read(2)

    async def test_what_was_there_before_is_read_from_the_trim_horizon_only(self) -> None:
        for origin in sorted(self.features.origins):
            async with self.bench() as bench:
                await bench.put("before")
                await asyncio.sleep(0.01)  # arrival times have milliseconds
                worker = Worker(bench, await bench.open("a", origin=origin))
                await bench.put("after")
                await worker.read(2 if origin == "TRIM_HORIZON" else 1)
                assert worker.given == (["before", "after"] if origin == "TRIM_HORIZON" else ["after"])

    async def test_a_starting_position_is_for_lanes_without_progress_only(self) -> None:
        if "LATEST" not in self.features.origins:
            pytest.skip("this stream has one starting position")
        async with self.bench() as bench:
            await (await bench.open("a", origin="LATEST")).aclose()
            await bench.put("while nobody read")
            worker = Worker(bench, await bench.open("b", origin="LATEST"))
            await worker.read(1)

    # --- lives --------------------------------------------------------------------------------------------------------------------

    async def test_a_closed_lane_goes_on_where_it_was(self) -> None:
        async with self.bench() as bench:
            await bench.put("r1", "r2")
            first = Worker(bench, await bench.open("a"))
            for batch in await first.read(2):
                await first.ack(batch)
            await first.lane.aclose()
            await first.lane.aclose(broken=True)  # tolerated twice
            await bench.put("r3")
            second = Worker(bench, await bench.open("b"))
            await second.read(1)
            assert (second.given, second.resumed) == (["r3"], [])

    async def test_what_was_acked_before_a_save_is_not_given_again(self) -> None:
        async with self.bench() as bench:
            await bench.put("r1", "r2")
            first = Worker(bench, await bench.open("a"))
            (batch,) = await first.read(2)
            await first.ack(batch)
            await bench.put("r3")
            (batch,) = await first.read(1)
            await first.begin(await first.fail(batch))  # a save
            await bench.expire()
            second = Worker(bench, await bench.open("b"))
            await second.read(1)
            assert second.given == ["r3"]

    async def test_progress_is_saved_within_the_interval(self) -> None:
        async with self.bench() as bench:
            await bench.put("r1", "r2")
            first = Worker(bench, await bench.open("a", interval=0.05))
            (batch,) = await first.read(2)
            await first.ack(batch)
            await asyncio.sleep(3.0)  # and what a busy machine takes
            await bench.expire()
            await bench.put("r3")
            second = Worker(bench, await bench.open("b"))
            await second.read(1)
            assert second.given == ["r3"]

    async def test_what_was_neither_acked_nor_discarded_is_given_again(self) -> None:
        for clean in (True, False):
            async with self.bench() as bench:
                await bench.put("r1", "r2", "r3", "r4")
                first = Worker(bench, await bench.open("a"))
                await first.read(2, limit=2)
                await first.read(2, limit=2)  # waits behind the batch of the first two
                await (first.lane.aclose() if clean else bench.expire())
                second = Worker(bench, await bench.open("b"))
                await second.read(4)
                assert (second.given, second.resumed) == (["r1", "r2", "r3", "r4"], [])

    async def test_of_a_batch_only_what_is_retried_is_given_again(self) -> None:
        async with self.bench() as bench:
            await bench.put("r1", "r2", "r3", "r4")
            first = Worker(bench, await bench.open("a"))
            (batch,) = await first.read(4)
            await first.begin(batch)
            rest = Batch(batch.records[3:], batch.format, batch.strand, "retry")
            lost = Failure(batch.records[1:3], "RetryAttemptsExhausted", 1, FAULT)
            await first.settle(batch, Ack(batch.records[:1]), Discard(lost), Retry(rest))
            await first.lane.aclose()
            second = Worker(bench, await bench.open("b"))
            await second.read(1)
            assert [names for _, names in second.resumed] == [["r4"]]

    # --- attempts -----------------------------------------------------------------------------------------------------------------

    async def test_a_later_attempt_is_durable_before_begin_returns(self) -> None:
        async with self.bench() as bench:
            await bench.put("r1", "r2", "r3")
            first = Worker(bench, await bench.open("a"))
            (batch,) = await first.read(3)
            await first.begin(await first.fail(batch))
            await bench.expire()
            second = Worker(bench, await bench.open("b"))
            await second.read(3)
            assert [(names, span.attempts, span.running) for span, names in second.resumed] == [(["r1", "r2", "r3"], 2, True)]

    async def test_a_span_goes_on_with_its_attempts_before_what_is_later(self) -> None:
        async with self.bench() as bench:
            await bench.put("r1", "r2", "r3")
            first = Worker(bench, await bench.open("a"))
            (batch,) = await first.read(3)
            await first.begin(batch)
            halves = [Batch(part, batch.format, batch.strand, "retry", fault=FAULT) for part in (batch.records[:2], batch.records[2:])]
            await first.settle(batch, *(Retry(half) for half in halves))
            await first.fail(halves[0], delay=50.0)
            await first.lane.aclose()
            await bench.put("r4")
            second = Worker(bench, await bench.open("b"))
            (again,) = await second.read(4)
            assert [(names, span.attempts, span.running) for span, names in second.resumed] == [
                (["r1", "r2"], 1, False),
                (["r3"], 0, False),
            ]
            assert second.resumed[0][0].not_before > 0 and second.resumed[1][0].not_before == 0
            assert (bench.names(again.records), again.attempt) == (["r1", "r2"], 2)

    async def test_an_attempt_that_ran_at_the_close_is_counted(self) -> None:
        async with self.bench() as bench:
            await bench.put("r1", "r2")
            first = Worker(bench, await bench.open("a"))
            (batch,) = await first.read(2)
            await first.begin(batch)
            await first.lane.aclose()
            second = Worker(bench, await bench.open("b"))
            await second.read(2)
            assert [(span.attempts, span.running) for span, _ in second.resumed] == [(1, True)]

    # --- the end ------------------------------------------------------------------------------------------------------------------

    async def test_a_lane_that_another_has_taken_is_lost_and_saves_nothing_more(self) -> None:
        async with self.bench() as bench:
            await bench.put("r1", "r2")
            first = Worker(bench, await bench.open("a"))
            (batch,) = await first.read(2)
            again = await first.fail(batch)
            await bench.expire()
            second = Worker(bench, await bench.open("b"))
            await second.read(2)
            with pytest.raises(LaneLost):  # a save, which is refused
                await first.begin(again)
            assert first.lane.leaving.done()
            with pytest.raises(LaneLost):
                await first.settle(batch, Ack(batch.records))
            with pytest.raises(LaneLost):
                await first.lane.fetch(10)
            await first.lane.aclose()
            await bench.expire()
            third = Worker(bench, await bench.open("c"))
            await third.read(2)
            assert third.given == ["r1", "r2"]

    async def test_a_lane_that_is_closed_not_knowing_that_it_was_taken_saves_nothing(self) -> None:
        async with self.bench() as bench:
            await bench.put("r1", "r2")
            first = Worker(bench, await bench.open("a"))
            (batch,) = await first.read(2)
            await first.ack(batch)
            await bench.expire()
            second = Worker(bench, await bench.open("b"))
            await first.lane.aclose()
            await second.read(2)
            await bench.expire()
            third = Worker(bench, await bench.open("c"))
            await third.read(2)

    async def test_a_broken_close_saves_nothing(self) -> None:
        async with self.bench() as bench:
            await bench.put("r1", "r2")
            first = Worker(bench, await bench.open("a"))
            (batch,) = await first.read(2)
            await first.ack(batch)
            await first.lane.aclose(broken=True)
            second = Worker(bench, await bench.open("b"))  # its lease was dropped all the same
            await second.read(2)
            assert second.given == ["r1", "r2"]

    async def test_another_width_loses_neither_records_nor_attempts(self) -> None:
        for before, after in ((4, 2), (1, 3), (3, 1)):
            async with self.bench() as bench:
                names = [f"{key}{n}" for n in range(4) for key in "abcdef"]
                for name in names:
                    await bench.put(name, key=name[0])
                first = Worker(bench, await bench.open("a", before))
                done, *others = await first.read(24)
                if others:
                    await first.ack(done)
                failed = others[0] if others else done
                await first.fail(await first.fail(failed))
                acked = bench.names(done.records) if others else []
                await first.lane.aclose()
                second = Worker(bench, await bench.open("b", after))
                await second.run_out()
                assert sorted(second.given) == sorted(set(names) - set(acked))
                assert [(part, span.attempts) for span, part in second.resumed] == [(bench.names(failed.records), 2)]
                await second.lane.aclose()
                third = Worker(bench, await bench.open("c", after))
                assert third.lane.strands.width == after
                await bench.put("z")
                await third.read(1)
                assert third.given == ["z"]


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _in_time(waited: Awaitable[T]) -> T:
    async with asyncio.timeout(LIMIT):
        return await waited
