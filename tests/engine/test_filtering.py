"""Filters in the engine: what they let through runs as if the rest had never been there, and the rest is acked or passed over.

Records whose name begins with "r" are wanted, those with "u" are not. The laws in every run of the simulator are those of
test_simulation.py, of which two runs in three have a filter; the broken parts that they must find out are below.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from random import Random

import pytest

from poller.errors import LaneLost, NotConnected
from poller.failures.journal import Selection
from poller.failures.runs import Run
from poller.filtering import Filtering
from poller.lane_runner import OWED_RECORDS, LaneRunner
from poller.model import Ack, Action, Batch, Document, Fetched, Record, Span
from poller.policy import Block
from poller.replay import Part, Replay
from poller.replay.listing import listed
from poller.settings import FilterSettings
from poller.testing.fakes import FILTERABLE, FakeFormat, FakeQueueLane, FakeRecord, Gate
from poller.testing.oracle import Broken
from poller.testing.report import Report
from poller.testing.scenario import WANTED
from tests.engine.counterparts import Rigged, kind_of, play
from tests.engine.scenes import (
    FAULT,
    Queue,
    Running,
    Scene,
    Script,
    Stream,
    at,
    failing,
    in_turn,
    now,
    over_queue,
    over_stream,
    redeliver,
    reporting,
    taking,
    virtually,
    wall,
)


def filtered(scene: Scene, *patterns: str, logged: int = 0) -> Scene:
    """The scene with these filters instead of the one for names that begin with "r"."""
    scene.settings = replace(scene.settings, filters=FilterSettings(patterns or (WANTED,), FILTERABLE, logged))
    return scene


def names(count: int, kind: str) -> list[str]:
    return [f"{kind}{number}" for number in range(count)]


# --- both kinds of source -----------------------------------------------------------------------------------------------------------------


@virtually
async def test_what_is_filtered_out_is_in_no_batch_and_counted() -> None:
    script, stream = taking(0), Stream("r1", "u1", "r2", "u2", "r3")
    scene = filtered(Scene(script, size=2))
    await over_stream(scene, stream)
    await at(5)
    assert script.names == [("r1", "r2"), ("r3",)]
    counters = scene.counters
    assert (counters.polled, counters.filtered, counters.invoked, counters.done) == (5, 2, 3, 3)


@virtually
async def test_a_filtered_record_starts_no_window() -> None:
    script, queue = taking(0), Queue()
    over_queue(filtered(Scene(script, window=5.0)), queue)
    queue.put("u1")
    await at(3)
    queue.put("r1")
    await at(6)
    queue.put("u2", "r2")
    await at(20)
    assert [(call.at, call.names) for call in script.calls] == [(8.0, ("r1", "r2"))]


@virtually
async def test_one_matching_pattern_is_enough() -> None:
    script, queue = taking(0), Queue()
    over_queue(filtered(Scene(script), '{"id": ["r1"]}', '{"id": [{"suffix": "2"}]}'), queue)
    queue.put("r1", "u2", "r3")
    await at(1)
    assert script.names == [("r1", "u2")]
    assert queue.messages == []


class Untouchable(FakeFormat):
    """Its records are never looked at by a filter."""

    def documents(self, records: Sequence[FakeRecord], keys: Collection[str]) -> Iterable[Document]:
        raise AssertionError(f"a mapping without filters asked for the documents of {records}, {keys}")


@virtually
async def test_a_mapping_without_filters_makes_no_documents() -> None:
    script, queue = taking(0), Queue()
    scene = Scene(script)
    lane = FakeQueueLane(queue, 1, Gate("life"))
    lane.format = Untouchable()
    Running(lane, scene.work(redeliver()))
    queue.put("u1")
    await at(1)
    assert script.names == [("u1",)]


@virtually
async def test_one_in_so_many_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "poller.lane")
    script, queue = taking(0), Queue()
    over_queue(filtered(Scene(script), logged=3), queue)
    queue.put("r0", "u0", "u1", "u2", "u3")
    await at(1)
    queue.put("u4", "u5")
    await at(2)
    queue.put("r1", "u6")
    await at(3)
    assert [record.getMessage() for record in caplog.records] == [f"filtered out: u{n} (one in 3 is named)" for n in (0, 3, 6)]
    assert {(record.mapping, record.lane) for record in caplog.records} == {("orders", "queue")}  # type: ignore[attr-defined]


@virtually
async def test_none_is_named_unless_it_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "poller")
    queue = Queue()
    over_queue(filtered(Scene(taking(0))), queue)
    queue.put("u1", "u2")
    await at(1)
    assert queue.messages == [] and caplog.records == []


# --- queues -------------------------------------------------------------------------------------------------------------------------------


@virtually
async def test_filtered_messages_are_acked_at_once_whatever_runs() -> None:
    script, queue = taking(60), Queue()
    scene = filtered(Scene(script, size=2, window=300.0))
    over_queue(scene, queue)
    queue.put("r1", "r2", "u1", "r3")
    await at(1)
    assert queue.deleted == ["u1"]
    queue.put("u2")
    await at(2)
    assert queue.deleted == ["u1", "u2"]
    assert scene.counters.deleted == 0, "an ack of the function's is another thing"


@virtually
async def test_demand_goes_on_while_nothing_but_unwanted_messages_comes() -> None:
    script, queue = taking(0), Queue()
    scene = filtered(Scene(script, size=2))
    over_queue(scene, queue)
    queue.put(*names(5000, "u"), "r1")
    await at(10)
    assert script.names == [("r1",)]
    assert queue.messages == [] and max(queue.receives.values()) == 1
    assert scene.counters.filtered == 5000


class Refusing(FakeQueueLane):
    """Does not take an ack of unwanted messages until `up`."""

    up = False
    asked: int = 0

    async def settle(self, batch: Batch, actions: Sequence[Action]) -> None:
        if not self.up and any(record.name.startswith("u") for record in batch.records):
            self.asked += 1
            raise NotConnected("the queue is away")
        await super().settle(batch, actions)


def over_refusing(scene: Scene, queue: Queue) -> tuple[Refusing, Running]:
    lane = Refusing(queue, scene.width, Gate("life"))
    return lane, Running(lane, scene.work(redeliver()))


@virtually
async def test_an_ack_that_fails_is_asked_again_under_heartbeat() -> None:
    script, queue = taking(0), Queue(visibility=10.0)
    lane, running = over_refusing(filtered(Scene(script)), queue)
    queue.put("u1", "r1")
    await at(31)
    assert lane.asked > 5
    assert script.names == [("r1",)] and queue.receives["u1"] == 1, "held, and given out to nobody meanwhile"
    assert running.runner.signs.last_error == "the queue is away"
    lane.up = True
    await at(40)
    assert queue.messages == []


@virtually
async def test_messages_are_read_no_more_while_too_many_wait_for_their_ack() -> None:
    script, queue = taking(0), Queue()
    lane, _ = over_refusing(filtered(Scene(script)), queue)
    queue.put(*names(5000, "u"))
    await at(20)
    assert OWED_RECORDS <= len(queue.receives) < OWED_RECORDS + 20
    lane.up = True
    await at(40)
    assert queue.messages == [] and len(queue.receives) == 5000


@virtually
async def test_a_lane_that_is_left_waits_for_no_ack_and_what_was_filtered_comes_again() -> None:
    script, queue = taking(0), Queue(visibility=30.0)
    _, running = over_refusing(filtered(Scene(script)), queue)
    queue.put("u1", "r1")
    await at(5)
    assert await running.left(grace=25.0) < 6.0
    over_queue(filtered(Scene(script)), queue)
    await at(20)
    assert (queue.messages, script.names, queue.receives["u1"]) == ([], [("r1",)], 2)


@virtually
async def test_acks_under_way_are_awaited_when_the_lane_is_left() -> None:
    class Slow(FakeQueueLane):
        async def settle(self, batch: Batch, actions: Sequence[Action]) -> None:
            await asyncio.sleep(3.0)
            await super().settle(batch, actions)

    queue, scene = Queue(), filtered(Scene(taking(0)))
    running = Running(Slow(queue, 1, Gate("life")), scene.work(redeliver()))
    queue.put("u1")
    await at(1)
    assert await running.left(grace=10.0) == 3.0
    assert queue.messages == []


@virtually
async def test_a_lane_that_is_lost_in_an_ack_is_lost() -> None:
    class Losing(FakeQueueLane):
        async def settle(self, batch: Batch, actions: Sequence[Action]) -> None:
            raise LaneLost("taken over")

    queue, scene = Queue(), filtered(Scene(taking(0)))
    running = Running(Losing(queue, 1, Gate("life")), scene.work(redeliver()))
    queue.put("u1")
    await at(1)
    assert running.task.done() and running.runner.signs.state == "lost"


@virtually
async def test_a_group_goes_on_past_what_is_filtered_out_of_it() -> None:
    script, queue = taking(1), Queue(fifo=True)
    over_queue(filtered(Scene(script, size=1)), queue)
    queue.put("r1", "u1", "r2", "u2", group="g")
    await at(10)
    assert script.names == [("r1",), ("r2",)] and queue.messages == []


# --- streams ------------------------------------------------------------------------------------------------------------------------------


@virtually
async def test_a_stream_of_nothing_but_unwanted_records_is_passed_over_and_saved() -> None:
    script, stream = taking(0), Stream(*names(5000, "u"))
    scene = filtered(Scene(script))
    running = await over_stream(scene, stream)
    await at(3)
    assert scene.store.checkpoints.last.checkpoint == 5000
    assert scene.counters.polled == 5000 and script.calls == []
    for step in range(10):
        stream.add(f"u-{step}")
        await at(4 + step)
    # Once an interval while something moves, as for any records: a crash reads no more than that again.
    assert scene.store.checkpoints.last.checkpoint >= 5008
    assert len(scene.store.checkpoints.saves) < 20
    assert (await running.lane.show(0.0)).lag_records is not None  # type: ignore[attr-defined]
    await running.left()
    assert scene.store.checkpoints.last.checkpoint == 5010


@virtually
async def test_unwanted_records_behind_a_running_batch_hold_nothing_up() -> None:
    script, stream = taking(60), Stream("r1", *names(3000, "u"), "r2")
    scene = filtered(Scene(script, size=1))
    await over_stream(scene, stream)
    await at(5)
    assert scene.counters.polled == 3002
    progress = scene.store.checkpoints.last
    assert (progress.checkpoint, progress.frontier) == (0, 3000), "r2 is read, and waits: what is behind it is not asked for yet"
    await at(130)
    assert scene.store.checkpoints.last.checkpoint == 3002


async def crashed_on_its_second_attempt(scene: Scene, stream: Stream) -> None:
    """A life whose batch failed once, and whose progress was saved with it."""
    running = await over_stream(scene, stream)
    await at(now() + 0.5)
    await running.left()


@virtually
async def test_a_batch_that_goes_on_in_a_next_life_is_the_same_batch() -> None:
    """What was filtered out from between its records is read again with them, and is not in it."""
    stream = Stream("u0", "r1", "u1", "r2", "u2", "r3", "u3", "r4")
    script = Script(lambda _: (0.0, FAULT))
    scene = filtered(Scene(script, size=3, retries=5, bisect=False))
    await crashed_on_its_second_attempt(scene, stream)
    (span,) = scene.store.checkpoints.last.spans
    assert (span.first, span.last, span.listed) == (1, 5, None)
    later = Script()
    await over_stream(filtered(Scene(later, size=3, store=scene.store)), stream, "b")
    await at(30)
    assert later.names == [("r1", "r2", "r3"), ("r4",)]


@virtually
async def test_a_changed_filter_is_for_what_is_read_next_not_for_a_batch_under_retry() -> None:
    stream = Stream("r1", "u1", "r2", "r3")
    script = Script(lambda _: (0.0, FAULT))
    scene = filtered(Scene(script, size=2, retries=5, bisect=False))
    await crashed_on_its_second_attempt(scene, stream)
    later = Script()
    await over_stream(filtered(Scene(later, size=2, store=scene.store), '{"id": ["r9"]}'), stream, "b")
    stream.add("r9", "r4")
    await at(30)
    assert later.names == [("r1", "r2"), ("r9",)]


@virtually
async def test_named_records_of_a_span_were_let_in_and_stay() -> None:
    stream = Stream("r1", "r2", "r3", "r4", "r5")
    scene = filtered(Scene(reporting("r1", "r3", "r5"), size=5, retries=5, bisect=False, reporting=True))
    running = await over_stream(scene, stream, partial="listed")
    await at(0.2)
    await running.left()
    (span,) = scene.store.checkpoints.last.spans
    assert span.listed == (0, 2, 4)
    later = Script()
    await over_stream(filtered(Scene(later, size=5, store=scene.store), '{"id": ["r9"]}'), stream, "b", partial="listed")
    await at(30)
    assert later.names == [("r1", "r3", "r5")]


@virtually
async def test_a_span_of_which_only_unwanted_records_are_left_does_not_hold_up_the_lane() -> None:
    """Compaction took both its ends: a thing that streams by offset do."""
    stream = Stream("r1", "u1", "r2", "r3")
    scene = filtered(Scene(Script(lambda _: (0.0, FAULT)), size=2, retries=5, bisect=False))
    await crashed_on_its_second_attempt(scene, stream)
    del stream.shards["shard"][2], stream.shards["shard"][0]
    later = Script()
    second = filtered(Scene(later, size=2, store=scene.store))
    await over_stream(second, stream, "b")
    await at(30)
    assert later.names[-1] == ("r3",)
    assert scene.store.checkpoints.last.checkpoint == 4


@virtually
async def test_a_poison_record_among_unwanted_ones_is_found_as_if_it_were_alone() -> None:
    script, stream = failing("r3"), Stream("u0", "r1", "u1", "r2", "u2", "r3", "u3", "r4", "u4")
    scene = filtered(Scene(script, size=4, retries=0))
    await over_stream(scene, stream)
    await at(60)
    assert script.names == [("r1", "r2", "r3", "r4"), ("r1", "r2"), ("r3", "r4"), ("r3",), ("r4",)]
    assert [kept for _, kept in scene.store.journal.kept] == [("r3",)]
    assert scene.store.checkpoints.last.checkpoint == 9


@virtually
async def test_a_retry_is_not_filtered_again() -> None:
    script, stream = in_turn(FAULT), Stream("r1", "u1", "r2")
    await over_stream(filtered(Scene(script, bisect=False)), stream)
    await at(30)
    assert script.names == [("r1", "r2"), ("r1", "r2")]


@virtually
async def test_a_replay_is_not_filtered() -> None:
    """Its records were let in before, and a row of the journal looks otherwise than a record of the source."""
    scene = filtered(Scene(failing("r1"), bisect=False, retries=0))
    await over_stream(scene, Stream("r1", "u1", "r2", "r3"))
    await at(5)
    (row,) = await scene.store.journal.select(Selection())
    assert [record.id for record in row.entry.records] == ["r1", "r2", "r3"]
    later = filtered(Scene(taking(0), store=scene.store), '{"id": ["another"]}')
    policy = Block.of(later.settings, "cut")
    run = Run("again", "ada", 0.0)
    rows = (await listed(scene.store.journal, scene.store.runs, run))[later.settings.id]

    async def whole() -> dict[str, int]:
        return rows

    part = Part(run, "w", "ada", wall)
    replay = Replay(scene.store, part, whole, later.function, later.settings, policy=policy, random=Random(1))
    tally = await asyncio.wait_for(replay.run(), 3600)
    assert (tally.replayed, later.script.names) == (1, [("r1", "r2", "r3")])


# --- the laws, and parts that break them --------------------------------------------------------------------------------------------------


class Filtered(Rigged):
    """Every run has a filter, and counts what it did."""

    async def run(self) -> Report:
        if not self.scenario.unwanted:
            self.scenario = self.scenario.filtered(0.5)
        report = await super().run()
        for counters in self.counters:
            report.counts["filtered out"] += counters.filtered
        return report


class DroppingRunner(LaneRunner):
    """Forgets what is filtered out, and acks nothing of it."""

    def _sift(self, fetched: Fetched) -> None:
        super()._sift(fetched)
        self._owed.clear()


class StallingRunner(LaneRunner):
    """Filtered records never arrive."""

    def _sift(self, fetched: Fetched) -> None:
        received = self._strands.received
        super()._sift(fetched)
        self._strands.received = min(self._strands.received, received + len(fetched.records) // 2)


class PassingRunner(LaneRunner):
    """Hands all on that it read."""

    def _sift(self, fetched: Fetched) -> None:
        self._take(fetched)


class TrustingRunner(LaneRunner):
    """Takes all that was read again of a span for what was let in."""

    def _let_in(self, filtering: Filtering, span: Span, records: Sequence[Record]) -> Sequence[Record]:
        return records


class GreedyRunner(LaneRunner):
    """Acks a fetch in whole where some of it is unwanted."""

    def _sift(self, fetched: Fetched) -> None:
        super()._sift(fetched)
        if self._owed:
            self._owed += fetched.records

    async def _ack_owed(self) -> None:
        await self.lane.settle(Batch(self._owed, self.lane.format), (Ack(self._owed),))


def broken(part: type[LaneRunner]) -> type[Filtered]:
    class World(Filtered):
        runner = part

    return World


BROKEN = [
    (DroppingRunner, {"queue", "fifo"}, "not done after"),
    (StallingRunner, {"stream"}, "not done after|law 10"),
    (PassingRunner, {"stream", "queue", "fifo"}, "were filtered out, and are invoked"),
    (TrustingRunner, {"stream"}, "were filtered out, and are invoked"),
    (GreedyRunner, {"queue", "fifo"}, "law 12"),
]


def test_the_laws_hold_with_a_filter_in_every_run() -> None:
    reports = [play(Filtered, seed) for seed in range(12)]
    assert {report.scenario.kind for report in reports} == {"stream", "queue", "fifo"}
    assert sum(report.counts["filtered out"] for report in reports) > 500
    assert sum(report.counts["span resumed"] for report in reports) > 20


@pytest.mark.parametrize(("part", "kinds", "law"), BROKEN, ids=lambda each: getattr(each, "__name__", ""))
@pytest.mark.counterpart
def test_a_broken_filter_is_found_out(part: type[LaneRunner], kinds: set[str], law: str) -> None:
    seeds = [seed for seed in range(200) if kind_of(seed) in kinds][:40]
    for seed in seeds:
        try:
            play(broken(part), seed)
        except Broken as found:
            if re.search(law, str(found)):
                return
    pytest.fail(f"{part.__name__} broke no law ({law}) in {len(seeds)} runs")
