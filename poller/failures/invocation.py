"""What is told of a batch at its destinations: AWS's invocation records, and what is added to them. Pure.

Sources: AWS Lambda guide, "Retain discarded batch records ..." of Kinesis, DynamoDB and Kafka, "Capturing records of Lambda asynchronous
invocations"; and records that AWS sent. A failure is told as AWS's pollers do; a success, of which they tell nothing, as Lambda tells
of an asynchronous invocation. Keys are in AWS's order, what is added comes behind them: `payload` (the event), `error`, and `id`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import orjson

from poller.failures.journal import Delivery, Entry
from poller.model import Fault
from poller.settings import DestinationContext
from poller.windows import iso

ACCOUNT, REGION = "000000000000", "us-east-1"
"""Of functions, as they see it themselves."""

_NEVER_INVOKED = {"RecordAgeExceeded", "RetentionExpiring"}
_OF_AWS = {
    "RetentionExpiring": "RecordAgeExceeded",
    "MaximumReceiveCountExceeded": "RetryAttemptsExhausted",
    "ErrorDiscarded": "RetryAttemptsExhausted",
    "ErrorParked": "RetryAttemptsExhausted",
}
"""The conditions that are ours, as AWS would put them."""

_MESSAGE = 1024
"""Characters that are left of an error's message where the whole error does not fit."""

Form: TypeAlias = Literal["text", "object"]
"""How the event stands in a record: as AWS's pollers write it to S3, a text that holds JSON; or as they write it to a topic."""


def record(
    delivery: Delivery,
    context: DestinationContext,
    limit: int | None = None,
    *,
    form: Form = "text",
    carried: bool = False,
    place: str | None = None,
) -> bytes:
    """The body for a destination that takes `limit` bytes; None: any number.

    What does not fit goes, the event first; then `payloadIn` says where it is: at `place`, else in the journal (`journal:<id of its row>`),
    where a success is not. `carried`: AWS's own record holds the event at this kind of destination, so it stays with `context.exact`.
    """
    body = b""
    for fields in _choices(delivery, context, form, carried, place):
        body = orjson.dumps(fields)
        if limit is None or len(body) <= limit:
            break
    return body


def alone(delivery: Delivery) -> Iterator[Delivery]:
    """The same for each record of the batch by itself, in order: for destinations that take one at a time. Their `id` is the batch's."""
    entry = delivery.entry
    if len(entry.records) == 1:
        yield delivery
        return
    named = len(entry.identifiers) == len(entry.records)
    for number, each in enumerate(entry.records):
        identifiers = entry.identifiers[number : number + 1] if named else ()
        yield replace(delivery, entry=replace(entry, records=(each,), identifiers=identifiers, first=each.id, last=each.id))


def event(entry: Entry) -> bytes:
    """What the function was invoked with, as JSON text."""
    return entry.head + b",".join(each.json for each in entry.records) + entry.tail


def key(delivery: Delivery, mapping: str) -> str:
    """Of the object that holds the record: `aws/lambda/<mapping>/<shard>/YYYY/MM/DD/YYYY-MM-DDTHH.MM.SS-<uuid>`, all in UTC.

    AWS draws its UUID; this one is made from the failure's id, so that what is sent twice is one object. A shard is one part of the
    key, whatever its name.
    """
    moment = milliseconds(delivery.entry.time)[:19]
    day = moment[:10].replace("-", "/")
    lane = delivery.entry.lane.replace("/", "_")
    return f"aws/lambda/{mapping}/{lane}/{day}/{moment.replace(':', '.')}-{_uuid(delivery.id)}"


def group(delivery: Delivery) -> str:
    """What keeps deliveries of a lane in order at a FIFO destination: the lane, or a hash of it where AWS would not take its name (1 to
    128 printable characters of ASCII)."""
    lane = delivery.entry.lane
    fits = 0 < len(lane) <= 128 and all("!" <= each <= "~" for each in lane)
    return lane if fits else hashlib.blake2b(lane.encode(), digest_size=16).hexdigest()


