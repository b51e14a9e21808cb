"""Pausing and rewinding on the virtual clock: workers of a fleet leave their lanes and go on; nothing runs again that was not asked to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from poller.admin.rewinding import Preview, Rewinding, Wish
from poller.config import MappingConfig
from poller.entry_points import EntryPoint
from poller.errors import NotConnected, PollerError, StoreError, StoreUnavailable
from poller.mapping import MappingRunner
from poller.model import LaneKey, Lease
from poller.ordered_source import LEASE_SECONDS
from poller.pause import KEPT_SECONDS, LOOK_SECONDS, Pause, Pauses, watch
from poller.policy import Block
from poller.progress import Progress
from poller.protocols import Policy, Source
from poller.registry import CONNECTORS, Registry
from poller.settings import Context, Finding, MappingSettings, Traits
from poller.shards import beginning
from poller.testing.fakes import FakeRecord, FakeStream
from tests.engine.scenes import Scene, Script, Store, Stream, at, block, now, source_of, taking, virtually, wall

GRACE = 25.0
PERSON = Pause(0.0, "ann")


class Worker:
    """A mapping over a stream in one worker of a fleet, as a daemon runs it."""

    def __init__(self, scene: Scene, stream: FakeStream, owner: str = "a") -> None:
        self.errors: list[Exception] = []
        self.opened: list[float] = []
        self.scene, self._stream, self._owner = scene, stream, owner
        self.pauses = Pauses(scene.store, owner, wall)
        self.mapping = MappingRunner(scene.work(block(scene)), self._open, pause_kept=lambda: self.pauses.load("orders"))
        self.task = asyncio.create_task(self.mapping.run())
        self._watch = asyncio.create_task(watch(self.mapping, self.pauses, lambda: GRACE, asyncio.Event()))

    async def _open(self) -> Source:
        self.opened.append(now())
        if self.errors:
            raise self.errors.pop()
        return source_of(self.scene, self._stream, self._owner)

    async def stop(self) -> None:
        self._watch.cancel()
        self.mapping.stop(asyncio.get_running_loop().time())
        await self.task
        with suppress(asyncio.CancelledError):
            await self._watch


def handled(script: Script) -> list[str]:
    """Records of the invocations that came to their end, in order."""
    return [name for call in script.calls if call.until is not None for name in call.names]


# --- pausing --------------------------------------------------------------------------------------------------------------------------


@virtually
async def test_a_pause_lets_what_runs_finish_and_begins_nothing_more() -> None:
    script, stream = taking(10), Stream("m1", "m2")
    worker = Worker(Scene(script, size=1), stream)
    await at(1)
    await worker.pauses.put("orders", PERSON)
    await at(1 + LOOK_SECONDS + 1)
    assert (worker.mapping.state, [*worker.mapping.runners]) == ("pausing", ["shard"])
    await at(300)
    assert (worker.mapping.state, worker.mapping.runners, worker.mapping.paused) == ("paused", {}, PERSON)
    assert [call.names for call in script.calls] == [("m1",)] and worker.scene.function.permits.in_use == 0
    await worker.pauses.end("orders")
    await at(330)
    assert worker.mapping.state == "running" and handled(script) == ["m1", "m2"], "it goes on where it was"
    assert worker.scene.counters.reconnects == 0
    await worker.stop()


@virtually
async def test_what_is_paused_is_not_opened_after_a_restart_and_can_be_stopped() -> None:
    scene, stream = Scene(taking(0)), Stream("m1")
    await Pauses(scene.store, "b", wall).put("orders", PERSON)
    worker = Worker(scene, stream)
    await at(100)
    assert (worker.mapping.state, worker.opened, worker.mapping.tried.is_set()) == ("paused", [], True)
    await worker.stop()
    assert worker.mapping.state == "stopped"


@virtually
async def test_a_pause_ends_the_wait_for_a_source_that_is_away() -> None:
    worker = Worker(Scene(taking(0)), Stream())
    worker.errors = [NotConnected("no such stream", permanent=True, retry_after=3600.0)]
    await at(1)
    assert worker.mapping.state == "reconnecting"
    await worker.pauses.put("orders", PERSON)
    await at(1 + LOOK_SECONDS + 0.1)
    assert (worker.mapping.state, worker.mapping.last_error) == ("paused", "")
    await worker.pauses.end("orders")
    await at(10)
    assert (worker.mapping.state, len(worker.opened)) == ("running", 2)
    await worker.stop()


@virtually
async def test_all_workers_obey_and_a_store_that_is_away_changes_nothing() -> None:
    store, stream = Store(), Stream("m1")
    workers = [Worker(Scene(taking(0), store=store), stream, owner) for owner in "abc"]
    await at(1)
    await workers[0].pauses.put("orders", PERSON)
    await at(10)
    assert {worker.mapping.state for worker in workers} == {"paused"}

    async def away(key: LaneKey) -> Progress | None:
        raise StoreUnavailable("no route to the store")

    load, store.checkpoints.load = store.checkpoints.load, away  # type: ignore[method-assign]
    await at(30)
    assert {worker.mapping.state for worker in workers} == {"paused"}
    store.checkpoints.load = load  # type: ignore[method-assign]
    await workers[1].pauses.end("orders")
    await at(40)
    assert {worker.mapping.state for worker in workers} == {"running"}
    for worker in workers:
        await worker.stop()


@virtually
async def test_a_pause_with_an_end_ends_by_itself_and_gives_way_to_one_without() -> None:
    pauses = Pauses(Store(), "a", wall)
    rewind = Pause(wall(), "a rewind", until=wall() + 10)
    assert await pauses.put("orders", rewind) == rewind
    assert await pauses.load("other") is None
    await at(10)
    assert await pauses.load("orders") is None
    await pauses.put("orders", PERSON)
    assert await pauses.put("orders", rewind) == PERSON, "what a person paused stays paused"
    assert await pauses.end("orders", kept_by=rewind.by) is None and await pauses.load("orders") == PERSON
    assert await pauses.end("orders") == PERSON
    assert await pauses.end("orders") is None


@virtually
async def test_two_who_pause_at_once_are_both_answered() -> None:
    store = Store()
    store.checkpoints.seconds = 0.3
    pauses = [Pauses(store, "one daemon", wall) for _ in range(3)]
    found = await asyncio.gather(*(each.put("orders", Pause(float(number), "ann")) for number, each in enumerate(pauses)))
    assert len({*found}) == 1 and await pauses[0].load("orders") == found[0]


@virtually
async def test_a_pause_that_is_kept_is_told_as_such_though_its_lease_cannot_be_dropped() -> None:
    store = Store()

    async def away(lease: Lease) -> None:
        raise StoreUnavailable("no route to the store")

    store.leases.drop = away  # type: ignore[method-assign]
    assert await Pauses(store, "a", wall).put("orders", PERSON) == PERSON
    assert await Pauses(store, "b", wall).end("orders") == PERSON, "the lease has run out"


@virtually
async def test_a_mapping_whose_pause_cannot_be_read_says_so_and_tries_again() -> None:
    scene = Scene(taking(0))
    load = scene.store.checkpoints.load

    async def damaged(key: LaneKey) -> Progress | None:
        raise StoreError("the row is damaged; mend it")

    scene.store.checkpoints.load = damaged  # type: ignore[method-assign]
    worker = Worker(scene, Stream("m1"))
    await at(10)
    assert (worker.mapping.state, worker.mapping.last_error) == ("reconnecting", "the row is damaged; mend it")
    scene.store.checkpoints.load = load  # type: ignore[method-assign]
    await at(1000)
    assert (worker.mapping.state, worker.mapping.last_error) == ("running", "")
    await worker.stop()


# --- rewinding ------------------------------------------------------------------------------------------------------------------------


class NoOptions(msgspec.Struct, frozen=True):
    """None."""


class FakeConnector:
    """Of one stream."""

    options: type[msgspec.Struct] = NoOptions

    def __init__(self, scene: Scene, stream: FakeStream) -> None:
        self._scene, self._stream = scene, stream

    def traits(self, options: Any) -> Traits:
        return Traits("stream", 100)

    def policy(self, options: Any, settings: MappingSettings) -> Policy:
        return Block.of(settings, "cut")

    async def open(self, options: Any, context: Context) -> Source:
        return source_of(self._scene, self._stream, context.owner)

    async def probe(self, options: Any, context: Context, timeout: float) -> list[Finding]:
        raise AssertionError("a rewind probes nothing")


class Point:
    """An entry point of the fake connector."""

    name, value, dist = "fake", "x:y", None

    def __init__(self, connector: FakeConnector) -> None:
        self._connector = connector

    def load(self) -> Any:
        return self._connector


def rewinding(scene: Scene, stream: FakeStream, owner: str = "rewinder") -> Rewinding:
    def points(group: str) -> Iterable[EntryPoint]:
        return [Point(FakeConnector(scene, stream))] if group == CONNECTORS else []

    return Rewinding(MappingConfig(scene.settings, "fake", NoOptions()), Registry(points), scene.context(owner), GRACE)


def family() -> FakeStream:
    """A shard that was split in two."""
    stream = FakeStream({"p": []})
    stream.put("p", FakeRecord(0, "p0", b"k", wall()))
    stream.reshard(("p",), ("c", "d"))
    for name in "cd":
        stream.put(name, FakeRecord(0, f"{name}0", b"k", wall()))
    return stream


@virtually
async def test_ended_shards_are_read_again_parents_before_children() -> None:
    script, stream = taking(0.5), family()
    scene = Scene(script, size=1)
    worker = Worker(scene, stream)
    await at(20)
    assert sorted(handled(script)) == ["c0", "d0", "p0"]
    done = await rewinding(scene, stream).run(Wish(origin="TRIM_HORIZON"))
    assert [lane.lane for lane in done.lanes] == ["p", "c", "d"] and done.lanes[0].start == "ended"
    await at(60)
    again = handled(script)[3:]
    assert sorted(again) == ["c0", "d0", "p0"] and again[0] == "p0"
    assert (worker.mapping.state, worker.mapping.paused) == ("running", None)
    await worker.stop()


@virtually
async def test_a_lane_of_who_does_not_obey_keeps_every_lane_as_it_is() -> None:
    script, stream = taking(0), family()
    scene = Scene(script, size=1)
    worker = Worker(scene, stream)
    await at(20)
    await worker.stop()
    before = dict(scene.store.checkpoints._saved)
    key, held = LaneKey("orders", "fake", "d"), asyncio.Event()

    async def hold() -> None:
        while not held.is_set():
            await scene.store.leases.claim(key, "deaf", wall(), LEASE_SECONDS)
            await asyncio.sleep(1)

    holding, since = asyncio.create_task(hold()), now()
    await asyncio.sleep(1)
    with pytest.raises(StoreUnavailable, match=r"nothing was changed: 1 lane could not be had, held by deaf \(d\)"):
        await rewinding(scene, stream).run(Wish(origin="TRIM_HORIZON"))
    assert now() - since > LOOK_SECONDS + GRACE + LEASE_SECONDS
    assert scene.store.checkpoints._saved == before
    assert await worker.pauses.load("orders") is None
    assert {each.owner for each in await scene.store.leases.held("orders", "fake", wall())} == {"", "deaf"}
    held.set()
    await holding


@virtually
async def test_after_a_rewinder_that_died_the_mapping_goes_on_by_itself() -> None:
    script, stream = taking(0), Stream("m1")
    scene = Scene(script, size=1)
    worker = Worker(scene, stream)
    await at(5)
    key = LaneKey("orders", "fake", "shard")
    await worker.pauses.put("orders", Pause(wall(), "a rewind", until=wall() + KEPT_SECONDS))
    while await scene.store.leases.claim(key, "dead", wall(), LEASE_SECONDS) is None:
        await asyncio.sleep(0.2)
    stream.add("m2")
    since = now()
    await script.called(2)
    assert script.names == [("m1",), ("m2",)] and now() - since < max(KEPT_SECONDS, LEASE_SECONDS) + LOOK_SECONDS + 2
    await worker.stop()


@virtually
async def test_a_preview_touches_nothing_and_says_who_holds_lanes() -> None:
    scene, stream = Scene(taking(0), size=1), Stream("m1", "m2")
    worker = Worker(scene, stream)
    await at(5)
    before = dict(scene.store.checkpoints._saved)
    shown: Preview = await rewinding(scene, stream).preview(Wish(origin="TRIM_HORIZON"))
    assert (shown.held, [lane.start for lane in shown.lanes]) == ({"shard": "a"}, ["2"])
    assert scene.store.checkpoints._saved == before and worker.mapping.state == "running"
    await worker.stop()


@virtually
async def test_what_a_person_paused_is_rewound_and_stays_paused() -> None:
    script, stream = taking(0), Stream("m1", "m2")
    scene = Scene(script, size=1)
    worker = Worker(scene, stream)
    await at(5)
    await worker.pauses.put("orders", PERSON)
    await at(10)
    done = await rewinding(scene, stream).run(Wish(origin="TRIM_HORIZON"))
    assert done.paused == "ann"
    await at(60)
    assert worker.mapping.state == "paused" and handled(script) == ["m1", "m2"]
    await worker.pauses.end("orders")
    await at(70)
    assert handled(script) == ["m1", "m2", "m1", "m2"]
    await worker.stop()


@virtually
async def test_a_rewind_that_is_cancelled_while_it_waits_leaves_the_mapping_running() -> None:
    script, stream = taking(20), Stream("m1", "m2")
    scene = Scene(script, size=1)
    worker = Worker(scene, stream)
    await at(1)
    task = asyncio.create_task(rewinding(scene, stream).run(Wish(origin="LATEST")))
    await at(5)
    assert [worker.mapping.state] == ["pausing"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await at(5 + 20 + KEPT_SECONDS + 30)
    assert handled(script) == ["m1", "m2"] and worker.mapping.state == "running"
    await worker.stop()


@virtually
async def test_a_store_that_is_away_for_a_moment_does_not_let_a_rewinds_pause_run_out() -> None:
    script, stream = taking(20), Stream("m1", "m2", "m3")
    scene = Scene(script, size=1)
    worker = Worker(scene, stream)
    await at(1)
    task = asyncio.create_task(rewinding(scene, stream).run(Wish(origin="LATEST")))
    await at(3)
    scene.store.fail(down=True)
    await at(8)
    scene.store.fail(down=False)
    await at(19)
    assert await worker.pauses.load("orders") is not None
    await task
    await at(100)
    assert handled(script) == ["m1"], "nothing of it was begun between the rewind and the place it goes to"
    await worker.stop()


@virtually
async def test_of_two_rewinds_one_is_refused_and_says_whose_the_other_is() -> None:
    script, stream = taking(10), family()
    scene = Scene(script, size=1)
    worker = Worker(scene, stream)
    await at(1)
    task = asyncio.create_task(rewinding(scene, stream, "ann").run(Wish(origin="TRIM_HORIZON")))
    await at(2)
    with pytest.raises(PollerError, match=r"orders: a rewind by ann is under way since .*; try again when it is over"):
        await rewinding(scene, stream, "bob").run(Wish(origin="LATEST"))
    await task
    assert await worker.pauses.load("orders") is None
    await worker.stop()


@virtually
async def test_a_rewind_that_is_done_is_told_as_such_though_the_store_has_gone_since() -> None:
    stream = family()
    scene = Scene(taking(0))
    asked = rewinding(scene, stream)
    drop = scene.store.leases.drop

    async def away(lease: Lease) -> None:
        raise StoreUnavailable("no route to the store")

    await asked.run(Wish(origin="TRIM_HORIZON"))
    scene.store.leases.drop = away  # type: ignore[method-assign]
    done = await asked.run(Wish(origin="TRIM_HORIZON"))
    assert [lane.lane for lane in done.lanes] == ["p", "c", "d"]
    scene.store.leases.drop = drop  # type: ignore[method-assign]


@virtually
async def test_a_rewind_that_stops_half_way_says_which_lanes_it_has_done() -> None:
    stream = family()
    scene = Scene(taking(0))
    save = scene.store.checkpoints.save

    async def full(lease: Lease, progress: Progress) -> None:
        if lease.key.lane == "c":
            raise StoreUnavailable("the disk is full")
        await save(lease, progress)

    scene.store.checkpoints.save = full  # type: ignore[method-assign]
    with pytest.raises(PollerError, match=r"rewound so far: p; lane c may be, and the others are where they were; .*the disk is full"):
        await rewinding(scene, stream).run(Wish(origin="TRIM_HORIZON"))


@virtually
async def test_a_position_of_a_lane_that_is_not_there_is_refused_by_its_name() -> None:
    with pytest.raises(PollerError, match="there is no lane 'x'; there are p, c, d"):
        await rewinding(Scene(taking(0)), family()).preview(Wish(lane="x", position="1"))


@virtually
async def test_shards_that_nobody_has_seen_yet_begin_where_all_were_rewound_to() -> None:
    stream = family()
    scene = Scene(taking(0))
    context, latest = scene.context("a"), f"LATEST {wall()}"
    assert await beginning(context, "fake", latest, LEASE_SECONDS) == latest.replace("LATEST", "AT_TIMESTAMP")
    for moment, origin in ((7.0, "AT_TIMESTAMP 7.0"), (None, "TRIM_HORIZON")):
        await rewinding(scene, stream).run(Wish(origin="" if moment else "TRIM_HORIZON", moment=moment))
        assert await beginning(context, "fake", f"LATEST {wall()}", LEASE_SECONDS) == origin


@virtually
async def test_to_the_end_passes_over_what_there_is_and_reads_what_comes() -> None:
    script, stream = taking(0), Stream()
    scene = Scene(script, size=1)
    await Pauses(scene.store, "a", wall).put("orders", PERSON)
    worker = Worker(scene, stream)
    await at(5)
    stream.add("old")
    await at(6)
    await rewinding(scene, stream).run(Wish(origin="LATEST"))
    await at(7)
    stream.add("new")
    await worker.pauses.end("orders")
    await at(15)
    assert handled(script) == ["new"]
    await worker.stop()
