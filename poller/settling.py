"""What was decided about a batch of a strand, done: guards are told, what is given up is journaled, and only then the lane settles it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

from poller.errors import NotConnected
from poller.failures.parking import joined, keys_held
from poller.model import Ack, Action, Batch, Discard, Failure, Record, Release, Retry
from poller.protocols import Guard, Lane, Saving
from poller.waits import Waits
from poller.work import Signs, Work, counted, given_up

log = logging.getLogger("poller.strand")

Due: TypeAlias = tuple[Batch, float]
"""A batch to run again, and the loop time it is due at."""


class Settling:
    """Of one strand. What it asks of store and source it asks until they answer: Left is raised where the lane is left before that."""

    def __init__(self, lane: Lane, work: Work, signs: Signs, waits: Waits, guards: Sequence[Guard] = ()) -> None:
        self._lane, self._work, self._signs, self._waits, self._guards = lane, work, signs, waits, guards
        self._loop = asyncio.get_running_loop()

    async def apply(self, batch: Batch, actions: Sequence[Action]) -> list[Due]:
        """What was decided. Returns the retries with the loop time they are due at."""
        for guard in self._guards:
            await self._waits.surely(partial(guard.settling, batch, actions))
        return await self.settle(batch, actions)

    async def settle(self, batch: Batch, actions: Sequence[Action], handled: bool = True) -> list[Due]:
        """As `apply`, of what the guards know: journal what is given up, then settle; law 12 is this order. `handled`: the acked were."""
        if len(actions) == 1 and isinstance(done := actions[0], Ack):  # nearly always: one batch, all done
            try:
                await self._lane.settle(batch, actions)
            except NotConnected as error:
                await self._waits.insist(lambda: self._lane.settle(batch, actions), error)
            self.acked(len(done.records), handled)
            return []
        if failures := given_up(actions):
            work = self._work
            if work.settings.parks and not work.replaying and keys_held(batch, actions, work.settings):
                actions = await self._done_first(batch, actions)
            await self._keep(batch, failures)
        await self._at_lane(batch, actions)
        if self._lane.strands.assign == "free":
            await self._recall(batch, actions)
        counters, now = self._work.counters, self._loop.time()
        retries: list[Due] = []
        for action in actions:
            # A pattern that takes the fields out as well would cost more than all the rest of this.
            match action:
                case Retry():
                    retries.append((action.batch, now + action.delay))
                    continue
                case Ack():
                    self.acked(len(action.records), handled)
                case Discard():
                    counters.discards += 1
                    counters.dropped += 0 if self._work.settings.on_failure else len(action.failure.records)
                case Release():
                    counters.released += len(action.records)
            self._signs.progressed_at = self._work.clock()
        if len(retries) > 1:
            counters.splits += 1
        else:
            counters.retries += len(retries)
        return retries

    async def _at_lane(self, batch: Batch, actions: Sequence[Action]) -> None:
        try:
            await self._lane.settle(batch, actions)
        except NotConnected as error:
            await self._waits.insist(lambda: self._lane.settle(batch, actions), error)

    async def _done_first(self, batch: Batch, actions: Sequence[Action]) -> Sequence[Action]:
        """What is done by now is durable, before a failure that holds its keys is: read again, it would be parked behind what it came
        before. Returns what is left to settle."""
        if isinstance(self._lane, Saving):
            await self._waits.surely(self._lane.save)
            return actions
        acks = [action for action in actions if isinstance(action, Ack)]
        if acks:
            await self._at_lane(batch, acks)
            self.acked(sum(len(ack.records) for ack in acks), handled=True)
        return [action for action in actions if not isinstance(action, Ack)]

    def acked(self, count: int, handled: bool = True) -> None:
        """So many records are settled; `handled`: by the function."""
        counters = self._work.counters
        counters.done += count if handled else 0
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
        failures = joined(batch, failures, work.settings)
        entries = work.entries(batch, failures, self._lane.name)
        ids = await self._waits.surely(lambda: work.journal.append(entries))
        work.posted()
        for failure, id_ in zip(failures, ids, strict=True):
            work.counters.kept += len(failure.records)
            why = "never invoked" if failure.fault is None else f"{failure.fault.type}: {failure.fault.message[:200]}"
            text = "gave up %s after %s (%s; %s): failure %s"
            much, often = counted(len(failure.records), "record"), counted(failure.attempts, "attempt")
            log.error(text, much, often, failure.reason, why, id_[:12], extra=self.fields(batch=self.first(batch, failure.records)))

    async def post(self, batch: Batch, actions: Sequence[Action], result: bytes) -> None:
        """What was handled into the outbox, durably, before it is settled: else a crash in between would tell nobody of it."""
        outbox, deliveries = self._work.outbox, self._work.successes(batch, actions, result, self._lane.name)
        if outbox is None or not deliveries:
            return
        await self._waits.surely(lambda: outbox.put(deliveries))
        self._work.posted()

    def first(self, batch: Batch, records: Sequence[Record]) -> str:
        """What names records of a batch in the log: the first of them."""
        return batch.format.names(records[:1])[0]

    def fields(self, **more: str) -> dict[str, str]:
        """What a log line says besides its text."""
        return {"mapping": self._work.settings.name, "lane": self._lane.name, **more}
