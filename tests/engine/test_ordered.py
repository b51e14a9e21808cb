"""Lanes of a stream: when progress is saved, how leases are held and given up, and what a next life makes of the last one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

import pytest

from poller.errors import LaneLost, StoreUnavailable
from poller.mapping import MappingRunner
from poller.model import Ack, Batch, Call, Fetched, Lease, Response
from poller.ordered import OrderedLane
from poller.ordered_source import LEASE_SECONDS
from poller.protocols import Event, Source
from poller.settings import Backoff
from poller.stores.memory import MemoryLeases
from poller.testing.clock import VirtualLoop
from poller.testing.fakes import FakeStream
from tests.engine.scenes import (
    DONE,
    FAULT,
    KEY,
    Running,
    Scene,
    Script,
    Stream,
    at,
    in_turn,
    lane_of,
    now,
    over_stream,
    source_of,
    taking,
    virtually,
    wall,
    wider,
)


def saved_at(scene: Scene) -> list[float]:
    return [time for time, _ in scene.store.checkpoints.saves]


async def steal(scene: Scene) -> Lease:
    """Another worker has the lane from now on, for an hour, and this one was not told."""
    lease = await scene.store.leases.claim(KEY, "thief", wall() + 3600, 0.0)
    assert lease is not None
    return lease


class Worker:
    """One worker's mapping over the stream."""

    def __init__(self, scene: Scene, stream: FakeStream, owner: str) -> None:
        self.source = source_of(scene, stream, owner)
        self.mapping = MappingRunner(scene.work(self.source.policy), self._open)
        self.task = asyncio.create_task(self.mapping.run())

    async def _open(self) -> Source:
        return self.source

    @property
    def lanes(self) -> list[str]:
        return sorted(self.mapping.runners)

    async def stop(self) -> None:
        self.mapping.stop(asyncio.get_running_loop().time() + 60)
        await self.task


# --- saving -----------------------------------------------------------------------------------------------------------------------------


@virtually
async def test_the_happy_path_pays_no_write_for_a_batch() -> None:
    scene = Scene(taking(0.01), size=1)
    await over_stream(scene, Stream(*(f"r{n}" for n in range(500))))
    await at(4.5)
    assert len(scene.script.calls) > 400
    # At opening, and then once a second.
    assert saved_at(scene) == pytest.approx([0.0, 1.0, 2.0, 3.0, 4.0], abs=0.05)


@virtually
async def test_nothing_is_saved_while_nothing_moves() -> None:
    scene, stream = Scene(taking(0)), Stream("r1")
    await over_stream(scene, stream)
    await at(100)
    before = len(scene.store.checkpoints.saves)
    await at(1000)
    assert len(scene.store.checkpoints.saves) == before
    stream.add("r2")
    await at(1010)
    assert scene.store.checkpoints.last.checkpoint == 2


@virtually
async def test_opening_saves_its_doubt_and_a_clean_close_leaves_none() -> None:
    scene = Scene(taking(0))
    running = await over_stream(scene, Stream("r1"))
    assert (scene.store.checkpoints.last.doubt, scene.store.checkpoints.last.closed) == (10_000, False)
    await at(2)
    await running.left()
    assert (scene.store.checkpoints.last.doubt, scene.store.checkpoints.last.closed) == (0, True)


@virtually
async def test_after_a_crash_first_attempts_are_saved_ahead_and_after_a_clean_close_they_are_not() -> None:
    for clean in (True, False):
        scene, stream = Scene(taking(0.1), size=1, interval=3600.0), Stream("r1", "r2", "r3")
        running = await over_stream(scene, stream)
        await at(now() + 0.05)
        if clean:
            await running.left(60)
        else:
            running.task.cancel()
            await asyncio.gather(running.task, return_exceptions=True)
        before = len(scene.store.checkpoints.saves)
        await over_stream(scene, stream, "b")
        await at(now() + 5)
        ahead = [progress.spans for _, progress in scene.store.checkpoints.saves[before:] if progress.spans]
        assert len(ahead) == (0 if clean else 3)


@virtually
async def test_saves_that_are_asked_for_together_share_one() -> None:
    scene = Scene(taking(0))
    scene.store.checkpoints.seconds = 1.0
    source = source_of(scene, Stream("r1"))
    lane = await lane_of(source)
    before = len(scene.store.checkpoints.saves)
    await asyncio.gather(*(lane.save() for _ in range(20)))
    # The first was under way, alone, when the others were asked for.
    assert len(scene.store.checkpoints.saves) == before + 2


