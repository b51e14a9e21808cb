"""Aggregates taken apart, or not any more: a lane finishes what it began, whichever way that was. Over the lane's lives, in memory."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.kinesis.aggregation import expanded, user_records
from connectors.sharded import source as sharded
from connectors.sharded.dialect import Dialect
from connectors.sharded.lane import ShardLane, TakenApartLane
from connectors.sharded.listing import StreamShards
from connectors.sharded.sequence import MOST_SUBS, apart, parsed, place, shown, token, turned
from poller.errors import LaneEnded
from poller.model import Ack, Batch, LaneKey, Retry
from poller.ordered import OrderedLane
from poller.policy import Block
from poller.progress import ORIGIN, Progress
from poller.settings import Backoff, Context
from poller.testing.clock import run_virtually
from poller.testing.strategies import counter_test, laws
from poller.testing.stream_bench import Worker
from tests.connectors.scripted_shards import Service, context, dialect, numbers, record
from tests.connectors.test_shard_reader import aggregated
from tests.contract.test_lanes import opened

HELD = (0, 3, 0, 2, 12, 0, 0, 1, 5)
"""User records of each record; 0: it is no aggregate."""

User = tuple[int, int]
"""Record, user record of it from 1."""


def users_of(records: Any) -> list[User]:
    """What a function sees of these."""
    found = list[User]()
    for each, (number, sub) in zip(records, numbers(records), strict=True):
        whole = range(1, max(HELD[number], 1) + 1)
        found += [(number, sub)] if sub else [(number, which) for which in whole]
        assert sub == 0 or not user_records(each.data.encode())
    return found


EVERYTHING = {(number, which) for number, held in enumerate(HELD) for which in range(1, max(held, 1) + 1)}


class Lives:
    """A stream of one closed shard, and what was done of it."""

    def __init__(self, of: Context, stack: AsyncExitStack) -> None:
        self.service, self.context, self.stack = Service(), of, stack
        kept = self.service.add("s")
        kept.records += [aggregated(number, held) if held else record(number) for number, held in enumerate(HELD)]
        kept.closed = True
        self.done = list[User]()
        self.begun = len(HELD)
        """Records after this one were not read by the first life."""

    def names(self, records: Any) -> list[str]:
        return [str(each) for each in users_of(records)]

    async def open(self, deaggregate: bool, owner: str) -> OrderedLane:
        async def find() -> list[str]:
            return ["stream"]

        made, of = dialect(self.service, expand=expanded if deaggregate else None, expanded=expanded), replace(self.context, owner=owner)
        shards = StreamShards(made, of, find, "stream", self.service.aclose)
        source = sharded.sharded_source(of, made, shards, "id", Block(1, None, True, Backoff()), "TRIM_HORIZON")
        return cast("OrderedLane", await opened(source, self.stack))

    async def saved(self) -> Progress:
        found = await self.context.store.checkpoints.load(LaneKey("m", "id", "s"))
        assert found is not None
        return found

    async def ack(self, worker: Worker, batch: Batch) -> None:
        await worker.begin(batch)
        await worker.settle(batch, Ack(batch.records))
        self.done += users_of(batch.records)

    async def run_out(self, deaggregate: bool, owner: str) -> None:
        worker = Worker(cast("Any", self), await self.open(deaggregate, owner))
        took = worker.batches

        def batches() -> list[Batch]:
            found = took()
            for batch in found:
                self.done += users_of(batch.records)
                for number, sub in numbers(batch.records):
                    assert number <= self.begun or (sub > 0) is deaggregate, "the option counts for what comes"
            return found

        worker.batches = batches  # type: ignore[method-assign]
        await worker.run_out()
        await worker.lane.aclose()


def lose_and_mix_nothing(examples: int = 60) -> None:
    """The law: over a change of the option all user records are done; again is done only what is of an aggregate that was done in part."""

    @laws(examples)
    @given(st.booleans(), st.integers(1, 9), st.integers(0, 12), st.sampled_from(("ack", "fail", "split")))
    def law(before: bool, limit: int, reads: int, end: str) -> None:
        async def main() -> None:
            async with AsyncExitStack() as stack:
                lives = Lives(context(), stack)
                worker = Worker(cast("Any", lives), await lives.open(before, "a"))
                for read in range(reads):
                    with suppress(LaneEnded):
                        fetched = await worker.lane.fetch(limit)
                    if cast("OrderedLane", worker.lane).ended:
                        break
                    worker.lane.strands.add(fetched.records, worker.lane.format.facts(fetched.records), 0.0)
                    (batch,) = worker.batches()
                    if read < reads - 1 or end == "ack":
                        await lives.ack(worker, batch)
                        continue
                    await worker.begin(batch)
                    half = len(batch.records) // 2 if end == "split" else 0
                    rest = Batch(batch.records[half:], batch.format, batch.strand, "retry")
                    await worker.settle(batch, Ack(batch.records[:half]), Retry(rest))
                    lives.done += users_of(batch.records[:half])
                await worker.lane.aclose()
                saved = await lives.saved()
                lives.begun = -1 if saved.frontier == ORIGIN else place(saved.frontier).sequence
                for life in "bcd":  # what was begun, what comes then, and a shard that has ended
                    if not (await lives.saved()).ended:
                        await lives.run_out(not before, life)
                assert set(lives.done) == EVERYTHING
                again = {each for each in lives.done if lives.done.count(each) > 1}
                in_part = before and saved.frontier != ORIGIN and place(saved.frontier).sub < max(HELD[lives.begun], 1)
                assert {number for number, _ in again} <= ({lives.begun} if in_part else set())

        run_virtually(main())

    law()


def test_the_option_may_change_at_any_time() -> None:
    lose_and_mix_nothing()


class Careless(OrderedLane):
    """Goes on as an earlier life did, for ever."""


def hasty(self: Dialect[Any], position: int) -> Any:
    """Reads what an earlier life began the way that is wanted now."""
    return self.expand


@pytest.mark.parametrize("broken", ["lane", "reader"])
def test_the_law_rejects_who_does_not_care(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if broken == "lane":
        monkeypatch.setattr(sharded, "ShardLane", Careless)
        monkeypatch.setattr(sharded, "TakenApartLane", Careless)
    else:
        monkeypatch.setattr(Dialect, "expanding", hasty)
    with counter_test(), pytest.raises(AssertionError):
        lose_and_mix_nothing(200)


# --- positions ------------------------------------------------------------------------------------------------------------------------

positions = st.builds(
    lambda number, sub, after: token(number, sub) + after,
    st.integers(0, 10**56),
    st.one_of(st.just(0), st.integers(1, 5), st.just(MOST_SUBS)),
    st.integers(0, 1),
)


@laws(300)
@given(positions, st.booleans())
def test_a_position_turned_loses_nothing_and_stays_where_it_is(position: int, way: bool) -> None:
    found = turned(position, way)
    assert apart(found) is way
    assert place(found).sequence == place(position).sequence
    assert turned(found, way) == found
    if place(position).sub in {0, MOST_SUBS} and place(position).after:
        assert place(found).after, "all of its record is done"
    assert turned(ORIGIN, way) == ORIGIN


@laws(300)
@given(positions)
def test_a_position_can_be_read_and_written(position: int) -> None:
    if place(position).sub == MOST_SUBS and not place(position).after:
        return  # there is none: so many user records do not fit into a record
    assert parsed(shown(position)) == position


@pytest.mark.parametrize("text", ["", "x", "after", "12:", "12:*", "12:16777215", "-1", "1" * 129])
def test_what_is_no_position(text: str) -> None:
    with pytest.raises(ValueError, match="is no position"):
        parsed(text)


def test_a_lane_tells_how_far_it_is_behind_in_seconds() -> None:
    """Records cannot be counted where sequence numbers have gaps."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            lives = Lives(context(), stack)
            service = lives.service
            service.most = 3
            kept = service.shards_kept["s"]
            kept.records[:] = [record(number, arrival=100.0 + number) for number in range(5)]
            lane = await lives.open(False, "a")
            shown = await lane.show(200.0)
            assert (shown.lag_records, shown.lag_seconds) == (None, None), "not known yet"
            records = (await lane.fetch(10)).records
            lane.strands.add(records, lane.format.facts(records), 0.0)
            shown = await lane.show(200.0)
            assert (shown.position, shown.lag_records, shown.lag_seconds) == ("TRIM_HORIZON", None, 1.0), "the service says so"
            await lane.fetch(10)
            assert (await lane.show(200.0)).lag_seconds == 0.0

    run_virtually(main())


def test_which_lane_is_which() -> None:
    assert not ShardLane.taken_apart and TakenApartLane.taken_apart
