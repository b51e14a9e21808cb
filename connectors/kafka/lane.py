"""A partition as a lane: an ordered lane whose right is the group's assignment, and that a rebalance holds up but does not end."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

from connectors.kafka.commits import Commits
from connectors.kafka.membership import Membership
from connectors.kafka.metadata import fitting, placed
from connectors.kafka.reading import PartitionReader
from poller.errors import NotConnected, NotYet, StoreUnavailable
from poller.model import Action, Batch, Fetched, Lease
from poller.ordered import OrderedLane
from poller.progress import Progress
from poller.protocols import Format
from poller.settings import Context

GATE_SECONDS = 15.0
"""After so long at the gate a lane says that it waits; then it goes on waiting."""

ROOM_SECONDS = 0.25
"""How often a strand without a place in the metadata asks again."""


class KafkaLane(OrderedLane):
    """Made by the source, which opens it with a first `save`, and is told of its end: `gone` is called when it is closed."""

    def __init__(
        self,
        context: Context,
        lease: Lease,
        reader: PartitionReader,
        format: Format,
        progress: Progress,
        membership: Membership,
        commits: Commits,
        gone: Callable[[], None],
    ) -> None:
        # No lease runs out here: what may begin is decided at the gate, by the membership.
        super().__init__(context, lease, reader, format, progress, math.inf)
        self.partition = reader.partition
        self.running: set[int] = set()
        """Strands between `begin` and `settle`: what a rebalance waits for."""
        self.handed_over = False
        """Saved for whoever goes on after a rebalance, and not yet known to stay."""
        self._membership = membership
        self._commits = commits
        self._gone = gone
        self._saved = progress, progress  # who has a place in the metadata keeps it from life to life
        """The last that was to be saved: all of it, and what of it fits into the metadata."""
        self._moves = 0
        self._waiting: dict[int, int] = {}
        """Strands that found no place in the metadata, and how much had been settled then."""
        self._moved: asyncio.Event | None = None
        """Something was settled, or did not begin: for who waits for that (`at_rest`)."""
        self.leaving.add_done_callback(lambda _: reader.hurry())

    async def fetch(self, limit: int) -> Fetched:
        if not self._membership.steady and not await self._steady():
            if self.leaving.done():
                return Fetched(())
            raise NotConnected(f"{self.name}: this worker has no place in its group now: it rebalances, or does not answer")
        return await super().fetch(limit)

    async def begin(self, batch: Batch) -> None:
        if not self._membership.steady and not await self._steady():
            raise StoreUnavailable(f"{self.name}: the group is rebalancing")
        # No await between the gate and this: a rebalance that starts now waits for this strand.
        self.running.add(batch.strand)
        try:
            if self.handed_over:
                await self.reopen()
            if self._waiting and self._waiting.get(batch.strand) == self._moves:
                raise NotYet(f"{self.name}: no room in the commit's metadata for one more attempt", ROOM_SECONDS)
            if self._begins(batch):
                await self._save_begun(batch)
            wanted, fitted = self._saved
            if fitted is not wanted and not placed(wanted, fitted, batch.strand):
                # One more attempt that must be counted, and no place to count it in: others must be done with theirs first.
                self.tracker.withdraw(batch)
                self._waiting[batch.strand] = self._moves
                raise NotYet(f"{self.name}: no room in the commit's metadata for one more attempt", ROOM_SECONDS)
        except BaseException:
            self._at_rest(batch.strand)
            raise

    def begin_now(self, batch: Batch) -> bool:
        if not self._membership.steady or self.handed_over or self._waiting.get(batch.strand) == self._moves:
            return False
        wanted, fitted = self._saved
        if (fitted is not wanted and not placed(wanted, fitted, batch.strand)) or not super().begin_now(batch):
            return False
        self.running.add(batch.strand)
        return True

    async def settle(self, batch: Batch, actions: Sequence[Action]) -> None:
        self._settled(batch, actions)
        self._moved_on(batch)

    def settle_now(self, batch: Batch, actions: Sequence[Action]) -> bool:
        if not super().settle_now(batch, actions):
            return False
        self._moved_on(batch)
        return True

    async def aclose(self, broken: bool = False) -> None:
        self.running.clear()
        self._tell_moved()
        try:
            await super().aclose(broken)
        finally:
            self._gone()

    async def at_rest(self) -> None:
        """Until nothing runs."""
        while self.running:
            if self._moved is None:
                self._moved = asyncio.Event()
            await self._moved.wait()

    async def hand_over(self) -> None:
        """Save so that whoever goes on needs no doubt: what still runs is an attempt that has begun. Until `reopen` all saves are such."""
        self.handed_over = True
        self._accept()
        await self.save(closed=True)

    async def reopen(self) -> None:
        """It stays: save that from now on attempts may begin uncounted again."""
        self.handed_over = False
        try:
            await self.save()
        except BaseException:
            self.handed_over = True  # `begin` tries again
            raise

    async def _write(self, progress: Progress) -> None:
        await self._commits.save(self.lease, progress)

    async def _free(self) -> None:
        """What a closed lane gives back is the group's to hand out."""

    def _progress(self, closed: bool) -> Progress:
        progress = super()._progress(closed or self.handed_over)
        self._saved = progress, fitting(progress, self._saved[1])
        return self._saved[1]

    def _moved_on(self, batch: Batch) -> None:
        self._moves += 1
        self._at_rest(batch.strand)

    def _at_rest(self, strand: int) -> None:
        self.running.discard(strand)
        if self._moved is not None:
            self._tell_moved()

    def _tell_moved(self) -> None:
        moved, self._moved = self._moved, None
        if moved is not None:
            moved.set()

    async def _steady(self) -> bool:
        """Wait at the gate. False: the lane is left meanwhile, or it takes too long to be silent about it. Raises LaneLost."""
        steady = asyncio.ensure_future(self._membership.wait_steady())
        try:
            await asyncio.wait((steady, self.leaving), timeout=GATE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            steady.cancel()
        self._check()
        return self._membership.steady
