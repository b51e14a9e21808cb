"""Replays on the virtual clock: what becomes of rows, who may run them, and that no crash loses or doubles a record."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Literal, TypeVar, cast

import orjson
import pytest

from poller.errors import StoreUnavailable
from poller.failures.entry import entry
from poller.failures.journal import Entry, Row, RowState, Selection
from poller.failures.protocols import Journal
from poller.failures.runs import Finished, Plan, Run, Step
from poller.functions import Function
from poller.model import Busy, Call, Failure, Fault, Response, Returned
from poller.policy import Block, Redeliver
from poller.protocols import Event, Policy
from poller.replay import Part, Replay, ReplayFormat, ReplaySource, Tally, block, preview, replay
from poller.replay.claims import CLAIM_SECONDS, RENEW_SECONDS, Claims
from poller.replay.counting import Count, pages
from poller.replay.format import records_of
from poller.replay.lane import JournalLane, rest_of
from poller.replay.listing import listed
from poller.settings import Backoff, Batching, FailureSettings, FunctionSettings, MappingSettings
from poller.stores.memory import MemoryStore
from poller.stores.sqlite import open_store
from poller.testing.clock import VirtualLoop, run_virtually
from poller.testing.fakes import FORMAT, Dead, FakeRecord, Gate
from poller.testing.faults import Line, LineStore

T = TypeVar("T")

ANY = Selection(states=())
OLD = Fault("error", "Old", "why it was kept first")
FAILURE = FailureSettings(maximum_retry_attempts=1, bisect=True, reporting=True, backoff=Backoff(1.0, 1.0))
MAPPING = MappingSettings("m", "m", "f", Batching(2), FAILURE, 1)
BACKOFF = Backoff(2.0, 3.0)
LIMIT = 10_000.0
"""Virtual seconds that nothing here takes."""


def virtually(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test runs on a loop of its own, whose clock jumps."""

    @functools.wraps(test)
    def run(*args: Any, **named: Any) -> None:
        run_virtually(test(*args, **named))

    return run


def row_of(*names: str, time: float = 0.0, lane: str = "shard", **fields: Any) -> Entry:
    """A failure as the engine would have kept it, of these records."""
    records = [FakeRecord(place, name, b"key", 5.0 + place) for place, name in enumerate(names)]
    failure = Failure(records, "RetryAttemptsExhausted", 3, OLD)
    return replace(entry(failure, FORMAT, mapping="m", source="s", lane=lane, function="f", now=time), **fields)


Behaviour = Callable[[Sequence[str]], Response]


def fails_on(*poison: str) -> Behaviour:
    """Raises if a record of this name is there."""
    return lambda names: Fault("error", "Poison", "again") if {*poison} & {*names} else Returned(b"null")


def names_failed(*poison: str) -> Behaviour:
    """Reports the records of this name."""

    def behave(names: Sequence[str]) -> Response:
        failed = [{"itemIdentifier": name} for name in names if name in poison]
        return Returned(orjson.dumps({"batchItemFailures": failed}))

    return behave


@dataclass
class World:
    """The journal, the function, and what the function saw. It outlives the runs."""

    behave: Behaviour
    seconds: float = 0.0
    concurrency: int = 10
    store: Any = field(default_factory=MemoryStore)
    calls: list[list[str]] = field(default_factory=list)
    events: list[bytes] = field(default_factory=list)
    handled: Counter[str] = field(default_factory=Counter)
    running: dict[str, Gate] = field(default_factory=dict)
    together: list[str] = field(default_factory=list)
    most: int = 0
    ended: int = 0
    started: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def journal(self) -> Journal:
        return cast("Journal", self.store.journal)

    async def keep(self, *entries: Entry) -> list[str]:
        assert list(await self.store.journal.append(entries)) == [each.id for each in entries]
        return [each.id for each in entries]

    async def rows(self) -> dict[str, Row]:
        assert not self.together
        return {row.entry.id: row for row in await self.journal.select(ANY)}

    async def states(self) -> dict[str, tuple[RowState, list[str]]]:
        return {row_id: (row.state, names(row)) for row_id, row in (await self.rows()).items()}

    def replay(self, owner: str = "w1", selection: Selection = ANY, store: Any = None, **options: Any) -> Replay:
        loop = cast("VirtualLoop", asyncio.get_running_loop())
        gate = options.pop("gate", Gate(owner))
        settings = options.pop("settings", MAPPING)
        function = Function(FunctionSettings("f", "f", Path(), concurrency=self.concurrency), Worker(self, owner, gate))
        policy = Block.of(settings, options.pop("partial", "cut"))
        run = options.pop("run", None) or Run(f"run of {owner}", "ada", 0.0, options.pop("plan", Plan(selection)))
        part = Part(run, owner, "ada", loop.now, options.pop("concurrency", 1), edit=options.pop("edit", lambda _: None))
        store = store or self.store

        async def rows() -> dict[str, int]:
            await self.store.runs.put(run)
            return (await listed(store.journal, store.runs, run)).get(selection.mapping or "m", {})

        return Replay(store, part, rows, function, settings, policy=policy, **{"random": Random(1), **options})

    async def run(self, owner: str = "w1", selection: Selection = ANY, **options: Any) -> Tally:
        return await asyncio.wait_for(self.replay(owner, selection, **options).run(), LIMIT)


