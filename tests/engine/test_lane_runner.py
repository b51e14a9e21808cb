"""How a lane runs, told as the manual tells it: batches, permits, failures, leaving, outages. Every time is exact: the clock is virtual."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from connectors.sqs.format import SqsFormat
from connectors.sqs.lane import SqsLane
from connectors.sqs.queue import Queue as SqsQueue
from poller.errors import LaneLost, NotConnected, NotYet
from poller.failures.journal import Selection
from poller.model import Action, Batch, Fetched, Response
from poller.ordered import OrderedLane
from poller.policy import Block
from poller.settings import Backoff
from poller.testing.fakes import FakeQueueLane
from poller.testing.sqs import FakeSqs
from tests.engine.scenes import (
    DONE,
    FAULT,
    KEY,
    Queue,
    Running,
    Scene,
    Script,
    Stream,
    at,
    busy,
    failing,
    in_turn,
    lane_of,
    now,
    over_queue,
    over_stream,
    redeliver,
    reporting,
    source_of,
    taking,
    virtually,
)

# --- batches and permits ----------------------------------------------------------------------------------------------------------------


@virtually
async def test_the_window_starts_with_the_first_record() -> None:
    script, queue = taking(0), Queue()
    over_queue(Scene(script, size=10, window=5.0), queue)
    await at(3)
    queue.put("m1")
    await at(6)
    queue.put("m2")
    await at(20)
    assert [(call.at, call.names) for call in script.calls] == [(8.0, ("m1", "m2"))]


@virtually
async def test_a_full_batch_does_not_wait_for_its_window() -> None:
    script, queue = taking(0), Queue()
    over_queue(Scene(script, size=2, window=5.0), queue)
    queue.put("m1", "m2", "m3")
    await at(20)
    assert [(call.at, call.names) for call in script.calls] == [(0.0, ("m1", "m2")), (5.0, ("m3",))]


@virtually
async def test_a_batch_that_waits_for_a_permit_goes_on_filling() -> None:
    script, queue = taking(10), Queue()
    over_queue(Scene(script, size=10, concurrency=1, width=2), queue)
    queue.put("m1")
    await at(1)
    queue.put("m2", "m3", "m4")
    await at(5)
    queue.put("m5", "m6", "m7")
    await at(30)
    assert [(call.at, len(call.names)) for call in script.calls] == [(0.0, 1), (10.0, 6)]


@virtually
async def test_a_backlog_at_a_concurrency_of_one_makes_full_batches_and_no_second_receive() -> None:
    script, queue = taking(20), Queue(visibility=30.0)
    over_queue(Scene(script, size=10, concurrency=1, width=5), queue)
    queue.put(*(f"m{n}" for n in range(100)))
    await script.called(10)
    await at(now() + 20.5)
    assert [len(names) for names in script.names] == [10] * 10
    assert script.times == [20.0 * n for n in range(10)]
    assert set(queue.receives.values()) == {1}
    assert len(queue.deleted) == 100


@virtually
async def test_no_more_run_at_once_than_the_function_allows_or_the_width_of_the_lane() -> None:
    for concurrency, width in ((2, 5), (5, 2)):
        script, queue, started = taking(10), Queue(), now()
        running = over_queue(Scene(script, size=1, concurrency=concurrency, width=width), queue)
        queue.put("m1", "m2", "m3", "m4")
        await at(started + 25)
        assert [time - started for time in script.times] == [0.0, 0.0, 10.0, 10.0]
        await running.left()


@virtually
async def test_lanes_of_one_function_get_permits_in_turn() -> None:
    script, queues = taking(1), (Queue(), Queue(), Queue())
    scene = Scene(script, size=1, concurrency=1)
    for name, queue in zip("abc", queues, strict=True):
        over_queue(scene, queue)
        queue.put(*(f"{name}{n}" for n in range(4)))
    await at(11.5)
    assert "".join(name[0] for (name,) in script.names) == "abcabcabcabc"


# --- failures of a queue ----------------------------------------------------------------------------------------------------------------


@virtually
async def test_busy_is_held_in_place_and_costs_nothing() -> None:
    script, queue = in_turn(busy(40.0), busy(2.0)), Queue(visibility=30.0)
    over_queue(Scene(script, size=10), queue, redeliver(maximum_receives=1))
    queue.put("m1", "m2")
    await at(60)
    assert [(call.at, call.names) for call in script.calls] == [(time, ("m1", "m2")) for time in (0.0, 40.0, 42.0)]
    assert (queue.receives, queue.messages) == ({"m1": 1, "m2": 1}, [])


@virtually
async def test_a_failed_message_waits_for_its_visibility_timeout() -> None:
    script, queue = in_turn(FAULT), Queue(visibility=30.0)
    over_queue(Scene(script), queue)
    queue.put("m1")
    await at(40)
    assert script.times == pytest.approx([0.0, 30.0], abs=0.2)
    assert queue.receives == {"m1": 2}


@virtually
async def test_a_failed_message_comes_back_after_the_backoff_where_one_is_set() -> None:
    script, queue = in_turn(FAULT, FAULT), Queue(visibility=30.0)
    over_queue(Scene(script), queue, redeliver(backoff=Backoff(2.0, 60.0)))
    queue.put("m1")
    await at(10)
    assert script.times == pytest.approx([0.0, 1.0, 3.0], abs=0.3)


@virtually
async def test_only_what_a_partial_response_names_is_received_again() -> None:
    script, queue = reporting("m2"), Queue(visibility=30.0)
    over_queue(Scene(script, reporting=True), queue, redeliver(maximum_receives=2))
    queue.put("m1", "m2", "m3")
    await at(40)
    assert script.names == [("m1", "m2", "m3"), ("m2",)]
    assert queue.deleted == ["m1", "m3", "m2"]


@virtually
async def test_what_was_received_too_often_is_in_the_journal_before_it_is_deleted() -> None:
    scene, queue = Scene(failing("m1")), Queue(visibility=10.0)
    over_queue(scene, queue, redeliver(maximum_receives=2))
    queue.put("m1")
    await at(15)
    assert (queue.deleted, scene.counters.discards) == (["m1"], 1)
    (row,) = await scene.store.journal.select(Selection())
    assert (row.entry.reason, row.entry.attempts, row.entry.fault) == ("MaximumReceiveCountExceeded", 2, FAULT)


@virtually
async def test_a_released_message_is_not_overtaken_by_later_ones_of_its_group() -> None:
    script, queue = in_turn(FAULT), Queue(visibility=10.0, fifo=True)
    over_queue(Scene(script, size=1, width=2, concurrency=1), queue)
    queue.put("a1", "a2", "a3", group="a")
    queue.put("b1", group="b")
    await at(30)
    assert [names for names in script.names if names != ("b1",)] == [("a1",), ("a1",), ("a2",), ("a3",)]
    assert queue.deleted == ["b1", "a1", "a2", "a3"]


@virtually
async def test_nor_where_the_lane_is_of_another_kind() -> None:
    """The same over SQS: what waits here of the group of a released message goes back with it, whoever the lane is."""
    sqs = FakeSqs()
    queue = sqs.create("orders.fifo", visibility=10)
    script = in_turn(FAULT)
    scene = Scene(script, maximum_bytes=7000)
    for body in ("a1", "b1", "a2", "a3"):
        sqs.send(queue, body * 600, group=body[0])
    found = SqsQueue(queue.url, queue.arn, queue.visibility)
    lane = SqsLane(sqs, found, SqsFormat(found.arn, found.region), 1, 10, 4, 5)
    Running(lane, scene.work(redeliver()))
    await script.called(1)
    first = script.names[0]
    assert len(first) == 1, "one message is a batch, for its bytes"
    await at(60)
    order = [message for (message,) in script.names]
    ids = {f"00000000-0000-0000-0000-{n:012}": name for n, name in ((1, "a1"), (2, "b1"), (3, "a2"), (4, "a3"))}
    assert [ids[message] for message in order if ids[message] != "b1"] == ["a1", "a1", "a2", "a3"]
    assert (queue.messages, lane.held) == ([], 0)


# --- failures of a stream ---------------------------------------------------------------------------------------------------------------


@virtually
async def test_the_backoff_doubles_and_then_the_batch_is_given_up() -> None:
    script = failing("r1")
    scene = Scene(script, retries=3, bisect=False, backoff=Backoff(2.0, 60.0))
    stream = Stream("r1", "r2")
    await over_stream(scene, stream)
    await at(3)
    stream.add("r3")
    await at(20)
    assert [(call.at, call.names) for call in script.calls] == [
        *((time, ("r1", "r2")) for time in (0.0, 1.0, 3.0, 7.0)),
        (7.0, ("r3",)),
    ]
    assert scene.store.journal.kept == [(7.0, ("r1", "r2"))]


@virtually
async def test_bisection_runs_the_halves_in_order_and_at_once() -> None:
    script = failing("r2")
    scene = Scene(script, size=4, retries=1)
    await over_stream(scene, Stream("r1", "r2", "r3", "r4", "r5"))
    await at(20)
    assert [(call.at, call.names) for call in script.calls] == [
        (0.0, ("r1", "r2", "r3", "r4")),
        (0.0, ("r1", "r2")),
        (0.0, ("r1",)),
        (0.0, ("r2",)),
        (0.5, ("r2",)),
        (0.5, ("r3", "r4")),
        (0.5, ("r5",)),
    ]
    assert scene.store.journal.kept == [(0.5, ("r2",))]
    assert scene.counters.splits == 2


@virtually
async def test_a_cut_retries_from_the_first_failed_record_on() -> None:
    script = reporting("r2", "r4")
    scene = Scene(script, size=5, retries=1, reporting=True)
    await over_stream(scene, Stream("r1", "r2", "r3", "r4", "r5"))
    await at(20)
    # Each cut is a new batch with a count of its own; at the limit only the first failed record goes.
    assert script.names == [
        ("r1", "r2", "r3", "r4", "r5"),
        *[("r2", "r3", "r4", "r5")] * 2,
        ("r3", "r4", "r5"),
        *[("r4", "r5")] * 2,
        ("r5",),
    ]
    assert [names for _, names in scene.store.journal.kept] == [("r2",), ("r4",)]


@virtually
async def test_a_list_retries_exactly_the_listed_records() -> None:
    script = reporting("r2", "r4")
    scene = Scene(script, size=5, retries=1, reporting=True)
    await over_stream(scene, Stream("r1", "r2", "r3", "r4", "r5", "r6"), partial="listed")
    await at(20)
    assert script.names == [("r1", "r2", "r3", "r4", "r5"), *[("r2", "r4")] * 2, ("r6",)]
    assert [names for _, names in scene.store.journal.kept] == [("r2", "r4")]


@virtually
async def test_a_failing_key_does_not_hold_up_the_other_strands() -> None:
    script = failing("a1")
    scene = Scene(script, size=10, width=2, concurrency=2, retries=5, bisect=False)
    stream = Stream("a1", key="a")
    stream.add("d1", key="d")  # of another strand: crc32
    await over_stream(scene, stream)
    await at(5)
    stream.add("d2", key="d")
    stream.add("a2", key="a")
    await at(6)
    assert ("d1",) in script.names and ("d2",) in script.names and ("a2",) not in script.names


class Crowded(OrderedLane):
    """Has room for `a1` only once `d1` is done with."""

    room = False

    async def begin(self, batch: Batch) -> None:
        if batch.records[0].name == "a1" and not self.room:
            raise NotYet("no room", 0.25)
        await super().begin(batch)

    async def settle(self, batch: Batch, actions: Sequence[Action]) -> None:
        await super().settle(batch, actions)
        self.room = True


@virtually
async def test_an_attempt_that_must_wait_for_others_holds_no_permit_meanwhile() -> None:
    scene = Scene(taking(0.1), width=2, concurrency=1)
    stream = Stream("a1", key="a")
    stream.add("d1", key="d")
    source = source_of(scene, stream, lane=Crowded)
    Running(await lane_of(source), scene.work(source.policy))
    await at(2)
    assert scene.script.names == [("d1",), ("a1",)]
    assert scene.function.permits.in_use == 0


@virtually
async def test_busy_is_no_attempt_of_a_stream_either() -> None:
    script = in_turn(busy(3.0), FAULT, busy(3.0), FAULT)
    scene = Scene(script, retries=1, bisect=False, backoff=Backoff(2.0, 2.0))
    await over_stream(scene, Stream("r1", "r2"))
    await at(30)
    assert script.times == [0.0, 3.0, 4.0, 7.0]
    assert scene.store.journal.kept == [(7.0, ("r1", "r2"))]


# --- leaving ----------------------------------------------------------------------------------------------------------------------------


def slow_or_quick(slow: str, quick: float, seconds: float = 100.0) -> Script:
    return Script(lambda names: (seconds if slow in names else quick, DONE))


@virtually
async def test_leaving_a_stream_waits_for_what_runs_and_starts_nothing() -> None:
    script, stream = taking(5), Stream("r1", "r2")
    scene = Scene(script, size=1)
    running = await over_stream(scene, stream)
    await at(1)
    assert await running.left(grace=60) == 5.0
    assert script.names == [("r1",)]
    last = scene.store.checkpoints.last
    assert (last.checkpoint, last.spans, last.closed) == (1, (), True)


@virtually
async def test_what_still_runs_at_the_deadline_is_ended_and_its_attempt_handed_back() -> None:
    script, stream = slow_or_quick("a1", 5.0), Stream("a1", key="a")
    stream.add("d1", key="d")
    scene = Scene(script, size=1, width=2, concurrency=2)
    running = await over_stream(scene, stream)
    await at(1)
    assert await running.left(grace=9) == 10.0
    assert sorted((call.names, call.until, call.ended) for call in script.calls) == [(("a1",), None, True), (("d1",), 5.0, False)]
    (span,) = scene.store.checkpoints.last.spans
    assert (span.first, span.attempts, span.running) == (0, 0, False)
    script.answer = lambda _: (0.0, DONE)
    await over_stream(scene, stream, "b")
    await at(20)
    assert script.names[2:] == [("a1",)]


@virtually
async def test_leaving_ends_a_backoff_at_once_and_the_next_life_waits_for_its_rest() -> None:
    script, stream = in_turn(FAULT), Stream("r1")
    scene = Scene(script, backoff=Backoff(100.0, 100.0))
    running = await over_stream(scene, stream)
    await at(10)
    assert await running.left(grace=60) == 10.0
    await over_stream(scene, stream, "b")
    await at(60)
    assert script.times == [0.0, 50.0]


@virtually
async def test_a_queue_that_is_left_starts_what_it_holds_while_there_is_time() -> None:
    for width in (1, 3):
        script, queue, started = taking(10), Queue(), now()
        running = over_queue(Scene(script, size=1, concurrency=1, width=width), queue)
        queue.put("m1", "m2", "m3", "m4", "m5")
        await at(started + 5)
        assert queue.receives == {"m1": 1, "m2": 1}
        assert await running.left(grace=60) - started == pytest.approx(20.0)
        assert script.names == [("m1",), ("m2",)]
        assert queue.receives == {"m1": 1, "m2": 1} and queue.deleted == ["m1", "m2"]


@virtually
async def test_what_never_started_before_the_deadline_is_given_back_at_once() -> None:
    script, queue = taking(100), Queue(visibility=600.0)
    running = over_queue(Scene(script, size=1, concurrency=1), queue)
    queue.put("m1", "m2", "m3")
    await at(5)
    assert await running.left(grace=2) == 7.0
    assert [message.name for message in queue.messages if message.visible_at <= queue.clock()] == ["m1", "m2", "m3"]
    assert script.calls[0].ended and len(script.calls) == 1


@virtually
async def test_a_window_is_not_waited_for_when_the_lane_is_left() -> None:
    script, queue = taking(1), Queue()
    running = over_queue(Scene(script, size=10, window=300.0), queue)
    queue.put("m1")
    await at(5)
    assert await running.left(grace=60) == 6.0
    assert script.times == [5.0] and queue.deleted == ["m1"]


# Not run: the task that is refused leaves a coroutine that nobody awaits, and that would fail whatever runs next.
@virtually
async def test_a_second_signal_ends_a_lane_that_is_being_left_at_once() -> None:
    queue = Queue()
    running = over_queue(Scene(taking(100), size=1, concurrency=1, width=2), queue)
    queue.put("m1", "m2")
    await at(5)
    running.leave(60)
    await at(6)
    running.task.cancel()
    await asyncio.gather(running.task, return_exceptions=True)
    assert running.task.cancelled() and now() == 6.0
    assert [message.visible_at <= queue.clock() for message in queue.messages] == [True, True]


class Watchful(FakeQueueLane):
    """Counts fetches that were cancelled."""

    cancelled = 0

    async def fetch(self, limit: int) -> Fetched:
        try:
            return await super().fetch(limit)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@virtually
async def test_leaving_cancels_no_fetch() -> None:
    for grace in (0.0, 60.0):
        queue, started = Queue(), now()
        running = over_queue(Scene(taking(1)), queue, lane=Watchful)
        await at(started + 2)
        await running.left(grace)
        assert isinstance(running.lane, Watchful) and running.lane.cancelled == 0


@virtually
async def test_what_a_last_fetch_brings_is_run_or_given_back() -> None:
    class Late(FakeQueueLane):
        """Its answer is under way when the lane is left."""

        async def fetch(self, limit: int) -> Fetched:
            fetched = await super().fetch(limit)
            await asyncio.sleep(1.0)
            return fetched

    for grace, deleted in ((60.0, ["m1"]), (0.5, [])):
        script, queue, started = taking(1), Queue(), now()
        running = over_queue(Scene(script), queue, lane=Late)
        queue.put("m1")
        await at(started + 0.5)
        await running.left(grace)
        assert queue.deleted == deleted
        assert [message.visible_at <= queue.clock() for message in queue.messages] == [True] * (1 - len(deleted))


# --- outages ----------------------------------------------------------------------------------------------------------------------------


@virtually
async def test_while_the_store_is_down_discards_wait_and_successes_go_on() -> None:
    script, queue = failing("poison"), Queue(visibility=10.0)
    scene = Scene(script, size=1, width=2, concurrency=2)
    running = over_queue(scene, queue, redeliver(maximum_receives=1))
    scene.store.fail(True)
    queue.put("poison")
    await at(30)
    queue.put("good")
    await at(60)
    assert queue.deleted == ["good"]
    assert (scene.store.journal.kept, running.runner.signs.store_error) == ([], "the disk is full")
    scene.store.fail(False)
    await at(70)
    assert queue.deleted == ["good", "poison"]
    assert queue.receives == {"poison": 1, "good": 1}
    ((_, kept),) = scene.store.journal.kept
    assert (kept, running.runner.signs.store_error) == (("poison",), "")
    assert script.names == [("poison",), ("good",)]


@virtually
async def test_a_later_attempt_waits_for_the_store() -> None:
    script = failing("r1")
    scene = Scene(script, retries=1, bisect=False)
    running = await over_stream(scene, Stream("r1"))
    scene.store.fail(True)
    await at(4)
    assert script.times == [0.0]
    scene.store.fail(False)
    await at(12)
    assert len(script.times) == 2 and script.times[1] > 4.0
    assert not running.task.done()


@virtually
async def test_leaving_does_not_wait_for_a_store_that_is_down() -> None:
    scene, queue = Scene(failing("m1")), Queue()
    running = over_queue(scene, queue, redeliver(maximum_receives=1))
    scene.store.fail(True)
    queue.put("m1")
    await at(20)
    assert await running.left(grace=25) <= 25.0
    assert queue.deleted == [] and queue.messages[0].visible_at <= queue.clock()


class Away(FakeQueueLane):
    """Does not answer until `errors` are used up."""

    def __init__(self, *args: object, **more: object) -> None:
        super().__init__(*args, **more)  # type: ignore[arg-type]
        self.errors: list[NotConnected] = []
        self.asked: list[float] = []

    async def fetch(self, limit: int) -> Fetched:
        self.asked.append(now())
        if self.errors:
            raise self.errors.pop(0)
        return await super().fetch(limit)


async def asked_at(*errors: NotConnected) -> list[float]:
    running = over_queue(Scene(taking(0)), Queue(), lane=Away)
    assert isinstance(running.lane, Away)
    running.lane.errors = list(errors)
    await at(now() + 200)
    return running.lane.asked[: len(errors) + 1]


@virtually
async def test_reading_is_tried_again_with_a_backoff_that_grows() -> None:
    times = await asked_at(*(NotConnected("away") for _ in range(12)))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps == pytest.approx([0.15, 0.3, 0.6, 1.2, 2.4, 4.8, 9.6, 19.2, 22.5, 22.5, 22.5, 22.5], abs=0.01)


@virtually
async def test_a_source_that_says_when_is_believed() -> None:
    assert await asked_at(NotConnected("slow down", retry_after=7.0)) == pytest.approx([0.0, 7.0], abs=0.01)


@virtually
async def test_what_needs_a_person_is_tried_slowly() -> None:
    assert await asked_at(NotConnected("no such queue", permanent=True)) == pytest.approx([0.0, 3.75], abs=0.01)


@virtually
async def test_leaving_ends_a_backoff_of_reading() -> None:
    running = over_queue(Scene(taking(0)), Queue(), lane=Away)
    assert isinstance(running.lane, Away)
    running.lane.errors = [NotConnected("no such queue", permanent=True)]
    await at(3)
    assert running.runner.signs.state == "reconnecting"
    assert await running.left(grace=60) == 3.0


# --- a lane that is lost, or ends -------------------------------------------------------------------------------------------------------


@virtually
async def test_a_lost_lane_drops_its_results_and_saves_nothing() -> None:
    script, stream = taking(30), Stream("r1", "r2")
    scene = Scene(script, size=1)
    running = await over_stream(scene, stream)
    await at(5)
    stolen = await scene.store.leases.claim(KEY, "thief", scene.context("a").clock() + 3600, 3600)
    assert stolen is not None
    await at(40)
    assert running.task.done() and running.runner.signs.state == "lost"
    assert script.calls[0].ended and len(script.calls) == 1, "its invocation is not waited for: another worker runs it already"
    assert all(time < 5 for time, _ in scene.store.checkpoints.saves)
    assert scene.counters.lost_lanes == 1


@virtually
async def test_a_lane_lost_by_settling_ends_every_strand() -> None:
    class Losing(FakeQueueLane):
        async def settle(self, batch: Batch, actions: Sequence[Action]) -> None:
            raise LaneLost("taken over")

    script, queue = slow_or_quick("m2", 1.0), Queue()
    running = over_queue(Scene(script, size=1, width=2, concurrency=2), queue, lane=Losing)
    queue.put("m1", "m2")
    await running.task
    assert now() == 1.0 and running.runner.signs.state == "lost"
    assert [call.ended for call in script.calls] == [False, True]


@virtually
async def test_a_lane_that_ends_runs_what_it_has_without_waiting_for_a_window() -> None:
    script, stream = taking(1), Stream("r1", "r2", "r3")
    stream.closed.add("shard")
    scene = Scene(script, size=2, window=300.0)
    running = await over_stream(scene, stream)
    await running.task
    assert (now(), running.runner.signs.state) == (2.0, "ended")
    assert script.names == [("r1", "r2"), ("r3",)]
    assert scene.store.checkpoints.last.checkpoint == 3


async def crashed(running: Running) -> None:
    """As if its process had been killed: nothing is saved. (Its lease is dropped, so that no test has to wait for it.)"""
    running.task.cancel()
    await asyncio.gather(running.task, return_exceptions=True)


@virtually
async def test_an_attempt_whose_outcome_died_with_its_worker_was_a_failure() -> None:
    answers: list[tuple[float, Response | Exception]] = [(0.0, FAULT), (50.0, DONE)]
    script, stream = Script(lambda _: answers.pop(0)), Stream("r1", "r2")
    scene = Scene(script, retries=1, bisect=False)
    running = await over_stream(scene, stream)
    await script.called(2)
    await crashed(running)
    await over_stream(scene, stream, "b")
    await at(10)
    assert len(script.calls) == 2
    (row,) = await scene.store.journal.select(Selection())
    assert (row.entry.attempts, row.entry.fault and row.entry.fault.kind) == (2, "lost")


@virtually
async def test_a_first_attempt_is_begun_again_and_counted_from_then_on() -> None:
    script, stream = taking(50), Stream("r1", "r2")
    scene = Scene(script, retries=1, bisect=False)
    for owner in "abc":
        running = await over_stream(scene, stream, owner)
        await at(now() + 5)
        await crashed(running)
    # The first was uncounted; the second was saved ahead, for the lane was in doubt; so the third is its retry.
    assert script.names == [("r1", "r2")] * 3
    await over_stream(scene, stream, "d")
    await at(now() + 5)
    assert len(script.calls) == 3, "law 11: at most maximum_retry_attempts + 2"
    assert [names for _, names in scene.store.journal.kept] == [("r1", "r2")]


@virtually
async def test_a_response_is_what_a_handler_gives_and_its_bug_is_a_fault() -> None:
    broken: list[tuple[float, Response | Exception]] = [(0.0, ValueError("a bug of the handler"))]
    script = Script(lambda _: broken.pop() if broken else (0.0, DONE))
    scene = Scene(script, backoff=Backoff(2.0, 2.0))
    await over_stream(scene, Stream("r1"))
    await at(10)
    assert script.times == [0.0, 1.0] and scene.counters.faults == 1


# --- in a row ---------------------------------------------------------------------------------------------------------------------------


@virtually
async def test_batches_follow_each_other_without_the_engine_being_asked() -> None:
    script = taking(1)
    scene = Scene(script, size=2)
    running = await over_stream(scene, Stream(*(f"r{n}" for n in range(9))))
    await at(20)
    assert script.names == [("r0", "r1"), ("r2", "r3"), ("r4", "r5"), ("r6", "r7"), ("r8",)]
    assert script.times == [0.0, 1.0, 2.0, 3.0, 4.0] and script.rows == 1
    counters = scene.counters
    assert (counters.batches, counters.begun, counters.invocations, counters.done, counters.in_flight) == (5, 5, 5, 9, 0)
    assert (sum(counters.durations), round(counters.handler_seconds, 3), scene.function.permits.in_use) == (5, 5.0, 0)
    await running.left()


@virtually
async def test_a_row_ends_where_something_must_be_decided_and_begins_anew_behind_it() -> None:
    script = failing("r4")
    scene = Scene(script, size=2, retries=0)
    running = await over_stream(scene, Stream(*(f"r{n}" for n in range(8))))
    await at(20)
    assert script.names == [("r0", "r1"), ("r2", "r3"), ("r4", "r5"), ("r4",), ("r5",), ("r6", "r7")]
    assert script.rows == 2, "the halves are no row: what follows must wait for both"
    assert (scene.counters.kept, scene.counters.done) == (1, 7)
    await running.left()


@virtually
async def test_who_waits_for_a_permit_comes_between_two_in_a_row() -> None:
    script = taking(1)
    stream = Stream("a1", "a2", "a3", key="a")
    stream.add("d1", "d2", "d3", key="d")  # on another strand
    running = await over_stream(Scene(script, size=1, concurrency=1, width=2), stream)
    await at(10)
    assert "".join(name[0] for (name,) in script.names) in {"adadad", "dadada"}
    await running.left()


@virtually
async def test_what_has_grown_too_old_in_a_row_is_given_up() -> None:
    script = taking(10)
    scene = Scene(script, size=1)
    source = source_of(scene, Stream("r0", "r1", "r2"))
    assert isinstance(source.policy, Block)
    running = Running(await lane_of(source), scene.work(replace(source.policy, maximum_record_age=15.0)))
    await at(40)
    assert script.names == [("r0",), ("r1",)]
    (failure,) = await scene.store.journal.select(Selection())
    assert failure.entry.reason == "RecordAgeExceeded"
    await running.left()


@virtually
async def test_a_lane_that_is_left_ends_its_row() -> None:
    script = taking(10)
    running = await over_stream(Scene(script, size=1), stream := Stream("r0", "r1", "r2", "r3"))
    await at(15)
    assert await running.left(grace=60) == 20.0
    assert script.names == [("r0",), ("r1",)] and not any(call.ended for call in script.calls)
    again = await over_stream(Scene(script, size=1), stream)
    await at(25)
    assert await again.left(grace=1) == 26.0
    assert script.calls[-1].ended, "what is interrupted is the last in the row"
