"""The connector's client. Imported only when a source opens: the vendor's library takes 300 ms to import.

Every call is signed by hand (connectors/aws/json.py), with botocore's credentials, region and endpoint: a message costs its share of a
receive and of a delete, and botocore takes several times the CPU for one.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson

from connectors.aws.connection import AwsConnection, Target
from connectors.aws.json import ErrorAnswer, Service
from connectors.aws.refusals import Place
from connectors.aws.rejections import rejection
from connectors.sqs.client import Message, Refusal
from poller.errors import NotConnected, SourceError

SQS = Service("sqs", "sqs", "AmazonSQS", "1.0")

ALLOWED = "sqs:ReceiveMessage, sqs:DeleteMessage, sqs:ChangeMessageVisibility, sqs:GetQueueUrl and sqs:GetQueueAttributes"

_IMPOSSIBLE = {"UnsupportedOperation", "AWS.SimpleQueueService.UnsupportedOperation", "InvalidAddress", "UnknownOperationException"}
_PASSING = {"InternalError", "InternalFailure", "ServiceUnavailable"}
"""Of a server that may do better in a moment; so is every status from 500."""


class AwsClient:
    """SQS, asked as one person."""

    def __init__(
        self, place: str, dice: Callable[[], float] = random.random, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        """`place` names queue, region and endpoint for the person who reads of it."""
        self._place = Place(place, ALLOWED)
        self._dice = dice
        self._sleep = sleep
        self._aws = AwsConnection(self._place, SQS)

    def __repr__(self) -> str:
        return f"<AwsClient {self._aws!r}>"

    async def connect(self, target: Target) -> None:
        """Read the credentials' settings; SQS itself is not asked yet. Raises NotConnected, SourceError."""
        await self._aws.connect(target)

    async def receive(self, queue: str, most: int, wait: int, visibility: int) -> Sequence[Message]:
        answer = await self._ask(
            "ReceiveMessage",
            {
                "QueueUrl": queue,
                "MaxNumberOfMessages": most,
                "WaitTimeSeconds": wait,
                "VisibilityTimeout": visibility,
                "MessageSystemAttributeNames": ["All"],
                "MessageAttributeNames": ["All"],
            },
        )
        messages: Sequence[Message] = answer.get("Messages") or ()
        # Imitations of SQS write null for what is not there.
        return [_present(message) if None in message.values() else message for message in messages]

    async def delete(self, queue: str, entries: Sequence[Mapping[str, Any]]) -> Sequence[Refusal]:
        return _refusals(entries, await self._ask("DeleteMessageBatch", {"QueueUrl": queue, "Entries": entries}))

    async def change_visibility(self, queue: str, entries: Sequence[Mapping[str, Any]]) -> Sequence[Refusal]:
        return _refusals(entries, await self._ask("ChangeMessageVisibilityBatch", {"QueueUrl": queue, "Entries": entries}))

    async def queue_url(self, name: str, owner: str | None) -> str:
        account = {} if owner is None else {"QueueOwnerAWSAccountId": owner}
        return str((await self._ask("GetQueueUrl", {"QueueName": name, **account})).get("QueueUrl") or "")

    async def attributes(self, queue: str) -> Mapping[str, str]:
        answer = await self._ask("GetQueueAttributes", {"QueueUrl": queue, "AttributeNames": ["All"]})
        found: Mapping[str, str] = answer.get("Attributes") or {}
        return found

    async def _ask(self, operation: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        answer = await self._aws.call(operation, parameters)
        if isinstance(answer, ErrorAnswer) and (answer.status >= 500 or answer.code in _PASSING):
            # Once: SQS has such a moment now and then. More is the engine's, or tenacity's, to do.
            await self._sleep(0.1 + 0.4 * self._dice())
            answer = await self._aws.call(operation, parameters)
        if isinstance(answer, ErrorAnswer):
            raise _refused(self._place, operation, answer)
        try:
            told = _loads(answer)
        except ValueError as error:
            raise self._aws.malformed(operation, error) from error
        if not isinstance(told, dict):
            raise self._aws.malformed(operation, TypeError("no object"))
        return told

    async def aclose(self) -> None:
        """Tolerated twice."""
        await self._aws.aclose()


def _present(message: Message) -> Message:
    return {name: value for name, value in message.items() if value is not None}


def _loads(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        # Half of a surrogate pair: SQS refuses such a body, its imitations may not, and a message must never stop a lane.
        return json.loads(text)


def _refusals(entries: Sequence[Mapping[str, Any]], answer: Mapping[str, Any]) -> Sequence[Refusal]:
    """Done is what SQS says is done: an entry that it does not name at all is refused too."""
    refused: Sequence[Refusal] = answer.get("Failed") or ()
    done = answer.get("Successful") or ()
    if len(done) + len(refused) < len(entries):
        named = {each["Id"] for each in (*done, *refused)}
        silent = [entry["Id"] for entry in entries if entry["Id"] not in named]
        return [*refused, *({"Id": id_, "Code": "NotAnswered", "SenderFault": False} for id_ in silent)]
    return refused


def _refused(place: Place, operation: str, answer: ErrorAnswer) -> NotConnected | SourceError:
    """What an answer of SQS with an error code means."""
    if answer.code in _IMPOSSIBLE:
        return SourceError(f"{place.name}: {operation} can never work ({answer.code}: {answer.text})")
    return rejection(place, operation, answer.code, answer.text, answer.status)
