"""What must hold in every run of the simulator, whatever crashed: the laws, checked against a plain record of what happened.

The oracle sees every invocation begin and end, every save reach the store, and every message leave its queue. It knows nothing of how the
engine works.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from poller.model import Lease
from poller.progress import Progress


class Broken(AssertionError):
    """Raised when a law does not hold; names it."""


@dataclass(slots=True)
class Rules:
    """What the scenario's settings make of the laws. None: no such bound in this scenario."""

    width: int
    concurrency: int
    batch_begun: int | None
    record_begun: int | None
    ordered: bool


@dataclass(slots=True, eq=False)
class Invocation:
    """One call of the function, as the function sees it."""

    life: str
    lane: str
    names: tuple[str, ...]
    over: bool = False


@dataclass(slots=True)
class Oracle:
    """`keys` and `tokens` of every record by name, per lane; `unwanted` are those that the filter does not let through; `journal` is the
    set of names that are in a journal row now. `parents`: of lanes that come after others."""

    rules: Rules
    keys: dict[str, bytes | None]
    tokens: dict[str, int]
    lanes: dict[str, list[str]]
    unwanted: frozenset[str] = frozenset()
    parents: dict[str, tuple[str, ...]] = field(default_factory=dict)
    journal: set[str] = field(default_factory=set)
    handled: set[str] = field(default_factory=set)
    events: int = 0
    begun: Counter[str] = field(default_factory=Counter)
    batches: Counter[tuple[str, ...]] = field(default_factory=Counter)
    running: list[Invocation] = field(default_factory=list)
    last: dict[tuple[str, str, bytes | None], int] = field(default_factory=dict)
    seen: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    settled: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    safe: set[str] = field(default_factory=set)
    checkpoints: dict[str, int] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    windows: set[str] = field(default_factory=set)
    """Lanes that have a window open, by what is saved."""
    passed: set[str] = field(default_factory=set)
    """Lanes of whose descendants something has begun."""
    also: Callable[[Sequence[str]], None] = lambda _names: None
    """Told of what begins."""
    broken: Broken | None = None
    _at_putting: dict[Lease, frozenset[str]] = field(default_factory=dict)
    _at_saving: dict[int, frozenset[str]] = field(default_factory=dict)

    def violated(self, text: str) -> None:
        """A law does not hold. The first time is kept: the engine survives exceptions, this one too."""
        self.broken = self.broken or Broken(f"at {self.events} events: {text}")
        raise self.broken

    # --- invocations ------------------------------------------------------------------------------------------------------------

    def begin(self, life: str, lane: str, names: Sequence[str]) -> Invocation:
        self.events += 1
        invocation = Invocation(life, lane, tuple(names))
        self._alone(invocation)
        self._in_order(invocation)
        self._after_parents(lane)
        self.also(names)
        if self.unwanted.intersection(names):
            self.violated(f"{sorted(self.unwanted.intersection(names))} were filtered out, and are invoked")
        again = self.safe.intersection(names)
        if again:
            self.violated(f"law 10: {sorted(again)} were acked before a save, and are invoked again")
        self.running.append(invocation)
        self.batches[invocation.names] += 1
        self.begun.update(names)
        self._bounded(invocation)
        return invocation

    def end(self, invocation: Invocation, handled: Sequence[str]) -> None:
        """The function returned; these records were handled by it."""
        self.events += 1
        self._over(invocation)
        self.handled.update(handled)

    def free(self, invocation: Invocation) -> None:
        """It was throttled, or ended by our own stop: not an attempt (laws 4, 11)."""
        self.events += 1
        self._over(invocation)
        self.batches[invocation.names] -= 1
        self.begun.subtract(invocation.names)

    def spare(self, names: Sequence[str]) -> None:
        """The batch that has just failed keeps its attempt: the circuit breaker is open (law 4)."""
        self.batches[tuple(names)] -= 1
        self.begun.subtract(names)

    def died(self, invocation: Invocation) -> None:
        """Its worker crashed under it: an attempt, whose outcome nobody knows."""
        self.events += 1
        self._over(invocation)

    def _over(self, invocation: Invocation) -> None:
        invocation.over = True
        self.running.remove(invocation)

    def _alone(self, new: Invocation) -> None:
        """Law 9, and the bounds on what runs at once, within one life."""
        mine = [other for other in self.running if other.life == new.life]
        if len(mine) >= self.rules.concurrency:
            self.violated(f"{len(mine) + 1} invocations at once, {self.rules.concurrency} allowed")
        same = [other for other in mine if other.lane == new.lane]
        if len(same) >= self.rules.width:
            self.violated(f"law 9: {len(same) + 1} batches of lane {new.lane} at once, {self.rules.width} allowed")
        keys = {self.keys[name] for name in new.names} - {None}
        for other in same:
            both = keys & {self.keys[name] for name in other.names}
            if both and (self.rules.ordered or None not in both):
                self.violated(f"law 9: key {sorted(map(str, both))} in two batches at once")

    def _in_order(self, new: Invocation) -> None:
        """First invocations of a key are in order within an owner (streams)."""
        if not self.rules.ordered:
            return
        seen = self.seen[new.life, new.lane]
        for name in new.names:
            if name in seen:
                continue
            seen.add(name)
            key = self.keys[name]
            if key is None and self.rules.width > 1:
                continue
            place = new.life, new.lane, key
            if self.tokens[name] < self.last.get(place, -1):
                self.violated(f"{name} of key {key!r} begins after a later record of its key")
            self.last[place] = self.tokens[name]

    def _after_parents(self, lane: str) -> None:
        """Law 14: of a lane nothing begins before all of its parents is done, and nothing once something of its children has begun."""
        if lane in self.passed:
            self.violated(f"law 14: a batch of {lane} begins after one of its children")
        for parent in self._ancestors(lane) - self.passed:
            left = [name for name in self.lanes[parent] if not self.is_done(name)]
            if left:
                self.violated(f"law 14: a batch of {lane} begins before {left} of {parent} are done")
            self.passed.add(parent)

    def _ancestors(self, lane: str) -> set[str]:
        parents = self.parents.get(lane, ())
        return {*parents}.union(*map(self._ancestors, parents))

    def _bounded(self, new: Invocation) -> None:
        limit = self.rules.batch_begun
        if limit is not None and new.names and self.batches[new.names] > limit:
            self.violated(f"law 11: batch {new.names} begun {self.batches[new.names]} times, {limit} allowed")
        limit = self.rules.record_begun
        for name in new.names:
            if limit is not None and self.begun[name] > limit:
                self.violated(f"law 11: {name} begun {self.begun[name]} times, {limit} allowed")

    # --- what is durable --------------------------------------------------------------------------------------------------------

    def settle(self, lane: str, names: Sequence[str]) -> None:
        """The lane was told that these are done."""
        self.settled[lane].update(names)

    def lose(self, lane: str) -> None:
        """The lane's life is over: what it had settled and not saved is forgotten."""
        self.settled[lane] = {name for name in self.settled[lane] if name in self.safe}

    def putting(self, lease: Lease) -> None:
        """A state is written for the save that comes next: that holds what was settled by now."""
        self._at_putting[lease] = frozenset(self.settled[lease.key.lane])

    def saving(self, lease: Lease, progress: Progress) -> None:
        self._at_saving[id(progress)] = self._at_putting.pop(lease, frozenset(self.settled[lease.key.lane]))

    def saved(self, lease: Lease, progress: Progress) -> None:
        self.events += 1
        lane = lease.key.lane
        checkpoint = progress.checkpoint
        if checkpoint < self.checkpoints.get(lane, checkpoint):
            self.violated(f"law 7: the checkpoint of {lane} went back from {self.checkpoints[lane]} to {checkpoint}")
        self.checkpoints[lane] = checkpoint
        (self.windows.discard if progress.window is None else self.windows.add)(lane)
        for name in self.lanes[lane]:
            if self.tokens[name] < checkpoint and not self.is_done(name):
                self.violated(f"law 7: {name} is below the checkpoint {checkpoint} of {lane}, and unfinished")
        if lane in self.ended and not progress.ended:
            self.violated(f"law 14: {lane} had ended, and is opened again")
        if progress.ended:
            left = [name for name in self.lanes[lane] if not self.is_done(name)]
            if left:
                self.violated(f"law 14: {lane} is said to have ended, and {left} are unfinished")
            if progress.window is not None:
                self.violated(f"law 15: {lane} is said to have ended, and its window is open")
            self.ended.add(lane)
        self.safe |= self._at_saving.get(id(progress), frozenset())

    def deleted(self, name: str) -> None:
        """A message left its queue."""
        self.events += 1
        if not self.is_done(name):
            self.violated(f"law 12: {name} was deleted, and neither handled nor kept")

    def is_done(self, name: str) -> bool:
        return name in self.handled or name in self.journal or name in self.unwanted


def poison_bound(size: int, retries: int) -> int:
    """Laws 3 and 11: how often a poison record in a batch of `size` is begun, with bisect and full failures, over any crashes."""
    levels = math.ceil(math.log2(size)) if size > 1 else 0
    return (levels + 1 + retries) + (levels + 1)
