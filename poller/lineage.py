"""Shards with parents: which of them may be read now. Pure: values in, values out; poller/shards.py asks the store and keeps the answers.

A stream's shards split, merge and roll over. A child's records come after those of its parents, so a child is opened only when all its
parents have *ended*: their readers came to the end, everything was settled, and that was saved (`Progress.ended`), for any worker to see.

What a source lists may be out of date, or incomplete. So what was listed once, or has begun, is gone only when its reader says so: until it
has ended it is opened like any other, whether or not it is listed now, and its children wait. A parent that was never listed here and never
begun counts as done: its source has trimmed it. Laws, tested in tests/unit/test_lineage.py:

- A shard is not opened before all its listed parents have ended, nor before its begun ones have, listed or not.
- As parents end, every shard is opened some time, whatever the listings were; one that never ends holds up its own descendants only.
- Shards that are their own ancestors, which no source should list, do not wait for each other.

The store is asked about a parent only while a child waits for it and this worker does not read it, and never again once it has ended. A
shard without progress begins where its parents did, else at the starting position; for LATEST that is the moment when the mapping first
began, kept once a stream as the origin of a lane without a name, before the first shard is opened.

Progress of a shard that has ended, and that nobody has listed or named as a parent for an hour, is deleted, under its lease. Within the
hour every worker that had listed it looked at its row, and will not open it again; one that stood still for longer opens it anew, and its
reader says at once that it is gone. So is a parent that never began, and that is what it counts as from then on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard as its source lists it. `parents`: one after a split or a roll-over, two after a merge; they may be gone already."""

    name: str
    parents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a shard's progress: where it began (`Progress.origin`), and whether all of it is done."""

    origin: str
    ended: bool = False


Knowledge = Mapping[str, Known | None]
"""By name: None for a shard that was never begun. What is missing was not asked for."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`open` may be opened now, in the order they are listed. `ask`: more can be said once the progress of these is known (anew, if they
    had not ended). `waiting`: those that wait for a parent."""

    open: tuple[str, ...]
    ask: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()


def remembered(before: Mapping[str, Shard], listing: Sequence[Shard], known: Knowledge) -> dict[str, Shard]:
    """What a plan looks at: what is listed now, and what was listed before, or has begun, and has not ended."""
    shards = {shard.name: shard for shard in listing}
    for name in (*before, *known):
        if name not in shards and not _ended(name, known) and (name in before or known[name] is not None):
            shards[name] = before.get(name, Shard(name))
    return untangled(shards)


def untangled(shards: Mapping[str, Shard]) -> dict[str, Shard]:
    """The same without the parents that a shard is itself an ancestor of: waiting for them would never end."""
    clean = dict(shards)
    while True:
        try:
            TopologicalSorter({name: [each for each in shard.parents if each in clean] for name, shard in clean.items()}).prepare()
        except CycleError as error:
            cycle = set(error.args[1])
            for name in cycle:
                clean[name] = replace(clean[name], parents=tuple(each for each in clean[name].parents if each not in cycle))
        else:
            return clean


def plan(shards: Mapping[str, Shard], known: Knowledge, running: Collection[str] = ()) -> Plan:
    """`shards`: as `remembered` made it. `running`: those that this worker reads now; of them it knows by itself when they end."""
    left = {name: shard for name, shard in shards.items() if name not in running and not _ended(name, known)}
    blocked = {name: [each for each in shard.parents if _blocks(each, shards, known)] for name, shard in left.items()}
    ask: dict[str, None] = {}
    for parents in blocked.values():
        # A parent that waits itself has not begun: there is nothing to ask for before its own parents have ended.
        ask.update((each, None) for each in parents if each not in running and not blocked.get(each))
    return Plan(
        open=tuple(name for name, parents in blocked.items() if not parents),
        ask=tuple(ask),
        waiting=tuple(name for name, parents in blocked.items() if parents),
    )


def origin(shard: Shard, known: Knowledge, otherwise: str) -> str:
    """Where a shard begins that has no progress: where its parents did, the earliest of them; else `otherwise`.

    So that what a mapping began to read, it reads on, whatever its starting position says by now.
    """
    origins = [each.origin for name in shard.parents if (each := known.get(name)) is not None]
    return min(origins, key=_moment, default=otherwise)


def needed(shards: Iterable[Shard]) -> set[str]:
    """The names whose progress a plan may look at."""
    return {name for shard in shards for name in (shard.name, *shard.parents)}


def _ended(name: str, known: Knowledge) -> bool:
    progress = known.get(name)
    return progress is not None and progress.ended


def _blocks(parent: str, shards: Mapping[str, Shard], known: Knowledge) -> bool:
    if parent in shards or parent not in known:
        return not _ended(parent, known)
    progress = known[parent]
    return progress is not None and not progress.ended


def _moment(origin: str) -> float:
    """What begins at no particular time begins before all that does."""
    kind, _, moment = origin.partition(" ")
    return float(moment) if kind == "AT_TIMESTAMP" else float("-inf")
