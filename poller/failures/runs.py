"""Runs: replays by name, and the trail of what each has done to rows of the journal. Values and their transitions; pure.

            .---- stopped, or --pause ------.
            v                               |
planned: paused --started--> running -------+--every row has ended--> done
            |                   |  ^                                    |
            '----- abort -------+  '-------- started again (--again) ---'
                                v
                             aborted: what is not done stays kept, and no resume takes it up

A run that is running renews itself; one that has not for RUN_SECONDS was killed, and may be started by anyone. Each change presents the
version that it was made from (`Runs.put`), so that of two who change a run at once one looks again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import msgspec

from poller.errors import StoreError
from poller.failures.journal import Entry, Selection
from poller.model import Fault

RUN_SECONDS = 70.0
"""For how long a run that was renewed counts as alive: when it does not any more, all claims on its rows have run out too."""

RunState: TypeAlias = Literal["paused", "running", "aborted", "done"]

Outcome: TypeAlias = Literal["replayed", "sent", "failed_again", "split"]
"""What became of a row: every record was handled; it was put or sent to another place; all of it, or some of it, failed again."""


SOURCE = "source"
"""Where a plan sends rows (`Plan.to`) that go back to where they came from."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to do. `selection` ends at the run's beginning: what fails later is not for this run.

    `pattern`: only rows that have a record which it matches, "" for all. `function`: run this one instead of the mapping's. `to`: do not
    invoke, but put the records back to their source ("source"), or send the row to the destination of this address. `only_failing`: halve
    a row down to the records that fail, and keep each of those as a row of its own. `changes`: `path=value`, made to each record;
    `edits`: row -> the JSON text of its records as they were edited. `rate`: records a second, 0: as fast as it goes. `concurrency`: so
    many rows at once, 0: as who runs it thinks fit.
    """

    selection: Selection = field(default_factory=Selection)
    pattern: str = ""
    function: str = ""
    to: str = ""
    only_failing: bool = False
    changes: tuple[str, ...] = ()
    edits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rate: float = 0.0
    concurrency: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """One replay. Times are epoch seconds. `who` planned it. `owner` runs it, until `until` unless renewed. `total`: rows when it was
    last started. Lines of the trail up to number `since` do not count (`--again`): what failed then is run once more. `counts`: how many
    rows ended how, by the trail."""

    name: str
    who: str
    began: float
    plan: Plan = field(default_factory=Plan)
    state: RunState = "paused"
    total: int = 0
    owner: str = ""
    until: float = 0.0
    changed: float = 0.0
    since: int = 0
    version: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)

    def alive(self, now: float) -> bool:
        """Whether somebody runs it now, as far as anyone can tell."""
        return self.owner != "" and self.until > now


@dataclass(frozen=True, slots=True)
class Finished:
    """A claimed row that a run is done with. `fault`: why it failed again. `rests`: what failed of a row that was split, as rows of their
    own. `edited`: what was run was not what the row holds."""

    row: str
    outcome: Outcome
    fault: Fault | None = None
    rests: tuple[Entry, ...] = ()
    edited: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """A line of the trail: who has done what to a row, when (epoch seconds). `failures`: the rows that hold what failed again. `released`:
    those that were parked behind this one, and are kept now."""

    run: str
    row: str
    outcome: Outcome
    time: float
    who: str
    failures: tuple[str, ...] = ()
    edited: bool = False
    number: int = 0
    """Grows from line to line, in its store."""
    released: tuple[str, ...] = ()


def planned(name: str, who: str, plan: Plan, now: float) -> Run:
    """A run that nobody has started yet."""
    before = now if plan.selection.before is None else min(now, plan.selection.before)
    return Run(name, who, now, replace(plan, selection=replace(plan.selection, before=before)), changed=now)


def started(run: Run, owner: str, now: float, since: int | None = None) -> Run:
    """`since`: run what had failed up to that number of the trail once more. Raises StoreError where it may not be started now."""
    if run.alive(now) and run.owner != owner:
        raise StoreError(f"replay {run.name} is running already; `poller replay pause {run.name}` pauses it")
    if run.state == "aborted":
        raise StoreError(f"replay {run.name} was aborted: what it had not done is kept; begin another one")
    if run.state == "done" and since is None:
        raise StoreError(f"replay {run.name} is done; with --again it runs what failed once more")
    return replace(run, state="running", owner=owner, until=now + RUN_SECONDS, changed=now, since=run.since if since is None else since)


def renewed(run: Run, now: float) -> Run:
    return replace(run, until=now + RUN_SECONDS)


def paused(run: Run, now: float) -> Run:
    """Raises StoreError for one that has ended."""
    return _told(run, "paused", now)


def aborted(run: Run, now: float) -> Run:
    """Raises StoreError for one that has ended."""
    return _told(run, "aborted", now)


def left(run: Run, now: float, done: bool) -> Run:
    """By its owner, whose rows are all finished or given back. `done`: every row has ended; else it is paused, unless it was aborted."""
    state = run.state if run.state != "running" else "done" if done else "paused"
    return replace(run, state=state, owner="", until=0.0, changed=now)


def _told(run: Run, state: RunState, now: float) -> Run:
    """Whoever runs it sees that, and leaves: it is his until then."""
    if run.state in ("aborted", "done") and run.state != state:
        raise StoreError(f"replay {run.name} is {run.state} already")
    return replace(run, state=state, changed=now)


def over(run: Run, before: float) -> bool:
    """Whether it has ended, and nothing has happened to it since then: no resume asks for its trail. Paused ones, and those that were
    killed, wait for theirs however long."""
    return run.state in ("done", "aborted") and max(run.changed, run.until) < before


def shown_state(run: Run, now: float) -> str:
    """The state for a person: "interrupted" is a run whose process was killed."""
    return "interrupted" if run.state == "running" and not run.alive(now) else run.state


def encode(run: Run) -> bytes:
    """As stores keep it: all but the version and the counts, which they keep themselves."""
    return msgspec.json.encode(replace(run, version=0, counts={}))


def decode(body: bytes, version: int, counts: Mapping[str, int]) -> Run:
    """What an earlier version wrote has defaults for what it did not know. Raises StoreError."""
    try:
        run = msgspec.json.decode(body, type=Run)
    except msgspec.DecodeError as error:
        raise StoreError(f"a replay in the store is damaged ({error}): restore a backup of the store") from error
    return replace(run, version=version, counts=counts)
