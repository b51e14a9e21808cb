"""How workers share the lanes of a stream: newcomers get their part, lanes change hands in order and at once, outages cost no more than
they must, and rows that are of no use are deleted. (test_fleet.py plays it with many workers.)"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest

from poller.errors import StoreUnavailable
from poller.model import LaneKey, Lease
from poller.ordered_source import HANDOVER_SECONDS, LEASE_SECONDS, POLL_SECONDS, RENEWALS, SCAN_SECONDS, TRUST
from poller.progress import Progress
from poller.shards import FORGOTTEN_AFTER
from poller.testing.fakes import FakeReader
from tests.engine.scenes import DONE, Script, at, now, taking, virtually
from tests.engine.test_shards import MOMENT, CountedLeases, CountedStore, Family, Worker, begun, scene_of

KEY = LaneKey("orders", "fake", "s0")


def six() -> Family:
    return Family(*(f"s{n}" for n in range(6)))


class Faulty(CountedLeases):
    """While `down`, the store refuses all calls; while `dumb`, it does not answer renewals."""

    down = dumb = False

    async def claim(self, key: LaneKey, owner: str, now: float, duration: float, ask: bool = False) -> Lease | None:
        self._refuse()
        return await super().claim(key, owner, now, duration, ask)

    async def renew(self, leases: Sequence[Lease], now: float, duration: float) -> Sequence[Lease]:
        self._refuse()
        if self.dumb:
            await asyncio.sleep(10_000)
        return await super().renew(leases, now, duration)

    def _refuse(self) -> None:
        if self.down:
            raise StoreUnavailable("no route to the store")


def faulty(store: CountedStore) -> Faulty:
    store.leases = leases = Faulty()
    store.checkpoints._leases = store.states._leases = leases
    return leases


# --- sharing ----------------------------------------------------------------------------------------------------------------------------


@virtually
async def test_a_newcomer_has_its_part_within_three_seconds_and_nothing_is_read_twice() -> None:
    script, stream = taking(0), six()
    scene, store = scene_of(script)
    first = Worker(scene, stream, "a")
    await at(5)
    for name in stream.shards:
        stream.add(name, f"{name} 1")
    second = Worker(scene, stream, "b")
    await at(8)
    assert (len(first.lanes), len(second.lanes)) == (3, 3)
    third = Worker(scene, stream, "c")
    await at(11)
    assert [len(worker.lanes) for worker in (first, second, third)] == [2, 2, 2]
    for name in stream.shards:
        stream.add(name, f"{name} 2")
    claims = store.leases.claims.total()
    await at(60)
    assert store.leases.claims.total() == claims, "and then nothing moves"
    assert sorted(name for names in script.names for name in names) == sorted(f"{name} {n}" for name in stream.shards for n in (1, 2))
    for worker in (first, second, third):
        await worker.stop()


@virtually
async def test_a_lane_that_was_asked_for_is_left_when_its_invocation_is_over_and_read_on_a_moment_later() -> None:
    script, stream = Script(lambda names: (8.0 if names[0].endswith("1") else 0.0, DONE)), Family("s0", "s1")
    scene, store = scene_of(script, size=1)
    first = Worker(scene, stream, "a")
    await at(5)
    for name in stream.shards:
        stream.add(name, f"{name} 1", f"{name} 2")
    await at(6)
    second = Worker(scene, stream, "b")
    await at(12.9)
    assert (len(first.lanes), second.lanes) == (2, []), "it waits for what runs"
    await at(14)
    (moved,) = second.lanes
    assert script.names.count((f"{moved} 1",)) == 1 and not any(call.ended for call in script.calls)
    assert 13 <= begun(script)[f"{moved} 2"] < 13 + SCAN_SECONDS + 0.1, "after so long, it is tried once a scan"
    assert [progress.closed for _, progress in store.checkpoints.saves].count(True) == 1
    await first.stop()
    await second.stop()


@virtually
async def test_a_lane_with_short_invocations_changes_hands_in_a_fraction_of_a_second() -> None:
    """Between the end of the last one here, and the beginning of the next one there."""
    script, stream = taking(0.5), Family("s0", "s1")
    scene, _ = scene_of(script, size=1)
    for name in stream.shards:
        stream.add(name, *(f"{name} {n}" for n in range(20)))
    first = Worker(scene, stream, "a")
    await at(1.1)
    second = Worker(scene, stream, "b")
    await at(15)
    assert (len(first.lanes), len(second.lanes)) == (1, 1)
    assert all(script.names.count((f"{name} {n}",)) == 1 for name in stream.shards for n in range(20))
    calls = {name: [call for call in script.calls if call.names[0].startswith(name)] for name in stream.shards}
    gaps = [later.at - earlier.until for of in calls.values() for earlier, later in pairwise(of) if earlier.until is not None]
    assert max(gaps) < POLL_SECONDS + MOMENT
    await first.stop()
    await second.stop()


@virtually
async def test_an_invocation_that_runs_too_long_is_ended_and_its_attempt_handed_back() -> None:
    script, stream = Script(lambda _: (100.0 if now() < 10 else 0.0, DONE)), Family("s0", "s1")
    scene, _ = scene_of(script, retries=0)
    first = Worker(scene, stream, "a")
    await at(5)
    for name in stream.shards:
        stream.add(name, name)
    second = Worker(scene, stream, "b")
    await at(5 + SCAN_SECONDS * 2 + HANDOVER_SECONDS + 1)
    (moved,) = second.lanes
    assert script.names.count((moved,)) == 2 and scene.store.journal.kept == [], "with no retries left, it is begun again all the same"
    first.task.cancel()
    await asyncio.gather(first.task, return_exceptions=True)
    await second.stop()


@virtually
async def test_a_shard_where_nothing_happens_keeps_nobody_waiting() -> None:
    """Its reader would wait for records, for as long as it pleases."""

    class Patient(FakeReader):
        async def read(self, position: int, origin: str, limit: int) -> tuple[Sequence[object], int]:  # type: ignore[override]
            await asyncio.sleep(1000)
            raise AssertionError("it was waited for")

    stream = Family("s0", "s1")
    scene, _ = scene_of(taking(0))
    first = Worker(scene, stream, "a")
    first.source._shards.reader = lambda name: Patient(stream, name, first.source._shards._gate, None)  # type: ignore[attr-defined, method-assign]
    await at(5)
    second = Worker(scene, stream, "b")
    await at(7)
    assert (len(first.lanes), len(second.lanes)) == (1, 1)
    await first.stop()
    assert now() < 7.1
    await second.stop()


@virtually
async def test_who_stops_frees_its_lanes_for_the_next_scan_of_the_others() -> None:
    stream = six()
    scene, _ = scene_of(taking(0))
    workers = [Worker(scene, stream, owner) for owner in "abc"]
    await at(20)
    await workers[0].stop()
    stopped = now()
    await at(stopped + 1)
    assert sorted(workers[1].lanes + workers[2].lanes) == sorted(stream.shards)
    assert len(workers[1].lanes) == 3
    for worker in workers[1:]:
        await worker.stop()


@virtually
async def test_who_asked_and_crashed_is_waited_for_no_longer_than_its_word_holds() -> None:
    script, stream = Script(lambda names: (3.0 if names[0].endswith("1") else 0.0, DONE)), Family("s0", "s1")
    scene, _ = scene_of(script, size=1)
    first = Worker(scene, stream, "a")
    await at(5)
    for name in stream.shards:
        stream.add(name, f"{name} 1", f"{name} 2")
    second = Worker(scene, stream, "b")
    await at(7)
    await second.crash()
    await at(11.5)
    assert len(first.lanes) == 2 and len(begun(script)) == 4, "three seconds after it asked last"
    await first.stop()


@virtually
async def test_rows_that_someone_deletes_while_a_lane_is_on_its_way_lose_nothing_and_cost_what_runs_at_most() -> None:
    """Who leaves cannot save any more, who asked does not wait for him, and both lanes have one owner again."""
    script, stream = Script(lambda names: (8.0 if names[0].endswith("1") else 0.0, DONE)), Family("s0", "s1")
    scene, store = scene_of(script, size=1)
    first = Worker(scene, stream, "a")
    await at(5)
    for name in stream.shards:
        stream.add(name, *(f"{name} {n}" for n in range(1, 6)))
    await at(6)
    second = Worker(scene, stream, "b")
    await at(8)
    assert [lane.leaving.done() for lane in first.source._lanes.values()].count(True) == 1, "asked for, and what runs is waited for"
    store.leases._held.clear()
    await at(12)
    assert len(script.calls) == 4, "both are begun anew, by who finds them free, before what ran has ended"
    await at(60)
    assert (len(first.lanes), len(second.lanes)) == (1, 1)
    for name in stream.shards:
        stream.add(name, f"{name} 6")
    await at(70)
    times = {f"{name} {n}": script.names.count((f"{name} {n}",)) for name in stream.shards for n in range(1, 7)}
    assert times == {each: 2 if each.endswith("1") else 1 for each in times}
    await first.stop()
    await second.stop()


# --- when the store is away -------------------------------------------------------------------------------------------------------------


@virtually
async def test_an_outage_that_is_over_in_time_costs_no_lane_whenever_it_begins() -> None:
    for begins in (0.0, 0.1, 1.7, 3.2, LEASE_SECONDS / RENEWALS):
        script, stream, started = taking(1000), Family("s0"), now()
        scene, store = scene_of(script)
        leases = faulty(store)
        worker = Worker(scene, stream, "a")
        stream.add("s0", "r1")
        await at(started + 20 + begins)
        leases.down = True
        await at(started + 20 + begins + LEASE_SECONDS * (TRUST - 1 / RENEWALS) - 0.6)
        leases.down = False
        await at(started + 60)
        assert worker.lanes == ["s0"] and not script.calls[0].ended and len(script.calls) == 1
        worker.task.cancel()
        await asyncio.gather(worker.task, return_exceptions=True)


@pytest.mark.parametrize("kind", ["down", "dumb"])
def test_a_longer_one_ends_what_runs_before_another_can_begin_it_and_then_it_goes_on(kind: str) -> None:
    @virtually
    async def test() -> None:
        script, stream = Script(lambda _: (1000.0 if now() < 40 else 0.0, DONE)), Family("s0")
        scene, store = scene_of(script)
        leases = faulty(store)
        worker = Worker(scene, stream, "a")
        stream.add("s0", "r1")
        await at(20)
        setattr(leases, kind, True)
        trusted_until = worker.source._lanes["s0"].trusted_until
        while not script.calls[0].ended:
            await asyncio.sleep(0.01)
        assert now() < trusted_until + 0.1 < 20 + LEASE_SECONDS, "while its lease holds yet"
        await at(60)
        setattr(leases, kind, False)
        await at(120)
        assert worker.lanes == ["s0"] and script.calls[-1].until is not None, "it goes on by itself"
        await worker.stop()

    test()


# --- rows that are of no use ------------------------------------------------------------------------------------------------------------


async def _progress(store: CountedStore, lane: str) -> Progress | None:
    return await store.checkpoints.load(LaneKey("orders", "fake", lane))


@virtually
async def test_the_row_of_a_shard_that_has_ended_and_is_neither_listed_nor_named_is_deleted_an_hour_later() -> None:
    stream = Family("p")
    scene, store = scene_of(taking(0))
    stream.add("p", "p1")
    stream.reshard(("p",), ("c",))
    stream.reshard(("c",), ("d",))
    worker = Worker(scene, stream, "a")
    await at(10)
    assert store.ended("p") and store.ended("c")
    stream.trimmed.update(("p",))
    await at(1.2 * FORGOTTEN_AFTER)
    assert store.ended("p"), "the row of c says that it comes after p"
    stream.trimmed.update(("c",))
    gone = now()
    await at(gone + FORGOTTEN_AFTER - 60)
    assert store.ended("p")
    await at(gone + FORGOTTEN_AFTER + 60)
    assert await _progress(store, "p") is None
    assert store.ended("c"), "d is listed, and says that it comes after c"
    claims = store.leases.claims.copy()
    await at(gone + 1.5 * FORGOTTEN_AFTER)
    assert store.leases.claims == claims and worker.lanes == ["d"], "and looked at once, and never opened again"
    await worker.stop()


@virtually
async def test_the_row_of_a_shard_that_has_not_ended_is_kept_and_so_is_that_of_the_origin() -> None:
    stream = Family("p")
    scene, store = scene_of(taking(0))
    worker = Worker(scene, stream, "a", origin="LATEST")
    await at(10)
    await worker.stop()
    stream.trimmed.add("p")
    stream.shards["q"] = []
    second = Worker(scene, stream, "b", origin="LATEST")
    await at(1.2 * FORGOTTEN_AFTER)
    assert await _progress(store, "p") is not None and await _progress(store, "") is not None
    await second.stop()
