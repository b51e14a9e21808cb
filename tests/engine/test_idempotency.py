"""Idempotency windows: what the function has handled is put before it is settled, and passed over when it comes again."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from math import inf

import pytest

from poller.admin.rewinding import Wish
from poller.errors import StoreUnavailable
from poller.failures.journal import Selection
from poller.idempotency import names
from poller.progress import Progress
from poller.settings import IdempotencySettings
from poller.stores.memory_acknowledged import MemoryAcknowledged
from poller.testing.fakes import FORMAT, FakeRecord
from tests.engine.scenes import (
    DONE,
    KEY,
    Queue,
    Scene,
    Script,
    Store,
    Stream,
    at,
    failing,
    over_queue,
    over_stream,
    redeliver,
    reporting,
    virtually,
    wall,
)
from tests.engine.test_pause import Worker, rewinding

WINDOW = IdempotencySettings(600.0)


class Acknowledged(MemoryAcknowledged):
    """Remembers when something was put. While `down`, it does not answer; unless `forgetful`, it forgets nothing."""

    down = False
    forgetful = True

    def __init__(self) -> None:
        super().__init__()
        self.puts: list[tuple[float, int]] = []

    async def put(self, mapping: str, names: Sequence[bytes], now: float, until: float) -> None:
        if self.down:
            raise StoreUnavailable("the disk is full")
        await super().put(mapping, names, now, until)
        self.puts.append((round(asyncio.get_running_loop().time(), 3), len(names)))

    async def known(self, mapping: str, names: Sequence[bytes], now: float) -> Collection[bytes]:
        if self.down:
            raise StoreUnavailable("the disk is full")
        return await super().known(mapping, names, now)

    async def forget(self, mapping: str, now: float) -> None:
        if not self.forgetful:
            raise StoreUnavailable("the disk is full")
        await super().forget(mapping, now)


def remembering(script: Script, **settings: object) -> tuple[Scene, Acknowledged]:
    store = Store()
    store.acknowledged = acknowledged = Acknowledged()
    settings = {"idempotency": WINDOW, "store": store, **settings}
    return Scene(script, **settings), acknowledged  # type: ignore[arg-type]


async def put(store: Store, stream: Stream, *records: str, until: float = 600.0) -> None:
    """An earlier life has put these."""
    found = [record for record in stream.shards["shard"] if record.name in records]
    await store.acknowledged.put("orders", names("fake", FORMAT, found), wall(), wall() + until)


async def failures(scene: Scene) -> list[tuple[str, list[str]]]:
    rows = await scene.store.journal.select(Selection(states=()))
    return [(row.entry.reason, [record.id for record in row.entry.records]) for row in rows]


@virtually
async def test_what_was_put_is_passed_over_and_the_rest_of_its_batch_runs() -> None:
    scene, _ = remembering(script := Script(), size=4)
    stream = Stream("a", "b", "c", "d", "e")
    await put(scene.store, stream, "a", "c", "e")
    running = await over_stream(scene, stream)
    await at(2)
    assert script.names == [("b", "d")]
    assert (scene.counters.skipped, scene.counters.done) == (3, 2)
    assert scene.store.checkpoints.last.checkpoint == 5
    await running.left()


@virtually
async def test_what_has_no_time_of_arrival_runs_and_is_not_remembered() -> None:
    scene, acknowledged = remembering(script := Script(), size=4)
    stream = Stream("a", "b")
    stream.put("shard", FakeRecord(2, "timeless", None, inf))
    running = await over_stream(scene, stream)
    await at(2)
    await running.left()
    assert script.names == [("a", "b", "timeless")] and [count for _, count in acknowledged.puts] == [2]


@virtually
async def test_after_the_window_it_runs_again() -> None:
    scene, acknowledged = remembering(script := Script())
    stream = Stream("a")
    await put(scene.store, stream, "a", until=5.0)
    await at(5.0)
    running = await over_stream(scene, stream)
    await at(6)
    assert script.names == [("a",)]
    assert acknowledged.puts[-1][1] == 1
    await running.left()


@virtually
async def test_only_what_was_handled_is_put() -> None:
    """Of a partial answer what lies before the first failed record; never what is given up."""
    scene, acknowledged = remembering(script := reporting("c"), size=4, retries=1, reporting=True)
    running = await over_stream(scene, stream := Stream("a", "b", "c", "d"), partial="listed")
    await at(10)
    assert [count for _, count in acknowledged.puts] == [3]
    assert await failures(scene) == [("RetryAttemptsExhausted", ["c"])]
    await running.left()
    # The rest of it comes again, as after a crash; c is in the journal, and nobody knows that it was handled.
    scene.store.checkpoints._saved.clear()
    again = await over_stream(scene, stream, "b", partial="listed")
    await at(20)
    assert script.names[-1] == ("c",)
    await again.left()


@virtually
async def test_nothing_is_settled_while_the_store_does_not_answer() -> None:
    scene, acknowledged = remembering(script := Script(lambda _: (1.0, DONE)))
    queue = Queue()
    queue.put("a", "b")
    running = over_queue(scene, queue)
    await script.called(1)
    acknowledged.down = True
    await at(40)
    assert (queue.deleted, len(script.calls)) == ([], 1), "held, and not run again"
    assert "the disk is full" in running.runner.signs.store_error
    acknowledged.down = False
    await at(60)
    assert (sorted(queue.deleted), len(script.calls)) == (["a", "b"], 1)
    await running.left()


@virtually
async def test_nothing_begins_while_the_store_does_not_answer() -> None:
    scene, acknowledged = remembering(script := Script())
    acknowledged.down = True
    queue = Queue()
    queue.put("a")
    running = over_queue(scene, queue)
    await at(20)
    assert not script.calls
    acknowledged.down = False
    await script.called(1)
    await running.left(5.0)


@virtually
async def test_a_message_received_too_often_and_acknowledged_is_no_failure() -> None:
    """Its deletes were lost, time and again: it is deleted, and not given up."""
    scene, _ = remembering(script := Script())
    queue = Queue(visibility=1.0)
    queue.put("a")
    for _ in range(3):
        (record,) = queue.receive(1)
        await asyncio.sleep(1.1)
    await scene.store.acknowledged.put("orders", names("fake", FORMAT, [record]), wall(), wall() + 600)
    running = over_queue(scene, queue, redeliver(maximum_receives=2))
    await at(10)
    assert (script.names, queue.deleted, await failures(scene)) == ([], ["a"], [])
    await running.left()


@virtually
async def test_a_batch_that_was_running_when_its_worker_died_and_was_acknowledged_is_no_failure() -> None:
    """Its last attempt was saved as begun, it was put, and the worker crashed before the save behind that."""
    scene, _ = remembering(script := failing("a"), size=3, retries=1, bisect=False)
    stream = Stream("a", "b", "c")
    running = await over_stream(scene, stream)
    await script.called(2)  # the attempt after the first is saved as running
    saved = await _running(scene)
    running.task.cancel()
    await asyncio.gather(running.task, return_exceptions=True)
    scene.store.checkpoints._saved[KEY] = saved
    for row in await scene.store.journal.select(Selection()):
        scene.store.journal.remove(row.entry.id)
    await put(scene.store, stream, "a", "b")
    script.answer = lambda _: (0.0, DONE)
    before = len(script.calls)
    again = await over_stream(scene, stream, "b")
    await asyncio.sleep(30)
    assert script.names[before:] == [("c",)], "what is left of it is another batch"
    assert await failures(scene) == []
    await again.left()


@virtually
async def test_a_rewind_forgets_first_and_does_nothing_where_it_cannot() -> None:
    scene, acknowledged = remembering(script := Script(), size=1)
    worker = Worker(scene, stream := Stream("m1", "m2"))
    await script.called(2)
    await asyncio.sleep(2)
    before = dict(scene.store.checkpoints._saved)
    acknowledged.forgetful = False
    with pytest.raises(StoreUnavailable, match="the disk is full"):
        await rewinding(scene, stream).run(Wish(origin="TRIM_HORIZON"))
    await asyncio.sleep(20)
    assert scene.store.checkpoints._saved[KEY].checkpoint == before[KEY].checkpoint
    acknowledged.forgetful = True
    told = await rewinding(scene, stream).run(Wish(origin="TRIM_HORIZON"))
    assert told.forgets
    await script.called(4)
    assert script.names == [("m1",), ("m2",)] * 2
    await worker.stop()


async def _running(scene: Scene) -> Progress:
    """The save that counts the last attempt."""
    return next(progress for _, progress in reversed(scene.store.checkpoints.saves) if any(span.running for span in progress.spans))
