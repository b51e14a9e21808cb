"""Runs one lane: fetch, strands, permit, screen, begin, invoke, decide, journal, settle.

One task reads; each strand with work has a task that runs its batches one after the other, with all that comes of them (retries, halves).
Slices of records, not a task or a copy a record. What was fetched is either settled or given back by `lane.aclose`.

Stopping. `leaving` set: the reader stops; strands of ordered lanes start nothing new and leave backoffs at once, those of queues start
what they hold while permits allow (a release costs a receive count). At the deadline invocations that still run are ended, and their
attempts handed back. `LaneLost` anywhere: every task is cancelled, results are dropped, nothing more is saved.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal
from uuid import UUID

from poller.errors import LaneEnded, LaneLost, NotConnected, StoreUnavailable
from poller.failure import entry
from poller.functions import Function
from poller.metrics import MappingCounters
from poller.model import Ack, Action, Batch, Busy, Call, Discard, Failure, Fault, Fetched, Outcome, Partial, Release, Retry, Span
from poller.outcome import interpret
from poller.protocols import Journal, Lane, Policy
from poller.settings import Backoff, MappingSettings
from poller.strands import Strand
from poller.turn import Turn

log = logging.getLogger("poller.lane")

HELD_BYTES = 64 * 1024 * 1024
"""The records of a lane hold at most so much (and `Strands.capacity` records); then it stops reading."""

FETCH_RECORDS = 500
"""Ordered lanes read at least so many at once: a fetch is dear, and slices of it are cheap (measured: 200 to 500 is best)."""

RECONNECT = Backoff(initial=0.2, maximum=30.0)
RECONNECT_SLOWLY = 60.0
STORE_RETRY = Backoff(initial=0.1, maximum=5.0)

LOST = Fault("lost", "Poller.WorkerLost", "the worker that ran this invocation ended before its outcome was known")

Phase = Literal["permit", "backoff", "invoking", "settling"]


class _Left(Exception):
    """The strand stopped where it was, because the lane is leaving."""


@dataclass(slots=True)
class Work:
    """What all lanes of a mapping share. `clock` is epoch seconds; `replaying` names the run whose failures these are, or ""."""

    settings: MappingSettings
    function: Function
    policy: Policy
    source: str
    journal: Journal
    counters: MappingCounters
    clock: Callable[[], float]
    random: Random
    turn: Turn
    replaying: str = ""


@dataclass(slots=True)
class Signs:
    """Signs of life, for `status` and readiness. Epoch seconds; None: never yet.

    `progressed_at`: records were settled for good (a retry settles nothing). `last_error` is ours or the source's, `fault` the function's.
    """

    state: Literal["running", "reconnecting", "leaving", "ended", "lost"] = "running"
    opened_at: float = 0.0
    read_at: float | None = None
    progressed_at: float | None = None
    held_since: float | None = None
    last_error: str = ""
    fault: str = ""
    errors: int = 0


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
        self._group: asyncio.TaskGroup
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._phases: dict[asyncio.Task[None], Phase] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._stopped = False
        self._expired = False

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
            self._stopped = True
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
            self._stopped = True
            self._interrupt("permit", "backoff")
        else:
            # What is held was received: each release costs a receive count, so it is run while there is time.
            self._strands.draining = True
            self._interrupt("backoff")
            self._start()
        self._expiry = self._loop.call_at(leaving.result(), self._expire)

    def _expire(self) -> None:
        self._stopped = self._expired = True
        self._interrupt("permit", "backoff", "invoking")

    def _interrupt(self, *phases: Phase) -> None:
        for task, phase in self._phases.items():
            if phase in phases:
                task.cancel()

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
        log.warning("cannot read, trying again in %.1f s: %s", delay, error, extra=self._fields())
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
        if self._stopped:
            return
        now = self._loop.time()
        for strand in self._strands.ready(self._batching, now):
            if strand.number not in self._tasks:
                task = self._group.create_task(self._run_strand(strand), name=f"strand {self.lane.name}/{strand.number}")
                self._tasks[strand.number] = task
        if self._batching.window:
            if self._timer is not None:
                self._timer.cancel()
            due = self._strands.due(self._batching, now)
            self._timer = None if due is None else self._loop.call_at(due, self._start)

    async def _run_strand(self, strand: Strand) -> None:
        strands, batching, turn, loop = self._strands, self._batching, self.work.turn, self._loop
        task = self._tasks[strand.number]
        free = strands.assign == "free"
        try:
            while not self._stopped and strands.can_cut(strand, batching, loop.time()):
                await self._permit(task)
                # Only now is the batch cut: while it waited for a permit it went on filling.
                taken = strands.take(strand, batching, self.lane.format, loop.time())
                if taken is None:
                    self._permits.give()
                    break
                self.work.counters.batches += 1
                self._wake.set()
                if not self._ordered:
                    self._start()  # the open batch may have more for the next free strand
                await self._work(task, *taken)
                keys = self.lane.format.facts(taken[0].records).keys() if free else ()
                strands.finish(strand, keys)
                if strands.empty:
                    self.signs.held_since = None
                self._wake.set()
                if turn.over():
                    await turn.yield_()
        except _Left:
            pass
        finally:
            del self._tasks[strand.number]
            self._phases.pop(task, None)
        if not self._stopped:
            self._start()

    async def _work(self, task: asyncio.Task[None], batch: Batch, span: Span | None) -> None:
        """One batch and all that comes of it. A permit is held at the start, none at the end. Raises _Left."""
        if span is None:
            retries = await self._attempt(task, batch)
        else:
            self._permits.give()
            retries = await self._go_on(task, batch, span)
        if not retries:
            return
        stack = retries[::-1]
        while stack:
            if self._stopped:
                raise _Left
            batch, due = stack.pop()
            if due > self._loop.time():
                await self._sleep(task, due - self._loop.time())
            await self._permit(task)
            stack.extend((await self._attempt(task, batch))[::-1])

    async def _go_on(self, task: asyncio.Task[None], batch: Batch, span: Span) -> list[tuple[Batch, float]]:
        """What an earlier life left of a batch. If its last attempt's outcome died with its worker, that was a full failure."""
        if not span.running:
            return [(batch, self._loop.time() + max(0.0, span.not_before - self.work.clock()))]
        batch = replace(batch, attempt=span.attempts)
        return await self._apply(task, batch, self._decide(batch, LOST))

    # --- one attempt ------------------------------------------------------------------------------------------------------------

    async def _attempt(self, task: asyncio.Task[None], batch: Batch) -> list[tuple[Batch, float]]:
        """Screen, begin, invoke, decide, settle. The permit is given back after the invocation. Returns what to run next, and when."""
        work = self.work
        try:
            screened, actions = work.policy.screen(batch, work.clock())
            if actions:
                rest = () if screened is None else (Retry(screened),)
                await self._apply(task, batch, (*actions, *rest))
                if screened is None:
                    return []
                batch = screened
            await self._begin(task, batch)
            outcome = await self._invoke(task, batch)
        finally:
            self._permits.give()
        return await self._apply(task, batch, self._decide(batch, outcome))

    async def _begin(self, task: asyncio.Task[None], batch: Batch) -> None:
        tries = 0
        while True:
            try:
                await self.lane.begin(batch)
            except StoreUnavailable as error:
                tries += 1
                await self._store_unavailable(task, tries, error)
            else:
                return

    async def _invoke(self, task: asyncio.Task[None], batch: Batch) -> Outcome:
        work, counters, function = self.work, self.work.counters, self.work.function
        event = batch.format.event(batch.records)
        timeout = function.settings.timeout
        request_id = str(UUID(int=work.random.getrandbits(128), version=4))
        call = Call(request_id, work.clock() + timeout, timeout, work.settings.name, self.lane.name)
        count = len(batch.records)
        counters.in_flight += 1
        counters.begun += 1
        counters.invoked += count
        started = self._loop.time()
        self._phases[task] = "invoking"
        try:
            response = await function.invoke(event, call)
        except asyncio.CancelledError:
            if not self._expired:
                raise
            # Our own stop ended it: its attempt is handed back, as if the function had not been reached.
            task.uncancel()
            self._phases[task] = "settling"
            await self._apply(task, batch, (Retry(batch),))
            raise _Left from None
        finally:
            self._phases[task] = "settling"
            counters.in_flight -= 1
            counters.observe(self._loop.time() - started)
        outcome = interpret(response, event, work.settings.failure.reporting)
        if isinstance(outcome, Fault):
            self._failed(batch, outcome, request_id)
        elif isinstance(outcome, Partial):
            counters.partials += 1
            counters.failed += count
        if isinstance(outcome, Busy):
            counters.throttles += 1
        else:
            counters.invocations += 1
        return outcome

    def _failed(self, batch: Batch, fault: Fault, request_id: str) -> None:
        counters = self.work.counters
        counters.faults += 1
        counters.failed += len(batch.records)
        self.signs.fault = f"{fault.type}: {fault.message[:200]}"
        if batch.attempt == 1 and batch.fault is None:
            text = "%s failed (%d records): %s: %s"
            fields = self._fields(request_id=request_id)
            log.warning(text, self.work.function.name, len(batch.records), fault.type, fault.message[:200], extra=fields)

    def _decide(self, batch: Batch, outcome: Outcome) -> tuple[Action, ...]:
        work = self.work
        return work.policy.decide(batch, outcome, work.clock(), work.random.random())

    async def _apply(self, task: asyncio.Task[None], batch: Batch, actions: Sequence[Action]) -> list[tuple[Batch, float]]:
        """Journal what is given up, then settle; law 12 is this order. Returns the retries with the loop time they are due at."""
        counters = self.work.counters
        if len(actions) == 1 and type(actions[0]) is Ack:
            await self.lane.settle(batch, actions)
            self._acked(len(batch.records))
            self.signs.progressed_at = self.work.clock()
            return []
        failures = [failure for action in actions if (failure := _failure(action)) is not None]
        if failures:
            await self._keep(task, failures)
        await self.lane.settle(batch, actions)
        if self._strands.assign == "free":
            await self._recall(batch, actions)
        now, retries = self._loop.time(), list[tuple[Batch, float]]()
        if not all(isinstance(action, Retry) for action in actions):
            self.signs.progressed_at = self.work.clock()
        for action in actions:
            match action:
                case Retry(again, delay):
                    retries.append((again, now + delay))
                    counters.retries += 1
                case Ack(records):
                    self._acked(len(records))
                case Discard(failure):
                    counters.discards += 1
                    counters.dropped += len(failure.records)
                case Release():
                    pass
        if len(retries) > 1:
            counters.splits += 1
        return retries

    async def _recall(self, batch: Batch, actions: Sequence[Action]) -> None:
        """What waits of a group whose earlier records were released goes back with them: it must not run before them."""
        for action in actions:
            if isinstance(action, Release):
                keys = frozenset(batch.format.facts(action.records).keys())
                later = self._strands.recall(keys, batch.format)
                if later:
                    await self.lane.settle(replace(batch, records=later), (Release(later, action.delay),))

    def _acked(self, count: int) -> None:
        if not self._ordered:
            self.work.counters.deleted += count

    async def _keep(self, task: asyncio.Task[None], failures: Sequence[Failure]) -> None:
        """Into the journal, durably. While the store does not answer, the strand waits: nothing is acknowledged meanwhile."""
        work = self.work
        entries = [
            entry(
                failure,
                self.lane.format,
                mapping=work.settings.id,
                source=work.source,
                lane=self.lane.name,
                function=work.function.name,
                now=work.clock(),
                run=work.replaying,
            )
            for failure in failures
        ]
        tries = 0
        while True:
            try:
                ids = await work.journal.append(entries)
            except StoreUnavailable as error:
                tries += 1
                await self._store_unavailable(task, tries, error)
            else:
                break
        for failure, id_ in zip(failures, ids, strict=True):
            work.counters.kept += len(failure.records)
            why = "never invoked" if failure.fault is None else f"{failure.fault.type}: {failure.fault.message[:200]}"
            text = "gave up %d records after %d attempts (%s; %s): failure %s"
            log.error(text, len(failure.records), failure.attempts, failure.reason, why, id_[:12], extra=self._fields())

    # --- waiting ----------------------------------------------------------------------------------------------------------------

    async def _permit(self, task: asyncio.Task[None]) -> None:
        if not self._permits.take():
            await self._interruptible(task, "permit", self._permits.wait)

    async def _sleep(self, task: asyncio.Task[None], seconds: float) -> None:
        if self.lane.leaving.done():
            raise _Left
        await self._interruptible(task, "backoff", lambda: asyncio.sleep(seconds))

    async def _store_unavailable(self, task: asyncio.Task[None], tries: int, error: StoreUnavailable) -> None:
        self.work.counters.save_errors += 1
        self.signs.last_error = str(error)
        delay = STORE_RETRY.delay(tries, 0.5 + self.work.random.random() / 2)
        log.warning("the store does not answer, trying again in %.1f s: %s", delay, error, extra=self._fields())
        await self._sleep(task, delay)

    async def _interruptible(self, task: asyncio.Task[None], phase: Phase, wait: Callable[[], object]) -> None:
        """Wait, unless the lane is left meanwhile: then raise _Left."""
        self._phases[task] = phase
        try:
            await wait()  # type: ignore[misc]
        except asyncio.CancelledError:
            if not self.lane.leaving.done() or not task.cancelling():
                raise
            task.uncancel()
            raise _Left from None
        finally:
            self._phases[task] = "settling"

    def _fields(self, **more: str) -> dict[str, str]:
        return {"mapping": self.work.settings.name, "lane": self.lane.name, **more}


def _failure(action: Action) -> Failure | None:
    match action:
        case Discard(failure):
            return failure
        case Release(failure=failure):
            return failure
        case _:
            return None