class Worker:
    """The function in one run: no record may run in two at once (those of a run that has crashed do not count)."""

    def __init__(self, world: World, owner: str, gate: Gate) -> None:
        self.world, self.owner, self.gate = world, owner, gate

    async def invoke(self, event: Event, call: Call) -> Response:
        self.gate.check()
        world, seen = self.world, [str(name) for name in event.identifiers()]
        others = {world.running[name].life for name in seen if name in world.running and not world.running[name].shut}
        if others:  # what is raised here would be the function's fault
            world.together.append(f"{self.owner} runs {seen}, and so does {others}")
        world.calls.append(seen)
        world.events.append(event.json())
        world.running.update(dict.fromkeys(seen, self.gate))
        world.most = max(world.most, len(world.running))
        world.started.set()
        try:
            if world.seconds:
                await asyncio.sleep(world.seconds)
            self.gate.check()
        except asyncio.CancelledError:
            world.ended += 1
            raise
        finally:
            for name in seen:
                if world.running.get(name) is self.gate:
                    del world.running[name]
        response = world.behave(seen)
        if isinstance(response, Returned):
            failed = {item["itemIdentifier"] for item in (orjson.loads(response.payload) or {}).get("batchItemFailures", ())}
            world.handled.update(name for name in seen if name not in failed)
        return response

    async def aclose(self) -> None:
        return None


def names(row: Row) -> list[str]:
    return [record.id for record in row.entry.records]


# --- what becomes of a row --------------------------------------------------------------------------------------------------------


@virtually
async def test_a_row_that_succeeds_is_replayed_as_the_batch_and_the_event_it_was() -> None:
    world, old = World(fails_on()), row_of("a", "b", "c")
    await world.keep(old)
    assert await world.run() == Tally(total_rows=1, done_rows=1, replayed=1)
    assert await world.states() == {old.id: ("replayed", ["a", "b", "c"])}
    # One batch of three, though the mapping's batches are of two now.
    assert world.calls == [["a", "b", "c"]]
    assert world.events == [FORMAT.event([FakeRecord(n, name, b"key", 0.0) for n, name in enumerate("abc")]).json()]


@pytest.mark.parametrize("bisect", [True, False])
@virtually
async def test_a_row_that_fails_again_is_kept_with_its_new_error_and_nothing_is_added(bisect: bool) -> None:
    world, old = World(fails_on("a", "b")), row_of("a", "b")
    await world.keep(old)
    settings = replace(MAPPING, failure=replace(FAILURE, bisect=bisect))
    for failures in (1, 2):
        assert await world.run(f"w{failures}", settings=settings) == Tally(total_rows=1, done_rows=1, failed_again=1)
        (row,) = (await world.rows()).values()
        assert (row.state, row.failures, row.entry.fault) == ("kept", failures, Fault("error", "Poison", "again"))
        assert replace(row.entry, fault=OLD, group=old.group) == old


@pytest.mark.parametrize("behave", [fails_on("b", "d"), names_failed("b", "d")])
@virtually
async def test_of_a_row_that_fails_in_part_only_what_failed_is_kept_in_its_order(behave: Behaviour) -> None:
    world, old = World(behave), row_of("a", "b", "c", "d", "e", time=7.0)
    await world.keep(old)
    assert await world.run() == Tally(total_rows=1, done_rows=1, split=1)
    rows = await world.rows()
    assert await world.states() == {old.id: ("replayed", list("abcde")), rest_of(old.id): ("kept", ["b", "d"])}
    rest = rows[rest_of(old.id)].entry
    assert (rest.run, rest.first, rest.last, rest.identifiers) == ("run of w1", "b", "d", ('"b"', '"d"'))
    assert rest.fault is not None and rest.fault.type in ("Poison", "ReportedFailure")
    assert (rest.head, rest.tail, rest.mapping, rest.source, rest.lane) == (old.head, old.tail, old.mapping, old.source, old.lane)
    assert rest.records == (old.records[1], old.records[3])
    assert {*world.handled} == {"a", "c", "e"}


@pytest.mark.parametrize("poison", ["bd", "abcde"])
@virtually
async def test_a_row_is_split_to_its_poison_records_whatever_the_policy_says(poison: str) -> None:
    world, old = World(lambda names: Fault("error", names[0], "again") if {*poison} & {*names} else Returned(b"null")), row_of(*"abcde")
    await world.keep(old)
    settings = replace(MAPPING, failure=replace(FAILURE, bisect=False))
    assert await world.run(settings=settings, plan=Plan(ANY, only_failing=True)) == Tally(total_rows=1, done_rows=1, split=1)
    rows = [row for row in (await world.rows()).values() if row.entry.id != old.id]
    assert [(row.state, names(row), row.entry.fault.type) for row in rows if row.entry.fault] == [("kept", [name], name) for name in poison]
    (step,) = await world.store.runs.trail("run of w1")
    assert (step.row, step.failures) == (old.id, tuple(row.entry.id for row in rows))
    assert {*world.handled} == {*"abcde"} - {*poison}


