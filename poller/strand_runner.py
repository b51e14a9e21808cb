"""Runs the batches of one strand, one after the other, with all that comes of them: permit, screen, begin, invoke, decide, settle.

The permit is held from before the batch is cut until its invocation is over; retries and halves ask for one of their own. How a strand
waits is waits.py; how the function is run is invoking.py; what is done about an outcome is settling.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

from poller import error_rules
from poller.circuit import SPARED
from poller.errors import NotYet, StoreUnavailable
from poller.invoking import Invoking
from poller.model import (
    Action,
    Batch,
    Done,
    Fault,
    Outcome,
    Retry,
    Span,
)
from poller.protocols import Guard, Lane
from poller.settling import Due, Settling
from poller.strands import Strand
from poller.waits import Left, Waits
from poller.work import Leave, Signs, Work

log = logging.getLogger("poller.strand")

LOST = Fault("lost", "Poller.WorkerLost", "the worker that ran this invocation ended before its outcome was known")


class StrandRunner:
    """One strand of one lane. `waits` has its task, if it runs, and ends what it waits for when the lane is left."""

    settling_type: type[Settling] = Settling

    def __init__(self, strand: Strand, lane: Lane, work: Work, signs: Signs, leave: Leave, guards: Sequence[Guard] = ()) -> None:
        self.strand = strand
        self._lane, self._work, self._signs, self._leave, self._guards = lane, work, signs, leave, guards
        self._loop = asyncio.get_running_loop()
        self.waits = Waits(lane, work, signs)
        self._settling = self.settling_type(lane, work, signs, self.waits, guards)
        self._apply = self._settling.apply if guards else self._settling.settle
        self._invoking = Invoking(strand, lane, work, signs, leave, self.waits, self._settling, bool(guards))
        self._probe = 0
        """The number of the probe that this strand is to run (circuit.py)."""

    def __repr__(self) -> str:
        return f"<StrandRunner {self._lane.name}/{self.strand.number} [{self.waits.phase if self.waits.task else 'idle'}, {self.strand!r}]>"

    async def run(self, cut: Callable[[Strand], None], done: Callable[[], None], ended: Callable[[Strand], None]) -> None:
        """Until there is nothing to cut now, or the lane is left. `cut` and `done` are called after a batch was cut, and settled; `ended`
        when this is over, and may begin anew."""
        lane, strand, batching = self._lane, self.strand, self._work.settings.batching
        strands, turn, time = lane.strands, self._work.turn, self._loop.time
        permits, counters, circuit = self._work.function.permits, self._work.counters, self._work.circuit
        free = strands.assign == "free"
        self._invoking.cut, self._invoking.done = cut, done
        try:
            while not self._leave.stopped:
                admitted = not circuit.open and permits.take()
                if not admitted and strands.can_cut(strand, batching, time()):
                    await self._admission()
                    admitted = True
                # Only now is the batch cut: while it waited for a permit it went on filling.
                taken = strands.take(strand, batching, lane.format, time()) if admitted else None
                if taken is None:
                    if admitted:
                        permits.give()
                    # The reader was woken, and may have more at once: going on costs a tenth of a task anew.
                    await asyncio.sleep(0)
                    if self._leave.stopped or not strands.can_cut(strand, batching, time()):
                        break
                    continue
                counters.batches += 1
                cut(strand)
                batch, span = taken
                retries = await (self._attempt(batch, whole=True) if span is None else self._resume(batch, span))
                if retries:
                    await self._again(retries)
                strands.finish(strand, lane.format.facts(batch.records).keys() if free else ())
                done()
                if turn.over() and not (self._invoking.suspends and strands.laden(strand)):
                    await turn.yield_()
        except Left:
            pass
        finally:
            circuit.withdraw(self._probe)  # nobody else may probe meanwhile
            self.waits.task = None
        ended(strand)

    async def _again(self, retries: list[Due]) -> None:
        """What is left of a batch, and all that comes of it. No permit is held at the start, and none at the end. Raises Left."""
        stack = retries[::-1]
        while stack:
            if self._leave.stopped:
                raise Left
            batch, due = stack.pop()
            if due > self._loop.time():
                self._work.circuit.withdraw(self._probe)
                await self.waits.sleep(due - self._loop.time())
            if self._work.circuit.open or not self._work.function.permits.take():
                await self._admission()
            stack.extend((await self._attempt(batch))[::-1])

    async def _resume(self, batch: Batch, span: Span) -> list[Due]:
        """What an earlier life left of a batch. If its last attempt's outcome died with its worker, that was a full failure. The permit
        is given back at once."""
        self._work.function.permits.give()
        self._work.circuit.withdraw(self._probe)
        due = self._loop.time() + max(0.0, span.not_before - self._work.clock())
        if not span.running:
            return [(batch, due)]
        if self._guards and (actions := await self._kept_back(batch)):
            # What was given up of it, and not settled before the crash, is in the journal: the rest is another batch.
            return [(rest, due) for rest, _ in await self._settling.settle(batch, actions, handled=False)]
        batch = batch.but(attempt=span.attempts)
        return await self._apply(batch, self._decide(batch, LOST))

    # --- one attempt ------------------------------------------------------------------------------------------------------------

    async def _attempt(self, batch: Batch, whole: bool = False) -> list[Due]:
        """Admit, screen, begin, invoke, decide, settle. The permit is given back after the invocation. Returns what to run next, when.

        `whole`: with it, all that was cut is settled, so that more may be cut.
        """
        work = self._work
        try:
            # First: what a guard keeps from running may be too old by now, or received too often.
            kept_back = await self._kept_back(batch) if self._guards else ()
            screened, given_up = work.policy.screen(batch, work.clock())
            if not (kept_back or given_up):
                try:
                    await self._lane.begin(batch)
                except StoreUnavailable as error:
                    await self.waits.insist(partial(self._lane.begin, batch), error)
                if work.circuit.open and not work.circuit.holds(self._probe):  # it has opened while the store was asked
                    return await self._apply(batch, self._decide(batch, SPARED))
                batch, answer, result, request_id = await self._invoking.invoke(batch, whole)
                if answer is None:
                    return [(batch, 0.0)]
                outcome = answer
        except NotYet as wait:
            work.circuit.withdraw(self._probe)
            return [(batch, self._loop.time() + wait.after)]
        finally:
            work.function.permits.give()
        if kept_back:
            return await self._settling.settle(batch, kept_back, handled=False)
        if given_up:
            # What is left comes again: guards may keep it from running now. Without a permit, for they may wait for a person.
            return await self._apply(batch, given_up if screened is None else (*given_up, Retry(screened)))
        if not isinstance(outcome, Done):
            batch = batch.but(request_id=request_id)
        circuit = work.circuit
        alert = circuit.alert or isinstance(outcome, Fault)
        rule = work.rule(outcome) if alert else None
        blamed = rule is not None and rule.action in error_rules.GIVING_UP
        actions = circuit.decided(batch, outcome, self._probe, self._decide, blamed) if alert else self._decide(batch, outcome)
        if rule is not None and rule.action == "pause" and work.pause is not None:
            # First: what is settled could be read again, and fail again, before it holds.
            await self.waits.surely(partial(work.pause, error_rules.told(rule, outcome)))
        if work.settings.on_success:
            await self._settling.post(batch.but(request_id=request_id), actions, result)
        return await self._apply(batch, actions)

    async def _kept_back(self, batch: Batch) -> tuple[Action, ...]:
        """What the first guard that does not let all of it through wants done, the rest tried again; nothing: all may run."""
        for guard in self._guards:
            admitted, actions = await self.waits.surely(partial(guard.admit, batch))
            if actions:
                return actions if admitted is None else (*actions, Retry(admitted))
        return ()

    def _decide(self, batch: Batch, outcome: Outcome) -> tuple[Action, ...]:
        work = self._work
        return work.policy.decide(batch, outcome, work.clock(), work.random.random())

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

        await self.waits.interruptible("backoff", admitted())

    async def _permit(self) -> None:
        await self.waits.interruptible("permit", self._work.function.permits.wait())
