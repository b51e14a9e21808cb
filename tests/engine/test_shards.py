"""Shards with parents: who opens them, when, and from where; what a worker asks the store for; what is done about those that are gone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from poller.errors import NotConnected, StoreError
from poller.mapping import MappingRunner
from poller.model import LaneKey, Lease
from poller.ordered_source import DAMAGED_SECONDS, LEASE_SECONDS, SCAN_SECONDS, OrderedSource
from poller.progress import Progress
from poller.protocols import Source
from poller.settings import Backoff
from poller.stores.memory import MemoryLeases, MemoryStates
from poller.testing.fakes import FORMAT, FakeRecord, FakeShards, FakeStream, Gate
from tests.engine.scenes import DONE, Checkpoints, Scene, Script, Store, at, block, failing, now, taking, virtually, wall

MOMENT = 0.1


class Family(FakeStream):
    """A stream whose shards split and merge."""

    def __init__(self, *shards: str) -> None:
        super().__init__({shard: [] for shard in shards})

    def add(self, shard: str, *names: str) -> None:
        for name in names:
            self.put(shard, FakeRecord(len(self.shards[shard]), name, b"k", wall()))


class Worker:
    """One worker's mapping over the stream. `fault` is awaited before each answer of the source."""

    def __init__(
        self, scene: Scene, stream: FakeStream, owner: str = "a", origin: str = "TRIM_HORIZON", fault: Callable[[str], Any] | None = None
    ) -> None:
        self.context = scene.context(owner)
        shards = FakeShards(stream, Gate(owner), fault)
        self.source = OrderedSource(self.context, identity="fake", format=FORMAT, policy=block(scene), shards=shards, origin=origin)
        self.mapping = MappingRunner(scene.work(self.source.policy), self._open)
        self.task = asyncio.create_task(self.mapping.run())

    async def _open(self) -> Source:
        return self.source

    @property
    def lanes(self) -> list[str]:
        return sorted(self.mapping.runners)

    async def stop(self, grace: float = 60.0) -> None:
        self.mapping.stop(asyncio.get_running_loop().time() + grace)
        await self.task

    async def crash(self) -> None:
        """Nothing is saved, and nothing given back."""
        self.context.store.leases.crashed.add(self.context.owner)  # type: ignore[attr-defined]
        for lane in self.source._lanes.values():
            lane.lose("its worker has crashed")
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class CountedLeases(MemoryLeases):
    """Counts claims, by owner and lane, which take `seconds` of an owner. Those in `crashed` drop nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.claims = Counter[tuple[str, str]]()
        self.crashed = set[str]()
        self.seconds = dict[str, float]()

    async def claim(self, key: LaneKey, owner: str, now: float, duration: float, ask: bool = False) -> Lease | None:
        self.claims[owner, key.lane] += 1
        await asyncio.sleep(self.seconds.get(owner, 0.0))
        return await super().claim(key, owner, now, duration, ask)

    async def drop(self, lease: Lease) -> None:
        if lease.owner not in self.crashed:
            await super().drop(lease)


class CountedCheckpoints(Checkpoints):
    """Counts loads, by lane. The rows of those in `damaged` cannot be read."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.loads = Counter[str]()
        self.damaged = set[str]()

    async def load(self, key: LaneKey) -> Progress | None:
        self.loads[key.lane] += 1
        if key.lane in self.damaged:
            raise StoreError(f"the progress of lane {key.lane} is damaged")
        return await super().load(key)


