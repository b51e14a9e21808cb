"""What an outbox keeps of a batch, as bytes; and which deliveries a failure in the journal makes. Pure.

A delivery holds the batch as it failed: what becomes of the journal's row meanwhile (replayed, dropped, removed) changes nothing in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import msgspec

from poller.errors import StoreError
from poller.failures.entry import identity
from poller.failures.journal import Damaged, Delivery, Entry, KeptRecord
from poller.model import Fault


def text(value: str) -> str:
    """The value as UTF-8 can keep it: half surrogates, which a function's error may contain, are written out as \\udc80."""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()


def encode(entry: Entry) -> bytes:
    """MessagePack."""
    try:
        return msgspec.msgpack.encode(entry)
    except UnicodeEncodeError:
        return msgspec.msgpack.encode(_clean(entry))


def decode(id: str, content: bytes) -> Entry:
    """Fields that an older version did not know have their defaults. Raises StoreError, which names the delivery `id`."""
    try:
        return msgspec.msgpack.decode(content, type=Entry)
    except msgspec.DecodeError as error:
        raise StoreError(f"the delivery {id} in the outbox is damaged ({error}): restore a backup of the store, or give it up") from error


def delivery(
    number: int,
    id: str,
    destination: str,
    outcome: Literal["failure", "success"],
    content: bytes,
    result: bytes | None,
    attempts: int,
    due: float,
    error: str,
) -> Delivery | Damaged:
    """What a row of the outbox holds; `content` is `encode`d."""
    try:
        return Delivery(number, id, destination, outcome, decode(id, content), result, attempts, due, error)
    except StoreError as damage:
        return Damaged(number, id, destination, attempts, due, str(damage))


def torn(id: str, content: bytes) -> bool:
    """Whether `decode` cannot read it."""
    try:
        decode(id, content)
    except StoreError:
        return True
    return False


def posted(entry: Entry, places: Sequence[int], again: bool = False) -> list[Delivery]:
    """One for each destination of a failure, of which the records at `places` were added to the journal, or kept again.

    Due at once by any clock: that of who delivers may be behind. `again`: its row was there already; then the delivery has an id of its
    own, for it is another failure to a receiver.
    """
    if not entry.destinations:
        return []
    if len(places) < len(entry.records):
        records = tuple(entry.records[place] for place in places)
        identifiers = tuple(entry.identifiers[place] for place in places) if entry.identifiers else ()
        entry = replace(entry, records=records, identifiers=identifiers)
    name = identity(entry.id, "again", repr(entry.time), [record.id for record in entry.records]) if again else entry.id
    return [Delivery(0, name, destination, "failure", entry) for destination in entry.destinations]


def _clean(entry: Entry) -> Entry:
    fault = entry.fault
    if fault is not None:
        trace = tuple(map(text, fault.trace))
        fault = Fault(fault.kind, text(fault.type), text(fault.message), trace, fault.unhandled, fault.record_index)
    return replace(
        entry,
        fault=fault,
        first=text(entry.first),
        last=text(entry.last),
        identifiers=tuple(map(text, entry.identifiers)),
        records=tuple(
            KeptRecord(text(each.id), None if each.key is None else text(each.key), each.arrival, each.json) for each in entry.records
        ),
    )
