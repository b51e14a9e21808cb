"""Records of the embedded queues and streams made again, for redrive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from connectors.local import QueueOptions, StreamOptions
from connectors.local.database import Database
from connectors.local.format import Message, MessageFormat, queue_arn, stream_arn
from connectors.regaining import of_queue, of_shards, regained
from poller.errors import SourceError
from poller.failures.entry import entry
from poller.model import Failure
from poller.redrive.letters import Letter, RedriveContext, Regained

_NO_EVENT = "it holds no event; look in the journal it names"


class QueueRegainer:
    """See `poller.redrive.letters.Regainer`."""

    def __init__(self, options: QueueOptions, context: RedriveContext) -> None:
        self._name = options.name
        self._context = context

    def __repr__(self) -> str:
        return f"<QueueRegainer {self._name}>"

    async def of_event(self, event: bytes, told: Mapping[str, Any]) -> Regained:  # noqa: ARG002 -- its elements name their queue
        return regained(event, of_queue(self._check), await self._identity(), self._name, "this queue")

    async def of_message(self, letter: Letter) -> Regained:
        message = letter.message
        if not isinstance(message, Message):
            raise SourceError("it is no invocation record, and was no message of an embedded queue")
        if message.origin is not None:
            self._check(message.origin)
        kept = entry(
            Failure([msgspec.structs.replace(message, origin=None)], "MaximumReceiveCountExceeded", 1),
            MessageFormat(self._name),
            mapping=self._context.mapping.id,
            source=await self._identity(),
            lane=self._name,
            function=self._context.mapping.function,
            now=letter.sent,
        )
        return Regained(kept.source, kept.lane, kept.records, kept.identifiers, kept.head, kept.tail)

    async def of_range(self, told: Mapping[str, Any]) -> Regained:  # noqa: ARG002 -- the protocol's
        raise SourceError(_NO_EVENT)

    async def aclose(self) -> None:
        """Nothing stays open."""

    def _check(self, arn: str) -> None:
        if arn != queue_arn(self._name):
            raise SourceError(f"it is of another queue: {arn}")

    async def _identity(self) -> str:
        return f"local-queue:{await database_id(self._context)}:{self._name}"


class StreamRegainer:
    """See `poller.redrive.letters.Regainer`."""

    def __init__(self, options: StreamOptions, context: RedriveContext) -> None:
        self._name = options.name
        self._context = context

    def __repr__(self) -> str:
        return f"<StreamRegainer {self._name}>"

    async def of_event(self, event: bytes, told: Mapping[str, Any]) -> Regained:  # noqa: ARG002 -- its elements name their shard
        made = regained(event, of_shards(self._check), "", "", "this stream")
        source = f"local-stream:{await database_id(self._context)}:{self._name}"
        return Regained(source, made.records[0].id.partition(":")[0], made.records, made.identifiers, made.head, made.tail)

    async def of_message(self, letter: Letter) -> Regained:  # noqa: ARG002 -- the protocol's
        raise SourceError("it is no invocation record, and a stream's records are not moved to a queue as they are")

    async def of_range(self, told: Mapping[str, Any]) -> Regained:  # noqa: ARG002 -- the protocol's
        raise SourceError(_NO_EVENT)

    async def aclose(self) -> None:
        """Nothing stays open."""

    def _check(self, arn: str) -> None:
        if arn != stream_arn(self._name):
            raise SourceError(f"it is of another stream: {arn}")


async def database_id(context: RedriveContext) -> str:
    """What makes it this database; "" where there is none (any more). Makes none."""
    if not Database.exists(context.state):
        return ""
    async with Database.shared(context.state) as database:
        return database.identity
