"""Putting back what a queue once held. See `poller.feed.Returner`: ten at once, or one at a time where the queue keeps an order.

Sources: SendMessageBatch in the API reference; developer guide, "Amazon SQS message quotas".
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any
from uuid import uuid4

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
    """Of one queue. Needs sqs:SendMessage."""

    def __init__(self, sender: AwsSender, place: Place, url: str, fifo: bool) -> None:
        self._sender, self._place, self._url, self._fifo = sender, place, url, fifo
        # One that is sent again, for its answer was lost, is the same message; in another replay it is another one.
        self._salt = uuid4().bytes

    def __repr__(self) -> str:
        return f"<QueueReturner {self._place.name}>"

    async def put(self, records: Sequence[KeptRecord]) -> int:
        # Of several in one call the second of a group may be taken and the first not.
        entries = [self._entry(str(i), record) for i, record in enumerate(records[: 1 if self._fifo else MOST])]
        entries = entries[: _fitting(records[: len(entries)])]
        answer = await self._sender.call("SendMessageBatch", {"QueueUrl": self._url, "Entries": entries})
        refusals = {int(each["Id"]): each for each in answer.get("Failed", ())}
        if len(refusals) + len(answer.get("Successful", ())) != len(entries):
            raise rejection(self._place, "SendMessageBatch", "NotAnswered", ANOTHER)
        first = min(refusals, default=len(entries))
        if first == 0:
            refused = refusals[0]
            status = 400 if refused.get("SenderFault") else 500
            raise rejection(self._place, "SendMessageBatch", str(refused.get("Code", "")), str(refused.get("Message", "")), status)
        return first

    def _entry(self, number: str, record: KeptRecord) -> dict[str, Any]:
        sent = message(record)
        entry: dict[str, Any] = {"Id": number, "MessageBody": sent.body}
        if sent.attributes:
            entry["MessageAttributes"] = {name: _attribute(kind, value) for name, (kind, value) in sent.attributes.items()}
        if sent.trace:
            entry["MessageSystemAttributes"] = {"AWSTraceHeader": {"DataType": "String", "StringValue": sent.trace}}
        if sent.group is not None:
            entry["MessageGroupId"] = sent.group
        elif self._fifo:
            raise SourceError(f"record {record.id} of the journal has no MessageGroupId, so it cannot be put back into a FIFO queue")
        if self._fifo:
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
    region = options.region or named.region
    place = Place(f"SQS queue {named.name} (region {region or 'of the environment'}, {options.endpoint or 'AWS'})", "sqs:SendMessage")
    sender = await AwsSender.opened(place, SECONDS, "sqs", region, options)
    try:
        url = named.url or await _found(sender, place, named)
    except BaseException:
        await sender.aclose()
        raise
    return QueueReturner(sender, place, url, named.fifo)


async def _found(sender: AwsSender, place: Place, named: Where) -> str:
    owner = {} if named.owner is None else {"QueueOwnerAWSAccountId": named.owner}
    answer = await sender.call("GetQueueUrl", {"QueueName": named.name, **owner})
    if not (url := str(answer.get("QueueUrl", ""))):
        raise rejection(place, "GetQueueUrl", "NotAnswered", ANOTHER)
    return url