@virtually
async def test_what_failed_again_is_replayed_like_any_row() -> None:
    world, old = World(fails_on("b", "d")), row_of("a", "b", "c", "d")
    await world.keep(old)
    await world.run()
    world.behave = fails_on("d")
    assert (await world.run("w2")).split == 1
    world.behave = fails_on()
    assert (await world.run("w3")).replayed == 1
    assert {state for state, _ in (await world.states()).values()} == {"replayed"}
    assert world.handled == dict.fromkeys("abcd", 1)


@virtually
async def test_a_row_is_halved_in_its_order_and_attempts_count_from_1() -> None:
    world = World(fails_on("c"))
    await world.keep(row_of("a", "b", "c", "d"))
    await world.run()
    assert world.calls == [["a", "b", "c", "d"], ["a", "b"], ["c", "d"], ["c"], ["c"], ["d"]]


@virtually
async def test_a_cut_retries_all_from_the_named_record_on() -> None:
    world = World(names_failed("b"))
    await world.keep(row_of("a", "b", "c"))
    await world.run()
    assert world.calls == [["a", "b", "c"], ["b", "c"], ["b", "c"], ["c"]]


@virtually
async def test_listed_retries_what_was_named_only() -> None:
    world = World(names_failed("b"))
    await world.keep(row_of("a", "b", "c"))
    await world.run(partial="listed")
    assert world.calls == [["a", "b", "c"], ["b"], ["b"]]


@virtually
async def test_a_throttled_row_waits_and_is_no_failure() -> None:
    answers = iter([Busy(5.0)] * 20)
    world = World(lambda _names: next(answers, Returned(b"null")))
    await world.keep(row_of("a", "b"))
    assert (await world.run()).replayed == 1
    assert world.calls == [["a", "b"]] * 21


@virtually
async def test_nothing_is_too_old_for_a_replay() -> None:
    world = World(fails_on())
    await world.keep(row_of("a"))
    settings = replace(MAPPING, failure=replace(FAILURE, maximum_record_age=60.0))
    assert (await world.run(settings=settings)).replayed == 1


# --- which rows, how many at once, in which order ---------------------------------------------------------------------------------


@virtually
async def test_rows_begin_oldest_first_and_are_never_mixed() -> None:
    world = World(fails_on())
    await world.keep(*(row_of(f"{n}a", f"{n}b", time=float(n), lane=f"shard-{n % 2}") for n in (3, 1, 2, 0)))
    await world.run()
    assert world.calls == [[f"{n}a", f"{n}b"] for n in range(4)]


@virtually
async def test_a_row_that_is_tried_again_keeps_no_other_waiting() -> None:
    world = World(fails_on("bad"))
    await world.keep(row_of("bad"), *(row_of(name, time=1.0) for name in "abc"))
    settings = replace(MAPPING, failure=replace(FAILURE, backoff=Backoff(500.0, 500.0)))
    await world.run(concurrency=2, settings=settings)
    assert world.calls == [["bad"], ["a"], ["b"], ["c"], ["bad"]]


@virtually
async def test_no_more_rows_run_at_once_than_was_asked_for() -> None:
    world = World(fails_on(), seconds=1.0)
    await world.keep(*(row_of(f"r{n}") for n in range(20)))
    tally = await world.run(concurrency=3)
    assert (tally.replayed, world.most) == (20, 3)


@virtually
async def test_the_functions_permits_are_shared_with_everyone() -> None:
    world = World(fails_on(), seconds=1.0, concurrency=2)
    await world.keep(*(row_of(f"r{n}") for n in range(6)))
    await world.run(concurrency=5)
    assert world.most == 2


@virtually
async def test_copies_run_only_when_they_are_asked_for() -> None:
    world = World(fails_on())
    copy, own = row_of("copy", kept="queue-dlq"), row_of("own")
    await world.keep(copy, own)
    assert (await world.run(selection=Selection(copies=False))).total_rows == 1
    assert world.calls == [["own"]]
    assert (await world.run(selection=Selection(copies=True))).replayed == 1
    assert world.calls == [["own"], ["copy"]]


@virtually
async def test_rows_of_another_mapping_run_only_when_it_is_named() -> None:
    world = World(fails_on())
    other = row_of("other", mapping="n")
    await world.keep(row_of("mine"), other)
    assert (await world.run()).replayed == 1
    assert world.calls == [["mine"]]
    assert (await world.run("w2", Selection(mapping="n"))).replayed == 1


@virtually
async def test_what_a_run_keeps_is_not_for_the_same_run() -> None:
    world = World(fails_on("a", "c"))
    await world.keep(row_of("a"), row_of("b", "c"))
    assert await world.run() == Tally(total_rows=2, done_rows=2, failed_again=1, split=1)


@virtually
async def test_replayed_and_dropped_rows_stay_so() -> None:
    world = World(fails_on())
    done, dropped = await world.keep(row_of("a"), row_of("b"))
    await world.journal.mark([done], "claimed", 0.0, "w0", 1.0)
    await world.journal.mark([done], "replayed", 0.0, "w0")
    await world.journal.mark([dropped], "dropped", 0.0)
    assert await world.run(selection=Selection(ids=(done, dropped), states=())) == Tally()
    assert world.calls == []


# --- claims -----------------------------------------------------------------------------------------------------------------------


