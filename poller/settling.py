"""What was decided about a batch of a strand, done: guards are told, what is given up is journaled, and only then the lane settles it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

from poller.errors import NotConnected
from poller.model import Ack, Action, Batch, Discard, Failure, Record, Release, Retry
from poller.protocols import Lane
from poller.waits import Waits
from poller.work import Signs, Work, counted, given_up

log = logging.getLogger("poller.strand")

Due: TypeAlias = tuple[Batch, float]
"""A batch to run again, and the loop time it is due at."""


class Settling:
    """Of one strand. What it asks of store and source it asks until they answer: Left is raised where the lane is left before that."""

    def __init__(self, lane: Lane, work: Work, signs: Signs, waits: Waits) -> None:
        self._lane, self._work, self._signs, self._waits = lane, work, signs, waits
        self._loop = asyncio.get_running_loop()

    async def apply(self, batch: Batch, actions: Sequence[Action]) -> list[Due]:
        """What was decided. Returns the retries with the loop time they are due at."""
        for guard in self._work.guards:
            await self._waits.surely(partial(guard.settling, batch, actions))
        return await self.settle(batch, actions)

    async def settle(self, batch: Batch, actions: Sequence[Action]) -> list[Due]:
        """As `apply`, of what the guards know: journal what is given up, then settle; law 12 is this order."""
        if len(actions) == 1 and isinstance(done := actions[0], Ack):  # nearly always: one batch, all done
            try:
                await self._lane.settle(batch, actions)
            except NotConnected as error:
                await self._waits.insist(lambda: self._lane.settle(batch, actions), error)
            self._acked(len(done.records))
            return []
        if failures := given_up(actions):
            await self._keep(batch, failures)
        try:
            await self._lane.settle(batch, actions)
        except NotConnected as error:
            await self._waits.insist(lambda: self._lane.settle(batch, actions), error)
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
