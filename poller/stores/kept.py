"""A row of the journal from what a store has kept of it: the same for every store with columns. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from poller.errors import StoreError
from poller.failures.journal import Entry, ErrorGroup, KeptRecord, Row
from poller.model import Fault

PORTION_RECORDS, PORTION_BYTES = 500, 4 * 1024 * 1024
"""What of a journal is removed in one transaction, at most."""

Kept = tuple[KeptRecord, str | None]
"""A record, and what a partial batch response would name it by."""

ROW_BYTES, RECORD_BYTES = 700, 300
"""What a row, and a record, take besides the event's own bytes: their columns, and their places in indexes, about."""


def row(fields: Sequence[str], columns: Sequence[Any], records: Sequence[Kept]) -> Row:
    """`columns`: the row's number, fault, state and failures, when it changed, then the entry's `fields`. Raises StoreError."""
    _, kept, state, failures, changed, *values = columns
    known = dict(zip(fields, values, strict=True))
    known["holds"] = bool(known["holds"])
    entry = Entry(
        **known,
        fault=fault_of(known["id"], kept),
        records=tuple(record for record, _ in records),
        identifiers=tuple(identifier for _, identifier in records if identifier is not None),
    )
    return Row(entry, state, failures, changed)


def row_weight(entry: Entry) -> int:
    """About so many bytes a store needs for a row besides its records."""
    return len(entry.head) + len(entry.tail) + ROW_BYTES


def weight(records: Sequence[KeptRecord]) -> int:
    """About so many bytes a store needs for these records."""
    return sum(len(record.json) for record in records) + RECORD_BYTES * len(records)


def grouped(columns: Iterable[Sequence[Any]]) -> list[ErrorGroup]:
    """Error groups, largest first. `columns`: fingerprint, rows, records, first, last, mappings, and the sample's id, reason and fault."""
    groups = [
        ErrorGroup(name, rows, records, first, last, tuple(sorted(set(mappings))), sample, reason, fault_of(sample, fault))
        for name, rows, records, first, last, mappings, sample, reason, fault in columns
    ]
    return sorted(groups, key=lambda group: (-group.rows, group.id))


def portion(found: Sequence[Sequence[Any]]) -> Sequence[Sequence[Any]]:
    """As many rows, of those to be removed, as one transaction may: appends wait for it. At least one. The last two columns are the row's
    records and bytes."""
    records = bytes_ = 0
    for place, columns in enumerate(found):
        records, bytes_ = records + columns[-2], bytes_ + columns[-1]
        if place and (records > PORTION_RECORDS or bytes_ > PORTION_BYTES):
            return found[:place]
    return found


def fault_of(name: str, text: bytes | None) -> Fault | None:
    """The fault of the failure with this id, from its JSON. Raises StoreError."""
    try:
        return None if text is None else msgspec.json.decode(text, type=Fault)
    except msgspec.DecodeError as error:
        raise StoreError(f"the fault of failure {name} in the journal is damaged ({error}): restore a backup of the store") from error
