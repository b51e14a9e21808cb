"""Putting: items become messages or records, a thousand a transaction, durable when `put` returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import md5
from sqlite3 import Connection
from typing import TypeVar
from uuid import uuid4

import orjson

from connectors.local import QueueOptions, StreamOptions, messages, records
from connectors.local.database import Database
from connectors.local.messages import Draft, Queue
from poller.errors import SourceError
from poller.feed import Item, Place
from poller.units import duration

_T = TypeVar("_T")

_CHUNK = 1000
_CHUNK_BYTES = 8 * 1024 * 1024
_MAXIMUM_MESSAGE = 1024 * 1024
"""SQS: 1 MiB, attributes included."""
_MAXIMUM_RECORD = 10 * 1024 * 1024
"""Kinesis: 10 MiB."""


async def put_messages(options: QueueOptions, place: Place, items: Sequence[Item]) -> int:
    """See `Feed.put`."""
    drafts = [draft(number, item, options.fifo) for number, item in enumerate(items)]
    written = 0
    async with Database.shared(place.state) as database:
        for chunk in _chunks(drafts, [len(item.data) for item in items]):

            def append(connection: Connection, chunk: Sequence[Draft] = chunk) -> int:
                # Made in the same transaction, so that a crash leaves no queue that nobody asked for.
                queue, now = ensure_queue(connection, options), place.clock()
                messages.expire(connection, queue, now)
                return messages.put(connection, queue, chunk, now)

            written += await database.write(append)
            database.bells.ring(f"queue {options.name}")
    return written


def ensure_queue(connection: Connection, options: QueueOptions) -> Queue:
    """The queue as the options say."""
    redrive = None if options.redrive is None else (options.redrive.queue, options.redrive.maximum_receive_count)
    return messages.ensure(
        connection, options.name, options.fifo, duration(options.visibility_timeout), duration(options.retention), redrive
    )


def topic(stream: str, shard: int) -> str:
    """The bell of one shard (bells.py): a busy shard wakes nobody but its own reader."""
    return f"stream {stream} {shard}"


def ensure_stream(connection: Connection, options: StreamOptions) -> records.Stream:
    """The stream as the options say."""
    return records.ensure(connection, options.name, options.shards, duration(options.retention))


async def put_records(options: StreamOptions, place: Place, items: Sequence[Item]) -> int:
    """See `Feed.put`."""
    pairs = [pair(number, item) for number, item in enumerate(items)]
    async with Database.shared(place.state) as database:
        for chunk in _chunks(pairs, [len(item.data) for item in items]):

            def append(connection: Connection, chunk: Sequence[tuple[str, bytes]] = chunk) -> set[int]:
                stream, now = ensure_stream(connection, options), place.clock()
                # A stream that nobody reads must not grow for ever.
                records.trim(connection, stream, now)
                return records.put(connection, stream, chunk, now)

            for number in await database.write(append):
                database.bells.ring(topic(options.name, number))
    return len(items)


def _chunks(things: Sequence[_T], sizes: Sequence[int]) -> Iterator[Sequence[_T]]:
    """Slices of at most a thousand things and some megabytes: a transaction holds up every other writer."""
    start = total = 0
    for end, size in enumerate(sizes):
        if end > start and (end - start == _CHUNK or total + size > _CHUNK_BYTES):
            yield things[start:end]
            start, total = end, 0
        total += size
    if start < len(things):
        yield things[start:]


# --- one item -------------------------------------------------------------------------------------------------------------------------


def _encoded(number: int, what: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Half a character, as command lines and file names may have it.
        raise SourceError(f"item {number}: its {what} is not valid Unicode") from None


def draft(number: int, item: Item, fifo: bool) -> Draft:
    """One message; `number` is the item's, for who reads what is wrong with it. Raises SourceError."""
    try:
        body = item.data.decode()
    except UnicodeDecodeError as error:
        raise SourceError(f"item {number} is not UTF-8 (byte {error.start}); a queue takes text only: encode it, or use a stream") from None
    if not body:
        raise SourceError(f"item {number} is empty; a queue takes messages of at least one character")
    size = len(item.data)
    for name, value in item.attributes.items():
        size += len(_encoded(number, "attribute", name)) + len("String") + len(_encoded(number, "attribute", value))
    if size > _MAXIMUM_MESSAGE:
        raise SourceError(f"item {number} has {size} bytes; a message has at most {_MAXIMUM_MESSAGE}, attributes included")
    message_id = str(uuid4())
    group = deduplication = None
    if fifo:
        if not item.key:
            raise SourceError(f"item {number} has no key; a FIFO queue needs one for each message, as its message group")
        group, deduplication = item.key, item.deduplication
        _encoded(number, "key", group)
        _encoded(number, "deduplication id", deduplication or "")
    attributes = orjson.dumps(_shown(item.attributes)).decode() if item.attributes else None
    return Draft(
        message_id=message_id,
        body=body,
        md5=md5(item.data, usedforsecurity=False).hexdigest(),
        size=sum(len(orjson.dumps(text)) for text in (body, group, deduplication or message_id)) + len((attributes or "").encode()),
        attributes=attributes,
        attributes_md5=_attributes_md5(item.attributes) if item.attributes else None,
        group=group,
        deduplication=deduplication,
    )


def _shown(attributes: Mapping[str, str]) -> dict[str, object]:
    return {
        name: {"stringValue": value, "stringListValues": [], "binaryListValues": [], "dataType": "String"}
        for name, value in attributes.items()
    }


def _attributes_md5(attributes: Mapping[str, str]) -> str:
    """SQS developer guide, "Calculating the MD5 message digest for message attributes"."""
    digest = md5(usedforsecurity=False)
    for name in sorted(attributes):
        for part in (name, "String"):
            digest.update(len(part.encode()).to_bytes(4, "big") + part.encode())
        value = attributes[name].encode()
        digest.update(b"\x01" + len(value).to_bytes(4, "big") + value)
    return digest.hexdigest()


def pair(number: int, item: Item) -> tuple[str, bytes]:
    """One record: key and data; as `draft`."""
    if len(item.data) > _MAXIMUM_RECORD:
        raise SourceError(f"item {number} has {len(item.data)} bytes; a record has at most {_MAXIMUM_RECORD}")
    if item.key is not None and not 1 <= len(item.key) <= 256:
        raise SourceError(f"item {number} has a key of {len(item.key)} characters; a partition key has 1 to 256")
    _encoded(number, "key", item.key or "")
    # Kinesis asks for a key; without one, records are spread evenly.
    return item.key or uuid4().hex, item.data
