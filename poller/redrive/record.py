"""What invocation records tell: AWS's, with and without what is added to them (`poller.failures.invocation`). Pure.

Sources: AWS Lambda guide, "Retain discarded batch records ..." of Kinesis, DynamoDB and Kafka; "Capturing records of Lambda asynchronous
invocations"; "Adding a dead-letter queue". Amazon SNS guide, "Message delivery to HTTP/S", for the envelope of a notification.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast, get_args

import msgspec
from msgspec import UNSET, Raw, UnsetType

from poller.errors import SourceError
from poller.failures.invocation import ACCOUNT
from poller.model import Fault, Reason

_REASONS: frozenset[str] = frozenset(get_args(Reason))
_CONDITIONS: dict[str, Reason] = {"EventAgeExceeded": "RecordAgeExceeded"}
"""Of asynchronous invocations, where another word of ours means the same."""

_OURS = re.compile(rf"arn:aws:lambda:[\w-]+:{ACCOUNT}:function:(?P<name>[^:]+)(?::.*)?")

_ROW = re.compile(r"[0-9a-f]{32}")

_UNTOLD = Fault("error", "Unhandled", "the invocation record does not tell the error")


class _Record(msgspec.Struct):
    version: str
    context: dict[str, Any] = msgspec.field(name="requestContext")
    response: dict[str, Any] | None = msgspec.field(name="responseContext", default=None)
    timestamp: str = ""
    payload: Raw | UnsetType = UNSET
    request: Raw | UnsetType = msgspec.field(name="requestPayload", default=UNSET)
    answer: Any = msgspec.field(name="responsePayload", default=None)
    error: Any = None
    place: str | None = msgspec.field(name="payloadIn", default=None)
    id: str = ""


class _Event(msgspec.Struct):
    """Of EventBridge."""

    detail: Raw
    kind: str = msgspec.field(name="detail-type")


class Notification(msgspec.Struct):
    """Of SNS: what it sends where raw delivery is not asked for."""

    type: str = msgspec.field(name="Type")
    id: str = msgspec.field(name="MessageId")
    topic: str = msgspec.field(name="TopicArn")
    message: str = msgspec.field(name="Message")
    time: str = msgspec.field(name="Timestamp")
    unsubscribe: str = msgspec.field(name="UnsubscribeURL", default="")


@dataclass(frozen=True, slots=True)
class Told:
    """What a record says of a batch. `whole`: the record. `event`: what the function was called with, JSON text; None: it is not in it.
    `place`: where it is then, or "". `asynchronous`: Lambda was called with the event, by anyone. `id`: as `Delivery.id`; `function`: its
    name, where it is one of ours; both else "". `time`: epoch seconds, None if it does not tell."""

    whole: Mapping[str, Any]
    event: bytes | None
    place: str
    asynchronous: bool
    id: str
    function: str
    reason: Reason
    attempts: int
    time: float | None
    request_id: str
    fault: Fault | None


def told(body: bytes) -> Told | None:
    """None: this is no invocation record, nor an event of EventBridge or a notification of SNS that holds one. Raises SourceError for
    one of a success."""
    try:
        record, whole = msgspec.json.decode(body, type=_Record), msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError):
        inner = _inside(body)
        return None if inner is None else told(inner)
    condition = str(record.context.get("condition", ""))
    if condition == "Success":
        raise SourceError("it tells of a success")
    arn = _OURS.fullmatch(str(record.context.get("functionArn", "")))
    return Told(
        whole,
        _text(record.payload if record.request is UNSET else record.request),
        record.place or "",
        record.request is not UNSET,
        row_id(record.id),
        arn["name"] if arn else "",
        cast("Reason", condition) if condition in _REASONS else _CONDITIONS.get(condition, "RetryAttemptsExhausted"),
        count if isinstance(count := record.context.get("approximateInvokeCount"), int) else 1,
        moment(record.timestamp),
        str(record.context.get("requestId", "")),
        _fault(record),
    )


def notification(body: bytes) -> Notification | None:
    """None: it is none."""
    try:
        found = msgspec.json.decode(body, type=Notification)
    except (msgspec.MsgspecError, ValueError):
        return None
    return found if found.type == "Notification" else None


def notified(body: bytes, found: Notification) -> bytes:
    """The event that Lambda calls a function with, which is subscribed to the topic (AWS Lambda guide, "Using Lambda with Amazon SNS")."""
    whole = msgspec.json.decode(body)
    _, _, subscription = found.unsubscribe.partition("SubscriptionArn=")
    names = {"SigningCertURL": "SigningCertUrl", "UnsubscribeURL": "UnsubscribeUrl"}
    sns = {"Subject": None, "MessageAttributes": {}} | {names.get(name, name): value for name, value in whole.items()}
    element = {"EventSource": "aws:sns", "EventVersion": "1.0", "EventSubscriptionArn": subscription.partition("&")[0], "Sns": sns}
    return msgspec.json.encode({"Records": [element]})


def row_id(text: str) -> str:
    """What names a failure, whole; "" for what does not."""
    return text if _ROW.fullmatch(text) else ""


def moment(text: str) -> float | None:
    """Epoch seconds of ISO 8601."""
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None


def _inside(body: bytes) -> bytes | None:
    try:
        event = msgspec.json.decode(body, type=_Event)
    except (msgspec.MsgspecError, ValueError):
        found = notification(body)
        return None if found is None else found.message.encode()
    return bytes(event.detail) if event.kind.startswith("Lambda Function Invocation Result") else None


def _text(payload: Raw | UnsetType) -> bytes | None:
    """As AWS has it: a text that holds JSON (S3), or the event itself (topics)."""
    if isinstance(payload, UnsetType):
        return None
    text = bytes(payload)
    try:
        return msgspec.json.decode(text, type=str).encode() if text.startswith(b'"') else text
    except (msgspec.MsgspecError, ValueError) as error:
        raise SourceError(f"its event cannot be read ({error})") from error


def _fault(record: _Record) -> Fault | None:
    match record.error, record.answer:
        case {"type": str(kind), "message": str(message), **more}, _:
            return Fault("error", kind, message, _frames(more.get("trace")))
        case _, {"errorMessage": message, **more}:
            return Fault("error", str(more.get("errorType") or "Unhandled"), str(message), _frames(more.get("stackTrace")))
    return _UNTOLD if record.response and record.response.get("functionError") else None


def _frames(trace: Any) -> tuple[str, ...]:
    return tuple(map(str, trace)) if isinstance(trace, list) else ()
