"""What must hold in every run of the simulated fleet, checked against a plain record of what happened. It knows nothing of the rules.

1. At no time do two workers believe in one lane: may begin, settle or save, as far as each of them can tell.
2. A lane that nobody reads is read again in time: HANDOVER after it was left in good order, a lease and BOUND after its worker crashed or
   stood still, and BOUND after a lease ran out that could not be renewed; later by SKEW, where clocks differ by that.
3. What was begun is begun again only after a crash, a standstill or a lost lease; nothing is left out; no checkpoint goes back.
4. Some time after the world has calmed down every lane is read, each worker has its share, and nothing moves.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from poller.model import Lease
from poller.ordered import OrderedLane
from poller.ordered_source import LEASE_SECONDS, TRUST
from poller.progress import Progress
from poller.testing.oracle import Broken

BOUND = 1.0
"""So long after a lease has run out its lane is read again."""

HANDOVER = 1.0
"""So long after its last invocation a lane that was left is read again."""

SKEW = 1.0
"""So much the clocks of two workers differ at most."""

BACKOFF = 35.0
"""So long after an outage of the store workers may wait before they ask it again."""

ANSWERS = 0.1
"""What the calls of the store take, one after the other, that all bounds are without."""


@dataclass(slots=True, eq=False)
class Watched:
    """A lane of one worker, as the oracle knows it."""

    lane: OrderedLane
    worker: str


@dataclass(slots=True)
class Shard:
    """`due`: when somebody must have read it again; `since`: why. `reader`: who reads it, and who else may believe he does. `begun`: the
    highest token that was begun; those up to `excused` may be begun again. `kept`: who has asked for it."""

    due: float = math.inf
    since: str = ""
    left: float = 0.0
    reader: Watched | None = None
    believers: list[Watched] = field(default_factory=list)
    begun: int = -1
    excused: int = -1
    checkpoint: int = -1
    kept: str = ""


class FleetOracle:
    """`holder`: who has a lane, as the store has it. `gone`: workers that crashed, stop, stand still, or cannot reach the store."""

    def __init__(self, shards: Sequence[str], holder: Callable[[str], str]) -> None:
        self.holder = holder
        self.shards = {name: Shard() for name in shards}
        self.gone = set[str]()
        self.crashed = set[str]()
        self.pardoned_until = 0.0
        self.counts = Counter[str]()
        self.slowest: dict[str, float] = {}
        self.moved = 0.0
        """When a lane was opened last."""
        self.broken: Broken | None = None

    def breach(self, text: str) -> None:
        """Kept too, for a worker's loop may swallow it."""
        self.broken = self.broken or Broken(f"at {self._now():.2f} s: {text}")
        raise self.broken

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # --- who believes -----------------------------------------------------------------------------------------------------------

    def believes(self, watched: Watched) -> bool:
        """Whether this worker may still begin, settle or save something of this lane."""
        lane = watched.lane
        return watched.worker not in self.crashed and not lane.lost and not lane.closed and self._now() <= lane.trusted_until

    def opened(self, watched: Watched) -> None:
        shard = self.shards[watched.lane.name]
        # What a worker had before it claimed the lane anew, and got no further with, is its own affair.
        shard.believers = [other for other in shard.believers if self.believes(other) and other.worker != watched.worker]
        for other in shard.believers:
            self.breach(f"{watched.lane.name}: both {other.worker} and {watched.worker} believe in it")
        shard.believers.append(watched)
        self.counts["opened"] += 1
        self.moved = self._now()

    def saved(self, lease: Lease, progress: Progress) -> None:
        shard = self.shards.get(lease.key.lane)
        if shard is not None:
            if progress.checkpoint < shard.checkpoint:
                self.breach(f"{lease.key.lane}: {lease.owner} set the checkpoint back from {shard.checkpoint} to {progress.checkpoint}")
            shard.checkpoint = progress.checkpoint

    def claimed(self, lane: str, worker: str) -> None:
        """Who has gone meanwhile may get what it asked for before: then nobody else does, until that lease runs out."""
        shard = self.shards.get(lane)
        if shard is not None and worker in self.gone and shard.due < math.inf:
            shard.due = max(shard.due, self._now() + LEASE_SECONDS + BOUND + SKEW + ANSWERS)

    # --- reading ----------------------------------------------------------------------------------------------------------------

    def reads(self, watched: Watched) -> None:
        shard, now = self.shards[watched.lane.name], self._now()
        if shard.reader is None or shard.due < math.inf:
            gap, kind = now - shard.left, shard.since.partition(" ")[0]
            if now > self.pardoned_until:
                self.slowest[kind] = max(self.slowest.get(kind, 0.0), gap)
            if now > shard.due and now > self.pardoned_until:
                self.breach(f"{watched.lane.name}: read again only {gap:.2f} s after {shard.since}")
        shard.reader, shard.due, shard.kept = watched, math.inf, ""

    def began(self, watched: Watched, tokens: Sequence[int]) -> None:
        shard = self.shards[watched.lane.name]
        others = [other.worker for other in shard.believers if other is not watched and self.believes(other)]
        if others:
            self.breach(f"{watched.lane.name}: begun by {watched.worker}, while {others[0]} believes in it too")
        for token in tokens:
            if token <= shard.begun and token > shard.excused:
                self.breach(f"{watched.lane.name}: record {token} is begun twice, and its worker never lost it")
            if token > shard.begun + 1:
                self.breach(f"{watched.lane.name}: record {token} is begun after {shard.begun}")
            shard.begun = max(shard.begun, token)
        self.counts["records"] += len(tokens)

    # --- what ends a reading ----------------------------------------------------------------------------------------------------

    def closed(self, watched: Watched, dropped: bool, wanted: str) -> None:
        """The lane was closed; `dropped`: its lease too, so that who asked for it, or anybody, may have it at once."""
        shard = self.shards[watched.lane.name]
        if shard.reader is not watched:
            return
        if dropped:
            self.counts["handed over" if wanted else "left"] += 1
            shard.kept = wanted
            if wanted in self.gone:
                self._unread(shard, f"leaving it to {wanted}, who is gone", LEASE_SECONDS + BOUND + SKEW)
            else:
                self._unread(shard, f"hand-over by {watched.worker}", HANDOVER)
        else:
            self._lost(shard, f"close without a save by {watched.worker}", LEASE_SECONDS + BOUND + SKEW)

    def lost(self, watched: Watched) -> None:
        shard = self.shards[watched.lane.name]
        self.counts["lost"] += 1
        if shard.reader is watched:
            # The lease has the rest of its time yet, that its owner does not trust in, and what it gave it up too early.
            self._lost(shard, f"loss by {watched.worker}", LEASE_SECONDS * (1.05 - TRUST) + BOUND + SKEW)

    def gone_away(self, worker: str, how: str, crashed: bool = False) -> None:
        """It crashed, stands still, or stops or cannot reach the store (then what it reads is another matter)."""
        self.gone.add(worker)
        if crashed:
            self.crashed.add(worker)
        for name, shard in self.shards.items():
            if shard.due < math.inf:
                if worker in (shard.kept, self.holder(name)):  # it would have been the next
                    shard.due = max(shard.due, self._now() + LEASE_SECONDS + BOUND + SKEW + ANSWERS)
            elif shard.reader is not None and shard.reader.worker == worker and how in ("crash", "standstill"):
                self._lost(shard, f"{how} of {worker}", LEASE_SECONDS + BOUND + SKEW)

    def back(self, worker: str) -> None:
        """It goes on. What it still believes in it reads again by itself."""
        self.gone.discard(worker)
        for shard in self.shards.values():
            if shard.reader is not None and shard.reader.worker == worker and self.believes(shard.reader):
                shard.due = math.inf

    def pardon(self, until: float) -> None:
        """The store is out for all until then."""
        self.pardoned_until = max(self.pardoned_until, until + BACKOFF)

    def _lost(self, shard: Shard, since: str, seconds: float) -> None:
        shard.excused = max(shard.excused, shard.begun)
        self._unread(shard, since, seconds)

    def _unread(self, shard: Shard, since: str, seconds: float) -> None:
        if shard.due == math.inf:
            shard.left, shard.since = self._now(), since
            shard.due = self._now() + seconds + ANSWERS

    # --- the end ----------------------------------------------------------------------------------------------------------------

    def at_rest(self, loads: Sequence[int], calm_since: float, settled: float) -> None:
        """Some time after all has calmed down: every lane is read, shares are even, and since `settled` nothing has moved."""
        now, mean = self._now(), len(self.shards) / len(loads)
        for name, shard in self.shards.items():
            if shard.reader is None or (shard.due < now and now > self.pardoned_until) or not self.believes(shard.reader):
                self.breach(f"{name}: nobody reads it, {now - calm_since:.0f} s after the last fault; last: {shard.since or 'never read'}")
        if sum(loads) != len(self.shards) or max(abs(load - mean) for load in loads) > max(1.0, mean / 10):
            self.breach(f"{sum(loads)} lanes are shared so: {sorted(loads)}, {now - calm_since:.0f} s after the last fault")
        if self.moved > settled:
            self.breach(f"lanes go on moving, {self.moved - calm_since:.0f} s after the last fault")
