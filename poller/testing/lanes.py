"""What every queue's lane must hold, by property; a test module runs it for each queue, with declared features.

    class TestSqs(QueueLaneContract):
        features = QueueFeatures(poll=5.0)

        @asynccontextmanager
        async def bench(self, visibility: float) -> AsyncIterator[QueueBench]: ...

`ordered_lanes.py` is the same for lanes of streams. On a virtual clock `slack` can be small; against a server it is not waited for, only
allowed. That something is *not* given is seen without a wait: a message put after it comes alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast

from poller.model import Ack, Action, Batch, Discard, Failure, Record, Release, Retry
from poller.protocols import Lane, Receipts

LIMIT = 20.0
"""Seconds any single wait of the suite may take; reached only by a failure."""

EARLY = 0.1
"""A clock that is not ours may be so much ahead of ours."""


@dataclass(frozen=True)
class QueueFeatures:
    """What a queue declares. `poll`: an empty fetch waits so long at most; `short`: a visibility timeout that a test can wait for.

    `fifo`: it has groups (FifoLaneContract). `slack`: how late an answer may be. All in seconds.
    """

    poll: float
    short: float = 1.0
    slack: float = LIMIT
    fifo: bool = False


class QueueBench(Protocol):
    """One empty queue, and its workers."""

    async def put(self, *names: str, group: str | None = None) -> None:
        """A message for each name, in this order. Without a group each has a group of its own, where there are groups."""

    async def open(self) -> Lane:
        """The lane as one more worker has it; closed with the bench, if not before."""

    def names(self, records: Sequence[Record]) -> list[str]:
        """As they were put."""


class QueueLaneContract:
    """poller.protocols.Lane, as a queue keeps it."""

    features: ClassVar[QueueFeatures]

    def bench(self, visibility: float) -> AbstractAsyncContextManager[QueueBench]:
        """An empty queue that hides what it gave out for so many seconds."""
        raise NotImplementedError

    # --- in -----------------------------------------------------------------------------------------------------------------------

    async def test_a_fetch_brings_no_more_than_it_was_asked_for(self) -> None:
        async with self.bench(600) as bench:
            lane, names = await bench.open(), [f"m{n}" for n in range(30)]
            await bench.put(*names)
            came: list[str] = []
            for limit in (1, 7, 12, 3):
                records = (await lane.fetch(limit)).records
                assert 0 < len(records) <= limit
                came += bench.names(records)
            assert len(came) == len(set(came)) and set(came) <= set(names)

    async def test_what_is_held_is_given_to_nobody_else(self) -> None:
        async with self.bench(600) as bench:
            lane, other = await bench.open(), await bench.open()
            await bench.put("m1", "m2")
            await _given(bench, lane, "m1", "m2")
            await _only(bench, other, "alone")
            await _only(bench, lane, "alone-too")

    async def test_the_heartbeat_outlives_the_visibility_timeout(self) -> None:
        async with self.bench(self.features.short) as bench:
            lane, other = await bench.open(), await bench.open()
            await bench.put("m1", "m2")
            records = await _given(bench, lane, "m1", "m2")
            await asyncio.sleep(self.features.short * 2.5)
            await _only(bench, other, "alone")
            await _settle(lane, records, Ack(records))
            await _only(bench, other, "alone-too")

    async def test_receives_are_counted(self) -> None:
        async with self.bench(600) as bench:
            lane = await bench.open()
            await bench.put("m1")
            for count in (1, 2, 3):
                records = await _given(bench, lane, "m1")
                assert list(cast("Receipts", lane.format.facts(records)).receives()) == [count]
                await _settle(lane, records, Release(records, 0.0))

    # --- out ----------------------------------------------------------------------------------------------------------------------

    async def test_what_is_acked_is_gone_for_good(self) -> None:
        async with self.bench(self.features.short) as bench:
            lane = await bench.open()
            await bench.put("m1", "m2", "m3")
            records = await _given(bench, lane, "m1", "m2", "m3")
            await _settle(lane, records, Ack(records[:2]), Discard(Failure(records[2:], "MaximumReceiveCountExceeded", 1)))
            await asyncio.sleep(self.features.short * 1.5)
            await _only(bench, lane, "alone")

    async def test_a_release_comes_back_after_its_delay_and_no_sooner(self) -> None:
        async with self.bench(600) as bench:
            lane = await bench.open()
            await bench.put("m1")
            records = await _given(bench, lane, "m1")
            released = _now()
            await _settle(lane, records, Release(records, 2.0))
            await _only(bench, lane, "alone")
            await _given(bench, lane, "m1")
            assert 2.0 - EARLY <= _now() - released <= 2.0 + self.features.slack

    async def test_a_release_without_a_delay_waits_for_the_rest_of_the_visibility_timeout(self) -> None:
        short = self.features.short
        async with self.bench(short) as bench:
            lane = await bench.open()
            await bench.put("m1")
            asked = _now()
            records = await _given(bench, lane, "m1")
            await asyncio.sleep(short * 0.3)
            await _settle(lane, records, Release(records))
            await _given(bench, lane, "m1")
            assert short - EARLY <= _now() - asked <= short + self.features.slack

    async def test_what_was_held_for_longer_than_that_comes_back_at_once(self) -> None:
        short = self.features.short
        async with self.bench(short) as bench:
            lane = await bench.open()
            await bench.put("m1")
            records = await _given(bench, lane, "m1")
            await asyncio.sleep(short * 1.7)  # a heartbeat has just hidden it for as long as it has been held
            released = _now()
            await _settle(lane, records, Release(records))
            await _given(bench, lane, "m1")
            assert _now() - released <= self.features.slack

    async def test_a_retry_stays_held(self) -> None:
        async with self.bench(self.features.short) as bench:
            lane, other = await bench.open(), await bench.open()
            await bench.put("m1", "m2")
            records = await _given(bench, lane, "m1", "m2")
            await _settle(lane, records, Ack(records[:1]), Retry(Batch(records[1:], lane.format, attempt=2), 0.1))
            await asyncio.sleep(self.features.short * 1.7)
            await _only(bench, other, "alone")

    async def test_what_is_settled_again_is_not_taken_from_its_new_holder(self) -> None:
        async with self.bench(600) as bench:
            lane, other = await bench.open(), await bench.open()
            await bench.put("m1", "m2")
            records = await _given(bench, lane, "m1", "m2")
            await _settle(lane, records, Ack(records[:1]), Release(records[1:], 0.0))
            await _given(bench, other, "m2")
            await _settle(lane, records, Ack(records[:1]), Release(records[1:], 0.0))
            await _settle(lane, records, Ack(records))
            await _only(bench, lane, "alone")
            await other.aclose()
            await _given(bench, lane, "m2")

    # --- the end ------------------------------------------------------------------------------------------------------------------

    async def test_closing_gives_back_at_once_what_is_held(self) -> None:
        async with self.bench(600) as bench:
            lane, other = await bench.open(), await bench.open()
            await bench.put("m1", "m2", "m3")
            records = await _given(bench, lane, "m1", "m2", "m3")
            await _settle(lane, records, Ack(records[:1]), Retry(Batch(records[1:2], lane.format, attempt=2), 5.0))
            await lane.aclose()
            assert set(bench.names(records[1:])) == set(bench.names(await _given(bench, other, *bench.names(records[1:]))))
            await lane.aclose(broken=True)  # tolerated twice, and takes nothing from its new holder
            await _only(bench, other, "alone")

    async def test_leaving_ends_a_waiting_fetch_within_its_poll(self) -> None:
        async with self.bench(600) as bench:
            lane = await bench.open()
            fetch = asyncio.create_task(_fetch(lane, 10))
            await asyncio.sleep(0.05)
            lane.leaving.set_result(_now() + LIMIT)
            left = _now()
            assert not await fetch
            assert _now() - left <= self.features.poll + self.features.slack
            assert not await _fetch(lane, 10)  # and no later one begins to wait
            assert _now() - left <= 2 * (self.features.poll + self.features.slack)


class FifoLaneContract(QueueLaneContract):
    """The same with message groups."""

    async def test_a_group_comes_in_order(self) -> None:
        async with self.bench(600) as bench:
            lane = await bench.open()
            for names in (("a1", "b1"), ("a2", "b2"), ("a3", "b3")):
                await bench.put(names[0], group="a")
                await bench.put(names[1], group="b")
            came = bench.names(await _given(bench, lane, "a1", "a2", "a3", "b1", "b2", "b3"))
            assert [name for name in came if name[0] == "a"] == ["a1", "a2", "a3"]
            assert [name for name in came if name[0] == "b"] == ["b1", "b2", "b3"]

    async def test_a_group_waits_while_one_of_it_is_held(self) -> None:
        async with self.bench(600) as bench:
            lane, other = await bench.open(), await bench.open()
            await bench.put("a1", group="a")
            first = await _given(bench, lane, "a1")
            await bench.put("a2", group="a")
            await _only(bench, other, "alone")
            await _settle(lane, first, Retry(Batch(first, lane.format, attempt=2)))
            await _only(bench, other, "alone-too")
            await _settle(lane, first, Ack(first))
            await _given(bench, other, "a2")

    async def test_what_came_after_a_released_message_of_its_group_comes_after_it(self) -> None:
        async with self.bench(600) as bench:
            lane = await bench.open()
            await bench.put("a1", group="a")
            first = await _given(bench, lane, "a1")
            await bench.put("a2", group="a")
            await _settle(lane, first, Release(first, 3.0))
            await _only(bench, lane, "alone")
            records = await _fetch(lane, 1)
            assert bench.names(records) == ["a1"]
            await _settle(lane, records, Ack(records))
            await _given(bench, lane, "a2")


# --- a worker's steps -------------------------------------------------------------------------------------------------------------------


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _fetch(lane: Lane, limit: int) -> Sequence[Record]:
    """One fetch that brings something, unless the lane is leaving."""
    end = _now() + LIMIT
    while True:
        records = (await lane.fetch(limit)).records
        if records or lane.leaving.done():
            return records
        assert _now() < end, f"{lane!r} gives nothing"


async def _given(bench: QueueBench, lane: Lane, *names: str) -> list[Record]:
    """Exactly these, in whatever order; they are held then."""
    records: list[Record] = []
    while len(records) < len(names):
        records += await _fetch(lane, 10)
    assert sorted(bench.names(records)) == sorted(names)
    return records


async def _only(bench: QueueBench, lane: Lane, name: str) -> None:
    """Nothing is there to be given but what is put now; that is acked."""
    await bench.put(name)
    records = await _given(bench, lane, name)
    await _settle(lane, records, Ack(records))


async def _settle(lane: Lane, records: Sequence[Record], *actions: Action) -> None:
    async with asyncio.timeout(LIMIT):
        await lane.settle(Batch(records, lane.format), actions)