@virtually
async def test_two_runs_at_once_never_run_one_row_twice() -> None:
    world = World(fails_on(), seconds=1.0)
    await world.keep(*(row_of(f"r{n}") for n in range(30)))
    one, two = await asyncio.gather(world.run("w1", concurrency=3), world.run("w2", concurrency=3))
    assert sorted(world.calls) == sorted([f"r{n}"] for n in range(30))
    assert one.replayed + two.replayed == 30 and one.skipped + two.skipped == 30
    assert one.done_rows == two.done_rows == 30


@virtually
async def test_a_dead_runs_row_is_taken_over_when_its_claim_has_run_out_and_not_before() -> None:
    world, loop = World(fails_on()), cast("VirtualLoop", asyncio.get_running_loop())
    (row,) = await world.keep(row_of("a"))
    await world.journal.mark([row], "claimed", loop.now(), "dead", loop.now() + CLAIM_SECONDS)
    await asyncio.sleep(CLAIM_SECONDS - 1)
    assert await world.run() == Tally(total_rows=1, done_rows=1, skipped=1)
    await asyncio.sleep(1)
    assert (await world.run()).replayed == 1


@virtually
async def test_a_long_invocation_keeps_its_claim() -> None:
    world = World(fails_on(), seconds=20 * CLAIM_SECONDS)
    await world.keep(row_of("a"))
    long = asyncio.create_task(world.run("w1"))
    for _ in range(40):
        await asyncio.sleep(CLAIM_SECONDS / 4)
        assert (await world.run("w2")).skipped == 1
    assert (await long).replayed == 1
    assert world.calls == [["a"]]


@virtually
async def test_a_run_that_cannot_renew_ends_what_it_runs_before_another_may_have_it() -> None:
    world = World(fails_on("a"), seconds=50.0)
    (row,) = await world.keep(row_of("a"))
    line = Line(Gate("w1"), Random(1), Counter())
    cut_off = asyncio.create_task(world.run("w1", store=LineStore(world.store, line)))
    await world.started.wait()
    line.cut_until = asyncio.get_running_loop().time() + LIMIT
    await asyncio.sleep(CLAIM_SECONDS)
    assert (world.ended, world.running) == (1, {})
    assert await cut_off == Tally(total_rows=1, given_back=1)
    # Whoever takes it over decides; the one that was cut off wrote nothing.
    assert await world.states() == {row: ("claimed", ["a"])}
    world.behave = fails_on()
    assert (await world.run("w2")).replayed == 1


@virtually
async def test_a_row_that_was_taken_over_is_the_new_owners() -> None:
    """A run that slept (a suspended machine) finds its claim taken, and drops what it came to."""
    world, loop = World(fails_on("a"), seconds=3.0), cast("VirtualLoop", asyncio.get_running_loop())
    (row,) = await world.keep(row_of("a", "b"))
    slept = asyncio.create_task(world.run("w1"))
    await world.started.wait()
    late = loop.now() + 2 * CLAIM_SECONDS
    await world.journal.mark([row], "claimed", late, "w2", late + CLAIM_SECONDS)
    assert (await slept).given_back == 1
    assert await world.states() == {row: ("claimed", ["a", "b"])}


class Slow:
    """A store whose marks to `state` ("finished": of rows that were run) are carried out `before` seconds after they were asked for, and
    answered `after` seconds later. The first `lose` answers never come: StoreUnavailable instead.
    """

    def __init__(self, store: MemoryStore, state: str, before: float = 0.0, after: float = 0.0, lose: int = 0) -> None:
        self._journal, self._runs = store.journal, store.runs
        self.journal = self.runs = self
        self.append, self.select, self.count, self.trail = store.journal.append, store.journal.select, store.journal.count, store.runs.trail
        self._state, self._before, self._after, self._lose = state, before, after, lose

    async def mark(
        self, ids: Sequence[str], state: RowState, now: float, owner: str = "", until: float = 0.0, fault: Fault | None = None
    ) -> Sequence[str]:
        return await self._slowly(state, lambda: self._journal.mark(ids, state, now, owner, until, fault))

    async def finish(self, run: str, done: Sequence[Finished], now: float, owner: str, who: str) -> Sequence[Step]:
        return await self._slowly("finished", lambda: self._runs.finish(run, done, now, owner, who))

    async def _slowly(self, state: str, operation: Callable[[], Awaitable[T]]) -> T:
        if state != self._state:
            return await operation()
        await asyncio.sleep(self._before)
        done = await operation()
        await asyncio.sleep(self._after)
        self._lose -= 1
        if self._lose >= 0:
            raise StoreUnavailable("the answer was lost")
        return done


