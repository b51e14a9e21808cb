"""Parking in memory: which keys are held by which rows, in which order."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from poller.failures.journal import Entry

if TYPE_CHECKING:
    from poller.stores.memory_journal import MemoryJournal


class Key(NamedTuple):
    """A key of a source, as a mapping sees it."""

    mapping: str
    source: str
    key: str


@dataclass(slots=True)
class HeldKeys:
    """Of each held key the open rows that hold it, with their places. A row's place is its own, unless it is a rest of another."""

    _rows: dict[Key, dict[str, tuple[int, int]]] = field(default_factory=dict)
    _number: int = 0

    def hold(self, key: Key, row: str, place: int | None) -> None:
        """Behind all that hold it already; or at the place of another row, behind what is there."""
        rows = self._rows.setdefault(key, {})
        if row not in rows:
            self._number += 1
            rows[row] = (self._number if place is None else place, self._number)

    def places(self, row: str) -> dict[str, int]:
        """Where it stands, by its keys."""
        return {key.key: rows[row][0] for key, rows in self._rows.items() if row in rows}

    def holders(self, key: Key) -> list[str]:
        """In order."""
        rows = self._rows.get(key, {})
        return sorted(rows, key=rows.__getitem__)

    def close(self, row: str) -> list[Key]:
        """It holds nothing any more; what it held."""
        keys = [key for key, rows in self._rows.items() if row in rows]
        for key in keys:
            del self._rows[key][row]
            if not self._rows[key]:
                del self._rows[key]
        return keys

    def of(self, mapping: str, source: str) -> set[str]:
        """What is held."""
        return {key.key for key in self._rows if key[:2] == (mapping, source)}


class MemoryParking:
    """`poller.failures.protocols.Parking` over a journal that never waits: so what `park` does is one step for everyone else."""

    def __init__(self, journal: MemoryJournal) -> None:
        self._journal = journal

    async def held(self, mapping: str, source: str, keys: Collection[str] | None = None) -> set[str]:
        held = self._journal.held.of(mapping, source)
        return held if keys is None else held & {*keys}

    async def park(self, entries: Sequence[Entry]) -> Sequence[str]:
        return [self._journal.put(entry) if self._journal.behind(entry) else "" for entry in entries]


def keys_of(entry: Entry) -> list[Key]:
    """The keys of its records, each once."""
    return [Key(entry.mapping, entry.source, key) for key in dict.fromkeys(record.key for record in entry.records) if key is not None]
