"""Runs one lane: one task reads; each strand with work has a task that runs its batches (strand_runner.py).

Slices of records, not a task or a copy a record. What was fetched is either settled or given back by `lane.aclose`.

Stopping. `leaving` set: the reader stops; strands of ordered lanes start nothing new and leave backoffs at once, those of queues start
what they hold while permits allow (a release costs a receive count). At the deadline invocations that still run are ended, and their
attempts handed back. `LaneLost` anywhere: every task is cancelled, results are dropped, nothing more is saved.
"""

from __future__ import annotations

import asyncio
import logging

from poller.errors import LaneEnded, LaneLost, NotConnected
from poller.model import Fetched
from poller.protocols import Lane
from poller.strand_runner import Phase, StrandRunner
from poller.strands import Strand
from poller.work import RECONNECT, RECONNECT_SLOWLY, Leave, Signs, Work

log = logging.getLogger("poller.lane")

HELD_BYTES = 64 * 1024 * 1024
"""The records of a lane hold at most so much (and `Strands.capacity` records); then it stops reading."""

FETCH_RECORDS = 500
"""Ordered lanes read at least so many at once: a fetch is dear, and slices of it are cheap (measured: 200 to 500 is best)."""


class LaneRunner:
    """One lane of one mapping."""

    def __init__(self, lane: Lane, work: Work) -> None:
        self.lane = lane
        self.work = work
        self.signs = Signs(opened_at=work.clock())
        self._loop = asyncio.get_running_loop()
        self._strands = lane.strands
        self._batching = work.settings.batching
        self._permits = work.function.permits
        self._ordered = lane.strands.assign == "hash"
        self._wake = asyncio.Event()
        self._leave = Leave()
        self._group: asyncio.TaskGroup
        self._runners: dict[int, StrandRunner] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<LaneRunner {self.work.settings.name}/{self.lane.name} [{self.signs.state}, {self._strands!r}]>"

    # --- life -------------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until the lane has ended, is left, or lost; it is closed then. Raises what is nobody's fault but ours."""
        lane, broken = self.lane, True
        lane.leaving.add_done_callback(self._on_leaving)
        try:
            async with asyncio.TaskGroup() as self._group:
                self._group.create_task(self._read(), name=f"read {lane.name}")
            broken = False
        except* LaneLost:
            self.signs.state = "lost"
            self.work.counters.lost_lanes += 1
        finally:
            self._leave.stopped = True
            lane.leaving.remove_done_callback(self._on_leaving)
            for handle in (self._timer, self._expiry):
                if handle is not None:
                    handle.cancel()
            await lane.aclose(broken)

    def _on_leaving(self, leaving: asyncio.Future[float]) -> None:
        if leaving.cancelled():
            return
        self.signs.state = "leaving"
        self._wake.set()
        if self._ordered:
            self._leave.stopped = True
            self._interrupt("permit", "backoff")
        else:
            # What is held was received: each release costs a receive count, so it is run while there is time.
            self._strands.draining = True
            self._interrupt("backoff")
            self._start()
        self._expiry = self._loop.call_at(leaving.result(), self._expire)

    def _expire(self) -> None:
        self._leave.stopped = True
        self._interrupt("permit", "backoff", "invoking")

    def _interrupt(self, *phases: Phase) -> None:
        for runner in self._runners.values():
            runner.interrupt(*phases)

    # --- reading ----------------------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        lane, signs, turn = self.lane, self.signs, self.work.turn
        while not lane.leaving.done():
            limit = self._demand()
            if limit <= 0:
                self._wake.clear()
                await self._wake.wait()
                continue
            try:
                fetched = await lane.fetch(limit)
            except NotConnected as error:
                await self._reconnect(error)
                continue
            except LaneEnded:
                signs.state = "ended"
                self._strands.draining = True
                self._start()
                return
            signs.errors = 0
            if signs.state == "reconnecting":
                signs.state = "running"
            signs.read_at = self.work.clock()
            self._take(fetched)
            if turn.over():
                await turn.yield_()

    async def _reconnect(self, error: NotConnected) -> None:
        """Written once, for every source: wait, then let fetch try again."""
        signs = self.signs
        signs.errors += 1
        signs.last_error = str(error)
        self.work.counters.polling_errors += 1
        delay = error.retry_after
        if delay is None:
            delay = RECONNECT_SLOWLY if error.permanent else RECONNECT.delay(signs.errors, 0.5 + self.work.random.random() / 2)
        if signs.state == "running":
            signs.state = "reconnecting"
        fields = {"mapping": self.work.settings.name, "lane": self.lane.name}
        log.warning("cannot read, trying again in %.1f s: %s", delay, error, extra=fields)
        await asyncio.wait((self.lane.leaving,), timeout=delay)

    def _demand(self) -> int:
        """How many records to ask for: what can be run soon, and no more (receive counts must not grow for want of a slot)."""
        strands, size = self._strands, self._batching.size
        room = strands.capacity - strands.held
        if room <= 0 or strands.held_bytes >= HELD_BYTES:
            return 0
        if self._ordered:
            # One batch ahead for every strand; a strand that waits (retries) must not keep the others from reading.
            hungry = any(len(strand.records) < size and not strand.resumed for strand in strands)
            return min(room, max(FETCH_RECORDS, size)) if hungry else 0
        slots = min(self._permits.free, sum(strand.flight is None for strand in strands))
        # Besides, one batch may wait for a permit, and goes on filling meanwhile: else a busy function gets small batches.
        return min(room, (slots + 1) * size - strands.waiting)

    def _take(self, fetched: Fetched) -> None:
        facts, strands, records = self.lane.format.facts, self._strands, fetched.records
        for span, whose in fetched.resumed:
            self.work.counters.polled += len(whose)
            strands.resume(span, whose, facts(whose).sizes())
        if records:
            self.work.counters.polled += len(records)
            strands.add(records, facts(records), self._loop.time())
        if records or fetched.resumed:
            if self.signs.held_since is None:
                self.signs.held_since = self.work.clock()
            self._start()

    # --- strands ----------------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Give every strand that could start a batch a task, and come back when the next window ends."""
        if self._leave.stopped:
            return
        now = self._loop.time()
        for strand in self._strands.ready(self._batching, now):
            runner = self._runners.get(strand.number) or self._runner(strand)
            if runner.task is None:
                name = f"strand {self.lane.name}/{strand.number}"
                runner.task = self._group.create_task(self._run_strand(runner), name=name)
        if self._batching.window:
            if self._timer is not None:
                self._timer.cancel()
            due = self._strands.due(self._batching, now)
            self._timer = None if due is None else self._loop.call_at(due, self._start)

    def _runner(self, strand: Strand) -> StrandRunner:
        runner = self._runners[strand.number] = StrandRunner(strand, self.lane, self.work, self.signs, self._leave)
        return runner

    async def _run_strand(self, runner: StrandRunner) -> None:
        try:
            await runner.run(self._cut, self._done)
        finally:
            runner.task = None
        self._start()

    def _cut(self) -> None:
        self._wake.set()
        if not self._ordered:
            self._start()  # the open batch may have more for the next free strand

    def _done(self) -> None:
        if self._strands.empty:
            self.signs.held_since = None
        self._wake.set()