@pytest.mark.parametrize("slow", [("finished", 0.0, 10.0), ("claimed", 3.0, 0.0)])
@virtually
async def test_a_renewal_that_crosses_the_end_of_a_row_does_not_claim_it_again(slow: tuple[str, float, float]) -> None:
    """Kept again just before the renewal is sent, or while it is under way: it must be free for the next run."""
    world, loop = World(fails_on()), cast("VirtualLoop", asyncio.get_running_loop())
    (row,) = await world.keep(row_of("a"))
    store = cast("Any", Slow(world.store, *slow))
    claims = Claims(store, store, run="r", who="ada", owner="w1", clock=loop.now)
    heart = asyncio.create_task(claims.renew(lambda row: pytest.fail(f"{row} is lost")))
    assert await claims.claim((row,))
    await asyncio.sleep(RENEW_SECONDS - loop.time() + (-0.5 if slow[0] == "finished" else 1.0))
    assert await claims.finish(Finished(row, "failed_again", OLD))
    await asyncio.sleep(RENEW_SECONDS / 2)
    assert (await world.states())[row][0] == "kept"
    heart.cancel()


@virtually
async def test_an_ending_whose_answer_was_lost_counts_once() -> None:
    for behave, state, counted in ((fails_on(), "replayed", "replayed"), (fails_on("a"), "kept", "failed_again")):
        world = World(behave)
        await world.keep(row_of("a"))
        tally = await world.run(store=Slow(world.store, "finished", lose=1))
        assert (getattr(tally, counted), tally.done_rows) == (1, 1)
        assert [(row.state, row.failures) for row in (await world.rows()).values()] == [(state, int(state == "kept"))]


@virtually
async def test_a_lane_that_breaks_gives_its_row_back_while_others_run_and_one_that_is_lost_writes_nothing() -> None:
    world, loop = World(fails_on()), cast("VirtualLoop", asyncio.get_running_loop())
    broken, lost = await world.keep(row_of("a"), row_of("b", time=1.0))
    endings: list[tuple[str, str]] = []
    part = Part(Run("r", "ada", 0.0), "w1", "ada", loop.now, 2, "f")
    source = ReplaySource(
        world.journal,
        world.store.runs,
        {broken: 1, lost: 1},
        block(Block.of(MAPPING, "cut"), FAILURE),
        part,
        lambda row, ending: endings.append((row, ending)),
    )
    lanes = source.lanes()
    first, second = [cast("JournalLane", await anext(lanes)) for _ in range(2)]
    await first.aclose(broken=True)
    second.lose()
    await second.aclose()
    assert [state for state, _ in (await world.states()).values()] == ["kept", "claimed"]
    await first.aclose()
    assert await anext(lanes, None) is None  # what runs may release more, and nothing runs
    await source.aclose()
    assert endings == [(broken, "given_back"), (lost, "given_back")]


# --- stopping ---------------------------------------------------------------------------------------------------------------------


@virtually
async def test_a_stop_hands_back_what_is_not_done_at_once() -> None:
    world = World(fails_on(), seconds=10.0)
    ids = await world.keep(*(row_of(f"r{n}", time=float(n)) for n in range(5)))
    run = world.replay(concurrency=2)
    task = asyncio.create_task(run.run())
    await asyncio.sleep(15.0)  # two are done, two run, one waits
    run.stop(asyncio.get_running_loop().time())
    assert await asyncio.wait_for(task, 1.0) == Tally(total_rows=5, done_rows=2, replayed=2, given_back=2)
    assert [(await world.states())[row][0] for row in ids] == ["replayed", "replayed", "kept", "kept", "kept"]
    # ... as they were, and for anyone.
    assert all(row.failures == 0 and row.entry.fault == OLD for row in (await world.rows()).values())
    assert (await world.run("w2")).replayed == 3


@virtually
async def test_what_runs_may_end_within_the_grace_of_a_stop() -> None:
    world = World(fails_on("b"), seconds=10.0)
    first, second = await world.keep(row_of("a"), row_of("b", time=1.0))
    run = world.replay(concurrency=2)
    task = asyncio.create_task(run.run())
    await world.started.wait()
    run.stop(asyncio.get_running_loop().time() + 15.0)
    # The good row is done; the other failed once, and is not tried again any more: that is not an error of the row.
    assert await task == Tally(total_rows=2, done_rows=1, replayed=1, given_back=1)
    assert await world.states() == {first: ("replayed", ["a"]), second: ("kept", ["b"])}
    assert (await world.rows())[second].failures == 0


@virtually
async def test_a_run_that_is_stopped_before_it_began_begins_nothing() -> None:
    world = World(fails_on())
    await world.keep(row_of("a"))
    run = world.replay()
    run.stop(0.0)
    assert await run.run() == Tally(total_rows=1)
    assert world.calls == []


@virtually
async def test_cancelling_gives_the_rows_back() -> None:
    world = World(fails_on(), seconds=10.0)
    (row,) = await world.keep(row_of("a"))
    task = asyncio.create_task(world.run())
    await world.started.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled() and world.running == {}
    assert await world.states() == {row: ("kept", ["a"])}


@virtually
async def test_cancelled_anywhere_no_row_stays_claimed_or_is_lost() -> None:
    """Cancelled after each step of the loop in turn: the next run, at once, finishes the same way."""
    for turns in range(200):
        world = World(fails_on("b"))
        old, other = row_of("a", "b"), row_of("c")
        await world.keep(old, other)
        task = asyncio.create_task(world.replay(concurrency=2, random=Loaded(1)).run())
        for _ in range(turns):
            await asyncio.sleep(0)
        ended = task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await world.run("w2")
        assert await world.states() == {
            old.id: ("replayed", ["a", "b"]),
            rest_of(old.id): ("kept", ["b"]),
            other.id: ("replayed", ["c"]),
        }, turns
        if ended:
            return
    pytest.fail("the run never ended by itself")


