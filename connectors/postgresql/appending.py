"""What appending failures changes in a journal, given what it holds already. Pure. The contract: protocols.Journal.append.

What the journal holds is looked up for a whole group of entries at once, and their origins are locked meanwhile; so here each entry sees
what the entries before it have added.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from connectors.postgresql.texts import text
from poller.failures.journal import Delivery, Entry
from poller.stores.posts import posted


@dataclass(slots=True)
class Known:
    """A row of the journal, as far as it matters here. `number`: rows are numbered in the order in which they were made."""

    number: int
    id: str
    state: str
    kept: str
    records: set[str] = field(default_factory=set)
    """Ids of its records; of rows that were found by a record's id, not all of them are known."""


@dataclass(slots=True)
class Appended:
    """What is to be written. `made`: rows, in order; `reopened`: those that are kept again, by id; `records`: (row's id, origin, entry,
    place in it), in order; `posts`: for the outbox; `answers`: for each entry the id of the row that holds its first record."""

    made: list[tuple[int, Entry]] = field(default_factory=list)
    reopened: dict[str, Entry] = field(default_factory=dict)
    records: list[tuple[str, int, Entry, int]] = field(default_factory=list)
    posts: list[Delivery] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)


class Appending:
    """Adds one entry after the other; `done` is what came of it."""

    def __init__(self, rows: Iterable[Known], holders: Iterable[tuple[int, str, Known]]) -> None:
        """`rows`: those that have the id of an entry, with all their records; `holders`: (origin, record id, row), of all records that are
        to be added, in any order."""
        self.done = Appended()
        self._rows = {row.id: row for row in rows}
        self._holders: dict[tuple[int, str], list[Known]] = defaultdict(list)
        for origin, name, row in holders:
            # One object a row: what changes by its id must be seen by its records.
            self._holders[origin, name].append(self._rows.get(row.id, row))
        self._next = max((row.number for row in self._known()), default=0) + 1

    def add(self, origin: int, entry: Entry) -> None:
        """`origin` is the number of the entry's mapping, source and lane."""
        names = [text(record.id) for record in entry.records]
        states = {"kept"} if entry.run else {"kept", "claimed"}
        held = [self._holder(origin, name, states, {"failure", entry.kept}) for name in names]
        first = held[0] if held else None
        places = [place for place, holder in enumerate(held) if holder is None]
        row = self._rows.get(text(entry.id))
        if row is not None:
            if places:
                self._extend(row, origin, entry, places, [place for place in places if names[place] not in row.records])
            if first is None and names:
                first = self._holder(origin, names[0])
        elif places:
            self._make(origin, entry, places)
        self.done.answers.append(entry.id if first is None else first.id)

    def _known(self) -> Iterable[Known]:
        return (*self._rows.values(), *(row for rows in self._holders.values() for row in rows))

    def _holder(self, origin: int, name: str, states: set[str] | None = None, kept: set[str] | None = None) -> Known | None:
        """The newest row that holds the record, of those in one of these states that were kept for one of these reasons."""
        rows = [
            row
            for row in self._holders.get((origin, name), ())
            if (states is None or row.state in states) and (kept is None or row.kept in kept)
        ]
        return max(rows, key=lambda row: row.number, default=None)

    def _make(self, origin: int, entry: Entry, places: Sequence[int]) -> None:
        row = Known(self._next, text(entry.id), "kept", entry.kept)
        self._next += 1
        self._rows[row.id] = row
        self.done.made.append((origin, entry))
        self.done.posts += posted(entry, places)
        self._hold(row, origin, entry, places)

    def _extend(self, row: Known, origin: int, entry: Entry, places: Sequence[int], new: Sequence[int]) -> None:
        """The id is there, and no open row holds the records at `places`, of which `new` are not its own: what was replayed or dropped
        before has failed once more."""
        failed = new
        if row.state in ("replayed", "dropped") or row.kept != entry.kept == "failure":
            row.state, row.kept = "kept", entry.kept
            self.done.reopened[row.id] = entry
            failed = places
        if failed:
            self.done.posts += posted(entry, failed, again=True)
        self._hold(row, origin, entry, new)

    def _hold(self, row: Known, origin: int, entry: Entry, places: Sequence[int]) -> None:
        for place in places:
            name = text(entry.records[place].id)
            row.records.add(name)
            self._holders[origin, name].append(row)
            self.done.records.append((row.id, origin, entry, place))
