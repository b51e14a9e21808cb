"""Runs the batches of one strand, one after the other, with all that comes of them: permit, screen, begin, invoke, decide, journal, settle.

The permit is held from before the batch is cut until its invocation is over; retries and halves ask for one of their own. Records that are
given up are in the journal before they are settled (law 12); while the store does not answer, the strand waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Literal, TypeAlias, TypeVar

from poller import error_rules
from poller.circuit import SPARED
from poller.errors import NotConnected, NotYet, StoreUnavailable
from poller.functions import new_request_id
from poller.model import (
    Ack,
    Action,
    Batch,
    Busy,
    Call,
    Discard,
    Done,
    Failure,
    Fault,
    Outcome,
    Partial,
    Record,
    Release,
    Retry,
    Returned,
    Span,
)
from poller.outcome import interpret
from poller.protocols import Lane
from poller.settings import Backoff
from poller.strands import Strand
from poller.work import Leave, Signs, Work, counted, given_up

log = logging.getLogger("poller.strand")

T = TypeVar("T")

STORE_RETRY = Backoff(initial=0.1, maximum=5.0)

LOST = Fault("lost", "Poller.WorkerLost", "the worker that ran this invocation ended before its outcome was known")

Phase: TypeAlias = Literal["permit", "backoff", "invoking", "settling"]

Due: TypeAlias = tuple[Batch, float]
"""A batch to run again, and the loop time it is due at."""


class Left(Exception):
    """Raised inside a strand that stops where it is, because its lane is leaving."""


class StrandRunner:
    """One strand of one lane. Its task, if it runs, is `task`; `interrupt` ends what it waits for when the lane is left."""

    def __init__(self, strand: Strand, lane: Lane, work: Work, signs: Signs, leave: Leave) -> None:
        self.strand = strand
        self.task: asyncio.Task[None] | None = None
        self._lane, self._work, self._signs, self._leave = lane, work, signs, leave
        self._loop = asyncio.get_running_loop()
        self._phase: Phase = "settling"
        self._interrupted = False
        self._probe = 0
        """The number of the probe that this strand is to run (circuit.py)."""

    def __repr__(self) -> str:
        return f"<StrandRunner {self._lane.name}/{self.strand.number} [{self._phase if self.task else 'idle'}, {self.strand!r}]>"

    def interrupt(self, *phases: Phase) -> None:
        """End what this strand is doing, if it is one of these. A settling is never interrupted."""
        if self.task is not None and self._phase in phases:
            self._interrupted = True  # so that no other cancelling, which must end everything, is taken for ours
            self.task.cancel()

    async def run(self, cut: Callable[[], None], done: Callable[[], None]) -> None:
        """Until there is nothing to cut now, or the lane is left. `cut` and `done` are called after a batch was cut, and settled."""
        lane, strand, batching = self._lane, self.strand, self._work.settings.batching
        strands, turn, time = lane.strands, self._work.turn, self._loop.time
        permits, counters, circuit = self._work.function.permits, self._work.counters, self._work.circuit
        free = strands.assign == "free"
        try:
            while not self._leave.stopped:
                if not strands.can_cut(strand, batching, time()):
                    # The reader was woken, and may have more at once: going on costs a tenth of a task anew.
                    await asyncio.sleep(0)
                    if self._leave.stopped or not strands.can_cut(strand, batching, time()):
                        return
                if circuit.open or not permits.take():
                    await self._admission()
                # Only now is the batch cut: while it waited for a permit it went on filling.
                taken = strands.take(strand, batching, lane.format, time())
                if taken is None:
                    permits.give()
                    return
                counters.batches += 1
                cut()
                batch, span = taken
                await self._carry(batch, span)
                strands.finish(strand, lane.format.facts(batch.records).keys() if free else ())
                done()
                if turn.over():
                    await turn.yield_()
        except Left:
            pass
        finally:
            circuit.withdraw(self._probe)  # nobody else may probe meanwhile

    async def _carry(self, batch: Batch, span: Span | None) -> None:
        """One batch and all that comes of it. A permit is held at the start, none at the end. Raises Left."""
        if span is None:
            retries = await self._attempt(batch)
        else:
            self._work.function.permits.give()
            self._work.circuit.withdraw(self._probe)
            retries = await self._go_on(batch, span)
        if not retries:
            return
        stack = retries[::-1]
        while stack:
            if self._leave.stopped:
                raise Left
            batch, due = stack.pop()
            if due > self._loop.time():
                self._work.circuit.withdraw(self._probe)
                await self._sleep(due - self._loop.time())
            if self._work.circuit.open or not self._work.function.permits.take():
                await self._admission()
            stack.extend((await self._attempt(batch))[::-1])

    async def _go_on(self, batch: Batch, span: Span) -> list[Due]:
        """What an earlier life left of a batch. If its last attempt's outcome died with its worker, that was a full failure."""
        if not span.running:
            return [(batch, self._loop.time() + max(0.0, span.not_before - self._work.clock()))]
        batch = batch.but(attempt=span.attempts)
        return await self._apply(batch, self._decide(batch, LOST))

    # --- one attempt ------------------------------------------------------------------------------------------------------------

    async def _attempt(self, batch: Batch) -> list[Due]:
        """Screen, begin, invoke, decide, settle. The permit is given back after the invocation. Returns what to run next, and when."""
        work = self._work
        try:
            screened, actions = work.policy.screen(batch, work.clock())
            if actions:
                rest = () if screened is None else (Retry(screened),)
                await self._apply(batch, (*actions, *rest))
                if screened is None:
                    return []
                batch = screened
            try:
                await self._lane.begin(batch)
            except StoreUnavailable as error:
                await self._insist(lambda: self._lane.begin(batch), error)
            if work.circuit.open and not work.circuit.holds(self._probe):  # it has opened while the store was asked
                return await self._apply(batch, self._decide(batch, SPARED))
            outcome, result, request_id = await self._invoke(batch)
        except NotYet as wait:
            work.circuit.withdraw(self._probe)
            return [(batch, self._loop.time() + wait.after)]
        finally:
            work.function.permits.give()
        if not isinstance(outcome, Done):
            batch = batch.but(request_id=request_id)
        circuit = work.circuit
        alert = circuit.alert or isinstance(outcome, Fault)
        rule = work.rule(outcome) if alert else None
        blamed = rule is not None and rule.action == "discard"
        actions = circuit.decided(batch, outcome, self._probe, self._decide, blamed) if alert else self._decide(batch, outcome)
        if rule is not None and rule.action == "pause" and work.pause is not None:
            # First: what is settled could be read again, and fail again, before it holds.
            await self._surely(partial(work.pause, error_rules.told(rule, outcome)))
        if work.settings.on_success:
            await self._post(batch.but(request_id=request_id), actions, result)
        return await self._apply(batch, actions)

    async def _invoke(self, batch: Batch) -> tuple[Outcome, bytes, str]:
        """What came of it, what the function returned, and the invocation's request id."""
        work, counters, function = self._work, self._work.counters, self._work.function
        event = batch.format.event(batch.records)
        timeout = function.settings.timeout
        request_id = new_request_id(work.random.getrandbits(128))
        call = Call(request_id, work.clock() + timeout, timeout, work.settings.name, self._lane.name)
        counters.in_flight += 1
        counters.begun += 1
        counters.invoked += len(batch.records)
        started = self._loop.time()
        self._phase = "invoking"
        try:
            response = await function.invoke(event, call)
        except asyncio.CancelledError:
            if not self._was_interrupted():
                raise
            # Our own stop ended it: its attempt is handed back, as if the function had not been reached.
            self._phase = "settling"
            await self._apply(batch, (Retry(batch),))
            raise Left from None
        finally:
            self._phase = "settling"
            counters.in_flight -= 1
            counters.observe(self._loop.time() - started)
        outcome = interpret(response, event, work.settings.failure.reporting, self._lane.strands.windowed)
        self._count(batch, outcome, request_id)
        return outcome, response.payload if isinstance(response, Returned) else b"", request_id

    def _count(self, batch: Batch, outcome: Outcome, request_id: str) -> None:
        counters = self._work.counters
        if isinstance(outcome, Busy):
            counters.throttles += 1
            return
        counters.invocations += 1
        if isinstance(outcome, Partial):
            counters.partials += 1
            counters.failed += len(batch.records)
        elif isinstance(outcome, Fault):
            counters.faults += 1
            counters.failed += len(batch.records)
            self._signs.fault = f"{outcome.type}: {outcome.message[:200]}"
            if batch.attempt == 1 and batch.fault is None:
                much = counted(len(batch.records), "record")
                fields = self._fields(batch=self._first(batch, batch.records), request_id=request_id)
                log.warning("%s failed (%s): %s", self._work.function.name, much, self._signs.fault, extra=fields)

    def _decide(self, batch: Batch, outcome: Outcome) -> tuple[Action, ...]:
        work = self._work
        return work.policy.decide(batch, outcome, work.clock(), work.random.random())

    # --- what was decided -------------------------------------------------------------------------------------------------------

    async def _apply(self, batch: Batch, actions: Sequence[Action]) -> list[Due]:
        """Journal what is given up, then settle; law 12 is this order. Returns the retries with the loop time they are due at."""
        if len(actions) == 1 and isinstance(done := actions[0], Ack):  # nearly always: one batch, all done
            try:
                await self._lane.settle(batch, actions)
            except NotConnected as error:
                await self._insist(lambda: self._lane.settle(batch, actions), error)
            self._acked(len(done.records))
            return []
        if failures := given_up(actions):
            await self._keep(batch, failures)
        try:
            await self._lane.settle(batch, actions)
        except NotConnected as error:
            await self._insist(lambda: self._lane.settle(batch, actions), error)
        if self._lane.strands.assign == "free":
            await self._recall(batch, actions)
        counters, now, retries = self._work.counters, self._loop.time(), list[Due]()
        for action in actions:
            match action:
                case Retry(again, delay):
                    retries.append((again, now + delay))
                    continue
                case Ack(records):
                    self._acked(len(records))
                case Discard(failure):
                    counters.discards += 1
                    counters.dropped += 0 if self._work.settings.on_failure else len(failure.records)
                case Release(records):
                    counters.released += len(records)
            self._signs.progressed_at = self._work.clock()
        if len(retries) > 1:
            counters.splits += 1
        else:
            counters.retries += len(retries)
        return retries

    def _acked(self, count: int) -> None:
        counters = self._work.counters
        counters.done += count
        if self._lane.strands.assign != "hash":
            counters.deleted += count
        self._signs.progressed_at = self._work.clock()

    async def _recall(self, batch: Batch, actions: Sequence[Action]) -> None:
        """What waits of a group whose earlier records were released goes back with them: it must not run before them."""
        for action in actions:
            if isinstance(action, Release):
                keys = frozenset(batch.format.facts(action.records).keys())
                later = self._lane.strands.recall(keys, batch.format)
                if later:
                    await self._lane.settle(batch.but(records=later), (Release(later, action.delay),))

    async def _keep(self, batch: Batch, failures: Sequence[Failure]) -> None:
        """Into the journal, durably, and with it into the outbox."""
        work = self._work
        entries = work.entries(batch, failures, self._lane.name)
        ids = await self._surely(lambda: work.journal.append(entries))
        work.posted()
        for failure, id_ in zip(failures, ids, strict=True):
            work.counters.kept += len(failure.records)
            why = "never invoked" if failure.fault is None else f"{failure.fault.type}: {failure.fault.message[:200]}"
            text = "gave up %s after %s (%s; %s): failure %s"
            much, often = counted(len(failure.records), "record"), counted(failure.attempts, "attempt")
            log.error(text, much, often, failure.reason, why, id_[:12], extra=self._fields(batch=self._first(batch, failure.records)))

    async def _post(self, batch: Batch, actions: Sequence[Action], result: bytes) -> None:
        """What was handled into the outbox, durably, before it is settled: else a crash in between would tell nobody of it."""
        outbox, deliveries = self._work.outbox, self._work.successes(batch, actions, result, self._lane.name)
        if outbox is None or not deliveries:
            return
        await self._surely(lambda: outbox.put(deliveries))
        self._work.posted()

    # --- waiting ----------------------------------------------------------------------------------------------------------------

    async def _admission(self) -> None:
        """A permit; while the circuit breaker is open, the right to probe before it. Raises Left."""
        permits, circuit = self._work.function.permits, self._work.circuit
        while True:
            while circuit.open and not circuit.holds(self._probe):
                await self._probing()
            if not permits.take():
                await self._permit()
            if not circuit.open or circuit.holds(self._probe):
                return
            permits.give()  # it has opened while we waited

    async def _probing(self) -> None:
        if self._lane.leaving.done():
            raise Left

        async def admitted() -> None:
            self._probe = await self._work.circuit.admitted()

        await self._interruptible("backoff", admitted())

    async def _permit(self) -> None:
        await self._interruptible("permit", self._work.function.permits.wait())

    async def _sleep(self, seconds: float) -> None:
        if self._lane.leaving.done():
            raise Left
        await self._interruptible("backoff", asyncio.sleep(seconds))

    async def _surely(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask the store until it answers. Raises Left."""
        try:
            return await ask()
        except StoreUnavailable as error:
            return await self._insist(ask, error)

    async def _insist(self, ask: Callable[[], Awaitable[T]], error: StoreUnavailable | NotConnected) -> T:
        """Ask store or source again, with backoff, until it answers; what is asked is idempotent. Raises Left."""
        tries = 0
        while True:
            tries += 1
            await self._unanswered(tries, error)
            try:
                answer = await ask()
            except (StoreUnavailable, NotConnected) as again:
                error = again
            else:
                self._signs.store_error = ""
                return answer

    async def _unanswered(self, tries: int, error: StoreUnavailable | NotConnected) -> None:
        if isinstance(error, StoreUnavailable):
            self._work.counters.save_errors += 1
            self._signs.store_error = str(error)
        else:
            self._signs.last_error = str(error)
        who = "store" if isinstance(error, StoreUnavailable) else "source"
        delay = STORE_RETRY.delay(tries, 0.5 + self._work.random.random() / 2)
        log.warning("the %s does not answer, trying again in %.1f s: %s", who, delay, error, extra=self._fields())
        await self._sleep(delay)

    async def _interruptible(self, phase: Phase, wait: Awaitable[None]) -> None:
        """Wait, unless the lane is left meanwhile: then raise Left."""
        self._phase = phase
        try:
            await wait
        except asyncio.CancelledError:
            if not self._was_interrupted():
                raise
            raise Left from None
        finally:
            self._phase = "settling"

    def _was_interrupted(self) -> bool:
        """Whether the cancelling that has just arrived is `interrupt`'s; it is over then."""
        interrupted, self._interrupted = self._interrupted, False
        if interrupted and self.task is not None:
            self.task.uncancel()
        return interrupted

    def _first(self, batch: Batch, records: Sequence[Record]) -> str:
        """What names records of a batch in the log: the first of them."""
        return batch.format.names(records[:1])[0]

    def _fields(self, **more: str) -> dict[str, str]:
        return {"mapping": self._work.settings.name, "lane": self._lane.name, **more}
