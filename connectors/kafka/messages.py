"""What is written to a topic for a delivery: a message for each record, as its producer had it, and what became of it. Pure.

What went wrong is said in headers, under the names of Kafka Connect's dead letter queues where it has one (KIP-298:
`__connect.errors.topic`, `.partition`, `.offset`, `.exception.class.name`, `.exception.message`, `.exception.stacktrace`), else under ours
(`poller.id`, `poller.mapping`, `poller.function`, `poller.reason`, `poller.attempts`). They come behind the record's own: of headers with
one name Kafka's clients take the last.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

from poller.failures.invocation import alone, record
from poller.failures.journal import Delivery, Entry, KeptRecord
from poller.settings import DestinationContext

Headers: TypeAlias = tuple[tuple[str, bytes | None], ...]

MESSAGE_CHARACTERS = 1024
TRACE_CHARACTERS = 8 * 1024
"""What is left of an error in headers: they count as the message does."""

OVERHEAD = 128
"""Bytes of a message around key, value and headers, of which each takes 10 more: more than there are."""


class Original(NamedTuple):
    """A record as its producer had it. `place`: topic, partition and offset, where it came from Kafka."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    place: tuple[str, int, int] | None = None


class Message(NamedTuple):
    """To be produced. `whole`: nothing of it was left out. `partition`: None, the key chooses it."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    whole: bool = True
    partition: int | None = None


def original(kept: KeptRecord) -> Original:
    """Told by the shape of its element: that of Kafka's events, of Kinesis's, of SQS's; of any other the value is the element itself."""
    try:
        return produced(kept, json.loads(kept.json))  # not orjson: a text of SQS may hold half of a surrogate pair
    except (ValueError, TypeError, AttributeError):  # what should be base64 is not, for one: the row was edited
        return Original(None if kept.key is None else kept.key.encode(), kept.json)


def produced(kept: KeptRecord, element: Any) -> Original:
    """As `original`, of this element. Raises ValueError, TypeError, AttributeError where it was edited so that it tells nothing."""
    key = None if kept.key is None else kept.key.encode()
    match element:
        case {"topic": str(topic), "partition": int(partition), "offset": int(offset), "value": value}:
            headers = tuple((name, _octets(octets)) for header in element.get("headers") or () for name, octets in header.items())
            return Original(_decoded(element.get("key")), _decoded(value), headers, (topic, partition, offset))
        case {"kinesis": {"data": str(data)}}:
            return Original(key, _decoded(data))
        case {"messageId": str(), "body": str(body)}:
            return Original(key, body.encode(errors="surrogatepass"))
        case _:
            return Original(key, kept.json)


def messages(delivery: Delivery, context: DestinationContext, raw: bool, limit: int, place: str | None = None) -> Iterator[Message]:
    """One for each record, in order, none above `limit` bytes but for what its key and its own headers take. What is too large is left out,
    and is in the journal, or at `place`."""
    described = replace(context, describe=_singular(context.describe))
    for one in alone(delivery):
        had = original(one.entry.records[0])
        told = () if context.exact and not raw else (*_said(one), *_errors(one.entry, had))
        headers = had.headers + told
        room = limit - OVERHEAD - len(had.key or b"") - sum(len(name) + len(value or b"") + 10 for name, value in headers)
        whole = had.value if raw else record(one, described, form="object", carried=True)
        if whole is None or len(whole) <= room:
            yield Message(had.key, whole, headers)
            continue
        where = place or (f"journal:{one.entry.id}" if one.outcome == "failure" else "")  # as the record says it
        pointer = (("poller.payload-in", where.encode()),) if told and where else ()
        room = max(0, room - sum(len(name) + len(value) + 10 for name, value in pointer))
        yield Message(had.key, record(one, described, room, form="object", carried=True, place=place), headers + pointer, False)


def _singular(describe: Callable[[Entry], dict[str, Any]]) -> Callable[[Entry], dict[str, Any]]:
    """Of one record AWS tells offset and time once, as `recordInfo` (AWS Lambda guide, "Retain discarded batch records ... Kafka")."""

    def described(entry: Entry) -> dict[str, Any]:
        return {name: _of_one(info) if isinstance(info, dict) else info for name, info in describe(entry).items()}

    return described


def _of_one(info: dict[str, Any]) -> dict[str, Any]:
    if "recordsInfo" not in info:
        return info
    (only,) = info["recordsInfo"].values()
    one = {"offset": only["firstRecordOffset"], "timestamp": only["firstRecordTimestamp"]}
    return {name: each for name, each in info.items() if name != "recordsInfo"} | {"recordInfo": one}


def _said(delivery: Delivery) -> Iterator[tuple[str, bytes]]:
    entry = delivery.entry
    yield "poller.id", delivery.id.encode()
    yield "poller.mapping", entry.mapping.encode()
    yield "poller.function", entry.function.encode()
    yield "poller.reason", ("Success" if delivery.outcome == "success" else entry.reason).encode()
    yield "poller.attempts", str(entry.attempts).encode()


def _errors(entry: Entry, had: Original) -> Iterator[tuple[str, bytes]]:
    if had.place is not None:
        for name, value in zip(("topic", "partition", "offset"), had.place, strict=True):
            yield f"__connect.errors.{name}", str(value).encode()
    if entry.fault is not None:
        yield "__connect.errors.exception.class.name", _short(entry.fault.type, MESSAGE_CHARACTERS)
        yield "__connect.errors.exception.message", _short(entry.fault.message, MESSAGE_CHARACTERS)
        if entry.fault.trace:
            yield "__connect.errors.exception.stacktrace", _short("\n".join(entry.fault.trace), TRACE_CHARACTERS)


def _short(text: str, characters: int) -> bytes:
    return text[:characters].encode(errors="replace")


def _decoded(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)


def _octets(signed: list[int] | None) -> bytes | None:
    """Bytes as Java has them: from -128 to 127."""
    return None if signed is None else bytes(octet & 0xFF for octet in signed)