@virtually
async def test_a_save_that_failed_is_tried_again_by_itself() -> None:
    scene = Scene(taking(0))
    running = await over_stream(scene, Stream("r1"))
    scene.store.checkpoints.down = True
    await at(3.5)
    scene.store.checkpoints.down = False
    await at(6)
    assert scene.store.checkpoints.last.checkpoint == 1
    assert not running.task.done()


@virtually
async def test_while_the_store_is_down_a_lane_stops_at_the_limit_between_saves() -> None:
    script = Script()
    scene, stream = Scene(script, size=1, interval=3600.0), Stream(*(f"r{n}" for n in range(3000)))
    running = await over_stream(scene, stream)
    scene.store.checkpoints.down = True
    await at(8)
    assert len(script.calls) == 1000, "so many batches may begin that no save counts"
    scene.store.checkpoints.down = False
    await at(30)
    assert len(script.calls) == 3000 and not running.task.done()


@virtually
async def test_a_broken_close_saves_nothing_even_if_a_save_is_waiting_for_another() -> None:
    scene, stream = Scene(taking(0), interval=0.5), Stream("r1")
    lane = await lane_of(source_of(scene, stream))
    scene.store.checkpoints.seconds = 4.0
    for name, moment in (("r2", 1.0), ("r3", 2.0)):
        # Each is fetched and done; the save of the first is under way while that of the second waits for it.
        await lane.fetch(1)
        stream.add(name)
        await at(moment)
    await lane.fetch(1)
    # Its runner fails here: r3 is in no strand, and nobody will ever settle it.
    await lane.aclose(broken=True)
    assert max(progress.frontier for _, progress in scene.store.checkpoints.saves) <= 2


@virtually
async def test_a_lost_lane_saves_nothing_even_if_a_save_is_waiting_for_another() -> None:
    scene, stream = Scene(taking(0), interval=3600.0), Stream("r1")
    lane = await lane_of(source_of(scene, stream))
    scene.store.checkpoints.seconds = 4.0
    before = len(scene.store.checkpoints.saves)
    under_way, waiting = (asyncio.create_task(lane.save()) for _ in range(2))
    await at(1)
    lane.lose("its lease could not be renewed in time")
    under_way.cancel()  # its strand was cancelled; the request may be on its way for all that
    results = await asyncio.gather(under_way, waiting, return_exceptions=True)
    assert isinstance(results[1], LaneLost)
    assert len(scene.store.checkpoints.saves) == before


class Clinging(Script):
    """A function whose end takes a while."""

    async def invoke(self, event: Event, call: Call) -> Response:
        try:
            return await super().invoke(event, call)
        except asyncio.CancelledError:
            await asyncio.sleep(5.0)
            raise


class Stumbling(OrderedLane):
    """Fails between a fetch and its strands."""

    async def fetch(self, limit: int) -> Fetched:
        fetched = await super().fetch(limit)
        if [record.name for record in fetched.records] == ["r2"]:
            raise KeyError("a bug, or a record that no format foresaw")
        return fetched


@virtually
async def test_a_lane_whose_runner_has_failed_saves_nothing_while_its_invocations_end() -> None:
    scene, stream = Scene(Clinging(lambda _: (1000.0, DONE))), Stream("r1")
    source = source_of(scene, stream, lane=Stumbling)
    lane = await lane_of(source)
    running = Running(lane, scene.work(source.policy))
    await at(5)
    stream.add("r2")
    await asyncio.gather(running.task, return_exceptions=True)
    assert now() > 9 and lane.closed
    assert {progress.frontier for _, progress in scene.store.checkpoints.saves} <= {-1, 0, 1}


class Meanwhile(Clinging):
    """Its invocation of "d1" ends some turns of the loop after `over`."""

    def __init__(self, turns: int) -> None:
        super().__init__(lambda _: (1000.0, DONE))
        self.over = asyncio.Event()
        self._turns = turns

    async def invoke(self, event: Event, call: Call) -> Response:
        if tuple(event.identifiers()) != ("d1",):
            return await super().invoke(event, call)
        await self.over.wait()
        for _ in range(self._turns):
            await asyncio.sleep(0)
        return DONE


