"""A row of the journal from what a store has kept of it: the same for every store with columns. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from poller.errors import StoreError
from poller.model import Entry, Fault, KeptRecord, Row

Kept = tuple[KeptRecord, str | None]
"""A record, and what a partial batch response would name it by."""


def row(fields: Sequence[str], columns: Sequence[Any], records: Sequence[Kept]) -> Row:
    """`columns`: the row's number, fault, state and failures, when it changed, then the entry's `fields`. Raises StoreError."""
    _, kept, state, failures, changed, *values = columns
    known = dict(zip(fields, values, strict=True))
    entry = Entry(
        **known,
        fault=_fault(known["id"], kept),
        records=tuple(record for record, _ in records),
        identifiers=tuple(identifier for _, identifier in records if identifier is not None),
    )
    return Row(entry, state, failures, changed)


def _fault(name: str, text: bytes | None) -> Fault | None:
    try:
        return None if text is None else msgspec.json.decode(text, type=Fault)
    except msgspec.DecodeError as error:
        raise StoreError(f"the fault of failure {name} in the journal is damaged ({error}): restore a backup of the store") from error