class Loaded(Random):
    """Dice that make every backoff nothing."""

    def random(self) -> float:
        return 0.0


# --- crashes and bad lines --------------------------------------------------------------------------------------------------------


class Mine:
    """A store that kills its run at its n-th call, before or after the call's effect."""

    def __init__(self, store: Any, gate: Gate, at: int = 0, when: Literal["before", "after"] = "before") -> None:
        self.store, self.gate, self.at, self.when, self.number = store, gate, at, when, 0
        self.journal = self.runs = self
        self.crashed = asyncio.Event()
        self.calls: list[str] = []

    async def _call(self, what: str, operation: Callable[[], Awaitable[T]]) -> T:
        self.gate.check()
        self.number += 1
        self.calls.append(what)
        if self.number == self.at and self.when == "before":
            self._crash()
        result = await operation()
        if self.number == self.at:
            self._crash()
        return result

    def _crash(self) -> None:
        self.gate.shut = True
        self.crashed.set()
        raise Dead("crashed")

    async def append(self, entries: Sequence[Entry]) -> Sequence[str]:
        return await self._call("append", lambda: self.store.journal.append(entries))

    async def select(self, selection: Selection) -> Sequence[Row]:
        return await self._call("select", lambda: self.store.journal.select(selection))

    async def count(self, selection: Selection) -> int:
        return await self._call("count", lambda: self.store.journal.count(selection))

    async def mark(
        self, ids: Sequence[str], state: RowState, now: float, owner: str = "", until: float = 0.0, fault: Fault | None = None
    ) -> Sequence[str]:
        return await self._call(state, lambda: self.store.journal.mark(ids, state, now, owner, until, fault))

    async def finish(self, run: str, done: Sequence[Finished], now: float, owner: str, who: str) -> Sequence[Step]:
        return await self._call("finish", lambda: self.store.runs.finish(run, done, now, owner, who))

    async def trail(self, run: str, rows: Sequence[str] = (), after: int = 0, limit: int | None = None) -> Sequence[Step]:
        return await self._call("trail", lambda: self.store.runs.trail(run, rows, after, limit))


ROWS = (("a", "b", "c", "d"), ("e", "f"), ("g", "h"))
POISON = ("b", "d", "g", "h")


async def prepared(behave: Behaviour) -> World:
    world = World(behave)
    await world.keep(*(row_of(*row, time=float(n)) for n, row in enumerate(ROWS)))
    return world


def expected() -> Mapping[str, tuple[RowState, list[str]]]:
    split, good, bad = (row_of(*row).id for row in ROWS)
    return {
        split: ("replayed", ["a", "b", "c", "d"]),
        rest_of(split): ("kept", ["b", "d"]),
        good: ("replayed", ["e", "f"]),
        bad: ("kept", ["g", "h"]),
    }


