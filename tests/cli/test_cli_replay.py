"""A replay over several mappings, alone and as the daemon's command."""

from __future__ import annotations

import asyncio
import functools
import json
import sqlite3
import time
from base64 import b64encode
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, closing, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from connectors.local import StreamOptions
from connectors.local.returning import StreamReturner
from poller.admin.replaying import Replaying, command
from poller.cli.replaying import tally_page
from poller.config import Config, MappingConfig
from poller.config.tree import Address
from poller.daemon import Daemon
from poller.errors import ConfigError, NotConnected, StoreError
from poller.failures.delivery import Invoker, Opening
from poller.failures.journal import Entry, KeptRecord, Selection
from poller.failures.runs import RUN_SECONDS, Plan, aborted, paused, planned, renewed, started
from poller.functions import Function
from poller.model import Call, Fault, Response, Returned
from poller.registry import Registry
from poller.replay import Tally
from poller.replay.hold import LOOK_SECONDS, RENEW_SECONDS, change, run_named
from poller.settings import Backoff, Batching, FailureSettings, FunctionSettings, MappingSettings
from poller.stores.memory import MemoryStore
from poller.testing.clock import VirtualLoop, run_virtually
from poller.testing.fakes import FakeHandler
from poller.testing.journals import held, make_entry

ALL = Plan()
FAULT = Fault("error", "KeyError", "'x'")


def mapping(name: str) -> MappingConfig:
    failure = FailureSettings(maximum_retry_attempts=0, bisect=False, backoff=Backoff(0.0, 0.0))
    settings = MappingSettings(f"{name}-id", name, f"f-{name}", Batching(10), failure, 1)
    return MappingConfig(settings, "local-stream", StreamOptions(name=name))


def now() -> float:
    """By the loop's clock, if it is a virtual one; a source may ask in a thread."""
    with suppress(RuntimeError):
        if isinstance(loop := asyncio.get_running_loop(), VirtualLoop):
            return loop.now()
    return time.time()


