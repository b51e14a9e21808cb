"""Parking: what comes behind a failure that holds its key waits in the journal, in its order; other keys go on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from poller.admin.overview import lane_status
from poller.errors import NotConnected, StoreUnavailable
from poller.failures.journal import Entry, Row, Selection
from poller.failures.parking import parked
from poller.model import Ack, Action, Batch, Discard, Failure, Fault
from poller.parking import ParkingGuard
from poller.policy import Redeliver
from poller.settings import ErrorRule
from poller.status import MappingStatus, lane_reason
from poller.testing.fakes import FORMAT, FakeRecord
from tests.engine.scenes import (
    DONE,
    FAULT,
    Queue,
    Running,
    Scene,
    Script,
    Stream,
    at,
    block,
    failing,
    lane_of,
    now,
    over_queue,
    over_stream,
    redeliver,
    reporting,
    source_of,
    virtually,
    wall,
)


def keyed(stream: Stream, *names: str) -> Stream:
    """Put records whose key is the first letter of their name."""
    for name in names:
        stream.add(name, key=name[0])
    return stream


async def rows(scene: Scene) -> list[tuple[str, str, str]]:
    """Records, state and reason of every row that is open, by its first record."""
    open_ = await scene.store.journal.select(Selection(states=("kept", "claimed", "parked")))
    return sorted((_names(row), row.state, row.entry.reason) for row in open_)


def _names(row: Row) -> str:
    return " ".join(record.id for record in row.entry.records)


async def drop(scene: Scene, *names: str) -> None:
    """Somebody drops the rows of these records."""
    for row in await scene.store.journal.select(Selection(states=("kept", "parked"))):
        if _names(row) in names:
            assert await scene.store.journal.mark((row.entry.id,), "dropped", wall())


def begun(script: Script) -> list[str]:
    return [" ".join(names) for names in script.names]


# --- streams --------------------------------------------------------------------------------------------------------------------------


@virtually
async def test_later_records_of_the_key_are_parked_in_order_and_other_keys_go_on() -> None:
    scene = Scene(script := failing("a1"), size=10, retries=0, order="park")
    stream = keyed(Stream(), "a1", "b1", "a2", "b2", "a3")
    stream.add("free", key=None)
    running = await over_stream(scene, stream)
    await at(5)
    assert begun(script) == ["a1 b1 a2 b2 a3 free", "a1 b1 a2", "a1 b1", "a1", "b1", "b2 free"], "each part is looked at anew"
    assert await rows(scene) == [("a1", "kept", "RetryAttemptsExhausted"), ("a2", "parked", "Parked"), ("a3", "parked", "Parked")]
    keyed(stream, "a4", "b3")
    await at(10)
    await drop(scene, "a1", "a3")
    keyed(stream, "a5")
    await at(15)
    assert await rows(scene) == [("a2", "kept", "Parked"), ("a4", "parked", "Parked"), ("a5", "parked", "Parked")]
    for name in ("a2", "a4", "a5"):
        await drop(scene, name)
    keyed(stream, "a6")
    await at(20)
    assert begun(script)[6:] == ["b3", "a6"] and await rows(scene) == []
    await running.left()
    counters = scene.counters
    assert (counters.parked, counters.kept, counters.done, counters.discards) == (4, 1, 5, 1)
    assert scene.store.checkpoints.last.checkpoint == 10 and not scene.store.checkpoints.last.spans


@virtually
async def test_what_is_held_is_held_in_the_next_life_too_and_in_every_strand() -> None:
    scene = Scene(script := failing("a1", "b1"), size=1, width=4, concurrency=4, retries=0, order="park")
    stream = keyed(Stream(), "a1", "b1", "c1")
    await at(1)
    running = await over_stream(scene, stream)
    await at(5)
    await running.left()
    keyed(stream, "a2", "c2", "b2", "b3")
    running = await over_stream(scene, stream, "b")
    await at(10)
    await running.left()
    assert sorted(begun(script)) == ["a1", "b1", "c1", "c2"]
    kept = "kept", "RetryAttemptsExhausted"
    parked = "parked", "Parked"
    assert await rows(scene) == [("a1", *kept), ("a2", *parked), ("b1", *kept), ("b2", *parked), ("b3", *parked)]


@virtually
async def test_what_was_kept_and_not_settled_before_a_crash_does_not_run_again() -> None:
    """The rest of its batch is another one, with attempts of its own."""
    scene = Scene(script := reporting("a1"), size=4, retries=1, bisect=False, reporting=True, order="park", interval=60.0)
    stream = keyed(Stream(), "a1", "b1", "a2")
    running = await over_stream(scene, stream)
    settle = running.lane.settle

    async def crashing(batch: object, actions: Sequence[object]) -> None:
        if scene.store.journal.kept:
            running.task.cancel()
            await asyncio.sleep(60)
        await settle(batch, actions)  # type: ignore[arg-type]

    running.lane.settle = crashing  # type: ignore[method-assign]
    await asyncio.wait((running.task,))
    assert begun(script) == ["a1 b1 a2"] * 2 and await rows(scene) == [("a1", "kept", "RetryAttemptsExhausted")]
    keyed(stream, "c1", "b2")
    await asyncio.sleep(30)
    running = await over_stream(scene, stream, "b")
    await asyncio.sleep(5)
    await running.left()
    assert begun(script)[2:] == ["b1", "c1 b2"]
    assert await rows(scene) == [("a1", "kept", "RetryAttemptsExhausted"), ("a2", "parked", "Parked")]


@virtually
async def test_what_was_done_before_a_failure_is_not_parked_behind_it_after_a_crash() -> None:
    scene = Scene(script := failing("a2"), size=1, retries=0, order="park", interval=60.0)
    running = await over_stream(scene, stream := keyed(Stream(), "a1", "a2", "b1"))
    await at(5)
    running.task.cancel()
    with suppress(asyncio.CancelledError):
        await running.task
    assert scene.store.checkpoints.last.checkpoint == 1, "nothing but the failure has saved"
    await asyncio.sleep(30)
    running = await over_stream(scene, stream, "b")
    await asyncio.sleep(5)
    await running.left()
    assert begun(script) == ["a1", "a2", "b1", "b1"] and [name for name, *_ in await rows(scene)] == ["a2"]


async def replayed(scene: Scene, name: str) -> None:
    """Somebody has run the row of this record."""
    (row,) = [row for row in await scene.store.journal.select(Selection(states=("kept",))) if _names(row) == name]
    await scene.store.journal.mark((row.entry.id,), "claimed", wall(), "person", wall() + 60)
    await scene.store.journal.mark((row.entry.id,), "replayed", wall(), "person")


@virtually
async def test_what_was_replayed_is_not_parked_once_more_behind_what_came_after_it() -> None:
    """What is parked may be replayed long before the next checkpoint, and the worker be killed then."""
    scene = Scene(script := failing("a1"), size=1, retries=0, order="park", interval=60.0)
    running = await over_stream(scene, stream := keyed(Stream(), "a1", "a2", "a3", "b1"))
    await at(5)
    await replayed(scene, "a1")
    await replayed(scene, "a2")
    running.task.cancel()
    with suppress(asyncio.CancelledError):
        await running.task
    await asyncio.sleep(30)
    running = await over_stream(scene, stream, "b")
    await asyncio.sleep(5)
    await running.left()
    assert begun(script) == ["a1", "b1", "b1"] and await rows(scene) == [("a3", "kept", "Parked")]


@virtually
async def test_a_key_that_is_not_held_any_more_runs_and_is_not_forgotten_while_it_fails() -> None:
    """Two keys that are one as text, for one is no UTF-8: of one a failure is on its way to the journal, the other is found released."""
    scene = Scene(failing(), size=1, retries=0, order="park")
    work, lane = scene.work(redeliver()), (await over_stream(scene, Stream())).lane
    guard = ParkingGuard(lane, work, scene.store.parking)
    one, other = (Batch([FakeRecord(token, name, key, wall())], FORMAT) for token, name, key in ((1, "x1", b"\xff"), (2, "y1", b"\\xff")))
    actions = [Discard(Failure(one.records, "RetryAttemptsExhausted", 1, FAULT))]
    await guard.settling(one, actions)
    assert await guard.admit(other) == (other, ()), "the row of the failure is not there yet"
    await scene.store.journal.append(work.entries(one, [actions[0].failure], lane.name))
    admitted, (done,) = await guard.admit(other)
    assert admitted is None and done == Ack(list(other.records))


@virtually
async def test_a_queue_deletes_what_is_done_before_it_keeps_what_failed_behind_it() -> None:
    scene = Scene(reporting("a2"), size=2, reporting=True, order="park")
    queue = Queue(fifo=True)
    queue.put("a1", "a2", group="a")
    append, waiting = scene.store.journal.append, list[str]()

    async def watched(entries: Sequence[Entry]) -> Sequence[str]:
        waiting.extend(message.name for message in queue.messages)
        return await append(entries)

    scene.store.journal.append = watched  # type: ignore[method-assign]
    running = over_queue(scene, queue, redeliver(1))
    await at(5)
    await running.left()
    assert waiting == ["a2"] and await rows(scene) == [("a2", "kept", "MaximumReceiveCountExceeded")]


@virtually
async def test_what_is_too_old_behind_a_held_key_waits_too_and_what_is_too_old_holds() -> None:
    scene = Scene(script := failing("b1"), size=10, retries=0, order="park")
    stream = keyed(Stream(), "b1")
    running = Running(await lane_of(source_of(scene, stream)), scene.work(block(scene, age=60.0)))
    await at(5)
    for name, age in (("b2", 100.0), ("a1", 100.0), ("a2", 0.0), ("c1", 0.0)):
        stream.put("shard", FakeRecord(len(stream.shards["shard"]), name, name[:1].encode(), wall() - age))
    await at(10)
    await running.left()
    assert begun(script) == ["b1", "c1"]
    reasons = {name: reason for name, _, reason in await rows(scene)}
    assert reasons == {"b1": "RetryAttemptsExhausted", "b2": "Parked", "a1": "RecordAgeExceeded", "a2": "Parked"}


# --- the limit ------------------------------------------------------------------------------------------------------------------------


@virtually
async def test_with_too_many_keys_held_the_lane_waits_and_says_why() -> None:
    scene = Scene(script := failing("a1", "b1", "c1"), size=1, retries=0, order="park", most_keys=2)
    running = await over_stream(scene, keyed(Stream(), "a1", "b1", "a2", "c1", "d1"))
    await at(30)
    assert begun(script) == ["a1", "b1", "c1"] and [name for name, *_ in await rows(scene)] == ["a1", "a2", "b1"]
    shown = await lane_status(running.runner, wall() + 60)
    assert "hold 2 keys" in shown.last_error and "maximum_parked_keys is 2" in shown.last_error
    reason = lane_reason(shown, MappingStatus(), wall() + 60)
    assert "holds 2 records and has settled none" in reason and "replay or drop" in reason and not running.runner.signs.store_error
    assert scene.function.permits.free == 1, "who waits for a person holds no permit: a replay may need it"
    await drop(scene, "b1")
    await at(40)
    assert begun(script) == ["a1", "b1", "c1", "d1"] and running.runner.signs.full == ""
    assert [name for name, *_ in await rows(scene)] == ["a1", "a2", "c1"] and scene.counters.save_errors == 0
    await running.left()


@virtually
async def test_a_batch_of_more_keys_than_may_be_held_waits_for_nothing() -> None:
    scene = Scene(failing("a1"), size=5, retries=0, bisect=False, order="park", most_keys=2)
    running = await over_stream(scene, keyed(Stream(), "a1", "b1", "c1", "d1", "e1", "a2"))
    await at(5)
    await running.left()
    assert await rows(scene) == [("a1 b1 c1 d1 e1", "kept", "RetryAttemptsExhausted"), ("a2", "parked", "Parked")]


# --- queues ---------------------------------------------------------------------------------------------------------------------------


@virtually
async def test_a_group_s_later_messages_are_parked_by_whoever_receives_them() -> None:
    scene = Scene(script := failing("a1"), size=2, width=2, concurrency=2, order="park")
    queue = Queue(fifo=True)
    for group in "ab":
        queue.put(f"{group}1", f"{group}2", f"{group}3", group=group)
    one, two = (over_queue(scene, queue, redeliver(2, groups=True)) for _ in range(2))
    await at(80)
    queue.put("a4", group="a")
    await at(100)
    await asyncio.gather(one.left(), two.left())
    assert not queue.messages and not queue.dead
    names = [name for names in script.names for name in names]
    assert {"a3", "a4"}.isdisjoint(names)
    parked = [name for name, state, _ in await rows(scene) if state == "parked"]
    assert " ".join(parked).split() == ["a3", "a4"] and scene.counters.parked == 2
    assert await rows(scene) == [("a1 a2", "kept", "MaximumReceiveCountExceeded"), ("a3", "parked", "Parked"), ("a4", "parked", "Parked")]


@virtually
async def test_what_another_worker_keeps_meanwhile_is_asked_for() -> None:
    scene = Scene(script := failing(), size=1, order="park")
    running = over_queue(scene, queue := Queue(fifo=True), policy := redeliver(3))
    queue.put("a1", group="a")
    await at(5)
    lost = [FakeRecord(99, "a2", b"a", wall())]
    failure = Failure(lost, "MaximumReceiveCountExceeded", 3, FAULT)
    await scene.store.journal.append(scene.work(policy).entries(Batch(lost, FORMAT), [failure], "queue"))
    queue.put("a3", group="a")
    queue.put("b1", group="b")
    await at(10)
    await running.left()
    assert begun(script) == ["a1", "b1"] and not queue.messages
    assert await rows(scene) == [("a2", "kept", "MaximumReceiveCountExceeded"), ("a3", "parked", "Parked")]


@virtually
async def test_what_is_parked_and_cannot_be_deleted_now_keeps_no_permit() -> None:
    scene = Scene(script := failing("a1"), size=2, order="park")
    running = over_queue(scene, queue := Queue(fifo=True), redeliver(1))
    queue.put("a1", group="a")
    await at(5)
    settle, down = running.lane.settle, True

    async def refusing(batch: Batch, actions: Sequence[Action]) -> None:
        if down:
            raise NotConnected("the queue does not answer")
        await settle(batch, actions)

    running.lane.settle = refusing  # type: ignore[method-assign]
    queue.put("a2", group="a")
    queue.put("b1", group="b")
    await at(8)
    assert scene.function.permits.free == 1 and await rows(scene) != []
    down = False
    await at(30)
    await running.left()
    assert begun(script) == ["a1", "b1"] and not queue.messages


@virtually
async def test_an_error_rule_parks_alone() -> None:
    """What other errors give up holds nothing."""
    rule = ErrorRule("Declined", "park")
    declined = Fault("error", "Declined", "no credit")
    script = Script(lambda names: (0.0, declined if "a1" in names else FAULT if "b1" in names else DONE))
    scene = Scene(script, size=1, retries=3, errors=(rule,))
    running = await over_stream(scene, keyed(Stream(), "a1", "b1", "a2", "b2"))
    await at(60)
    await running.left()
    assert begun(script) == ["a1", "b1", "b1", "b1", "b1", "b2"]
    assert await rows(scene) == [("a1", "kept", "ErrorParked"), ("a2", "parked", "Parked"), ("b1", "kept", "RetryAttemptsExhausted")]


@virtually
async def test_what_one_decision_gives_up_of_a_group_is_one_row() -> None:
    declined = Fault("error", "Declined", "no credit")
    script = Script(lambda names: (0.0, declined if "a2" in names else FAULT))
    scene = Scene(script, size=2, errors=(ErrorRule("Declined", "park"),))
    running = over_queue(scene, queue := Queue(5.0, fifo=True), Redeliver(5, None, None, True, errors=scene.errors))
    queue.put("a1", group="a")
    await at(3)
    queue.put("a2", "a3", group="a")
    await at(10)
    await running.left()
    assert begun(script) == ["a1", "a1 a2"] and queue.receives == {"a1": 2, "a2": 1, "a3": 1}
    assert await rows(scene) == [("a1 a2", "kept", "ErrorParked"), ("a3", "parked", "Parked")]


@virtually
async def test_what_is_parked_goes_to_no_destination() -> None:
    scene = Scene(failing(), order="park")
    scene.settings = replace(scene.settings, on_failure=("file:failures",))
    lost = [FakeRecord(1, "a1", b"a", wall())]
    failures = Failure(lost, "RetryAttemptsExhausted", 3, FAULT), parked(lost)
    entries = scene.work(redeliver()).entries(Batch(lost, FORMAT), failures, "shard")
    assert [(entry.holds, entry.destinations) for entry in entries] == [(True, ("file:failures",)), (True, ())]


@virtually
async def test_nothing_is_acked_before_it_is_parked() -> None:
    scene = Scene(script := failing("a1"), size=1, retries=0, order="park", interval=0.1)
    running = await over_stream(scene, stream := keyed(Stream(), "a1"))
    await at(2)
    park, down = scene.store.parking.park, True

    async def refusing(entries: object) -> Sequence[str]:
        if down:
            raise StoreUnavailable("the disk is full")
        return await park(entries)  # type: ignore[arg-type]

    scene.store.parking.park = refusing  # type: ignore[method-assign]
    keyed(stream, "a2", "b1")
    await at(10)
    assert scene.store.checkpoints.last.checkpoint == 1 and "disk is full" in running.runner.signs.store_error
    down = False
    await at(20)
    assert begun(script) == ["a1", "b1"] and scene.store.checkpoints.last.checkpoint == 3 and now() >= 20
    await running.left()