@virtually
async def test_nor_when_another_strand_settles_in_the_moment_of_the_failure() -> None:
    for turns in range(12):
        script, stream = Meanwhile(turns), Stream("a1", key="a")
        stream.add("d1", key="d")
        scene, started = Scene(script, width=2, concurrency=2), now()
        source = source_of(scene, stream, lane=Stumbling)
        running = Running(await lane_of(source), scene.work(source.policy))
        await at(started + 5)
        script.over.set()
        stream.add("r2", key="d")
        await asyncio.gather(running.task, return_exceptions=True)
        assert max(progress.frontier for _, progress in scene.store.checkpoints.saves) <= 2, f"after {turns} turns"


# --- leases -----------------------------------------------------------------------------------------------------------------------------


def shards(*names: str) -> FakeStream:
    return FakeStream({name: [] for name in names})


@virtually
async def test_workers_share_shards_and_a_stopped_one_hands_its_own_on_at_once() -> None:
    scene, stream = Scene(taking(0)), shards("s1", "s2")
    first = Worker(scene, stream, "a")
    await at(2)
    second = Worker(scene, stream, "b")
    await at(5)
    assert sorted(first.lanes + second.lanes) == ["s1", "s2"] and len(first.lanes) == 1
    await first.stop()
    stopped = now()
    await at(stopped + 1.0)
    assert second.lanes == ["s1", "s2"]
    await second.stop()


@virtually
async def test_a_crashed_workers_shards_are_read_when_their_leases_have_run_out() -> None:
    scene, stream = Scene(taking(0)), shards("s1")
    first = Worker(scene, stream, "a")
    second = Worker(scene, stream, "b")
    await at(20)
    assert (first.lanes, second.lanes) == (["s1"], [])
    scene.store.leases = Cut(scene.store.leases)
    crashed = now()
    first.task.cancel()
    await at(crashed + LEASE_SECONDS * 2 / 3 - 1)
    assert second.lanes == []
    await at(crashed + LEASE_SECONDS + 2)
    assert second.lanes == ["s1"]
    await second.stop()


class Cut(MemoryLeases):
    """The leases of a store, from which nothing is dropped any more: who held one has crashed."""

    def __init__(self, leases: MemoryLeases) -> None:
        super().__init__()
        self._held = leases._held

    async def drop(self, lease: Lease) -> None:
        return None


class Deaf(MemoryLeases):
    """While `down`, renews nothing."""

    down = False

    async def renew(self, leases: Sequence[Lease], now: float, duration: float) -> Sequence[Lease]:
        if self.down:
            raise StoreUnavailable("no route to the store")
        return await super().renew(leases, now, duration)


@virtually
async def test_who_cannot_renew_its_lease_steps_down_before_it_runs_out() -> None:
    script, stream = taking(1000), Stream("r1")
    scene = Scene(script)
    scene.store.leases = leases = Deaf()
    scene.store.checkpoints._leases = leases
    running = await over_stream(scene, stream)
    await at(30)
    assert not running.task.done()
    leases.down = True
    down = now()
    await running.task
    held = leases._held[KEY].until - wall() + now()
    assert down < now() < held, "its invocation has ended before anyone else can begin it"
    assert script.calls[0].ended and running.runner.signs.state == "lost"


@virtually
async def test_a_short_outage_of_the_store_costs_no_lane() -> None:
    scene = Scene(taking(0))
    scene.store.leases = leases = Deaf()
    scene.store.checkpoints._leases = leases
    running = await over_stream(scene, Stream("r1"))
    await at(30)
    leases.down = True
    await at(33)
    leases.down = False
    await at(120)
    assert not running.task.done() and not running.lane.leaving.done()


@virtually
async def test_a_process_that_stood_still_loses_its_lane_at_the_first_call() -> None:
    calls: list[Callable[[OrderedLane, Batch], Awaitable[object]]] = [
        lambda lane, _: lane.fetch(10),
        lambda lane, batch: lane.begin(batch),
        lambda lane, batch: lane.settle(batch, (Ack(batch.records),)),
    ]
    for call in calls:
        scene = Scene(taking(0))
        lane = await lane_of(source_of(scene, Stream("r1", "r2")))
        batch = Batch((await lane.fetch(1)).records, lane.format)
        cast("VirtualLoop", asyncio.get_running_loop()).jump(LEASE_SECONDS + 1)
        with pytest.raises(LaneLost):
            await call(lane, batch)
        assert lane.lost and lane.leaving.done()


