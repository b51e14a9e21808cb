"""Replays of failures that hold their keys, on the virtual clock: a key is drained in order, whatever fails, crashes or is parked."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest

from poller.errors import StoreUnavailable
from poller.failures.journal import OPEN, Entry, Selection
from poller.failures.runs import Plan, Run
from poller.model import Response
from poller.replay import Tally
from poller.replay.claims import CLAIM_SECONDS
from poller.replay.lane import rest_of
from poller.replay.listing import released
from poller.testing.fakes import Dead, Gate
from poller.testing.faults import Line, LineStore
from poller.testing.parkings import failed, parked
from tests.engine.test_replay import ANY, Mine, Slow, World, fails_on, names_failed, virtually

PARKED = {"mapping": "m", "source": "s", "lane": "shard"}


def holding(name: str, *keys: str, **fields: Any) -> Entry:
    """A failure of these keys, as the mapping under replay keeps it; its records are `name-0`, `name-1` ..."""
    return failed(name, *keys, **{**PARKED, **fields})


def behind(name: str, key: str, records: int = 1, **fields: Any) -> Entry:
    return parked(name, *[key] * records, **{**PARKED, **fields})


async def states(world: World) -> dict[str, str]:
    return {name: state for name, (state, _) in (await world.states()).items()}


async def kept(world: World) -> Run:
    """A run that the store knows."""
    run = Run("r1", "ada", 0.0, Plan(ANY))
    await world.store.runs.put(run)
    return run


# --- what becomes of a key --------------------------------------------------------------------------------------------------------


@virtually
async def test_a_run_drains_a_key_to_its_end_in_order() -> None:
    world = World(fails_on())
    await world.keep(holding("f1", "a", "b", time=3.0), holding("f2", "c", time=4.0))
    assert list(await world.store.parking.park([behind("p1", "a"), behind("q1", "b"), behind("p2", "a")])) == ["p1", "q1", "p2"]
    tally = await world.run(concurrency=4, selection=Selection(ids=("f1",)))
    assert tally == Tally(total_rows=4, done_rows=4, replayed=4)
    assert world.calls[0] == ["f1-0", "f1-1"] and [call for call in world.calls if call[0][0] == "p"] == [["p1-0"], ["p2-0"]]
    assert await states(world) == {"f1": "replayed", "f2": "kept", "p1": "replayed", "q1": "replayed", "p2": "replayed"}


@virtually
async def test_what_is_parked_meanwhile_is_run_too_and_then_the_key_is_free() -> None:
    world = World(fails_on(), seconds=10.0)
    await world.keep(holding("f1", "a"))
    task = asyncio.create_task(world.run())
    for turn in range(3):
        await asyncio.sleep(5.0 if not turn else 10.0)
        assert list(await world.store.parking.park([behind(f"p{turn}", "a")])) == [f"p{turn}"]
    assert (await task).replayed == 4
    assert world.calls == [["f1-0"], ["p0-0"], ["p1-0"], ["p2-0"]]
    assert list(await world.store.parking.park([behind("p3", "a")])) == [""]


@virtually
async def test_what_fails_again_keeps_what_is_behind_it_waiting() -> None:
    world = World(fails_on("p1-0"))
    await world.keep(holding("f1", "a", "b"))
    await world.store.parking.park([behind("p1", "a"), behind("p2", "a"), behind("q1", "b")])
    assert await world.run() == Tally(total_rows=3, done_rows=3, replayed=2, failed_again=1)
    assert await states(world) == {"f1": "replayed", "p1": "kept", "p2": "parked", "q1": "replayed"}
    world.behave = fails_on()
    assert (await world.run("w2")).replayed == 2
    assert await world.store.parking.held("m", "s") == set()


@pytest.mark.parametrize("only_failing", [False, True])
@virtually
async def test_within_a_row_nothing_runs_behind_a_record_of_its_key_that_failed(only_failing: bool) -> None:
    world = World(fails_on("f1-0"))
    await world.keep(holding("f1", "a", "b", "a", "b"))
    await world.store.parking.park([behind("p1", "a"), behind("q1", "b")])
    tally = await world.run(plan=Plan(ANY, only_failing=only_failing))
    assert (tally.split, tally.replayed) == (1, 1)
    assert world.handled.keys() == {"f1-1", "f1-3", "q1-0"}  # once f1-0 had failed, f1-2 did not run
    first = world.calls.index(["f1-0"]) if ["f1-0"] in world.calls else 0
    assert not any("f1-2" in call for call in world.calls[first + 1 :])
    rows = await world.rows()
    if only_failing:
        head, tail = rest_of("f1", "f1-0"), rest_of("f1", "f1-2")
        assert {name: (row.state, row.entry.reason) for name, row in rows.items() if name in (head, tail)} == {
            head: ("kept", "RetryAttemptsExhausted"),
            tail: ("parked", "Parked"),
        }
        assert (rows[tail].entry.attempts, rows[tail].entry.fault) == (0, None)
    else:
        head = rest_of("f1")
        assert ([record.id for record in rows[head].entry.records], rows[head].state) == (["f1-0", "f1-2"], "kept")
    assert rows["p1"].state == "parked"
    world.behave, world.calls = fails_on(), []
    await world.run("w2")
    assert [name for call in world.calls for name in call] == ["f1-0", "f1-2", "p1-0"]


@virtually
async def test_of_a_row_that_holds_nothing_each_record_is_for_itself() -> None:
    world = World(fails_on("f1-0"))
    await world.keep(replace(holding("f1", "a", "a"), holds=False))
    await world.run()
    assert world.handled.keys() == {"f1-1"}


@virtually
async def test_what_is_released_runs_as_it_is_and_is_not_put_back_to_its_source() -> None:
    def edit(entry: Entry) -> Entry:
        return replace(entry, records=tuple(replace(record, json=b'{"edited":1}') for record in entry.records))

    world = World(fails_on())
    await world.keep(holding("f1", "a"))
    await world.store.parking.park([behind("p1", "a")])
    assert (await world.run(edit=edit)).replayed == 2
    assert [b"edited" in event for event in world.events] == [True, False]
    world = World(fails_on())
    await world.keep(holding("f1", "a"), replace(holding("f2", "b"), holds=False))
    await world.store.parking.park([behind("p1", "a")])
    tally = await world.run(plan=Plan(ANY, to="source"))
    assert (tally.unfit, tally.sent) == (1, 1)
    assert await states(world) == {"f1": "kept", "f2": "replayed", "p1": "parked"}


@virtually
async def test_what_a_row_released_is_known_though_the_answer_was_lost() -> None:
    world = World(fails_on())
    await world.keep(holding("f1", "a"))
    await world.store.parking.park([behind("p1", "a"), behind("p2", "a")])
    assert (await world.run(store=Slow(world.store, "finished", lose=2))).replayed == 3
    assert world.calls == [["f1-0"], ["p1-0"], ["p2-0"]]


# --- stops and crashes ------------------------------------------------------------------------------------------------------------


@virtually
async def test_a_run_that_is_resumed_takes_up_what_it_had_released() -> None:
    """It was stopped when the row was done, and before it took up what this released; that fails later than the plan selects."""
    world = World(fails_on(), seconds=10.0)
    run = replace(await kept(world), plan=Plan(Selection(before=50.0)))
    await world.keep(holding("f1", "a", time=1.0), holding("f2", "b", time=2.0))
    await world.store.parking.park([behind("p1", "a", time=90.0), behind("p2", "a", time=95.0)])
    first = world.replay(run=run)
    task = asyncio.create_task(first.run())
    await asyncio.sleep(15.0)
    first.stop(asyncio.get_running_loop().time())
    assert (await task).replayed == 1
    assert await states(world) == {"f1": "replayed", "f2": "kept", "p1": "kept", "p2": "parked"}
    (resumed,) = await world.store.runs.select(["r1"])
    resumed = replace(resumed, plan=run.plan)
    assert await released(world.store.runs, resumed) == {"p1"}
    assert (await world.run("w2", run=resumed)).replayed == 3
    assert world.calls == [["f1-0"], ["f2-0"], ["f2-0"], ["p1-0"], ["p2-0"]]
    (done,) = await world.store.runs.select(["r1"])
    assert (await world.run("w3", run=replace(done, plan=run.plan))).total_rows == 0


@virtually
async def test_a_crash_at_any_call_of_the_store_keeps_every_order() -> None:
    async def prepared() -> World:
        world = World(fails_on("p1-1", "f2-0"))
        await kept(world)
        await world.keep(holding("f1", "a", "b"), holding("f2", "c", "c"))
        await world.store.parking.park([behind("p1", "a", 2), behind("q1", "b"), behind("p2", "a"), behind("s1", "c")])
        return world

    async def crash(world: World, at: int, when: Any) -> Mine:
        gate, (run,) = Gate("w1"), await world.store.runs.select(["r1"])
        mine = Mine(world.store, gate, at, when)
        task = asyncio.create_task(world.replay("w1", run=run, store=mine, gate=gate).run())
        crashed = asyncio.create_task(mine.crashed.wait())
        await asyncio.wait((task, crashed), return_when=asyncio.FIRST_COMPLETED)
        for each in (task, crashed):
            each.cancel()
        await asyncio.gather(task, crashed, return_exceptions=True)
        return mine

    whole = await crash(world := await prepared(), 0, "before")
    expected = await states(world)
    assert sorted(expected.values()) == ["kept", "kept", "parked", "parked", *["replayed"] * 3]
    for at in range(1, whole.number + 1):
        for when in ("before", "after"):
            world = await prepared()
            assert (await crash(world, at, when)).crashed.is_set()
            await asyncio.sleep(CLAIM_SECONDS)
            (run,) = await world.store.runs.select(["r1"])
            await world.run("w2", run=run)
            assert await states(world) == expected, (at, when, whole.calls[at - 1])


@dataclass
class Keys:
    """Records of a few keys as a mapping reads them: what fails holds its key, what comes behind it is parked, in between runs go on."""

    world: World
    random: Random
    read: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    number: int = 0

    async def batch(self) -> None:
        """A batch of the live mapping: what it cannot park it gives up."""
        self.number += 1
        store, rows = self.world.store, list[Entry]()
        for key in self.random.sample("abc", self.random.randint(1, 2)):
            rows.append(behind(f"r{self.number}{key}", key, self.random.randint(1, 3), time=self.number / 10))
        ids = await store.parking.park(rows)
        left = [row for row, id_ in zip(rows, ids, strict=True) if not id_]
        records = tuple(record for row in left for record in row.records)
        if records:
            await store.journal.append([holding(f"f{self.number}", records=records, time=self.number / 10)])
        for row in rows:
            for record in row.records:
                self.read[str(record.key)].append(record.id)

    def overtaken(self, names: Sequence[str]) -> list[str]:
        """Of each key, records begin in the order in which they were read, when those before them are done (laws 24, 25): which are not,
        and are not of the same invocation."""
        lines = {name: read[: read.index(name)] for read in self.read.values() for name in names if name in read}
        return [each for line in lines.values() for each in line if each not in names and not self.world.handled[each]]


@pytest.mark.parametrize("seed", range(20))
@virtually
async def test_whatever_fails_crashes_or_is_parked_meanwhile_each_key_is_handled_in_order(seed: int) -> None:
    random = Random(seed)
    world = World(fails_on(), seconds=random.choice((0.0, 1.0, 20.0)))
    keys, overtaken = Keys(world, random), list[str]()

    def behave(names: Sequence[str]) -> Response:
        overtaken.extend(keys.overtaken(names))
        return random.choice((fails_on, names_failed))(*[name for name in names if random.random() < 0.25])(names)

    world.behave = behave
    for life in range(8):
        for _ in range(random.randint(1, 4)):
            await keys.batch()
        await live(world, keys, random, f"life-{life}")
    await asyncio.sleep(CLAIM_SECONDS + 1)
    world.behave, world.seconds = fails_on(), 0.0
    await world.run("last")
    assert overtaken == []
    assert not [row for row in (await world.rows()).values() if row.state in OPEN]
    assert {*world.handled} == {name for names in keys.read.values() for name in names}
    assert await world.store.parking.held("m", "s") == set()


async def live(world: World, keys: Keys, random: Random, name: str) -> None:
    """A run over a bad line for a while, what the mapping reads is parked meanwhile; then it crashes or is stopped."""
    loop, gate = asyncio.get_running_loop(), Gate(name)
    line = Line(gate, random, Counter(), random.choice((0.0, 0.1)))
    store = Mine(
        LineStore(world.store, line), gate, random.randrange(1, 40) if random.random() < 0.5 else 0, random.choice(("before", "after"))
    )
    run = world.replay(
        name,
        store=store,
        gate=gate,
        concurrency=random.choice((1, 3)),
        random=Random(1),
        plan=Plan(ANY, only_failing=random.random() < 0.5),
    )
    task = asyncio.create_task(run.run())
    for _ in range(random.randrange(4)):
        await asyncio.sleep(random.uniform(0.0, 20.0))
        await keys.batch()
    if random.random() < 0.5:
        gate.shut = True
        task.cancel()
    else:
        run.stop(loop.time() + random.choice((0.0, 30.0)))
    (result,) = await asyncio.gather(task, return_exceptions=True)
    if isinstance(result, Exception) and not isinstance(result, Dead | StoreUnavailable):
        raise result
    gate.shut = True
