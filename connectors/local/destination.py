"""`local-queue:NAME`: the embedded queue as a destination, in the same database as local sources. A FIFO queue's message group is the lane.

A queue that is there already is taken as it is; else it is made when the first delivery is sent.
"""

from __future__ import annotations

import re
from sqlite3 import Connection
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from connectors.bodies import body
from connectors.local import QueueOptions, queue_connector
from connectors.local.database import Database
from connectors.local.feed import draft, ensure_queue
from connectors.local.messages import Queue, expire, found, put
from poller.errors import ConfigError, NotConnected, SourceError
from poller.failures.invocation import group
from poller.feed import Item
from poller.settings import DestinationContext, DestinationTraits, Finding

if TYPE_CHECKING:
    from connectors.local.letters import LocalLetters
    from poller.failures.journal import Delivery
    from poller.redrive.letters import RedriveContext

MAXIMUM_BYTES = 1024 * 1024
"""SQS: 1 MiB."""

_ADDRESS = re.compile(r"local-queue:(.+)", re.DOTALL)


class LocalQueueOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The embedded queue, `local-queue:NAME`: what it is, where it has to be made."""

    fifo: Annotated[
        bool | None,
        Meta(description="Whether it is a FIFO queue.", extra={"default": "as the queue is; false if it has to be made"}),
    ] = None


class LocalQueueDestination:
    """See `poller.failures.protocols.Destination`."""

    def __init__(self, options: QueueOptions, fifo: bool | None, context: DestinationContext, database: Database) -> None:
        self._options = options
        self._fifo = fifo
        self._context = context
        self._database = database
        self._closed = False

    def __repr__(self) -> str:
        return f"<LocalQueueDestination {self._options.name} [{'closed' if self._closed else 'open'}]>"

    async def send(self, delivery: Delivery) -> None:
        text = await body(delivery, self._context, MAXIMUM_BYTES)
        # The queue looks at key and deduplication only if it is one of FIFO.
        item = Item(text, group(delivery), deduplication=delivery.id)

        def append(connection: Connection) -> None:
            queue, now = self._queue(connection), self._context.clock()
            expire(connection, queue, now)  # a queue that nobody reads must not grow for ever
            put(connection, queue, [draft(0, item, queue.fifo)], now)

        try:
            await self._database.write(append)
        except SourceError as error:
            raise NotConnected(str(error), permanent=True) from error
        self._database.bells.ring(f"queue {self._options.name}")

    def _queue(self, connection: Connection) -> Queue:
        """In the transaction that puts into it. Raises SourceError: it is of the other kind."""
        there = found(connection, self._options.name)
        if there is None or self._fifo not in (None, there.fifo):
            return ensure_queue(connection, self._options)
        return there

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            await self._database.release()


class LocalQueueKind:
    """See `poller.settings.DestinationKind`."""

    options: type[msgspec.Struct] = LocalQueueOptions

    def __repr__(self) -> str:
        return "<LocalQueueKind>"

    def traits(self, to: str, options: LocalQueueOptions) -> DestinationTraits:
        return DestinationTraits(queue_connector.traits(_source(to, options)).identity, MAXIMUM_BYTES)

    async def open(self, to: str, options: LocalQueueOptions, context: DestinationContext) -> LocalQueueDestination:
        return LocalQueueDestination(_source(to, options), options.fifo, context, await Database.acquire(context.state))

    async def letters(self, to: str, options: LocalQueueOptions, context: RedriveContext) -> LocalLetters:
        """See `poller.redrive.letters.Readable`."""
        from connectors.local.letters import open_letters

        return await open_letters(_source(to, options).name, context)

    async def probe(self, to: str, options: LocalQueueOptions, context: DestinationContext) -> list[Finding]:
        """Makes nothing."""
        name = _source(to, options).name
        made = [Finding("ok", f"local queue {name!r} will be made when something is sent to it")]
        if not Database.exists(context.state):
            return made
        try:
            async with Database.shared(context.state) as database:
                there = await database.read(lambda connection: found(connection, name))
        except NotConnected as error:
            return [Finding("error", str(error))]
        if there is None:
            return made
        if options.fifo not in (None, there.fifo):
            kinds = ("a standard queue", "a FIFO queue")
            text = f"local queue {name!r} is {kinds[there.fifo]}, the destination says {kinds[bool(options.fifo)]}; leave `fifo` out"
            return [Finding("error", text)]
        return [Finding("ok", f"local queue {name!r} is there")]


def _source(to: str, options: LocalQueueOptions) -> QueueOptions:
    """The queue as a source would name it. Raises ConfigError."""
    address = _ADDRESS.fullmatch(to)
    if address is None:
        raise ConfigError(f'{to!r} names no queue; write "local-queue:" and its name')
    return QueueOptions(name=address[1], fifo=bool(options.fifo))


kind = LocalQueueKind()