def milliseconds(moment: float) -> str:
    """Epoch seconds, from 1970 on, as "2019-11-14T00:38:06.021Z"."""
    whole, rest = divmod(round(moment * 1000), 1000)
    return f"{iso(whole)[:-1]}.{rest:03d}Z"


def function_arn(function: str) -> str:
    """As the function sees itself, without version."""
    return function if function.startswith("arn:") else f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{function}"


def _choices(delivery: Delivery, context: DestinationContext, form: Form, carried: bool, place: str | None) -> Iterator[dict[str, Any]]:
    """Records of the same, each smaller than the one before."""
    if delivery.outcome == "success":
        yield from _successes(delivery, context, place)
        return
    entry, exact = delivery.entry, context.exact
    fields = _failed(entry, context)
    if carried or not exact:
        yield fields | {"payload": _payload(entry, form)} | ({} if exact else _added(delivery, entry.fault))
    if exact:
        yield fields
        return
    for fault in _shorter(entry.fault):
        yield fields | {"payloadIn": place or f"journal:{entry.id}"} | _added(delivery, fault)


def _failed(entry: Entry, context: DestinationContext) -> dict[str, Any]:
    """AWS's record of a batch that a stream's poller has given up."""
    condition: str = _OF_AWS.get(entry.reason, entry.reason) if context.exact else entry.reason
    request = {
        "requestId": entry.request_id or _uuid(entry.id),
        "functionArn": function_arn(entry.function),
        "condition": condition,
        "approximateInvokeCount": max(1, entry.attempts),  # AWS says 1 too where it has invoked nothing
    }
    fields: dict[str, Any] = {"requestContext": request}
    if entry.reason == "MaximumPayloadSizeExceeded":
        fields["responseContext"] = None
    elif entry.reason not in _NEVER_INVOKED:
        unhandled = entry.fault is not None and entry.fault.unhandled
        fields["responseContext"] = {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled" if unhandled else None}
    return fields | {"version": "1.0", "timestamp": milliseconds(entry.time)} | context.describe(entry)


def _successes(delivery: Delivery, context: DestinationContext, place: str | None) -> Iterator[dict[str, Any]]:
    """AWS's record of an asynchronous invocation."""
    entry = delivery.entry
    fields: dict[str, Any] = {
        "version": "1.0",
        "timestamp": milliseconds(entry.time),
        "requestContext": {
            "requestId": entry.request_id or _uuid(delivery.id),
            "functionArn": f"{function_arn(entry.function)}:$LATEST",
            "condition": "Success",
            "approximateInvokeCount": max(1, entry.attempts),
        },
    }
    answered: dict[str, Any] = {"responseContext": {"statusCode": 200, "executedVersion": "$LATEST"}}
    result = {"responsePayload": orjson.Fragment(delivery.result or b"null")}
    added = {} if context.exact else context.describe(entry) | {"id": delivery.id}
    pointer = {} if context.exact else {"payloadIn": place or None}
    yield fields | {"requestPayload": orjson.Fragment(event(entry))} | answered | result | added
    yield fields | answered | result | added | pointer
    yield fields | answered | added | pointer


def _payload(entry: Entry, form: Form) -> Any:
    return orjson.Fragment(event(entry)) if form == "object" else event(entry).decode(errors="replace")


def _added(delivery: Delivery, fault: Fault | None) -> dict[str, Any]:
    if fault is None:
        return {"error": None, "id": delivery.id}
    error = {"type": _legible(fault.type), "message": _legible(fault.message), "trace": [*map(_legible, fault.trace)]}
    return {"error": error, "id": delivery.id}


def _legible(text: str) -> str:
    """A function may raise with half a surrogate pair, which JSON in UTF-8 cannot hold."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _shorter(fault: Fault | None) -> Iterator[Fault | None]:
    yield fault
    if fault is not None:
        yield replace(fault, trace=())
        yield replace(fault, type=fault.type[:_MESSAGE], message=fault.message[:_MESSAGE], trace=())


def _uuid(digits: str) -> str:
    """A name of 32 hexadecimal digits, or any other, as AWS's look."""
    if len(digits) != 32:
        return digits
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