def virtually(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test runs on a loop of its own, whose clock jumps."""

    @functools.wraps(test)
    def run(*args: Any, **named: Any) -> None:
        run_virtually(test(*args, **named))

    return run


@dataclass
class Bench:
    """A journal with rows of two mappings, and functions that fail for the records in `poison`."""

    store: MemoryStore = field(default_factory=MemoryStore)
    poison: set[str] = field(default_factory=set)
    called: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    running: asyncio.Event = field(default_factory=asyncio.Event)
    seconds: float = 0.0
    state: Path = Path()

    def function(self, name: str) -> Function:
        def behave(names: Sequence[str], call: Call) -> tuple[float, Response]:
            plain = tuple(each.strip('"') for each in names)
            self.called.append((name, plain))
            self.running.set()
            return self.seconds, FAULT if self.poison & set(plain) else Returned(b"null")

        return Function(FunctionSettings(name, "app.py:handle", Path()), FakeHandler(behave))

    async def fill(self) -> None:
        await self.store.journal.append(
            [
                make_entry(row, record, mapping=f"{name}-id", time=moment, identifiers=(f'"{record}"',))
                for moment, (row, record, name) in enumerate([("a1", "m1", "one"), ("b1", "m2", "two"), ("a2", "m3", "one")])
            ]
        )

    def replaying(self, *names: str) -> Replaying:
        mappings = [mapping(name) for name in names or ("one", "two")]
        functions = {f"f-{name}": self.function(f"f-{name}") for name in ("one", "two", "other")}
        return Replaying(
            self.store, mappings, Registry(), functions.__getitem__, opening(functions, self.state), now, Random(1), 0.0, "ada"
        )

    async def plan(self, plan: Plan = ALL, name: str = "r") -> str:
        assert await self.store.runs.put(planned(name, "ada", plan, now()))
        return name

    async def run(self, plan: Plan = ALL, *names: str, again: bool = False) -> list[dict[str, int]]:
        name = await self.plan(plan, f"r{len(await self.store.runs.select())}")
        return await self.go_on(name, *names, again=again)

    async def go_on(self, name: str, *names: str, again: bool = False) -> list[dict[str, int]]:
        async with aclosing(self.replaying(*names).run(name, again, 2)) as tallies:
            return [tally async for tally in tallies]

    async def state_of(self, name: str) -> str:
        return (await run_named(self.store.runs, name)).state

    async def outcomes(self, name: str) -> list[tuple[str, str, tuple[str, ...]]]:
        return [(step.row, step.outcome, step.failures) for step in await self.store.runs.trail(name)]


def opening(functions: Mapping[str, Function], state: Path) -> Opening:
    return Opening(Registry(), state, state, now, Invoker(functions, now, lambda: 7))


async def test_every_mapping_runs_its_rows_with_its_own_function() -> None:
    bench = Bench(poison={"m3"})
    await bench.fill()
    tallies = await bench.run()
    assert sorted(bench.called) == [("f-one", ("m1",)), ("f-one", ("m3",)), ("f-two", ("m2",))]
    assert (tallies[-1]["total_rows"], tallies[-1]["done_rows"], tallies[-1]["replayed"], tallies[-1]["failed_again"]) == (3, 3, 2, 1)
    assert {tally["total_rows"] for tally in tallies} == {3}  # the bar's end does not move
    assert await held(bench.store.journal, Selection()) == {"a2": ["m3"]}


async def test_nothing_to_run_is_no_error() -> None:
    (tally,) = await Bench().run()
    assert tally_page(tally) == "nothing to replay"


async def test_rows_of_a_mapping_that_is_gone_are_told_before_anything_begins() -> None:
    bench = Bench()
    await bench.fill()
    with pytest.raises(StoreError, match='id = "two-id"'):
        await bench.run(ALL, "one")
    assert bench.called == []
    assert (await bench.run(Plan(Selection(mapping="one-id")), "one"))[-1]["replayed"] == 2


async def test_ids_that_are_not_there_are_told_before_anything_begins() -> None:
    bench = Bench()
    await bench.fill()
    with pytest.raises(StoreError, match="no such failure in the journal: zz"):
        await bench.run(Plan(Selection(ids=("a1", "zz"))))
    assert bench.called == []


@dataclass
class Stand:
    """What the command sees of a daemon."""

    bench: Bench
    config: Config
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    clock: Any = time.time
    random: Random = field(default_factory=Random)
    registry: Registry = field(default_factory=Registry)

    @property
    def store(self) -> MemoryStore:
        return self.bench.store

    @property
    def functions(self) -> dict[str, Function]:
        return {f"f-{name}": self.bench.function(f"f-{name}") for name in self.config.mappings}

    def delivering(self) -> Opening:
        return opening(self.functions, self.bench.state)


def stand(bench: Bench) -> Stand:
    mappings = {name: mapping(name) for name in ("one", "two")}
    return Stand(bench, Config(Path("x"), "memory:", Path(), Address("", 0), 0.0, "auto", "info", {}, mappings))


async def test_the_command_answers_with_tallies() -> None:
    bench = Bench()
    await bench.fill()
    replay = command(cast("Daemon", stand(bench)))
    answers = [answer async for answer in replay(await bench.plan(Plan(Selection(ids=("a1",)))), "ada")]
    assert answers[-1]["replayed"] == 1
    assert bench.called == [("f-one", ("m1",))]


async def test_a_daemon_that_stops_ends_the_replay_and_the_rows_are_kept() -> None:
    bench = Bench(seconds=3600.0)
    await bench.fill()
    daemon = stand(bench)

    async def ask() -> list[dict[str, Any]]:
        return [answer async for answer in command(cast("Daemon", daemon))(await bench.plan(), "ada")]

    asking = asyncio.create_task(ask())
    await asyncio.wait_for(bench.running.wait(), 5)
    daemon.stopping.set()
    with pytest.raises(StoreError, match="the daemon is stopping"):
        await asyncio.wait_for(asking, 5)
    assert len(await held(bench.store.journal, Selection())) == 3
    assert await bench.state_of("r") == "paused"


async def test_a_client_that_goes_ends_the_replay_and_the_rows_are_kept() -> None:
    bench = Bench(seconds=3600.0)
    await bench.fill()
    answers = cast("Any", command(cast("Daemon", stand(bench)))(await bench.plan(), "ada"))
    await anext(answers)
    following = asyncio.create_task(anext(answers))
    await asyncio.wait_for(bench.running.wait(), 5)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await answers.aclose()
    assert len(await held(bench.store.journal, Selection())) == 3


def test_how_a_run_ended_is_told() -> None:
    tally = asdict(Tally(total_rows=6, done_rows=5, replayed=1, failed_again=1, split=1, skipped=1, unfit=1, given_back=1))
    assert tally_page(tally).startswith("1 failure replayed; 1 failed again; 1 failed again in part")


# --- a run by its name --------------------------------------------------------------------------------------------------------------------


@virtually
async def test_a_run_ends_done_and_its_trail_says_what_it_did() -> None:
    bench = Bench(poison={"m3"})
    await bench.fill()
    await bench.run()
    assert await bench.state_of("r0") == "done"
    assert sorted(await bench.outcomes("r0")) == [("a1", "replayed", ()), ("a2", "failed_again", ("a2",)), ("b1", "replayed", ())]
    (run,) = await bench.store.runs.select()
    assert (run.who, run.total, run.owner, dict(run.counts)) == ("ada", 3, "", {"replayed": 2, "failed_again": 1})
    with pytest.raises(StoreError, match="--again"):
        await bench.go_on("r0")
    bench.poison, bench.called = set(), []
    assert (await bench.go_on("r0", again=True))[-1]["replayed"] == 1
    assert bench.called == [("f-one", ("m3",))]  # what failed, and nothing else


@virtually
async def test_what_fails_while_a_run_goes_on_is_not_for_it() -> None:
    bench = Bench()
    await bench.fill()
    name = await bench.plan()
    await bench.store.journal.append([make_entry("late", "m9", mapping="one-id", time=now() + 1, identifiers=('"m9"',))])
    assert (await bench.go_on(name))[-1]["replayed"] == 3
    assert await held(bench.store.journal, Selection()) == {"late": ["m9"]}


@pytest.mark.parametrize("state", ["paused", "aborted"])
@virtually
async def test_a_run_that_is_told_to_leave_finishes_what_runs_and_keeps_the_rest(state: str) -> None:
    bench = Bench()
    await bench.fill()
    name = await bench.plan(Plan(concurrency=1, rate=1.0))
    run = bench.replaying().run(name, False, 1)
    async with aclosing(run) as tallies:
        async for tally in tallies:
            if tally["done_rows"] == 1:
                await change(bench.store.runs, name, lambda run: (paused if state == "paused" else aborted)(run, now()))
    assert await bench.state_of(name) == state
    left = len(await held(bench.store.journal, Selection()))
    assert left in (1, 2)
    if state == "aborted":
        with pytest.raises(StoreError, match="aborted"):
            await bench.go_on(name)
        return
    last = (await bench.go_on(name))[-1]
    assert (last["total_rows"], last["replayed"]) == (left, left)
    assert sorted(bench.called) == [("f-one", ("m1",)), ("f-one", ("m3",)), ("f-two", ("m2",))]  # none twice
    assert await bench.state_of(name) == "done"


@virtually
async def test_a_run_is_run_by_one_at_a_time_and_one_that_was_killed_is_taken_over() -> None:
    bench = Bench()
    await bench.fill()
    name = await bench.plan()
    await change(bench.store.runs, name, lambda run: started(run, "another", now()))
    alive = asyncio.create_task(renewing(bench, name))
    with pytest.raises(StoreError, match="is running already"):
        await bench.go_on(name)
    alive.cancel()
    await asyncio.gather(alive, return_exceptions=True)
    killed = now()
    assert (await bench.go_on(name))[-1]["replayed"] == 3  # it waits until that one has not been heard of for long enough
    assert RUN_SECONDS - RENEW_SECONDS <= now() - killed <= RUN_SECONDS + 2 * LOOK_SECONDS


async def renewing(bench: Bench, name: str) -> None:
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        await change(bench.store.runs, name, lambda run: renewed(run, now()))


async def test_a_run_that_could_not_begin_is_aborted() -> None:
    bench = Bench()
    await bench.fill()
    with pytest.raises(StoreError):
        await bench.run(Plan(Selection(mapping="two-id")), "one")
    assert await bench.state_of("r0") == "aborted"
    with pytest.raises(StoreError, match="there is no replay 'x'"):
        await bench.go_on("x")


# --- what runs, and where to ------------------------------------------------------------------------------------------------------------


async def test_another_function_runs_rows_also_of_a_mapping_that_is_gone() -> None:
    bench = Bench()
    await bench.fill()
    assert (await bench.run(Plan(function="f-other"), "one"))[-1]["replayed"] == 3
    assert {name for name, _ in bench.called} == {"f-other"}
    with pytest.raises(StoreError, match="no function 'nobody'"):
        await bench.run(Plan(function="nobody"))


async def test_a_pattern_chooses_rows_by_what_a_producer_wrote() -> None:
    bench = Bench()
    for number, kind in enumerate(("order", "refund")):
        await bench.store.journal.append([streamed(f"r{number}", kind, time=float(number))])
    plan = Plan(pattern=json.dumps({"data": {"kind": ["refund"]}}))
    assert (await bench.run(plan))[-1]["replayed"] == 1
    assert bench.called == [("f-one", ("r1-0", "r1-1"))]


async def test_rows_go_back_to_their_source_in_their_order(tmp_path: Path) -> None:
    bench = Bench(state=tmp_path)
    rows = [streamed("r0", "order", time=0.0), streamed("r1", "refund", time=1.0)]
    await bench.store.journal.append(rows)
    last = (await bench.run(Plan(to="source", changes=("data.kind=again",))))[-1]
    assert (last["sent"], last["failed_again"], bench.called) == (2, 0, [])
    assert [outcome for _, outcome, _ in await bench.outcomes("r0")] == ["sent", "sent"]
    assert all(step.edited for step in await bench.store.runs.trail("r0"))
    assert await held(bench.store.journal, Selection()) == {}
    assert await in_stream(tmp_path) == [{"kind": "again", "n": n} for _ in rows for n in range(2)]


async def test_what_is_there_is_not_put_again_where_the_source_refuses_the_next_one_for_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, refused, whole = Bench(state=tmp_path), list[str](), StreamReturner.put

    async def put(self: StreamReturner, records: Sequence[KeptRecord]) -> int:
        if records[0].id == "r0-1" and not refused:
            refused.append(records[0].id)
            raise NotConnected("too much at once", retry_after=0.01)
        return await whole(self, records[:1])

    monkeypatch.setattr(StreamReturner, "put", put)
    await bench.store.journal.append([streamed("r0", "order", time=0.0)])
    last = (await bench.run(Plan(to="source")))[-1]
    assert (last["sent"], refused) == (1, ["r0-1"])
    assert await in_stream(tmp_path) == [{"kind": "order", "n": n} for n in range(2)]


async def test_rows_go_to_a_destination_also_of_a_mapping_that_is_gone(tmp_path: Path) -> None:
    bench = Bench(state=tmp_path)
    await bench.store.journal.append([streamed("r0", "order"), streamed("r1", "order", "gone-id")])
    async with asyncio.timeout(20):
        last = (await bench.run(Plan(to=f"file://{tmp_path}/sent.jsonl"), "one"))[-1]
    assert (last["sent"], bench.called) == (2, [])
    sent = [json.loads(line) for line in (tmp_path / "sent.jsonl").read_text().splitlines()]
    assert sorted(body["id"] for body in sent) == ["r0", "r1"]


async def test_a_source_that_cannot_be_written_to_is_told_and_every_row_is_kept_as_it_was() -> None:
    bench = Bench()
    await bench.fill()
    await bench.store.journal.append([make_entry("gone", "m5", mapping="gone-id")])
    with pytest.raises(StoreError, match="no mapping has that id"):
        await bench.run(Plan(to="source"))
    last = (await bench.run(Plan(Selection(mapping="one-id"), to="source")))[-1]
    assert (last["unfit"], last["sent"]) == (2, 0)  # those rows are no records of a stream
    rows = await bench.store.journal.select(Selection())
    assert len(rows) == 4 and not any(row.failures for row in rows)


async def test_where_one_of_the_sources_cannot_be_written_to_nothing_is_put_into_the_others(tmp_path: Path) -> None:
    bench = Bench(state=tmp_path)
    await bench.store.journal.append([streamed("r0", "order"), streamed("r1", "order", "two-id")])
    table = replace(mapping("two"), type="dynamodb-streams")
    replaying = replace(bench.replaying(), mappings=[mapping("one"), table])
    name = await bench.plan(Plan(to="source"))
    with pytest.raises(ConfigError, match=r"mapping two: its source, of type 'dynamodb-streams', cannot be written to"):
        async with aclosing(replaying.run(name, False, 2)) as tallies:
            _ = [tally async for tally in tallies]
    assert [row.state for row in await bench.store.journal.select(Selection(states=()))] == ["kept", "kept"]
    assert await bench.state_of(name) == "aborted"


async def test_records_that_cannot_be_edited_leave_their_row_as_it_is() -> None:
    bench = Bench()
    await bench.fill()
    await bench.store.journal.append([streamed("r0", "order", time=5.0)])
    last = (await bench.run(Plan(changes=("data.kind=1",))))[-1]
    assert (last["replayed"], last["unfit"]) == (1, 3)
    assert {*await held(bench.store.journal, Selection())} == {"a1", "a2", "b1"}


def streamed(row: str, kind: str, mapping: str = "one-id", time: float = 0.0) -> Entry:
    """A failure of two records of a stream."""
    element = {"sequenceNumber": "1", "partitionKey": "key", "approximateArrivalTimestamp": 1.0}
    arn = "arn:aws:kinesis:local:000000000000:stream/one"
    texts = [json.dumps({"eventSourceARN": arn, "kinesis": {**element, "data": encoded(kind, n)}}).encode() for n in range(2)]
    records = tuple(KeptRecord(f"{row}-{n}", "key", 1.0, text) for n, text in enumerate(texts))
    return make_entry(row, mapping=mapping, records=records, identifiers=tuple(f'"{each.id}"' for each in records), time=time)


def encoded(kind: str, number: int) -> str:
    return b64encode(json.dumps({"kind": kind, "n": number}).encode()).decode()


async def in_stream(state: Path) -> list[Any]:
    """What was put into the stream "one"."""
    with closing(sqlite3.connect(next(state.glob("*.db")))) as connection:
        return [json.loads(data) for (data,) in connection.execute("SELECT data FROM records ORDER BY rowid")]
