"""Putting back what a queue once held. See `poller.feed.Returner`: ten at once, or one at a time where the queue keeps an order.

Sources: SendMessageBatch in the API reference; developer guide, "Amazon SQS message quotas".
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any
from uuid import uuid4

from connectors.aws import naming
from connectors.aws.destination import ANOTHER, QUARTER
from connectors.aws.refusals import Place
from connectors.aws.rejections import rejection
from connectors.aws.sender import AwsSender
from connectors.returning import message
from connectors.sqs import SqsOptions
from connectors.sqs.client import MOST
from connectors.sqs.queue import Where, where
from poller.errors import SourceError
from poller.failures.journal import KeptRecord

SECONDS = 30.0
"""How long an answer may take."""


class QueueReturner:
    """Of one queue. Needs sqs:SendMessage, and sqs:GetQueueUrl where it is named without its URL."""

    def __init__(self, sender: AwsSender, place: Place, named: Where) -> None:
        self._sender, self._place, self._named = sender, place, named
        self._url = named.url or ""
        # One that is sent again, for its answer was lost, is the same message; in another replay it is another one.
        self._salt = uuid4().bytes
        self._most = self._usual = 1 if named.fifo else MOST

    def __repr__(self) -> str:
        return f"<QueueReturner {self._place.name}>"

    def check(self, records: Sequence[KeptRecord]) -> None:
        for record in records:
            self._entry("0", record)

    async def put(self, records: Sequence[KeptRecord]) -> int:
        # To a FIFO queue one at a time: of several in one call the second of a group may be taken and the first not.
        some = records[: _fitting(records[: self._most])]
        entries = [self._entry(str(number), record) for number, record in enumerate(some)]
        answer = await self._sender.call("SendMessageBatch", {"QueueUrl": await self._found(), "Entries": entries})
        refusals = {int(each["Id"]): each for each in answer.get("Failed", ())}
        if len(refusals) + len(answer.get("Successful", ())) != len(entries):
            raise rejection(self._place, "SendMessageBatch", "NotAnswered", ANOTHER)
        # What stands behind a refused one, and was taken, comes once more: so until that one is taken no others are sent beside it.
        self._most = 1 if refusals else self._usual
        first = min(refusals, default=len(entries))
        if first == 0:
            refused = refusals[0]
            status = 400 if refused.get("SenderFault") else 500
            raise rejection(self._place, "SendMessageBatch", str(refused.get("Code", "")), str(refused.get("Message", "")), status)
        return first

    async def _found(self) -> str:
        if not self._url:
            owner = {} if self._named.owner is None else {"QueueOwnerAWSAccountId": self._named.owner}
            answer = await self._sender.call("GetQueueUrl", {"QueueName": self._named.name, **owner})
            self._url = str(answer.get("QueueUrl", ""))
            if not self._url:
                raise rejection(self._place, "GetQueueUrl", "NotAnswered", ANOTHER)
        return self._url

    def _entry(self, number: str, record: KeptRecord) -> dict[str, Any]:
        sent = message(record)
        entry: dict[str, Any] = {"Id": number, "MessageBody": sent.body}
        if sent.attributes:
            entry["MessageAttributes"] = {name: _attribute(kind, value) for name, (kind, value) in sent.attributes.items()}
        if sent.trace:
            entry["MessageSystemAttributes"] = {"AWSTraceHeader": {"DataType": "String", "StringValue": sent.trace}}
        if sent.group is not None:
            entry["MessageGroupId"] = sent.group
        elif self._named.fifo:
            raise SourceError(f"record {record.id} of the journal has no MessageGroupId, so it cannot be put back into a FIFO queue")
        if self._named.fifo:
            entry["MessageDeduplicationId"] = sha256(self._salt + record.id.encode(errors="surrogatepass")).hexdigest()
        return entry

    async def aclose(self) -> None:
        await self._sender.aclose()


def _attribute(kind: str, value: str | bytes) -> dict[str, Any]:
    return {"DataType": kind, "StringValue" if isinstance(value, str) else "BinaryValue": value}


def _fitting(records: Sequence[KeptRecord]) -> int:
    """How many of them a call takes: one, or what is smaller than any queue's limit for all. An event is larger than its message."""
    total = 0
    for number, record in enumerate(records):
        total += len(record.json)
        if number and total > QUARTER:
            return number
    return len(records)


async def open_returner(options: SqsOptions) -> QueueReturner:
    """Raises NotConnected."""
    named = where(options.queue)
    place = Place(naming.place("SQS queue", named, options), "sqs:SendMessage")
    return QueueReturner(await AwsSender.opened(place, SECONDS, "sqs", options.region or named.region, options), place, named)
