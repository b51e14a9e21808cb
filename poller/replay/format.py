"""How the journal's records look to the engine: the event is what it was, byte for byte. Pure; `poller.protocols.Format`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from poller.failures.journal import Entry, KeptRecord
from poller.model import Document, Identifier


class ReplayRecord(NamedTuple):
    """One record of a row; `place` is its token: where it stands in its row."""

    entry: Entry
    place: int

    @property
    def kept(self) -> KeptRecord:
        return self.entry.records[self.place]


def records_of(entry: Entry) -> list[ReplayRecord]:
    """All records of a row, in their order."""
    return [ReplayRecord(entry, place) for place in range(len(entry.records))]


class ReplayFacts:
    """`poller.protocols.Facts` over records of one row."""

    __slots__ = ("_records",)

    def __init__(self, records: Sequence[ReplayRecord]) -> None:
        self._records = records

    def tokens(self) -> Sequence[int]:
        return [record.place for record in self._records]

    def arrivals(self) -> Sequence[float]:
        return [record.kept.arrival for record in self._records]

    def sizes(self) -> Sequence[int]:
        return [len(record.kept.json) + 1 for record in self._records]

    def keys(self) -> Sequence[bytes | None]:
        return [None if record.kept.key is None else record.kept.key.encode() for record in self._records]


class ReplayEvent:
    """`poller.protocols.Event` of records of one row: its envelope around their JSON, as both were when they were discarded."""

    __slots__ = ("_entry", "_records")

    def __init__(self, records: Sequence[ReplayRecord]) -> None:
        self._records = records
        self._entry = records[0].entry

    def json(self) -> bytes:
        return self._entry.head + b",".join([record.kept.json for record in self._records]) + self._entry.tail

    def mapping(self) -> dict[str, Any]:
        event: dict[str, Any] = orjson.loads(self.json())
        return event

    def identifiers(self) -> Sequence[Identifier]:
        texts = self._entry.identifiers
        return [_identifier(texts[record.place]) if texts else record.kept.id for record in self._records]

    def entry(self) -> Entry:
        """The row with these of its records alone."""
        texts = self._entry.identifiers
        return replace(
            self._entry,
            records=tuple(record.kept for record in self._records),
            identifiers=tuple(texts[record.place] for record in self._records) if texts else (),
        )

    def parts(self) -> tuple[bytes, Sequence[bytes], bytes]:
        return self._entry.head, [record.kept.json for record in self._records], self._entry.tail


class ReplayFormat:
    """The records of rows of the journal. A slice is of one row: rows are never mixed."""

    def facts(self, records: Sequence[ReplayRecord]) -> ReplayFacts:
        return ReplayFacts(records)

    def documents(self, records: Sequence[ReplayRecord], keys: Collection[str]) -> Iterable[Document]:  # noqa: ARG002
        """Never asked: what a replay runs was let in before."""
        return [orjson.loads(record.kept.json) for record in records]

    def event(self, records: Sequence[ReplayRecord]) -> ReplayEvent:
        return ReplayEvent(records)

    def names(self, records: Sequence[ReplayRecord]) -> Sequence[str]:
        return [record.kept.id for record in records]


FORMAT = ReplayFormat()


def _identifier(text: str) -> Identifier:
    """What `poller.failures.entry.entry` wrote as JSON, in the form that compares: a string, or the sorted pairs of an object."""
    value = orjson.loads(text)
    return tuple(sorted(value.items())) if isinstance(value, dict) else str(value)
