"""What appending failures changes in a journal, given what it holds already. Pure. The contract: protocols.Journal.append, Parking.park.

What the journal holds is looked up for a whole group of entries at once, and their origins are locked meanwhile; so here each entry sees
what the entries before it have added.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from connectors.postgresql.keys import Hold, Key, content, digest, keys_of
from connectors.postgresql.texts import text
from poller.failures.journal import OPEN, Delivery, Entry
from poller.stores.posts import posted


@dataclass(frozen=True, slots=True)
class Asked:
    """An entry to append. `park`: only behind a row that holds its key. `places`, of a rest: those of the row that it is of, by the hashes
    of the keys that this held."""

    entry: Entry
    park: bool = False
    places: Mapping[bytes, int] = field(default_factory=dict)


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
    """What is to be written. `made`: rows with their state, in order; `reopened`: those that are kept, or parked, again, by id; `failing`:
    rows that are open and of which a record has failed again, by id, and when; `records`: (row's id, origin, entry, place in it), in order;
    `holds`: what rows hold, in order; `posts`: for the outbox; `answers`: for each entry the id of the row that holds its first record, ""
    for one that is not parked."""

    made: list[tuple[int, Entry, str]] = field(default_factory=list)
    reopened: dict[str, tuple[Entry, str]] = field(default_factory=dict)
    holds: list[Hold] = field(default_factory=list)
    failing: dict[str, float] = field(default_factory=dict)
    records: list[tuple[str, int, Entry, int]] = field(default_factory=list)
    posts: list[Delivery] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)


class Appending:
    """Adds one entry after the other; `done` is what came of it."""

    def __init__(self, rows: Iterable[Known], holders: Iterable[tuple[int, str, Known]], behind: Collection[Key] = ()) -> None:
        """`rows`: those that have the id of an entry, with all their records; `holders`: (origin, record id, row), of all records that are
        to be added, in any order; `behind`: of the keys of what is to be parked those that a row holds which is kept or claimed."""
        self.done = Appended()
        self._behind = {*behind}
        self._rows = {row.id: row for row in rows}
        self._holders: dict[tuple[int, str], list[Known]] = defaultdict(list)
        for origin, name, row in holders:
            # One object a row: what changes by its id must be seen by its records.
            self._holders[origin, name].append(self._rows.get(row.id, row))
        self._next = max((row.number for row in self._known()), default=0) + 1

    def add(self, origin: int, asked: Asked, source: int = 0) -> None:
        """`origin` is the number of the entry's mapping, source and lane; `source` that without the lane, of what holds keys."""
        entry = asked.entry
        behind = entry.reason == "Parked" and not self._behind.isdisjoint(keys_of(entry, source))
        if asked.park and not behind:
            self.done.answers.append("")
            return
        state = "parked" if behind else "kept"
        names = [text(record.id) for record in entry.records]
        states: set[str] = {"kept", "parked"} if entry.run else {*OPEN}
        held = [self._holder(origin, name, states, {"failure", entry.kept}) for name in names]
        first = held[0] if held else None
        for holder in held:
            if holder is not None:
                self.done.failing[holder.id] = max(entry.time, self.done.failing.get(holder.id, entry.time))
        places = [place for place, holder in enumerate(held) if holder is None]
        row = self._rows.get(text(entry.id))
        if row is not None:
            if places:
                self._extend(row, origin, entry, places, [place for place in places if names[place] not in row.records], state)
            if first is None and names:
                first = self._holder(origin, names[0])
        elif places:
            row = self._make(origin, entry, places, state)
        self.done.answers.append(entry.id if first is None else first.id)
        if entry.holds:
            self._hold_keys(source, asked, [holder or row for holder in held])

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

    def _make(self, origin: int, entry: Entry, places: Sequence[int], state: str) -> Known:
        row = Known(self._next, text(entry.id), state, entry.kept)
        self._next += 1
        self._rows[row.id] = row
        self.done.made.append((origin, entry, state))
        self.done.posts += posted(entry, places)
        self._hold(row, origin, entry, places)
        return row

    def _extend(self, row: Known, origin: int, entry: Entry, places: Sequence[int], new: Sequence[int], state: str) -> None:
        """The id is there, and no open row holds the records at `places`, of which `new` are not its own: what was replayed or dropped
        before has failed once more."""
        failed = new
        if row.state in ("replayed", "dropped") or row.kept != entry.kept == "failure":
            row.state, row.kept = state, entry.kept
            self.done.reopened[row.id] = (entry, state)
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

    def _hold_keys(self, source: int, asked: Asked, holders: Sequence[Known | None]) -> None:
        """Each key is held by the rows that have a record of it."""
        lines = dict[tuple[str, Key], Hold]()
        for record, holder in zip(asked.entry.records, holders, strict=True):
            if record.key is not None and holder is not None:
                key = Key(source, digest(content(record.key)))
                lines[holder.id, key] = Hold(holder.id, key, content(record.key), asked.places.get(key.digest))
                if holder.state != "parked":
                    self._behind.add(key)
        self.done.holds += lines.values()
