"""Replays by name, as the command line reads and changes them: straight from the store, with a daemon and without."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import msgspec

from poller.cli.journal import SHORT_ID, opened
from poller.cli.text import clean, iso, moment, table
from poller.config import Config
from poller.config.destinations import hidden
from poller.failures.journal import Selection
from poller.failures.runs import Plan, Run, Step, shown_state
from poller.registry import Registry
from poller.replay import hold


async def known(config: Config, limit: int) -> Sequence[Run]:
    """The newest first."""
    async with opened(config) as store:
        return await store.runs.select(limit=limit)


async def trail_of(config: Config, name: str, whole: bool) -> tuple[Run, Sequence[Step]]:
    """The run, and its trail if the whole is asked for. Raises StoreError for a name that is not there."""
    async with opened(config) as store:
        run = await hold.run_named(store.runs, name)
        return run, [step async for step in hold.trail(store.runs, name)] if whole else ()


async def changed(config: Config, name: str, change: Callable[[Run, float], Run]) -> Run:
    """The run, paused or aborted: who runs it hears of that within a second. Raises StoreError where it cannot be."""
    async with opened(config) as store:
        return await hold.change(store.runs, name, lambda run: change(run, time.time()))


def document(run: Run) -> dict[str, Any]:
    """A run for a program. Edited records are not shown, only of which rows there are any; nor what is a secret of an address."""
    plan: dict[str, Any] = msgspec.to_builtins(run.plan)
    return {
        "run": run.name,
        "state": shown_state(run, time.time()),
        "who": run.who,
        "began": iso(run.began),
        "changed": iso(run.changed),
        "total": run.total,
        "outcomes": dict(run.counts),
        "plan": {**plan, "to": _to(run.plan), "edits": sorted(run.plan.edits)},
    }


def step_document(step: Step) -> dict[str, Any]:
    """A line of the trail for a program."""
    return {
        "run": step.run,
        "failure": step.row,
        "outcome": step.outcome,
        "time": iso(step.time),
        "who": step.who,
        "failures": [*step.failures],
        "edited": step.edited,
        "released": [*step.released],
    }


def overview(runs: Sequence[Run]) -> str:
    """Runs as a table, a line each."""
    now = time.time()
    heads = ("REPLAY", "BEGUN AT", "BY", "STATE", "REPLAYED", "FAILED AGAIN", "WHAT")
    lines = ((run.name, moment(run.began), run.who, shown_state(run, now), *_counts(run), "; ".join(_plan(run.plan))) for run in runs)
    return table(heads, lines)


def page(run: Run) -> str:
    """All about one run, for a person."""
    done, failed = _counts(run)
    lines = [
        f"replay    {run.name}",
        f"begun     {moment(run.began)}, by {run.who}",
        f"state     {shown_state(run, time.time())}, since {moment(run.changed)}",
        f"done      {done:,} replayed or sent, {failed:,} failed again; {run.total:,} were to be done when it was last started",
    ]
    return clean("\n".join([*lines, *(f"plan      {part}" for part in _plan(run.plan))]))


def steps_page(steps: Sequence[Step]) -> str:
    """The trail as a table."""
    heads = ("AT", "BY", "FAILURE", "OUTCOME", "FAILED AGAIN AS")
    return table(heads, ((moment(step.time), step.who, step.row[:SHORT_ID], _outcome(step), _ids(step.failures)) for step in steps))


def _counts(run: Run) -> tuple[int, int]:
    counts = run.counts
    return counts.get("replayed", 0) + counts.get("sent", 0), counts.get("failed_again", 0) + counts.get("split", 0)


def _outcome(step: Step) -> str:
    text = step.outcome.replace("_", " ")
    text += f", {len(step.released):,} released" if step.released else ""
    return f"{text}, edited" if step.edited else text


def _ids(ids: Sequence[str]) -> str:
    return " ".join(each[:SHORT_ID] for each in ids)


def _to(plan: Plan) -> str:
    """Where it sends, without what is a secret of an address."""
    return plan.to and hidden(plan.to, Registry())


def _plan(plan: Plan) -> list[str]:
    """What was asked for, in the words of the options."""
    selection, said = plan.selection, list[str]()
    unset = {field.name: field.default for field in fields(Selection)}
    for name in ("mapping", "group", "key"):
        if getattr(selection, name) != unset[name]:
            said.append(f"--{name} {getattr(selection, name)}")
    if selection.ids:
        said.append(_ids(selection.ids[:5]) + (", ..." if len(selection.ids) > 5 else ""))
    if selection.after is not None:
        said.append(f"--after {moment(selection.after)}")
    said += [f"--pattern {plan.pattern}"] * bool(plan.pattern) + [f"--to-function {plan.function}"] * bool(plan.function)
    said += [f"--to {_to(plan)}"] * bool(plan.to) + ["--only-failing"] * plan.only_failing
    said += [f"--set {change}" for change in plan.changes] + [f"{len(plan.edits)} edited"] * bool(plan.edits)
    return said or ["all"]
