"""Messages of a queue made again, for redrive: from the event that a letter holds, or from what its redrive policy has moved away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectors.regaining import of_queue, regained
from connectors.sqs import Connect, SqsOptions
from connectors.sqs.client import Message, SqsClient
from connectors.sqs.format import SqsFormat
from connectors.sqs.queue import Queue, where
from connectors.sqs.source import find
from poller.errors import NotConnected, SourceError
from poller.failures.entry import entry
from poller.model import Failure
from poller.redrive.letters import Letter, RedriveContext, Regained

CONNECTIONS = 2


class QueueRegainer:
    """See `poller.redrive.letters.Regainer`. Asks for the queue once, when it must."""

    def __init__(self, connect: Connect, options: SqsOptions, context: RedriveContext) -> None:
        self._connect = connect
        self._options = options
        self._context = context
        self._client: SqsClient | None = None
        self._queue: Queue | None = None

    def __repr__(self) -> str:
        return f"<QueueRegainer {self._options.queue}>"

    async def of_event(self, event: bytes, told: Mapping[str, Any]) -> Regained:  # noqa: ARG002 -- its elements name their queue
        arns = set[str]()

        def check(arn: str) -> None:
            self._check(arn)
            arns.add(arn)

        made = regained(event, of_queue(check), "", "", "this queue")
        (arn,) = arns
        # As the source's own: its identity is the queue's ARN, and its lane has the queue's name.
        return Regained(arn, arn.rpartition(":")[2], made.records, made.identifiers, made.head, made.tail)

    async def of_message(self, letter: Letter) -> Regained:
        message = letter.message
        if not isinstance(message, dict) or "MessageId" not in message:
            raise SourceError("it is no invocation record, and was no message of a queue")
        arn = await self._arn(message)
        self._check(arn)
        moved = {name: value for name, value in message["Attributes"].items() if name != "DeadLetterQueueSourceArn"}
        kept = entry(
            Failure([{**message, "Attributes": moved}], "MaximumReceiveCountExceeded", 1),
            SqsFormat(arn, arn.split(":")[3]),
            mapping=self._context.mapping.id,
            source=arn,
            lane=arn.rpartition(":")[2],
            function=self._context.mapping.function,
            now=letter.sent,
        )
        return Regained(arn, kept.lane, kept.records, kept.identifiers, kept.head, kept.tail)

    async def of_range(self, told: Mapping[str, Any]) -> Regained:  # noqa: ARG002 -- the protocol's
        raise SourceError("it holds no event, and messages that are done cannot be received again; look in the journal it names")

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    def _check(self, arn: str) -> None:
        """Raises SourceError for a message of another queue."""
        named = where(self._options.queue)
        parts = arn.split(":")
        known = (named.name, named.region or self._options.region or parts[3], named.owner or parts[4])
        if len(parts) != 6 or known != (parts[5], parts[3], parts[4]):
            raise SourceError(f"it is of another queue: {arn}")

    async def _arn(self, message: Message) -> str:
        """SQS says where its redrive policy took a message from; who put one there himself, of the mapping's own queue."""
        if (told := message["Attributes"].get("DeadLetterQueueSourceArn")) is not None:
            return str(told)
        if self._queue is None:
            named = where(self._options.queue)
            self._client = self._client or await self._connect(self._options, CONNECTIONS)
            try:
                self._queue = await find(self._client, named)
            except NotConnected as error:
                if error.permanent and self._options.queue.startswith("arn:"):
                    return self._options.queue  # it is gone, or may not be asked: its name is known all the same
                raise
        return self._queue.arn