@virtually
async def test_an_attempt_whose_save_is_answered_when_the_lease_is_over_does_not_begin() -> None:
    """It was written in time; but by now another worker may be at it, and further on."""
    scene = Scene(taking(0))
    lane = await lane_of(source_of(scene, Stream("r1")))
    batch = Batch((await lane.fetch(10)).records, lane.format, attempt=2)
    scene.store.checkpoints.seconds = 2.0
    lane.trusted_until = asyncio.get_running_loop().time() + 1.0
    with pytest.raises(LaneLost):
        await lane.begin(batch)


@virtually
async def test_a_lane_that_was_stolen_is_found_out_by_its_next_save_or_renewal() -> None:
    for script in (taking(0), taking(1000)):
        scene, stream, started = Scene(script), Stream("r1"), now()
        running = await over_stream(scene, stream)
        await at(started + 5)
        await steal(scene)
        await running.task
        assert running.runner.signs.state == "lost" and now() - started < 5 + LEASE_SECONDS / 3 + 0.1
        assert await scene.store.checkpoints.load(KEY) == scene.store.checkpoints.last


@virtually
async def test_a_lane_is_not_opened_again_while_its_last_save_is_under_way() -> None:
    scene, stream = Scene(taking(0)), Stream("r1")
    worker = Worker(scene, stream, "a")
    await at(5)
    scene.store.checkpoints.seconds = 4.0
    lane = worker.mapping.runners["shard"].lane
    lane.leaving.set_result(0.0)
    await at(8)
    assert worker.lanes == ["shard"] and worker.mapping.runners["shard"].lane is lane, "it is being closed"
    await at(30)
    assert worker.lanes == ["shard"] and worker.mapping.runners["shard"].lane is not lane
    assert [progress.closed for _, progress in scene.store.checkpoints.saves[-2:]] == [True, False], "closed first, then opened"
    await worker.stop()


@virtually
async def test_a_closed_shard_is_not_opened_again() -> None:
    scene, stream = Scene(taking(0)), Stream("r1")
    stream.closed.add("shard")
    worker = Worker(scene, stream, "a")
    await at(30)
    assert (worker.lanes, scene.script.names) == ([], [("r1",)])
    assert len([progress for _, progress in scene.store.checkpoints.saves if progress.closed]) == 1
    await worker.stop()


# --- the next life ----------------------------------------------------------------------------------------------------------------------


@virtually
async def test_a_retry_outlives_its_worker_with_its_attempts_and_its_backoff() -> None:
    script, stream = in_turn(FAULT, FAULT, FAULT), Stream("r1", "r2")
    scene = Scene(script, retries=2, bisect=False, backoff=Backoff(20.0, 20.0))
    running = await over_stream(scene, stream)
    await at(12)
    assert script.times == [0.0, 10.0]
    await running.left()
    await at(15)
    await over_stream(scene, stream, "b")
    await at(40)
    assert script.times == pytest.approx([0.0, 10.0, 20.0], abs=0.01)
    assert [names for _, names in scene.store.journal.kept] == [("r1", "r2")]


@virtually
async def test_a_changed_width_finishes_in_the_old_one_what_that_began() -> None:
    script = Script(lambda names: (0.0, FAULT if now() < 10 else Script().answer(names)[1]))
    scene = Scene(script, size=10, width=4, concurrency=4, retries=50, backoff=Backoff(0.1, 1.0), bisect=False)
    stream = Stream()
    names = [f"{key}{n}" for n in range(3) for key in "abcdef"]
    for name in names:
        stream.add(name, key=name[0])
    running = await over_stream(scene, stream)
    await at(8)
    begun = set(script.names)
    await running.left()
    worker = Worker(wider(scene, 2), stream, "b")
    await at(30)
    again = [call.names for call in script.calls if call.at > 8]
    assert set(again) == begun, "the same batches, until they are done"
    assert sorted(name for call in script.calls if call.at > 10 for name in call.names) == sorted(names)
    stream.add("z1", key="z")
    await at(40)
    lane = worker.mapping.runners["shard"].lane
    assert lane.strands.width == 2 and isinstance(lane, OrderedLane)
    assert scene.store.checkpoints.last.width == 2
    await worker.stop()
    assert scene.store.checkpoints.last.checkpoint == len(names) + 1
