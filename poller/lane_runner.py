"""Runs one lane: one task reads; each strand with work has a task that runs its batches (strand_runner.py).

Slices of records, not a task or a copy a record. What was fetched is either settled or given back by `lane.aclose`.

Filters (filtering.py) stand between a fetch and its strands, so that a record which no pattern matches is in no batch and starts no window.
A mapping without filters reads in another variant, and pays nothing for them. Queues: filtered messages are acked at once, one settle under
way at a time, and asked again until the queue answers; after a crash they come again, and are filtered again. Ordered lanes: filtered
records have arrived (`Strands.skip`), so the frontier passes them like any others; nothing is settled or saved for them in particular.

While the circuit breaker is open (circuit.py) nothing is fetched, but for a probe that nobody has a batch for; messages of a queue that
wait here are given back, and come again once it is closed, or to another worker.

Stopping. `leaving` set: the reader stops; strands of ordered lanes start nothing new and leave backoffs at once, those of queues start
what they hold while permits allow (a release costs a receive count). At the deadline invocations that still run are ended, and their
attempts handed back. `LaneLost` anywhere: every task is cancelled, results are dropped, nothing more is saved.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from poller.breaker import parted
from poller.errors import LaneEnded, LaneLost, NotConnected
from poller.filtering import Filtering
from poller.model import Ack, Action, Batch, Fetched, Record, Release, Span
from poller.protocols import Lane
from poller.strand_runner import StrandRunner
from poller.strands import Strand
from poller.waits import STORE_RETRY, Phase
from poller.work import Leave, Signs, Work, reconnect_delay

log = logging.getLogger("poller.lane")

HELD_BYTES = 64 * 1024 * 1024
"""The records of a lane hold at most so much (and `Strands.capacity` records); then it stops reading."""

FETCH_RECORDS = 500
"""Ordered lanes read at least so many at once: a fetch is dear, and slices of it are cheap (measured: 200 to 500 is best)."""

OWED_RECORDS = 1_000
"""So many filtered messages may wait for their ack; then a queue lane reads no more."""


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
        self._circuit = work.circuit
        self._ordered = lane.strands.assign == "hash"
        self._wake: asyncio.Future[None] | None = None
        """Done when the reader, which waits for it, is to look again whether there is room."""
        self._sated = False
        """The reader waits for a strand to want more, and for nothing else."""
        self._leave = Leave()
        self._group: asyncio.TaskGroup
        self._runners: dict[int, StrandRunner] = {}
        self._guards = work.guards(lane)
        self._timer: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        # What a replay runs was let in before.
        filters = None if work.replaying else work.settings.filters
        self._filtering = None if filters is None else Filtering(filters)
        self._logged = 0 if filters is None else filters.logged
        self._owed: list[Record] = []
        self._acking: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<LaneRunner {self.work.settings.name}/{self.lane.name} [{self.signs.state}, {self._strands!r}]>"

    # --- life -------------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until the lane has ended, is left, or lost; it is closed then. Raises what is nobody's fault but ours."""
        lane, broken = self.lane, True
        lane.leaving.add_done_callback(self._on_leaving)
        self._circuit.listeners[self._on_circuit] = None
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
            self._circuit.listeners.pop(self._on_circuit, None)
            for handle in (self._timer, self._expiry):
                if handle is not None:
                    handle.cancel()
            await lane.aclose(broken)

    def _on_leaving(self, leaving: asyncio.Future[float]) -> None:
        if leaving.cancelled():
            return
        self.signs.state = "leaving"
        self._look_again()
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
            runner.waits.interrupt(*phases)

    # --- reading ----------------------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        lane, signs, turn = self.lane, self.signs, self.work.turn.readers
        take, demand = (self._take, self._demand) if self._filtering is None else (self._sift, self._demand_but_for_owed)
        while not lane.leaving.done():
            limit = demand()
            if limit <= 0:
                self._wake = self._loop.create_future()
                await self._wake
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
            take(fetched)
            del fetched  # else the whole fetch lives until the next one: its records are freed batch by batch
            if turn.over():
                await turn.yield_()

    async def _reconnect(self, error: NotConnected) -> None:
        """Written once, for every source: wait, then let fetch try again."""
        signs = self.signs
        signs.errors += 1
        signs.last_error = str(error)
        self.work.counters.polling_errors += 1
        delay = reconnect_delay(error, signs.errors, self.work.random.random())
        if signs.state == "running":
            signs.state = "reconnecting"
        fields = {"mapping": self.work.settings.name, "lane": self.lane.name}
        log.warning("cannot read, trying again in %.1f s: %s", delay, error, extra=fields)
        await asyncio.wait((self.lane.leaving,), timeout=delay)

    def _demand(self) -> int:
        """How many records to ask for: what can be run soon, and no more (receive counts must not grow for want of a slot)."""
        strands, size, self._sated = self._strands, self._batching.size, False
        if self._circuit.open:
            return max(0, size - strands.held) if self._circuit.hungry else 0
        room = strands.capacity - strands.held
        if room <= 0 or strands.held_bytes >= HELD_BYTES:
            return 0
        if self._ordered:
            # One batch ahead for every strand; a strand that waits (retries) must not keep the others from reading.
            hungry = any(len(strand.records) < size and not strand.resumed for strand in strands)
            self._sated = not hungry
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
        if records or fetched.resumed or strands.over:
            if self.signs.held_since is None:
                self.signs.held_since = self.work.clock()
            self._start()
        if self._circuit.open:
            self._give_back()  # the fetch began before it opened

    # --- the circuit breaker ------------------------------------------------------------------------------------------------------

    def _on_circuit(self) -> None:
        if self._circuit.open:
            self._give_back()
        else:
            self._start()
        self._look_again()

    def _give_back(self) -> None:
        """What waits of a queue goes back to it, unless that could cost a message its last receive, or somebody must probe."""
        lane, strands = self.lane, self._strands
        if self._ordered or self._circuit.hungry or lane.leaving.done():
            return
        waiting = strands.recall_all(lane.format)
        if not waiting:
            return
        batch, grouped = Batch(waiting, lane.format), strands.assign == "free"
        back, kept = parted(batch, self.work.policy, grouped, self.work.clock())
        if kept:
            strands.add(kept, lane.format.facts(kept), self._loop.time())
        if back:
            self.work.counters.released += len(back)
            release = self._settled(Batch(back, lane.format), Release(back, 0.0), "give messages back")
            self._group.create_task(release, name=f"back {lane.name}")

    # --- filters ----------------------------------------------------------------------------------------------------------------

    def _demand_but_for_owed(self) -> int:
        return self._demand() if len(self._owed) < OWED_RECORDS else 0

    def _sift(self, fetched: Fetched) -> None:
        """`_take` what some pattern matches; the rest is acked (queues), or has arrived and needs nothing more."""
        filtering = self._filtering
        assert filtering is not None
        wanted, unwanted = filtering.split(self.lane.format, fetched.records)
        resumed = [(span, self._let_in(filtering, span, whose)) for span, whose in fetched.resumed]
        missing = sum(len(whose) for _, whose in fetched.resumed) - sum(len(whose) for _, whose in resumed)
        self.work.counters.polled += len(unwanted)
        self._strands.skip(len(unwanted) + missing)
        if unwanted:
            self._tell(unwanted)
            self.work.counters.filtered += len(unwanted)
            if not self._ordered:
                self._owed += unwanted
                if self._acking is None or self._acking.done():
                    self._acking = self._group.create_task(self._ack_owed(), name=f"filtered {self.lane.name}")
        self._take(Fetched(wanted, resumed))

    def _let_in(self, filtering: Filtering, span: Span, records: Sequence[Record]) -> Sequence[Record]:
        """The batch that a span stands for. What was let in is not filtered again; but a span is saved by its ends, and what lies between
        them and was filtered out by the earlier life has been read again with it. Those that are named were let in: the ends, or a list."""
        if span.listed is not None:
            return records
        wanted, unwanted = filtering.split(self.lane.format, records)
        if not unwanted:
            return records
        tokens = self.lane.format.facts(records).tokens()
        let_in = {id(record) for record in wanted}
        batch = [record for record, token in zip(records, tokens, strict=True) if id(record) in let_in or token in {span.first, span.last}]
        return batch or records  # both ends are gone, and all that was between them is unwanted: run it, rather than leave a span for ever

    def _tell(self, unwanted: Sequence[Record]) -> None:
        """Name one in so many in the log."""
        if self._logged:
            named = unwanted[-self.work.counters.filtered % self._logged :: self._logged]
            for name in self.lane.format.names(named):
                fields = {"mapping": self.work.settings.name, "lane": self.lane.name}
                log.info("filtered out: %s (one in %d is named)", name, self._logged, extra=fields)

    async def _ack_owed(self) -> None:
        """Until every filtered message is acked, or the lane is left: then the rest comes again, to be filtered again."""
        while self._owed:
            records = list(self._owed)
            if not await self._settled(Batch(records, self.lane.format), Ack(records), "ack what was filtered out"):
                return
            del self._owed[: len(records)]
            self._look_again()

    async def _settled(self, batch: Batch, action: Action, what: str) -> bool:
        """Settle it, asked again until the source answers; False: the lane is left before that."""
        lane, tries = self.lane, 0
        while True:
            try:
                await lane.settle(batch, (action,))
            except NotConnected as error:
                if lane.leaving.done():
                    return False
                tries += 1
                self.signs.last_error = str(error)
                delay = STORE_RETRY.delay(tries, 0.5 + self.work.random.random() / 2)
                fields = {"mapping": self.work.settings.name, "lane": lane.name}
                log.warning("cannot %s, trying again in %.1f s: %s", what, delay, error, extra=fields)
                await asyncio.wait((lane.leaving,), timeout=delay)
            else:
                return True

    # --- strands ----------------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Give every strand that could start a batch a task, and come back when the next window ends."""
        if self._leave.stopped or (self._circuit.open and self.lane.leaving.done()):
            return  # a strand that may not begin anything ends at once, and would be started again
        now = self._loop.time()
        for strand in self._strands.ready(self._batching, now):
            runner = self._runners.get(strand.number) or self._runner(strand)
            if runner.waits.task is None:
                name = f"strand {self.lane.name}/{strand.number}"
                runner.waits.task = self._group.create_task(runner.run(self._cut, self._done, self._ended), name=name)
        if self._batching.window:
            if self._timer is not None:
                self._timer.cancel()
            due = self._strands.due(self._batching, now)
            self._timer = None if due is None else self._loop.call_at(due, self._start)

    def _runner(self, strand: Strand) -> StrandRunner:
        runner = self._runners[strand.number] = StrandRunner(strand, self.lane, self.work, self.signs, self._leave, self._guards)
        return runner

    def _ended(self, strand: Strand) -> None:
        # A strand's end changes nothing for the others: only the open batch of all, or a window's timer, needs a look at them.
        if not self._ordered or self._batching.window or self._strands.can_cut(strand, self._batching, self._loop.time()):
            self._start()

    def _cut(self, strand: Strand) -> None:
        if self._wake is not None and not (self._sated and len(strand.records) >= self._batching.size):
            self._look_again()
        if not self._ordered:
            self._start()  # the open batch may have more for the next free strand

    def _done(self) -> None:
        if self._strands.empty:
            self.signs.held_since = None
        if self._wake is not None and not self._sated:
            self._look_again()

    def _look_again(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None and not wake.done():
            wake.set_result(None)
