"""Who should have which lane: what one worker does about it, from what the store shows to all of them (`Leases.held`). Pure.

No worker leads. Each looks at the same rows once a scan and decides for itself, a moment before or after the others:

- *Claim*: a lane that is free is taken at once up to our fair share (lanes / workers, rounded up). What is over is *spare*: it is left to
  those who have less for one short look, and taken by anybody who still finds it free then. So a lane of a crashed worker waits for no
  count to be right.
- *Ask*: of the most loaded worker that has at least two lanes more than we, for some of its lanes, while that is so. We leave our word
  and go on asking; the owner reads on meanwhile.
- *Give*: what is asked of us goes if we have at least two lanes more than who asks, all that he has asked for elsewhere counted as his.

A move from who has n to who has at most n - 2 makes the loads more equal, whatever else happens; so with the same workers and lanes the
moves come to an end, and not before no worker has two lanes more than another. Laws, tested in tests/unit/test_sharing.py:

- Every free lane is claimed or spare, and claimed if it was spare before. Nothing that another has, or that is kept for him, is claimed.
- Each move goes from more to less, by at least two. Without a change from outside the moves end, with loads that differ by at most one.

A few free lanes at a time are opened, and all is looked at again: of fifty workers that start together each finds the others. A word that
was left holds 3 s and is given anew each scan; a lane that is given up has 25 s for what runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from poller.model import Holding

ASKED_AT_ONCE = 10
"""So many lanes one worker may have asked for at a time: what is on its way is read by nobody for a moment."""


@dataclass(frozen=True, slots=True)
class Shares:
    """What to do now: `claim`, in this order; `ask` (again, or for the first time); `give` up. `spare` is free, and for others first."""

    claim: tuple[str, ...] = ()
    spare: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    give: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """What one worker sees. Lanes by name.

    `holdings`: as the store shows them. `openable`: those that we do not read and that may be read, whoever has them. `ours`: those that we
    read and keep; `leaving`: those that we are about to leave, or have lost. `overdue`: those that were spare when we looked last.
    """

    me: str
    holdings: Sequence[Holding]
    openable: Sequence[str]
    ours: Collection[str] = ()
    leaving: Collection[str] = ()
    overdue: Collection[str] = ()


def share(view: View, dice: float) -> Shares:
    """See above. `dice`, in [0, 1), must differ from worker to worker: it keeps them from all wanting the same lane."""
    shown = {holding.lane: holding for holding in view.holdings}
    loads = _loads(view)
    first, rest = _free(view, shown)
    lanes = {*view.openable, *view.ours, *view.leaving}
    total = len(lanes) + sum(bool(holding.owner) and holding.lane not in lanes for holding in view.holdings)
    room = max(0, -(-total // len(loads)) - len(view.ours) - len(first))
    rest = _shuffled(rest, dice)
    claim = (*first, *rest[:room])
    mine = len(view.ours) + len(claim)
    return Shares(claim, tuple(rest[room:]), tuple(_asked(view, loads, mine, dice)), tuple(_given(view, loads)))


def _loads(view: View) -> dict[str, int]:
    """How many lanes each worker has: by valid leases, and kept for him. Who only asks has none, and counts as a worker; so do we."""
    loads = Counter(holding.owner or holding.wanted for holding in view.holdings)
    del loads[""]
    for holding in view.holdings:
        if holding.wanted:
            loads[holding.wanted] += 0
    loads[view.me] = len(view.ours)
    return dict(loads)


def _free(view: View, shown: Mapping[str, Holding]) -> tuple[list[str], list[str]]:
    """What may be claimed: ours from before, kept for us or overdue; and the rest."""
    first: list[str] = []
    rest: list[str] = []
    me, nobody = view.me, Holding("")
    for name in view.openable:
        holding = shown.get(name, nobody)
        whose = holding.owner or holding.wanted
        if whose == me or (not whose and name in view.overdue):
            first.append(name)
        elif not whose:
            rest.append(name)
    busy = {*view.ours, *view.leaving}  # they may have become so while the store was asked
    return [name for name in first if name not in busy], [name for name in rest if name not in busy]


def _asked(view: View, loads: Mapping[str, int], mine: int, dice: float) -> list[str]:
    """Lanes to ask for: what we have asked for already, as far as that is still worth it, and more."""
    others = {name: load for name, load in loads.items() if name != view.me}
    if max(others.values(), default=0) < mine + 2:
        return []
    openable = {*view.openable}
    held = [holding for holding in view.holdings if holding.owner not in ("", view.me) and holding.lane in openable]
    words = [holding for holding in held if holding.wanted == view.me]
    again = _evened(words, dict(others), mine, len(words))
    # All that we have asked for may still be given to us, be it worth it or not.
    for holding in words:
        others[holding.owner] -= 1
    place = {holding.lane: n for n, holding in enumerate(held)}
    unasked = [held[place[lane]] for lane in _shuffled((holding.lane for holding in held if not holding.wanted), dice)]
    return again + _evened(unasked, others, mine + len(words), max(0, ASKED_AT_ONCE - len(words)))


def _evened(lanes: Iterable[Holding], others: dict[str, int], mine: int, limit: int) -> list[str]:
    """So many of these lanes, each from who is the most loaded by then and has two more than we; `others` is changed."""
    by_owner: dict[str, list[str]] = {}
    for holding in lanes:
        by_owner.setdefault(holding.owner, []).append(holding.lane)
    chosen: list[str] = []
    while by_owner and len(chosen) < limit:
        owner = max(by_owner, key=others.__getitem__)
        if others[owner] < mine + 2:
            break
        chosen.append(by_owner[owner].pop())
        if not by_owner[owner]:
            del by_owner[owner]
        others[owner] -= 1
        mine += 1
    return chosen


def _given(view: View, loads: Mapping[str, int]) -> list[str]:
    """Lanes of ours to leave, for who has asked for them."""
    asked = [holding for holding in view.holdings if holding.wanted not in ("", view.me) and holding.lane in view.ours]
    if not asked:
        return []
    theirs = Counter(loads)
    here = {holding.lane for holding in asked}
    for holding in view.holdings:
        # What he has asked for elsewhere, or is being given by us already, may be his before this is.
        if holding.wanted and holding.owner not in ("", holding.wanted) and holding.lane not in here:
            theirs[holding.wanted] += 1
    given, mine = [], len(view.ours)
    for holding in sorted(asked, key=lambda each: each.lane):
        if mine >= theirs[holding.wanted] + 2:
            given.append(holding.lane)
            theirs[holding.wanted] += 1
            mine -= 1
    return given


def _shuffled(names: Iterable[str], dice: float) -> list[str]:
    """In an order that every value of `dice` makes anew."""
    seed = repr(dice).encode()
    return sorted(names, key=lambda name: blake2b(name.encode(), digest_size=8, key=seed).digest())
