"""What every stream's lane must hold, by property; a test module runs it for each stream, with declared features.

    class TestLocalStream(OrderedLaneContract):
        features = StreamFeatures(poll=1.0, origins=frozenset({"TRIM_HORIZON", "LATEST"}))

        @asynccontextmanager
        async def bench(self) -> AsyncIterator[StreamBench]: ...

A *life* is a worker that has the lane: one that closes it hands it on; one whose lease runs out is thought dead, and goes on not knowing.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import ClassVar

import pytest

from poller.errors import LaneEnded, LaneLost
from poller.model import Ack, Batch, Discard, Failure, Retry
from poller.protocols import Prompt
from poller.testing.stream_bench import FAULT, LIMIT, StreamBench, StreamFeatures, Worker, in_time, now


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
            lane.leaving.set_result(now() + LIMIT)
            left = now()
            assert not (await in_time(fetch)).records
            assert now() - left <= self.features.poll + self.features.slack

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

    async def test_what_needs_no_save_begins_and_is_settled_at_once(self) -> None:
        async with self.bench() as bench:
            await bench.put("r1", "r2")
            first = Worker(bench, await bench.open("a"))
            (batch,) = await first.read(2)
            assert isinstance(first.lane, Prompt)
            assert first.lane.begin_now(batch) and first.lane.settle_now(batch, (Ack(batch.records),))
            first.finish(batch)
            await first.lane.aclose()
            await bench.put("r3")
            second = Worker(bench, await bench.open("b"))
            await second.read(1)
            assert (second.given, second.resumed) == (["r3"], [])

    async def test_what_must_be_saved_first_does_not_begin_at_once(self) -> None:
        async with self.bench() as bench:
            await bench.put("r1", "r2", "r3")
            first = Worker(bench, await bench.open("a"))
            (batch,) = await first.read(3)
            again = await first.fail(batch)
            assert isinstance(first.lane, Prompt)
            assert not first.lane.begin_now(again)
            await first.lane.aclose()
            second = Worker(bench, await bench.open("b"))
            await second.read(3)
            assert [(names, span.attempts, span.running) for span, names in second.resumed] == [(["r1", "r2", "r3"], 1, False)]

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
            assert isinstance(first.lane, Prompt)
            assert not first.lane.begin_now(again) and not first.lane.settle_now(batch, (Ack(batch.records),))
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