async def crash(world: World, at: int, when: Literal["before", "after"]) -> Mine:
    """Run until the mine goes off, or to the end; what the dead run still does reaches nothing."""
    gate = Gate("w1")
    mine = Mine(world.store, gate, at, when)
    task = asyncio.create_task(world.replay("w1", store=mine, gate=gate).run())
    crashed = asyncio.create_task(mine.crashed.wait())
    await asyncio.wait((task, crashed), return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    crashed.cancel()
    await asyncio.gather(task, crashed, return_exceptions=True)
    return mine


@pytest.mark.parametrize("behave", [fails_on(*POISON), names_failed(*POISON)], ids=["full", "partial"])
@virtually
async def test_a_crash_at_any_call_of_the_journal_loses_and_doubles_nothing(behave: Behaviour) -> None:
    whole = await crash(world := await prepared(behave), 0, "before")
    assert await world.states() == expected()
    assert {"claimed", "select", "finish"} <= {*whole.calls}
    for at in range(1, whole.number + 1):
        for when in cast("Sequence[Literal['before', 'after']]", ("before", "after")):
            world = await prepared(behave)
            mine = await crash(world, at, when)
            assert mine.crashed.is_set(), (at, when, whole.calls, mine.calls)
            await asyncio.sleep(CLAIM_SECONDS)
            await world.run("w2")
            assert await world.states() == expected(), (at, when, whole.calls[at - 1])


@virtually
async def test_a_store_that_is_away_for_a_while_delays_and_changes_nothing() -> None:
    world = await prepared(fails_on(*POISON))
    world.seconds = 2.0
    line = Line(Gate("w1"), Random(1), Counter())
    task = asyncio.create_task(world.run("w1", store=LineStore(world.store, line)))
    await world.started.wait()
    while not task.done():
        line.cut_until = asyncio.get_running_loop().time() + 7.0
        await asyncio.sleep(9.0)
    assert await task == Tally(total_rows=3, done_rows=3, replayed=1, failed_again=1, split=1)
    assert await world.states() == expected()


@pytest.mark.parametrize("seed", range(25))
@virtually
async def test_whatever_the_lines_and_crashes_nothing_is_lost_doubled_or_run_by_two(seed: int) -> None:
    random = Random(seed)
    behave = random.choice((fails_on, names_failed))
    rows = [[f"r{n}-{i}" for i in range(random.choice((1, 2, 5, 8)))] for n in range(12)]
    poison = {name for row in rows for name in row if random.random() < 0.25}
    world = World(behave(*poison), seconds=random.choice((0.0, 3.0, 70.0)))
    await world.keep(*(row_of(*row, time=float(n)) for n, row in enumerate(rows)))
    for life in range(8):
        await live(world, random, f"life-{life}", random.choice((0.0, 0.1, 0.3)), random.random() < 0.6)
    await asyncio.sleep(CLAIM_SECONDS + 1)
    await asyncio.gather(world.run("last-1", concurrency=4), world.run("last-2", concurrency=4))
    kept = Counter(name for row in (await world.rows()).values() if row.state != "replayed" for name in names(row))
    assert kept == dict.fromkeys(poison, 1)
    assert {*world.handled} == {name for row in rows for name in row} - poison
    assert all(row.state in ("kept", "replayed") for row in (await world.rows()).values())


async def live(world: World, random: Random, name: str, rate: float, crashes: bool) -> None:
    """One run over a bad line, beside another, for a while; then it crashes, if it has not before, or is stopped."""
    loop = asyncio.get_running_loop()
    runs = []
    for half in "ab":
        gate = Gate(name + half)
        line = Line(gate, random, Counter(), rate)
        if random.random() < 0.3:
            loop.call_later(random.uniform(0.0, 60.0), setattr, line, "cut_until", loop.time() + 150.0)
        calls = random.randrange(1, 60) if crashes and random.random() < 0.7 else 0
        store = Mine(LineStore(world.store, line), gate, calls, random.choice(("before", "after")))
        run = world.replay(gate.life, store=store, gate=gate, concurrency=random.choice((1, 3)), random=Random(random.random()))
        runs.append((run, gate, asyncio.create_task(run.run())))
    await asyncio.sleep(random.uniform(0.0, 200.0))
    for run, gate, task in runs:
        if crashes:
            gate.shut = True
            task.cancel()
        else:
            run.stop(loop.time() + random.choice((0.0, 5.0)))
    for result in await asyncio.gather(*(task for _, _, task in runs), return_exceptions=True):
        if isinstance(result, Exception) and not isinstance(result, Dead | StoreUnavailable):
            raise result


# --- the face ---------------------------------------------------------------------------------------------------------------------


@virtually
async def test_the_iterator_tells_where_the_run_stands_and_ends_with_the_whole() -> None:
    world = await prepared(fails_on(*POISON))
    tallies = [tally async for tally in iterated(world)]
    assert tallies[-1] == {
        "total_rows": 3, "done_rows": 3, "replayed": 1, "sent": 0, "failed_again": 1, "split": 1, "skipped": 0, "unfit": 0, "given_back": 0,
    }  # fmt: skip
    assert [tally["done_rows"] for tally in tallies] == sorted(tally["done_rows"] for tally in tallies)
    assert len(tallies) >= 4


@virtually
async def test_closing_the_iterator_stops_the_run() -> None:
    world = World(fails_on(), seconds=1.0)
    await world.keep(*(row_of(f"r{n}") for n in range(5)))
    async with aclosing(iterated(world)) as tallies:
        async for tally in tallies:
            if tally["replayed"] == 2:
                break
    assert Counter(state for state, _ in (await world.states()).values()) == {"replayed": 2, "kept": 3}
    assert asyncio.all_tasks() == {asyncio.current_task()}


@virtually
async def test_cancelling_the_iterator_stops_the_run() -> None:
    world = World(fails_on(), seconds=10.0)
    (row,) = await world.keep(row_of("a"))

    async def consume() -> None:
        async with aclosing(iterated(world)) as tallies:
            async for _ in tallies:
                pass

    task = asyncio.create_task(consume())
    await world.started.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await world.states() == {row: ("kept", ["a"])}
    assert asyncio.all_tasks() == {asyncio.current_task()}


def iterated(world: World) -> Any:
    loop = cast("VirtualLoop", asyncio.get_running_loop())
    function = Function(FunctionSettings("f", "f", Path()), Worker(world, "w1", Gate("w1")))
    policy = Block.of(MAPPING, "cut")
    part = Part(Run("r", "ada", 0.0, Plan(ANY)), "w1", "ada", loop.now)

    async def rows() -> dict[str, int]:
        return (await listed(world.journal, world.store.runs, part.run))["m"]

    return replay(
        lambda told: Replay(world.store, part, rows, function, MAPPING, policy=policy, random=Random(1), report=told), asyncio.Event()
    )


@virtually
async def test_a_preview_counts_what_would_run_and_names_what_would_not() -> None:
    world, loop = World(fails_on()), cast("VirtualLoop", asyncio.get_running_loop())
    one, two, copy = (
        row_of("a", "b", time=1.0),
        row_of("c", time=2.0, reason="RecordAgeExceeded", fault=None),
        row_of("d", kept="queue-dlq"),
    )
    live, dead, other = row_of("e"), row_of("f", time=3.0), row_of("g", mapping="n", time=4.0)
    await world.keep(one, two, copy, live, dead, other)
    await world.journal.mark([dead.id], "claimed", loop.now() - CLAIM_SECONDS, "dead", loop.now())
    await world.journal.mark([live.id], "claimed", loop.now(), "live", loop.now() + CLAIM_SECONDS)
    seen = await preview(world.journal, Selection(copies=False), loop.now())
    assert (seen.total, seen.copies, seen.claimed, seen.with_copies) == (Count(4, 5), Count(1, 1), Count(1, 1), False)
    assert seen.mappings == {"m": Count(3, 4), "n": Count(1, 1)}
    assert seen.reasons == {"RetryAttemptsExhausted": Count(3, 4), "RecordAgeExceeded": Count(1, 1)}
    assert seen.errors == {"Old": Count(3, 4), "": Count(1, 1)}
    assert (seen.first, seen.last) == (1.0, 4.0)
    assert (seen.ids, seen.copy_ids, seen.claimed_ids) == ((one.id, two.id, dead.id, other.id), (copy.id,), (live.id,))
    assert (await preview(world.journal, Selection(mapping="m"), loop.now())).total == Count(4, 5)
    nothing = await preview(world.journal, Selection(mapping="x"), loop.now())
    assert (nothing.total, nothing.first, nothing.ids) == (Count(0, 0), None, ())


@pytest.mark.parametrize("limit", [None, 0, 1, 200, 201, 5_000])
@virtually
async def test_pages_bring_every_row_once_however_many_are_of_one_time(limit: int | None) -> None:
    world = World(fails_on())
    times = [0.0] * 3 + [1.0] * (3 * 200) + [float(2 + n // 7) for n in range(2 * 200)]
    ids = await world.keep(*(row_of(f"r{n}", time=time) for n, time in enumerate(times)))
    found = [page async for page in pages(world.journal, Selection(limit=limit))]
    assert [row.entry.id for page in found for row in page] == ids[:limit]


@pytest.mark.parametrize(
    ("policy", "retries", "partial"),
    [
        (Block(3, 60.0, False, BACKOFF, "listed"), 3, "listed"),
        (Block(0, None, False, BACKOFF, "cut", retention=3600.0), 0, "cut"),
        (Block(None, None, False, BACKOFF), 10, "cut"),
        (Redeliver(5, None, None, groups=False), 4, "listed"),
        (Redeliver(5, 3, None, groups=False), 2, "listed"),
        (Redeliver(None, 3, None, groups=False, fallback=10), 2, "listed"),
        (Redeliver(None, None, None, groups=False, fallback=7), 6, "listed"),
        (Redeliver(None, None, None, groups=False), 10, "listed"),
        (Redeliver(5, None, None, groups=True), 4, "cut"),
        (cast("Policy", object()), 10, "cut"),
    ],
)
def test_the_policy_is_the_mappings_but_nothing_is_too_old_and_it_ends(policy: Policy, retries: int, partial: Any) -> None:
    failure = FailureSettings(maximum_retry_attempts=99, maximum_record_age=60.0, bisect=False, backoff=BACKOFF)
    assert block(policy, failure) == Block(retries, None, False, BACKOFF, partial, None)


def test_the_event_is_what_it_was() -> None:
    old = row_of("a", "b")
    kafka = replace(old, head=b'{"records":{"t-0":[', tail=b"]}}", identifiers=('{"partition":"t-0","offset":4}', '"plain"'))
    event = ReplayFormat().event(records_of(kafka)[1:])
    assert event.json() == b'{"records":{"t-0":[' + old.records[1].json + b"]}}"
    assert event.mapping() == {"records": {"t-0": [orjson.loads(old.records[1].json)]}}
    assert event.parts() == (kafka.head, [old.records[1].json], kafka.tail)
    assert event.identifiers() == ["plain"]
    assert ReplayFormat().event(records_of(kafka)).identifiers()[0] == (("offset", 4), ("partition", "t-0"))
    facts = ReplayFormat().facts(records_of(old))
    assert (facts.tokens(), facts.keys(), facts.arrivals()) == ([0, 1], [b"key", b"key"], [5.0, 6.0])
    assert facts.sizes() == [len(record.json) + 1 for record in old.records]


async def test_a_replay_over_the_real_store(tmp_path: Path) -> None:
    world = World(fails_on(*POISON), store=await open_store(tmp_path / "poller.db"))
    try:
        await world.keep(*(row_of(*row, time=float(n)) for n, row in enumerate(ROWS)))
        settings = replace(MAPPING, failure=replace(FAILURE, maximum_retry_attempts=0))
        function = Function(FunctionSettings("f", "f", Path()), Worker(world, "w1", Gate("w1")))
        planned = Run("r", "ada", 0.0, Plan(ANY))
        assert await world.store.runs.put(planned)
        part = Part(planned, "w1", "ada", lambda: 1e9, 2)

        async def rows() -> dict[str, int]:
            return (await listed(world.journal, world.store.runs, planned))["m"]

        run = Replay(world.store, part, rows, function, settings, policy=Block.of(settings, "cut"), random=Random(1))
        assert await asyncio.wait_for(run.run(), 30.0) == Tally(total_rows=3, done_rows=3, replayed=1, failed_again=1, split=1)
        assert await world.states() == expected()
    finally:
        await world.store.aclose()
