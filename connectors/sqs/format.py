"""How SQS messages look: columns for the engine, the event for the function. Pure; a record is the message as the client gave it.

The event is AWS Lambda's (guide, "SQS: example event"; recorded on AWS: attributes are strings, `md5OfMessageAttributes` is absent without
message attributes).
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import orjson

from connectors import fields
from connectors.sqs.client import Message
from poller.filtering import readable
from poller.model import Document, Identifier

_HEAD, _TAIL = b'{"Records":[', b"]}"

_EMPTY = '{"messageId":,"receiptHandle":,"body":,"attributes":,"messageAttributes":{},"md5OfBody":,"eventSource":"aws:sqs","eventSourceARN":,"awsRegion":}'  # noqa: E501
_MEASURED = len("[,,,,]")


def _dumps(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:
        # Half of a surrogate pair: SQS refuses such a body, its imitations may not, and a record must never stop a lane.
        return json.dumps(value, separators=(",", ":")).encode()


class SqsFacts:
    """Columns over messages."""

    __slots__ = ("_fixed", "_messages")

    def __init__(self, messages: Sequence[Message], fixed: int) -> None:
        self._messages = messages
        self._fixed = fixed

    def tokens(self) -> Sequence[str]:
        return [message["ReceiptHandle"] for message in self._messages]

    def arrivals(self) -> Sequence[float]:
        return [int(message["Attributes"]["SentTimestamp"]) / 1000 for message in self._messages]

    def sizes(self) -> Sequence[int]:
        # Exact, and still cheap: escaping is measured by doing it (0.5 µs for 200 B). A bound from the length alone would have to be six
        # times as large, and would cut batches of a megabyte.
        fixed = self._fixed
        return [
            len(_dumps((message["MessageId"], message["ReceiptHandle"], message["Body"], message["Attributes"], message["MD5OfBody"])))
            + fixed
            + (_attributes_size(message) if "MessageAttributes" in message else 0)
            for message in self._messages
        ]

    def keys(self) -> Sequence[bytes | None]:
        groups = [message["Attributes"].get("MessageGroupId") for message in self._messages]
        return [None if group is None else group.encode() for group in groups]

    def receives(self) -> Sequence[int]:
        return [int(message["Attributes"]["ApproximateReceiveCount"]) for message in self._messages]


class SqsEvent:
    """`{"Records": [...]}`."""

    __slots__ = ("_arn", "_messages", "_region")

    def __init__(self, messages: Sequence[Message], arn: str, region: str) -> None:
        self._messages = messages
        self._arn = arn
        self._region = region

    def json(self) -> bytes:
        return _dumps(self.mapping())

    def mapping(self) -> dict[str, Any]:
        return {"Records": _elements(self._messages, self._arn, self._region)}

    def identifiers(self) -> Sequence[Identifier]:
        return [message["MessageId"] for message in self._messages]

    def parts(self) -> tuple[bytes, Sequence[bytes], bytes]:
        return _HEAD, [_dumps(element) for element in _elements(self._messages, self._arn, self._region)], _TAIL


class SqsFormat:
    """The format of one queue's messages."""

    def __init__(self, arn: str, region: str) -> None:
        self._arn = arn
        self._region = region
        # What every element has besides the measured parts: names, colons, the queue's own fields, and the comma behind it.
        self._fixed = len(_EMPTY) + len(_dumps(arn)) + len(_dumps(region)) + 1 - _MEASURED

    def facts(self, records: Sequence[Message]) -> SqsFacts:
        return SqsFacts(records, self._fixed)

    def data(self, records: Sequence[Message]) -> list[str]:
        return [record["Body"] for record in records]

    def documents(self, records: Sequence[Message], keys: Collection[str] = fields.MESSAGE.keys) -> Iterable[Document]:  # noqa: ARG002
        """The element of the event, with `body` parsed where it is JSON (AWS Lambda guide, "Using event filtering with an Amazon SQS
        event source")."""
        return [{**element, "body": readable(element["body"])} for element in _elements(records, self._arn, self._region)]

    def event(self, records: Sequence[Message]) -> SqsEvent:
        return SqsEvent(records, self._arn, self._region)

    def names(self, records: Sequence[Message]) -> Sequence[str]:
        return [record["MessageId"] for record in records]


def _elements(messages: Sequence[Message], arn: str, region: str) -> list[dict[str, Any]]:
    """Fresh objects: the function may change them."""
    return [
        {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": message["Attributes"].copy(),
            "messageAttributes": {},
            "md5OfBody": message["MD5OfBody"],
            "eventSource": "aws:sqs",
            "eventSourceARN": arn,
            "awsRegion": region,
        }
        if "MessageAttributes" not in message
        else _attributed(message, arn, region)
        for message in messages
    ]


def _attributed(message: Message, arn: str, region: str) -> dict[str, Any]:
    """The element of a message that has message attributes; keys in AWS's order."""
    element: dict[str, Any] = {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message["Attributes"].copy(),
        "messageAttributes": _message_attributes(message),
    }
    if (md5 := message.get("MD5OfMessageAttributes")) is not None:
        element["md5OfMessageAttributes"] = md5
    element["md5OfBody"] = message["MD5OfBody"]
    element["eventSource"] = "aws:sqs"
    element["eventSourceARN"] = arn
    element["awsRegion"] = region
    return element


def _message_attributes(message: Message) -> dict[str, dict[str, Any]]:
    return {name: _message_attribute(value) for name, value in message["MessageAttributes"].items()}


def _message_attribute(value: Mapping[str, Any]) -> dict[str, Any]:
    attribute: dict[str, Any] = {}
    if (text := value.get("StringValue")) is not None:
        attribute["stringValue"] = text
    if (binary := value.get("BinaryValue")) is not None:
        attribute["binaryValue"] = _base64(binary)
    attribute["stringListValues"] = list(value.get("StringListValues", ()))
    attribute["binaryListValues"] = [_base64(binary) for binary in value.get("BinaryListValues", ())]
    attribute["dataType"] = value.get("DataType")
    return attribute


def _base64(binary: bytes | str) -> str:
    """Clients that parse the answer themselves leave SQS's own base64 as it is."""
    return binary if isinstance(binary, str) else b64encode(binary).decode()


def _attributes_size(message: Message) -> int:
    md5 = message.get("MD5OfMessageAttributes")
    size = len(_dumps(_message_attributes(message))) - len("{}")
    return size if md5 is None else size + len('"md5OfMessageAttributes":,') + len(_dumps(md5))
