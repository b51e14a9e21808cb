"""Ordered lanes: one shared piece for every stream. A connector gives only a `Reader` for each shard.

    free shard --claim--> open --save "opened, in doubt"--> running --leaving--> save "closed" --drop--> free
                                                              |  |
                                                              |  +--its reader came to the end, all is settled--> save "ended": for good
                                                              +--lease stale or in doubt--> lost (nothing more is saved)

Progress is saved when something moved and `checkpoint_interval` is over, before every attempt after the first (`begin`), at opening, and
when closed. A save presents the lease, so a worker that lost it cannot move what the next owner wrote. Who opens which shard, and when, is
decided in ordered_source.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from poller.errors import LaneEnded, LaneLost, StoreUnavailable
from poller.model import Action, Batch, Fetched, Lease, Record, Shown
from poller.progress import ORIGIN, Progress, Tracker, doubt_limit
from poller.protocols import Format
from poller.rewind import Positioned
from poller.settings import Context
from poller.strands import Strands

log = logging.getLogger("poller.ordered")


class Reader(Protocol):
    """One shard, read by position."""

    async def read(self, position: int, origin: str, limit: int) -> tuple[Sequence[Record], int]:
        """Records with tokens from `position` on, in order, at most `limit`, and the position after them (also over gaps).

        `position` ORIGIN (-1) starts at `origin`: a reader that cannot start at a time starts before it, and passes over what is older.
        May wait about a second when there is nothing. Raises LaneEnded when the shard is closed and `position` is past its end, or when
        the retention has removed it whole (what it lost is said loudly, and counted in `Context.tally`), never because its stream is gone:
        children are read then; NotConnected.
        """

    async def head(self) -> tuple[int, float] | None:
        """For lag: the token the next record would get, at least (ORIGIN where tokens have gaps, and count nothing), and when the newest
        came (epoch seconds; 0: never); None when unknown."""

    async def aclose(self) -> None: ...


@runtime_checkable
class Heading(Protocol):
    """A reader that may come back with nothing though there is more, or without having asked, and knows when it was not so."""

    @property
    def at_head(self) -> float:
        """Epoch seconds: all that had come by then is handed out. 0: not known yet."""


class OrderedLane:
    """A shard under lease. Use `OrderedLane.open`; see `Lane` for the contract of its methods."""

    def __init__(self, context: Context, lease: Lease, reader: Reader, format: Format, progress: Progress, trusted_until: float) -> None:
        width = context.mapping.width
        # What an earlier life left in another width is finished in that width; then the lane ends and is opened anew.
        self.outgrown = progress.outgrown(width, bool(context.mapping.tumbling_window))
        if not self.outgrown:
            progress = replace(progress, width=width)
        self.name = lease.key.lane
        self.lease = lease
        self.format = format
        self.strands = Strands(progress.width, "hash")
        self._loop = asyncio.get_running_loop()
        self.leaving: asyncio.Future[float] = self._loop.create_future()
        self.trusted_until = trusted_until
        """Loop time until which the lease is believed in."""
        self.reader = reader
        self.tracker = Tracker(progress, doubt_limit(context.mapping.batching.size))
        self.ended = False
        """Its reader came to the end."""
        self.over = False
        """And all is settled, and that is durable: the shard is never opened again."""
        self.on_closed: Callable[[], None] = lambda: None
        self.lost = False
        self._context = context
        self._read_arrival = 0.0
        self._handed: tuple[int, int, int] | None = None
        # (position after it, records at or past the saved frontier, `Strands.received` once it is there) of the last fetch
        self._saving: asyncio.Future[None] | None = None
        self._asked = 0
        self._answered = 0
        self._timer: asyncio.TimerHandle | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._closing = False
        self.closed = False

    @classmethod
    async def open(cls, context: Context, lease: Lease, reader: Reader, format: Format, origin: str, trusted_until: float) -> OrderedLane:
        """Load what an earlier life saved, or start at `origin`, and save once: from now on attempts may begin that no save counts.

        A shard that has ended is not saved as if it had not: it is `over`, and only to be closed.
        """
        progress = await context.store.checkpoints.load(lease.key)
        lane = cls(context, lease, reader, format, progress or Progress(origin, width=context.mapping.width), trusted_until)
        await lane.opened()
        return lane

    async def opened(self) -> None:
        """What `open` does with the lane that it made."""
        self.over = self.tracker.earlier.ended
        try:
            if not self.over:
                await self.save()
        except BaseException:
            await self.reader.aclose()
            raise

    def __repr__(self) -> str:
        state = "lost" if self.lost else "closed" if self.closed else "open"
        return f"<OrderedLane {self.name} [{state}, {self.tracker!r}, {self.strands!r}]>"

    # --- Lane -------------------------------------------------------------------------------------------------------------------

    async def fetch(self, limit: int) -> Fetched:
        self._check()
        self._accept()
        tracker = self.tracker
        if self.outgrown and not tracker.catching_up:
            raise LaneEnded(f"{self.name}: what an earlier width began is handed out; the lane is opened anew")
        if self.ended:
            raise LaneEnded(f"{self.name}: the shard is closed")
        try:
            records, following = await self._read(limit)
        except LaneEnded:
            self._check()
            if tracker.catching_up:
                return self._catch_up_at_the_end()
            self.ended = True
            raise
        self._check()  # the lease may have gone while we waited
        if tracker.catching_up:
            return self._catch_up(records, following)
        if records:
            self._read_arrival = self.format.facts(records[-1:]).arrivals()[0]
        self._handed = following, len(records), self.strands.received + len(records)
        return Fetched(records)

    async def _read(self, limit: int) -> tuple[Sequence[Record], int]:
        """From the frontier on; nothing once the lane is left: who is to have it next need not wait for a shard where nothing happens."""
        tracker, reading = self.tracker, asyncio.current_task()
        stopped = over = False

        def stop(_leaving: asyncio.Future[float]) -> None:
            nonlocal stopped
            if reading is not None and not over:  # it may be over, and this on its way already
                stopped = reading.cancel()

        self.leaving.add_done_callback(stop)
        try:
            return await self.reader.read(tracker.frontier, tracker.earlier.origin, limit)
        except asyncio.CancelledError:
            if not stopped or (reading is not None and reading.cancelling() > 1):
                raise  # only our own cancelling is taken for that: every other ends everything
            return (), tracker.frontier
        finally:
            over = True
            self.leaving.remove_done_callback(stop)
            if stopped and reading is not None:
                reading.uncancel()

    def _catch_up(self, records: Sequence[Record], following: int) -> Fetched:
        """What was read lies, in part at least, where an earlier life has been."""
        tracker, facts = self.tracker, self.format.facts(records)
        tokens, end = facts.tokens(), tracker.earlier.frontier
        beyond = sum(token >= end for token in tokens)
        if self.outgrown and following > end:
            records, following = records[: len(records) - beyond], end
            tokens, beyond = tokens[: len(records)], 0
        fresh = tracker.sort(records, tokens, self.format.facts(records).keys())
        resumed = tracker.complete(following)
        self._handed = following, beyond, self.strands.received + len(fresh) + sum(len(whose) for _, whose in resumed)
        return Fetched(fresh, resumed)

    def _catch_up_at_the_end(self) -> Fetched:
        """The shard has ended below what an earlier life had read: its spans run with what there still is of them."""
        tracker = self.tracker
        spans = sum(map(len, tracker.spans.values()))
        fetched = self._catch_up((), tracker.earlier.frontier)
        gone = spans - sum(map(len, tracker.spans.values()))
        if gone:
            text = "%s: %d batches under retry are gone with the retention, before they were done"
            log.error(text, self.name, gone, extra={"lane": self.name})
            self._context.tally.expired += gone
        return fetched

    def _accept(self) -> None:
        """The frontier passes what was handed out last, once it has arrived in the strands.

        Not before: a save that came in between would take what the runner failed to take for done.
        """
        if self._handed is not None and self.strands.received >= self._handed[2]:
            (following, count, _), self._handed = self._handed, None
            if following != self.tracker.frontier:
                self.tracker.read(following, count)
                self._touch()

    async def begin(self, batch: Batch) -> None:
        if self._begins(batch):
            await self._save_begun(batch)

    def begin_now(self, batch: Batch) -> bool:
        try:
            waits = self._begins(batch)
        except LaneLost:
            return False
        if waits:
            self.tracker.withdraw(batch)
        return not waits

    def _begins(self, batch: Batch) -> bool:
        """What is done of `begin` without a wait. Returns whether `_save_begun` must come before the attempt."""
        self._check()
        if self._handed is not None:
            self._accept()
        records = batch.records
        tokens = self.format.facts(records if len(records) == 1 else (records[0], records[-1])).tokens()
        return self.tracker.begin(batch, tokens[0], tokens[-1])

    async def _save_begun(self, batch: Batch) -> None:
        try:
            await self.save()
            self._check()  # the answer may have been so late that the lane is another's by now, and further on
        except BaseException:
            # Durable or not, nothing began; if it was written all the same, an attempt too many is counted, never one too few.
            self.tracker.withdraw(batch)
            raise

    async def settle(self, batch: Batch, actions: Sequence[Action]) -> None:
        self._settled(batch, actions)

    def settle_now(self, batch: Batch, actions: Sequence[Action]) -> bool:
        try:
            self._settled(batch, actions)
        except LaneLost:
            return False
        return True

    def _settled(self, batch: Batch, actions: Sequence[Action]) -> None:
        """All of `settle`: nothing of it waits."""
        self._check()
        if self._handed is not None:
            self._accept()
        needs = self.tracker.needs_tokens(batch, actions)
        tokens = self.format.facts(batch.records).tokens() if needs else None
        self.tracker.settle(batch, actions, tokens, self._context.clock())
        self._touch()

    async def aclose(self, broken: bool = False) -> None:
        if self._closing:
            return
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        if self._background:
            await asyncio.gather(*self._background, return_exceptions=True)
        try:
            if not self.lost:
                if not broken:
                    self._accept()
                    await self.save(closed=True)
                await self._free()
        except (LaneLost, StoreUnavailable) as error:
            # What was not saved is begun again carefully by the next owner; the lease runs out by itself.
            log.warning("%s: closed without a save: %s", self.name, error, extra={"lane": self.name})
        finally:
            await self.reader.aclose()
            self.closed = True  # only now may it be opened again: a save of ours may have been under way
            self.on_closed()

    async def show(self, now: float) -> Shown:
        tracker = self.tracker
        checkpoint = tracker.snapshot(self._heads()).checkpoint
        spans = [spans[0] for spans in tracker.spans.values()]
        head = min(spans, key=lambda span: span.first, default=None)
        newest = await self.reader.head()
        records = seconds = None
        if newest is not None and newest[0] == ORIGIN:
            seconds = max(0.0, newest[1] - self._read_arrival) if self._read_arrival or not newest[1] else None
        elif newest is not None:
            records = max(0, newest[0] - max(checkpoint, 0))
            seconds = max(0.0, now - self._read_arrival) if records and self._read_arrival else 0.0 if not records else None
        position = tracker.earlier.origin if checkpoint == ORIGIN else self._shown(checkpoint)
        return Shown(position, self.lease.owner, head, records, seconds, "" if head is None else self._shown(head.first))

    def _shown(self, position: int) -> str:
        return self.reader.shown(position) if isinstance(self.reader, Positioned) else str(position)

    # --- saving -----------------------------------------------------------------------------------------------------------------

    async def save(self, closed: bool = False) -> None:
        """Durable when it returns. Callers that come while a save runs share the next one. Raises LaneLost, StoreUnavailable."""
        self._asked += 1
        mine = self._asked
        while self._saving is not None:
            # All who wait are woken at once: handed on from one to the next, as a lock is, a thousand strands would take a thousand rounds.
            await asyncio.shield(self._saving)
            if self._answered >= mine:
                return
        if self.lost:
            raise LaneLost(f"{self.name}: lost while this save waited for another")
        saving = self._saving = self._loop.create_future()
        try:
            covered = self._asked
            mark, progress = self.tracker.mark(), self._progress(closed)
            try:
                await self._write(progress)
            except LaneLost:
                self.lose("its lease was taken over")
                raise
            self.tracker.saved(mark)
            self.over = progress.ended
            self._answered = covered
        finally:
            self._saving = None
            saving.set_result(None)

    async def _write(self, progress: Progress) -> None:
        """Durable when it returns. Raises LaneLost, StoreUnavailable."""
        await self._context.store.checkpoints.save(self.lease, progress)

    async def _free(self) -> None:
        """Others may have it at once."""
        await self._context.store.leases.drop(self.lease)

    def _progress(self, closed: bool) -> Progress:
        """What a save holds now."""
        progress = self.tracker.snapshot(self._heads(), closed)
        unsettled = progress.positions or progress.spans or self._handed is not None
        return replace(progress, ended=True) if closed and self.ended and not unsettled else progress

    def _heads(self) -> list[tuple[int, int]]:
        heads = list(self.strands.heads())
        tokens = self.format.facts([record for _, record in heads]).tokens()
        return [(number, token) for (number, _), token in zip(heads, tokens, strict=True)]

    def _touch(self) -> None:
        """Something moved: save within the interval, or now if `begin` would soon have to wait."""
        if self._closing:
            return
        if self._timer is None:
            # All lanes at the same ticks: what they save goes out together.
            interval = self._context.checkpoint_interval
            self._timer = self._loop.call_at((self._loop.time() // interval + 1) * interval, self._save_soon)
        elif self.tracker.pressing and not self._background:
            self._timer.cancel()
            self._save_soon()

    def _save_soon(self) -> None:
        self._timer = None
        if not self._closing and not self.lost:
            task = self._loop.create_task(self._save_in_background(), name=f"save {self.name}")
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def _save_in_background(self) -> None:
        try:
            await self.save()
        except LaneLost:
            pass  # fetch and begin will say so
        except StoreUnavailable as error:
            log.warning("%s: progress not saved, trying again: %s", self.name, error, extra={"lane": self.name})
            self._touch()

    # --- losing -----------------------------------------------------------------------------------------------------------------

    def lose(self, why: str, planned: bool = False) -> None:
        """Another worker may own this lane: from here on nothing is saved, and the runner is told to drop everything.

        `planned`: it was saved for the next owner before, so that nothing is lost but what still runs.
        """
        if not self.lost:
            self.lost = True
            level, what = (logging.INFO, "handed over") if planned else (logging.WARNING, "lane lost")
            log.log(level, "%s: %s: %s", self.name, what, why, extra={"lane": self.name})
            if not self.leaving.done():
                self.leaving.set_result(0.0)

    def _check(self) -> None:
        if not self.lost and self._loop.time() > self.trusted_until:
            # A process that was stopped for a while comes back here before its keeper does.
            self.lose("its lease ran out while this process stood still")
        if self.lost:
            raise LaneLost(f"{self.name}: the lease of this lane is not ours any more")
