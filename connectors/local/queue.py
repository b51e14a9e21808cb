"""The queue as a source: one lane, shared by any number of workers and processes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from sqlite3 import Connection
from typing import assert_never

from connectors.local import QueueOptions, messages
from connectors.local.database import Database
from connectors.local.feed import ensure_queue
from connectors.local.format import Message, MessageFormat
from connectors.local.messages import Queue, Receipt
from poller.errors import NotConnected
from poller.model import Ack, Action, Batch, Discard, Fetched, Release, Retry
from poller.policy import Redeliver
from poller.protocols import Lane
from poller.settings import Context, Finding
from poller.strands import Strands
from poller.units import duration, show_duration

log = logging.getLogger("poller.local")

POLL_SECONDS = 5.0
"""How long a fetch waits for messages, like a long poll."""

EXPIRY_SECONDS = 60.0
"""How often messages past their retention are looked for."""


class QueueLane:
    """See `Lane`. What is handed out and unsettled stays invisible to others: its visibility timeout is extended at every half of it."""

    def __init__(self, database: Database, queue: Queue, context: Context, format: MessageFormat) -> None:
        loop = asyncio.get_running_loop()
        self.name = queue.name
        self.format = format
        self.strands = Strands(context.mapping.width, "free" if queue.fifo else "any")
        self.leaving: asyncio.Future[float] = loop.create_future()
        self._database = database
        self._queue = queue
        self._clock = context.clock
        self._topic = f"queue {queue.name}"
        self._held: dict[Receipt, Message] = {}
        self._closed = False
        self._heartbeat = loop.create_task(self._beat(), name=f"heartbeat of {queue.name}")
        self._upkeep = loop.create_task(self._expire(), name=f"retention of {queue.name}")

    def __repr__(self) -> str:
        state = "closed" if self._closed else "leaving" if self.leaving.done() else "open"
        return f"<QueueLane {self.name} [{state}, {len(self._held)} held]>"

    # --- Lane -------------------------------------------------------------------------------------------------------------------

    async def fetch(self, limit: int) -> Fetched:
        until = asyncio.get_running_loop().time() + POLL_SECONDS
        while True:
            received = await self._receive(limit)
            if received or not await self._due(until):
                return Fetched(received)

    async def _due(self, until: float) -> bool:
        """Wait until a message is visible, looking only; False when the lane is leaving or `until` (loop time) has come."""
        loop, bells, queue = asyncio.get_running_loop(), self._database.bells, self._queue
        while not self.leaving.done() and not self._closed and loop.time() < until:
            count = bells.count(self._topic)
            due = await self._database.read(lambda connection: messages.due(connection, queue))
            rest = until - loop.time()
            if due is not None:
                wait = due - self._clock()
                if wait <= 0:
                    return True
                # No shorter than a millisecond: a clock that stands still (or goes back) must not make this a busy loop.
                rest = min(rest, max(wait, 0.001))
            await bells.wait(self._topic, count, rest, self.leaving)
        return False

    async def begin(self, batch: Batch) -> None:
        """Nothing to do: the receive counted the attempt."""

    async def settle(self, batch: Batch, actions: Sequence[Action]) -> None:  # noqa: ARG002 (the protocol's)
        now = self._clock()
        done: list[Message] = []
        changes: list[tuple[float, Message]] = []
        for action in actions:
            match action:
                case Ack(records):
                    done += records
                case Discard(failure):
                    done += failure.records
                case Release(records, None):
                    # As on AWS: what failed comes back when the timeout of its receive ends, whatever heartbeats added.
                    changes += [(max(record.received + self._queue.visibility, now), record) for record in records]
                case Release(records, delay):
                    changes += [(now + (delay or 0.0), record) for record in records]
                case Retry():
                    pass  # held, under heartbeat
                case _ as never:
                    assert_never(never)
        await self._settle(done, changes)

    async def aclose(self, broken: bool = False) -> None:  # noqa: ARG002 (what was fetched is given back either way)
        if self._closed:
            return
        self._closed = True
        self._heartbeat.cancel()
        self._upkeep.cancel()
        await asyncio.gather(self._heartbeat, self._upkeep, return_exceptions=True)
        now = self._clock()
        try:
            await self._settle((), [(now, message) for message in self._held.values()])
        except NotConnected as error:
            # Nothing is lost: the visibility timeouts run out.
            log.warning("%s: %d messages not given back: %s", self.name, len(self._held), error, extra={"lane": self.name})
            self._held.clear()

    # --- the database -----------------------------------------------------------------------------------------------------------

    async def _receive(self, limit: int) -> Sequence[Message]:
        queue, clock = self._queue, self._clock
        received = await self._database.write(lambda connection: messages.receive(connection, queue, limit, clock()))
        self._held.update((message.receipt, message) for message in received.messages)
        if received.moved:
            text = "%s: %d messages moved to dead-letter queue %s"
            log.warning(text, self.name, received.moved, queue.dead_letter_name, extra={"lane": self.name})
            self._database.bells.ring(f"queue {queue.dead_letter_name}")
        self._tell_expired(received.expired)
        return received.messages

    async def _settle(self, done: Sequence[Message], changes: Sequence[tuple[float, Message]]) -> None:
        if not done and not changes:
            return
        receipts = [message.receipt for message in done]
        moments = [(visible, message.receipt) for visible, message in changes]
        groups = _groups(done) | _groups(message for _, message in changes)
        queue, clock, held = self._queue, self._clock, self._held
        # A heartbeat that is queued behind this write must not hide again what it shows; what it deletes may well be extended until then.
        released = {receipt: held.pop(receipt) for _, receipt in moments if receipt in held}
        try:
            good = await self._database.write(lambda connection: messages.settle(connection, queue, receipts, moments, groups, clock()))
        except BaseException:
            held.update(released)
            raise
        for receipt in receipts:
            held.pop(receipt, None)
        stale = len(receipts) + len(moments) - good
        if stale:
            log.info("%s: %d receipts had expired; those messages are handled again", self.name, stale, extra={"lane": self.name})
        if moments or groups:
            self._database.bells.ring(self._topic)

    async def _beat(self) -> None:
        interval = self._queue.visibility / 2
        while True:
            await asyncio.sleep(interval)
            try:
                await self._extend()
                interval = self._queue.visibility / 2
            except NotConnected as error:
                # There is half a timeout left to try again in.
                interval = self._queue.visibility / 10
                log.warning("%s: heartbeat failed, trying again: %s", self.name, error, extra={"lane": self.name})

    async def _extend(self) -> None:
        held = list(self._held.values())
        if not held:
            return
        queue, clock, groups = self._queue, self._clock, _groups(held)
        receipts = [message.receipt for message in held]

        def extend(connection: Connection) -> int:
            now = clock()
            return messages.settle(connection, queue, (), [(now + queue.visibility, receipt) for receipt in receipts], groups, now)

        await self._database.write(extend)

    async def _expire(self) -> None:
        queue, clock = self._queue, self._clock
        while True:
            try:
                expired = await self._database.write(lambda connection: messages.expire(connection, queue, clock()))
                self._tell_expired(expired)
            except NotConnected as error:
                log.warning("%s: retention not looked after: %s", self.name, error, extra={"lane": self.name})
                expired = 0
            await asyncio.sleep(0 if expired else EXPIRY_SECONDS)

    def _tell_expired(self, expired: int) -> None:
        if expired:
            text = "%s: %d messages were older than the retention (%s) and are gone, never handled"
            log.warning(text, self.name, expired, show_duration(self._queue.retention), extra={"lane": self.name})


def _groups(records: Iterable[Message]) -> set[str]:
    return {record.group for record in records if record.group is not None}


class QueueSource:
    """See `Source`."""

    def __init__(self, policy: Redeliver, context: Context, database: Database, queue: Queue) -> None:
        self.policy = policy
        self.format = MessageFormat(queue.name)
        self.identity = f"local-queue:{database.identity}:{queue.name}"
        self._context = context
        self._database = database
        self._queue = queue
        self._lane: QueueLane | None = None
        self._closed = False

    @classmethod
    async def open(cls, options: QueueOptions, context: Context, policy: Redeliver) -> QueueSource:
        database = await Database.acquire(context.state)
        try:
            queue = await database.write(lambda connection: ensure_queue(connection, options))
        except BaseException:
            await database.release()
            raise
        return cls(policy, context, database, queue)

    async def lanes(self) -> AsyncIterator[Lane]:
        self._lane = QueueLane(self._database, self._queue, self._context, self.format)
        yield self._lane

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._lane is not None:
            await self._lane.aclose()
        await self._database.release()


async def probe(options: QueueOptions, context: Context, timeout: float) -> list[Finding]:
    """See `Connector.probe`; makes nothing."""
    visibility = duration(options.visibility_timeout)
    findings = []
    if timeout > visibility:
        text = (
            f"visibility_timeout ({options.visibility_timeout}) is shorter than the function's timeout ({show_duration(timeout)}): "
            "a running batch is kept by heartbeat, but a failed one may come back at once"
        )
        findings.append(Finding("warning", text))
    if not Database.exists(context.state):
        return [*findings, Finding("ok", f"local queue {options.name!r} will be made")]
    async with Database.shared(context.state) as database:
        row = await database.read(
            lambda connection: connection.execute(
                "SELECT q.fifo, (SELECT count(*) FROM messages m WHERE m.queue=q.id) FROM queues q WHERE q.name=?", (options.name,)
            ).fetchone()
        )
    if row is None:
        return [*findings, Finding("ok", f"local queue {options.name!r} will be made")]
    if bool(row[0]) != options.fifo:
        kinds = ("a standard queue", "a FIFO queue")
        return [
            *findings,
            Finding("error", f"local queue {options.name!r} is {kinds[row[0]]}, the configuration says {kinds[options.fifo]}"),
        ]
    return [*findings, Finding("ok", f"local queue {options.name!r} holds {row[1]} messages")]