class CountedStore(Store):
    """A store that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.leases: CountedLeases = CountedLeases()
        self.checkpoints: CountedCheckpoints = CountedCheckpoints(self)
        self.states = MemoryStates(self.leases)

    def ended(self, lane: str) -> bool:
        saved = self.checkpoints._saved.get(LaneKey("orders", "fake", lane))
        return saved is not None and saved.ended


def scene_of(script: Script, **settings: Any) -> tuple[Scene, CountedStore]:
    store = CountedStore()
    return Scene(script, store=store, concurrency=10, **settings), store


def begun(script: Script) -> dict[str, float]:
    """When each record was first given to the function."""
    first: dict[str, float] = {}
    for call in script.calls:
        for name in call.names:
            first.setdefault(name, call.at)
    return first


# --- order ------------------------------------------------------------------------------------------------------------------------------


@virtually
async def test_children_are_opened_within_a_moment_of_their_parents_end() -> None:
    script, stream = taking(3.3), Family("p")
    scene, _ = scene_of(script)
    stream.add("p", "p1")
    stream.reshard(("p",), ("c", "d"))
    stream.add("c", "c1")
    stream.add("d", "d1")
    worker = Worker(scene, stream)
    await at(20)
    assert begun(script) == pytest.approx({"p1": 0.0, "c1": 3.3, "d1": 3.3}, abs=MOMENT)
    assert worker.lanes == ["c", "d"]
    await worker.stop()


@virtually
async def test_after_a_merge_both_parents_are_waited_for() -> None:
    script, stream = Script(lambda names: (9.0 if names == ("q1",) else 1.0, DONE)), Family("p", "q")
    scene, _ = scene_of(script)
    stream.add("p", "p1")
    stream.add("q", "q1")
    stream.reshard(("p", "q"), ("c",))
    stream.add("c", "c1")
    worker = Worker(scene, stream)
    await at(20)
    assert begun(script) == pytest.approx({"p1": 0.0, "q1": 0.0, "c1": 9.0}, abs=MOMENT)
    await worker.stop()


@virtually
async def test_a_chain_of_roll_overs_is_read_from_the_oldest_on() -> None:
    script, stream = taking(0), Family("s0")
    scene, _ = scene_of(script)
    for n in range(6):
        stream.add(f"s{n}", f"r{n}")
        stream.reshard((f"s{n}",), (f"s{n + 1}",))
    worker = Worker(scene, stream)
    await at(5)
    assert [name for names in script.names for name in names] == [f"r{n}" for n in range(6)]
    assert now() == 5 and worker.lanes == ["s6"]
    await worker.stop()


@virtually
async def test_another_workers_children_wait_for_the_durable_end() -> None:
    script, stream = taking(5.0), Family("p")
    scene, store = scene_of(script)
    stream.add("p", "p1")
    first = Worker(scene, stream, "a")
    await at(1)
    stream.reshard(("p",), ("c",))
    stream.add("c", "c1")
    second = Worker(scene, stream, "b")
    await at(4.9)
    assert store.checkpoints.loads["p"] >= 4, "once a scan"
    assert store.leases.claims["b", "c"] == 0 and not store.ended("p")
    first.mapping.stop(now() + 60)
    await first.task
    assert store.ended("p")
    await at(20)
    assert 5 <= begun(script)["c1"] <= 5 + SCAN_SECONDS + MOMENT
    assert second.lanes == ["c"] and script.names == [("p1",), ("c1",)]
    await second.stop()


@virtually
async def test_no_child_is_opened_while_the_end_of_its_parent_cannot_be_saved() -> None:
    script, stream = taking(1.0), Family("p")
    scene, store = scene_of(script)
    stream.add("p", "p1")
    stream.reshard(("p",), ("c",))
    stream.add("c", "c1")
    worker = Worker(scene, stream)
    await at(0.5)
    store.checkpoints.down = True
    await at(30)
    assert worker.lanes == [] and "c1" not in begun(script)
    store.checkpoints.down = False
    await at(90)
    assert store.ended("p") and begun(script)["c1"] > 30
    await worker.stop()


@virtually
async def test_a_shard_that_is_left_before_all_is_settled_has_not_ended() -> None:
    script, stream = failing("p1"), Family("p")
    scene, store = scene_of(script, retries=3, bisect=False, backoff=Backoff(40.0, 40.0))
    stream.add("p", "p1")
    stream.reshard(("p",), ("c",))
    stream.add("c", "c1")
    first = Worker(scene, stream, "a")
    await at(10)
    await first.stop(0.0)
    assert store.checkpoints.last.closed and not store.ended("p")
    second = Worker(scene, stream, "b")
    await at(200)
    assert store.ended("p") and [names for _, names in store.journal.kept] == [("p1",)]
    assert begun(script)["c1"] == pytest.approx(60.0, abs=MOMENT), "as soon as p1 was given up"
    assert second.lanes == ["c"]
    await second.stop()


# --- what is asked for ------------------------------------------------------------------------------------------------------------------


@virtually
async def test_an_ended_shard_costs_nothing_and_its_parents_are_asked_for_once() -> None:
    script, stream = taking(0), Family("p")
    scene, store = scene_of(script)
    stream.reshard(("p",), ("c", "d"))
    first = Worker(scene, stream, "a", origin="LATEST")
    await at(5)
    loads, claims = store.checkpoints.loads.copy(), store.leases.claims.copy()
    await at(100)
    assert first.lanes == ["c", "d"]
    assert (store.checkpoints.loads, store.leases.claims) == (loads, claims), "nothing is asked for while nothing changes"
    await first.stop()
    second = Worker(scene, stream, "b", origin="LATEST")
    await at(200)
    assert second.lanes == ["c", "d"] and store.ended("p")
    assert store.checkpoints.loads["p"] == loads["p"] + 1 and store.leases.claims["b", "p"] == 0
    await second.stop()


@virtually
async def test_an_ended_shard_is_never_saved_as_if_it_had_not() -> None:
    """Not even where no child asks first: what has ended is found under the lease, and left as it is."""
    script, stream = taking(0), Family("p")
    scene, store = scene_of(script)
    stream.add("p", "p1")
    stream.closed.add("p")
    first = Worker(scene, stream, "a")
    await at(5)
    await first.stop()
    saves = len(store.checkpoints.saves)
    second = Worker(scene, stream, "b")
    await at(20)
    assert store.ended("p") and len(store.checkpoints.saves) == saves and store.leases.claims["b", "p"] == 1
    stream.reshard(("p",), ("c",))
    await at(22)
    assert second.lanes == ["c"] and script.names == [("p1",)]
    await second.stop()


# --- what is gone -----------------------------------------------------------------------------------------------------------------------


@virtually
async def test_parents_that_nobody_lists_and_nobody_began_are_done() -> None:
    script, stream = taking(0), Family("c")
    scene, store = scene_of(script)
    stream.parents["c"] = ("gone", "gone too")
    stream.add("c", "c1")
    worker = Worker(scene, stream)
    await at(5)
    assert begun(script) == pytest.approx({"c1": 0.0}, abs=MOMENT)
    assert store.checkpoints.loads["gone"] == store.checkpoints.loads["gone too"] == 1
    await worker.stop()


@virtually
async def test_a_parent_that_is_listed_no_more_is_read_to_its_end_all_the_same() -> None:
    """A listing may be wrong. What has begun is gone when its reader says so, and no sooner."""
    script, stream = taking(0), Family("p")
    scene, store = scene_of(script)
    stream.add("p", "p1")
    first = Worker(scene, stream, "a")
    await at(3)
    await first.stop()
    stream.add("p", "p2")
    stream.reshard(("p",), ("c",))
    stream.add("c", "c1")
    listing = stream.listing
    stream.listing = lambda: [shard for shard in listing() if shard.name != "p"]  # type: ignore[method-assign]
    second = Worker(scene, stream, "b")
    await at(10)
    assert script.names == [("p1",), ("p2",), ("c1",)] and store.ended("p")
    await second.stop()


@virtually
async def test_what_the_retention_took_of_a_parent_is_said_and_counted_and_children_go_on(caplog: pytest.LogCaptureFixture) -> None:
    script, stream = failing("p1"), Family("p")
    scene, store = scene_of(script, size=1, retries=9, backoff=Backoff(1000.0, 1000.0))
    stream.add("p", "p1", "p2")
    first = Worker(scene, stream, "a")
    await at(3)
    await first.stop(0.0)
    stream.reshard(("p",), ("c",))
    stream.add("c", "c1")
    stream.trimmed.add("p")
    second = Worker(scene, stream, "b")
    await at(20)
    assert script.names == [("p1",), ("c1",)] and store.ended("p")
    assert second.context.tally.expired == 1
    assert [record.levelname for record in caplog.records if "gone with the retention" in record.message] == ["ERROR"]
    await second.stop()


@virtually
async def test_a_crashed_workers_parent_is_finished_before_its_children() -> None:
    script, stream = Script(lambda names: (1000.0 if names == ("p1",) and now() < 5 else 1.0, DONE)), Family("p")
    scene, store = scene_of(script)
    stream.add("p", "p1")
    stream.reshard(("p",), ("c",))
    stream.add("c", "c1")
    first = Worker(scene, stream, "a")
    await at(5)
    await first.crash()
    second = Worker(scene, stream, "b")
    await at(5 + LEASE_SECONDS + 4)
    assert script.names == [("p1",), ("p1",), ("c1",)] and store.ended("p")
    await second.stop()


# --- one bad shard, and a listing that fails ----------------------------------------------------------------------------------------------


@virtually
async def test_one_bad_shard_stops_no_other() -> None:
    script, stream = taking(0), Family(*(f"s{n:03}" for n in range(150)))
    scene, store = scene_of(script)
    store.checkpoints.damaged.add("s007")
    worker = Worker(scene, stream)
    await at(DAMAGED_SECONDS + 1)
    assert len(worker.lanes) == 149
    assert worker.mapping.state == "reconnecting" and "s007 is damaged" in worker.mapping.last_error
    stream.reshard(("s008",), ("c",))
    stream.add("c", "c1")
    await at(20)
    assert begun(script)["c1"] <= DAMAGED_SECONDS * 3
    store.checkpoints.damaged.clear()
    await at(30)
    assert len(worker.lanes) == 150
    await worker.stop()


@virtually
async def test_a_damaged_parent_holds_up_its_own_children_only_listed_or_not() -> None:
    script, stream = taking(0), Family("a", "b", "c")
    scene, store = scene_of(script)
    stream.parents.update({"b": ("gone",), "c": ("a",)})
    store.checkpoints.damaged.add("gone")
    stream.reshard(("a",), ("d",))
    worker = Worker(scene, stream)
    await at(60)
    assert worker.lanes == ["c", "d"] and "gone is damaged" in worker.mapping.last_error
    await worker.stop()


@virtually
async def test_while_the_listing_fails_what_is_known_is_taken_over_all_the_same() -> None:
    script, stream, down = taking(0), Family("p"), set[str]()
    scene, _ = scene_of(script)

    async def fault(what: str) -> None:
        if what in down:
            raise NotConnected("no permission to list shards", permanent=True)

    first, second = Worker(scene, stream, "a"), Worker(scene, stream, "b", fault=fault)
    await at(5)
    assert (first.lanes, second.lanes) == (["p"], [])
    down.add("list")
    await first.crash()
    stream.add("p", "p1")
    await at(60)
    assert second.lanes == ["p"] and script.names == [("p1",)]
    await second.stop()


# --- where shards begin -----------------------------------------------------------------------------------------------------------------


ROW = LaneKey("orders", "fake", "")


@virtually
async def test_latest_is_the_moment_when_the_mapping_first_began_and_loses_nothing_after_it() -> None:
    script, stream, down = taking(0), Family("p"), {"list"}
    scene, store = scene_of(script)

    async def fault(what: str) -> None:
        if what in down:
            raise NotConnected("not now")

    stream.add("p", "before p")
    stream.reshard(("p",), ("c",))
    stream.add("c", "before c")
    await at(100)
    first = Worker(scene, stream, "a", origin="LATEST", fault=fault)
    await at(120)
    stream.add("c", "while nothing could be listed")
    await first.stop()
    kept = await store.checkpoints.load(ROW)
    assert kept is not None and float(kept.origin.removeprefix("LATEST ")) == pytest.approx(wall() - 20, abs=MOMENT)
    await at(200)
    stream.add("c", "while nobody ran")
    stream.reshard(("c",), ("d",))
    stream.add("d", "in a shard made later")
    await at(300)
    second = Worker(scene, stream, "b", origin="LATEST")
    await at(310)
    assert [name for names in script.names for name in names] == [
        *("while nothing could be listed", "while nobody ran", "in a shard made later"),
    ]
    assert await store.checkpoints.load(ROW) == kept and store.ended("p")
    await second.stop()


@virtually
async def test_workers_that_start_together_agree_on_the_moment() -> None:
    script, stream = taking(0), Family("p")
    scene, store = scene_of(script)
    store.checkpoints.seconds = 3.0
    first = Worker(scene, stream, "a", origin="LATEST")
    await at(0.5)
    stream.add("p", "p1")
    await at(1)
    second = Worker(scene, stream, "b", origin="LATEST")
    await at(2)
    assert stream.shards and not store.checkpoints.saves and (first.lanes, second.lanes) == ([], []), "nothing is opened before it is kept"
    await at(30)
    assert script.names == [("p1",)]
    assert len([progress for _, progress in store.checkpoints.saves if progress.origin.startswith("LATEST")]) == 1
    assert first.source._begins == second.source._begins == f"AT_TIMESTAMP {wall() - now()!r}"
    await first.stop()
    await second.stop()


@virtually
async def test_a_worker_whose_claim_comes_late_finds_what_was_kept_meanwhile() -> None:
    scene, store = scene_of(taking(0))
    store.checkpoints.seconds, store.leases.seconds["b"] = 3.0, 5.0
    first = Worker(scene, Family("p"), "a", origin="LATEST")
    await at(1)
    second = Worker(scene, Family("p"), "b", origin="LATEST")
    await at(30)
    assert store.leases.claims["b", ""] == 1, "there was nothing when it looked first"
    assert first.source._begins == second.source._begins == f"AT_TIMESTAMP {wall() - now()!r}"
    await first.stop()
    await second.stop()


@virtually
async def test_a_worker_that_crashes_before_the_moment_is_kept_leaves_it_to_the_next() -> None:
    script, stream = taking(0), Family("p")
    scene, store = scene_of(script)
    store.checkpoints.seconds = 3.0
    first = Worker(scene, stream, "a", origin="LATEST")
    await at(1)
    second = Worker(scene, stream, "b", origin="LATEST")
    await at(1.5)
    stream.add("p", "p1")
    await at(2)
    await first.crash()
    assert await store.checkpoints.load(ROW) is None
    await at(30)
    assert script.names == [("p1",)], "it came after the second had begun, long before that could be kept"
    await second.stop()


@virtually
async def test_the_first_moment_counts_though_its_save_was_refused_for_a_while() -> None:
    script, stream = taking(0), Family("p")
    scene, store = scene_of(script)
    store.checkpoints.down = True
    worker = Worker(scene, stream, origin="LATEST")
    await at(20)
    stream.add("p", "p1")
    store.checkpoints.down = False
    await at(60)
    assert script.names == [("p1",)]
    await worker.stop()


@virtually
async def test_what_a_mapping_began_to_read_it_reads_on_whatever_its_starting_position_says_by_now() -> None:
    script, stream = taking(0), Family("p")
    scene, _ = scene_of(script)
    first = Worker(scene, stream, "a", origin="TRIM_HORIZON")
    await at(3)
    await first.stop()
    stream.add("p", "p1")
    stream.reshard(("p",), ("c",))
    stream.add("c", "c1")
    await at(100)
    second = Worker(scene, stream, "b", origin="LATEST")
    await at(110)
    assert script.names == [("p1",), ("c1",)]
    await second.stop()
