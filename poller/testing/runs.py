"""What the replays of every store must keep, by property: their contract suite. See stores.py for how suites are used."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from poller.failures.journal import Selection
from poller.failures.runs import Finished, Plan, Run, RunState, Step, started
from poller.model import Fault
from poller.protocols import Store
from poller.testing.journals import held, make_entry, row_of

OLD = Fault("error", "ValueError", "why it was kept first")
AGAIN = Fault("error", "KeyError", "'again' \N{SNOWMAN}")
PLAN = Plan(
    Selection(ids=("f1", "f2"), mapping="orders", after=1.5, before=9.5, copies=False, group="ab", key="k"),
    pattern='{"body": {"kind": ["order"]}}',
    function="mended",
    to="source",
    only_failing=True,
    changes=("body.a=1",),
    edits={"f1": ('{"messageId":"m1"}', "{}")},
    rate=2.5,
    concurrency=7,
)


def make_run(name: str = "r1", **fields: Any) -> Run:
    """A run that is planned; everything but its name is the same for all unless it is given."""
    return replace(Run(name, "ada@host", 1000.0, PLAN, changed=1000.0), **fields)


async def run_of(store: Store, name: str) -> Run:
    (run,) = await store.runs.select([name])
    return run


async def claimed(store: Store, *names: str, owner: str = "w1") -> None:
    """These rows, of a record each, in the journal and claimed."""
    await store.journal.append([make_entry(name, f"m-{name}", fault=OLD) for name in names])
    assert list(await store.journal.mark(names, "claimed", 10.0, owner, 70.0)) == [*names]


class RunsContract:
    """poller.failures.protocols.Runs: a run is changed by one at a time, and what it did to a row is told where, and when, it is done."""

    async def test_a_run_is_read_back_as_it_was(self, store: Store) -> None:
        run = make_run(state="running", total=3, owner="w1", until=1060.0, since=7)
        assert await store.runs.put(run)
        assert await run_of(store, "r1") == replace(run, version=1)
        assert list(await store.runs.select(["r2"])) == []

    async def test_a_name_is_given_once(self, store: Store) -> None:
        assert await store.runs.put(make_run())
        assert not await store.runs.put(make_run(who="eve@host"))
        assert (await run_of(store, "r1")).who == "ada@host"

    async def test_of_two_changes_at_once_one_is_refused(self, store: Store) -> None:
        await store.runs.put(make_run())
        run = await run_of(store, "r1")
        changes = [replace(run, owner=f"w{n}", state="running") for n in range(4)]
        done = await asyncio.gather(*(store.runs.put(change) for change in changes))
        assert sorted(done) == [False, False, False, True]
        now = await run_of(store, "r1")
        assert now == replace(changes[done.index(True)], version=2)
        assert not await store.runs.put(replace(run, version=7))
        assert not await store.runs.put(make_run("r9", version=1))  # to change what is not there makes nothing
        assert await store.runs.put(replace(now, state="done"))

    async def test_the_newest_come_first(self, store: Store) -> None:
        for name, began in (("b", 2.0), ("a", 1.0), ("d", 3.0), ("c", 3.0)):
            await store.runs.put(make_run(name, began=began))
        assert [run.name for run in await store.runs.select()] == ["c", "d", "b", "a"]
        assert [run.name for run in await store.runs.select(limit=2)] == ["c", "d"]
        assert [run.name for run in await store.runs.select(["a", "d"])] == ["d", "a"]

    async def test_what_is_finished_is_marked_and_told(self, store: Store) -> None:
        await store.runs.put(make_run())
        await claimed(store, "f1", "f2", "f3")
        rest = make_entry("rest", "m-f3", fault=AGAIN, run="r1", time=20.0)
        done = [Finished("f1", "replayed"), Finished("f2", "failed_again", AGAIN, edited=True), Finished("f3", "split", rests=(rest,))]
        told = await store.runs.finish("r1", done, 20.0, "w1", "ada@host")
        rows = {row.entry.id: row for row in await store.journal.select(Selection(states=()))}
        assert {name: row.state for name, row in rows.items()} == {"f1": "replayed", "f2": "kept", "f3": "replayed", "rest": "kept"}
        assert (rows["f2"].entry.fault, rows["f2"].failures, rows["f2"].changed) == (AGAIN, 1, 20.0)
        assert (rows["rest"].entry.fault, rows["rest"].entry.run) == (AGAIN, "r1")
        steps = [replace(step, number=0) for step in await store.runs.trail("r1")]
        assert steps == [
            Step("r1", "f1", "replayed", 20.0, "ada@host"),
            Step("r1", "f2", "failed_again", 20.0, "ada@host", ("f2",), edited=True),
            Step("r1", "f3", "split", 20.0, "ada@host", ("rest",)),
        ]
        assert [replace(step, number=0) for step in told] == steps
        assert dict((await run_of(store, "r1")).counts) == {"replayed": 1, "failed_again": 1, "split": 1}

    async def test_who_has_not_claimed_a_row_finishes_nothing(self, store: Store) -> None:
        await store.runs.put(make_run())
        await claimed(store, "f1", owner="w1")
        await claimed(store, "f2", owner="w2")
        rest = make_entry("rest", "m-new", run="r1")
        done = [Finished("f1", "split", rests=(rest,)), Finished("f2", "replayed"), Finished("gone", "replayed")]
        assert [step.row for step in await store.runs.finish("r1", done, 20.0, "w2", "ada")] == ["f2"]
        assert list(await store.runs.finish("r1", done, 21.0, "w2", "ada")) == []  # nor twice
        assert (await row_of(store.journal, "f1")).state == "claimed"
        assert "rest" not in await held(store.journal)
        assert [step.row for step in await store.runs.trail("r1")] == ["f2"]
        assert list(await store.runs.finish("r1", (), 21.0, "w2", "ada")) == []

    async def test_rows_of_a_run_that_is_forgotten_are_finished_without_a_trail(self, store: Store) -> None:
        """Its last worker had stood still for longer than the journal keeps runs."""
        await claimed(store, "a")
        (step,) = await store.runs.finish("gone", [Finished("a", "replayed")], 20.0, "w1", "ada")
        assert (step.row, step.outcome) == ("a", "replayed")
        assert (await row_of(store.journal, "a")).state == "replayed"
        assert list(await store.runs.trail("gone")) == []

    async def test_a_rest_whose_record_is_kept_already_is_told_by_the_row_that_holds_it(self, store: Store) -> None:
        """The live mapping has failed on it meanwhile."""
        await store.runs.put(make_run())
        await claimed(store, "f1")
        await store.journal.append([make_entry("newer", "m-f1", run="another")])
        rest = make_entry("rest", "m-f1", run="r1")
        await store.runs.finish("r1", [Finished("f1", "split", rests=(rest,))], 20.0, "w1", "ada")
        assert [step.failures for step in await store.runs.trail("r1")] == [("newer",)]
        assert {row.entry.id: row.state for row in await store.journal.select(Selection(states=()))} == {"f1": "replayed", "newer": "kept"}

    async def test_a_trail_is_told_in_parts_and_by_row(self, store: Store) -> None:
        names = [f"f{n:03}" for n in range(600)]
        for run in ("r1", "r2"):
            await store.runs.put(make_run(run))
        await claimed(store, *names)
        await store.runs.finish("r1", [Finished(name, "sent") for name in names[1:]], 20.0, "w1", "ada")
        await store.runs.finish("r2", [Finished(names[0], "replayed")], 20.0, "w1", "ada")
        parts, after = list[Step](), 0
        while part := await store.runs.trail("r1", after=after, limit=250):
            parts += part
            after = part[-1].number
        assert [step.row for step in parts] == names[1:]
        assert {step.row for step in await store.runs.trail("r1", [names[0], *names[5:590], "none"])} == {*names[5:590]}
        assert [step.row for step in await store.runs.trail("r2")] == names[:1]
        assert list(await store.runs.trail("r3")) == []
        assert dict((await run_of(store, "r1")).counts) == {"sent": 599}

    async def test_runs_that_ended_are_forgotten_a_few_lines_at_a_time(self, store: Store) -> None:
        rows = {name: [f"{name}-{n}" for n in range(count)] for name, count in {"done": 7, "empty": 0, "late": 2, "paused": 3}.items()}
        for number, (name, its) in enumerate(rows.items()):
            await store.runs.put(make_run(name, began=10.0 + number, state="running", changed=10.0))
            if its:
                await claimed(store, *its)
                await store.runs.finish(name, [Finished(row, "replayed") for row in its], 20.0, "w1", "ada")
        ends: dict[str, tuple[RunState, float]] = {"done": ("done", 50.0), "empty": ("aborted", 60.0), "late": ("done", 70.0)}
        for name, (state, changed) in {**ends, "paused": ("paused", 50.0)}.items():
            assert await store.runs.put(replace(await run_of(store, name), state=state, changed=changed))
        assert await store.runs.forget(50.0, 100) == 0  # not before it is over
        assert await store.runs.forget(70.0, 5) == 5
        assert dict((await run_of(store, "done")).counts) == {"replayed": 2}
        assert await store.runs.forget(70.0, 5) == 3  # the last two, and the run
        assert await store.runs.forget(70.0, 5) == 1
        assert await store.runs.forget(70.0, 5) == 0
        assert [run.name for run in await store.runs.select()] == ["paused", "late"]
        assert {name: len(await store.runs.trail(name)) for name in rows} == {"done": 0, "empty": 0, "late": 2, "paused": 3}
        # Its name is free, and its rows are what they were.
        assert await store.runs.put(make_run("done"))
        assert (await row_of(store.journal, "done-0")).state == "replayed"

    async def test_a_run_that_is_started_again_while_it_is_forgotten_stays(self, store: Store) -> None:
        await store.runs.put(make_run("r1", state="running", began=10.0, changed=10.0))
        names = [f"f{n}" for n in range(4)]
        await claimed(store, *names)
        await store.runs.finish("r1", [Finished(name, "failed_again", AGAIN) for name in names], 20.0, "w1", "ada")
        await store.runs.put(replace(await run_of(store, "r1"), state="done", changed=20.0))
        assert await store.runs.forget(30.0, 2) == 2
        left = await store.runs.trail("r1")
        again = started(await run_of(store, "r1"), "w2", 40.0, since=left[-1].number)
        assert await store.runs.put(again)
        assert await store.runs.forget(39.0, 2) == 0
        assert list(await store.journal.mark(names, "claimed", 41.0, "w2", 90.0)) == names
        await store.runs.finish("r1", [Finished(names[0], "replayed")], 42.0, "w2", "ada")
        assert [(line.row, line.outcome) for line in await store.runs.trail("r1", after=again.since)] == [(names[0], "replayed")]

    async def test_texts_of_any_kind_come_back(self, store: Store) -> None:
        plan = Plan(Selection(key="a\x00b \N{SNOWMAN}"), edits={"f": ('{"a":"\N{SNOWMAN}"}',)})
        run = make_run("nightly \N{SNOWMAN}", plan=plan)
        await store.runs.put(run)
        assert await run_of(store, run.name) == replace(run, version=1)
