"""Runs the function with the batches of one strand: with one, or with several in a row.

    begin -> invoke ------------------------------------------------------> outcome; the engine decides, settles, cuts, begins
                 |  `Successive`: all of it is done, and more is here
                 +--> settle -> cut -> screen -> begin, without a wait -> the next event, in the same task

A handler that can is given the next batch where the function has just returned, as long as nothing in between has to wait: the lane is
`Prompt`, no guard and no destination is to be told, nobody waits for the permit or for the loop. What is done is the same, in the same
order; what is spared is a task, seven coroutines and two rounds of the loop a batch, of which small batches mostly consist.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from poller.functions import new_request_id
from poller.model import Action, Batch, Busy, Call, Done, Fault, Outcome, Partial, Response, Retry, Returned
from poller.outcome import interpret
from poller.protocols import Event, Lane, Next, Prompt, Successive
from poller.settling import Settling
from poller.strands import Strand
from poller.waits import Left, Waits
from poller.work import Leave, Signs, Work, counted

log = logging.getLogger("poller.strand")

Apply = Callable[[Batch, Sequence[Action]], Awaitable[Any]]


class Invoked(NamedTuple):
    """What came of `batch`, what the function returned, and the invocation's request id. `outcome` None: it was cut, and has not begun."""

    batch: Batch
    outcome: Outcome | None
    result: bytes = b""
    request_id: str = ""


class Invoking:
    """Of one strand. `guarded`: somebody else must be told of what is decided. `cut` and `done` are called after a batch was cut, and
    settled, on the way."""

    def __init__(
        self, strand: Strand, lane: Lane, work: Work, signs: Signs, leave: Leave, waits: Waits, settling: Settling, guarded: bool
    ) -> None:
        self.cut: Callable[[Strand], None] = lambda _strand: None
        self.done: Callable[[], None] = lambda: None
        self._strand, self._lane, self._work, self._signs, self._leave = strand, lane, work, signs, leave
        self._waits, self._settling = waits, settling
        self._apply: Apply = settling.apply if guarded else settling.settle
        self._time = asyncio.get_running_loop().time
        self._prompt: Prompt | None = None
        self._successive: Successive | None = None
        handler = work.function.handler
        self._handler = handler if isinstance(handler, Successive) else None
        told = guarded or work.settings.on_success or lane.strands.windowed or lane.strands.assign == "free"
        if self._handler is not None and isinstance(lane, Prompt) and not told:
            self._successive, self._prompt = self._handler, lane
        # What runs now, or was cut to run.
        self._running = False
        self._batch: Batch
        self._event: Event
        self._call: Call
        self._started = 0.0

    @property
    def suspends(self) -> bool:
        """Whether everyone else on the loop has run when an invocation is over."""
        return self._handler is not None and self._handler.suspends

    async def invoke(self, batch: Batch, whole: bool) -> Invoked:
        """Run the function with it, and, if it is the `whole` of what was cut, perhaps with more: what came of the last one; those before
        it are settled.

        Raises Left when it is interrupted; the attempt is handed back then.
        """
        self._waits.phase = "invoking"
        begun = self._begun(batch)
        try:
            # Not `Function.invoke`: a coroutine more would be alive for every invocation that runs.
            if self._successive is None or not whole:
                response = await self._work.function.handler.invoke(*begun)
            else:
                response = await self._successive.run(*begun, self._following)
        except asyncio.CancelledError:
            if not self._waits.was_interrupted():
                raise
            # Our own stop ended it: its attempt is handed back, as if the function had not been reached.
            self._waits.phase = "settling"
            if self._running:
                await self._apply(self._batch, (Retry(self._batch),))
            raise Left from None
        except Exception as error:
            response = self._work.function.broken(error, self._call)
        finally:
            self._waits.phase = "settling"
            ran, self._running = self._running, False
            if ran:
                self._over()
        if not ran:
            return Invoked(self._batch, None)
        outcome = self._outcome(response)
        if isinstance(outcome, Done):
            self._work.counters.invocations += 1
        else:
            self._count(self._batch, outcome, self._call.request_id)
        return Invoked(self._batch, outcome, response.payload if isinstance(response, Returned) else b"", self._call.request_id)

    def _following(self, response: Response) -> Next | None:
        """See `Successive`. All that lies between two batches of a strand, if nothing of it has to wait."""
        work, strand, batch, strands, prompt = self._work, self._strand, self._batch, self._lane.strands, self._prompt
        counters, batching, turn_over = work.counters, work.settings.batching, work.turn.over()
        if prompt is None or self._leave.stopped or not strands.next_waits(strand, batching, self._time()):
            return None
        if work.circuit.alert or (turn_over and not strands.laden(strand)) or not work.function.permits.kept():
            return None
        outcome = self._outcome(response)
        if not isinstance(outcome, Done):
            return None
        if not prompt.settle_now(batch, work.policy.decide(batch, outcome, work.clock(), work.random.random())):
            return None
        self._running = False
        self._over()
        counters.invocations += 1
        self._settling.acked(len(batch.records))
        strands.finish(strand)
        self.done()
        taken = strands.take(strand, batching, self._lane.format, self._time())
        assert taken is not None, "another batch could be cut"
        self._batch = batch = taken[0]
        counters.batches += 1
        self.cut(strand)
        _, given_up = work.policy.screen(batch, work.clock())
        if given_up or not prompt.begin_now(batch):
            return None
        return Next(*self._begun(batch), turn_over)

    def _begun(self, batch: Batch) -> tuple[Event, Call]:
        work, counters = self._work, self._work.counters
        timeout = work.function.settings.timeout
        self._batch, self._event = batch, batch.format.event(batch.records)
        request_id = new_request_id(work.random.getrandbits(128))
        self._call = Call(request_id, work.clock() + timeout, timeout, work.settings.name, self._lane.name)
        counters.in_flight += 1
        counters.begun += 1
        counters.invoked += len(batch.records)
        self._started = self._time()
        self._running = True
        return self._event, self._call

    def _over(self) -> None:
        counters = self._work.counters
        counters.in_flight -= 1
        counters.observe(self._time() - self._started)

    def _outcome(self, response: Response) -> Outcome:
        return interpret(response, self._event, self._work.settings.failure.reporting, self._lane.strands.windowed)

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
                fields = self._settling.fields(batch=self._settling.first(batch, batch.records), request_id=request_id)
                log.warning("%s failed (%s): %s", self._work.function.name, much, self._signs.fault, extra=fields)
