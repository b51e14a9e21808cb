"""Which keys are held in SQLite: by which rows of the journal, and in which order these were put down.

held: one line for each key of an open row that holds it. `place` is behind all that hold the key, unless the row is a rest of another,
whose it has then; it is no number, for those of rows that are gone are given again. `parked` is that of the row: whether a row that is kept
or claimed holds a key, and which parked one is the first, is one look.

Called inside the writer's transaction, so parking and releasing come one after the other. The law: protocols.Parking.

A row stops being open in `mark`, `finish` and `remove`; in the same transaction its lines go, and of each key that no row holds any more
which is kept or claimed, the first parked row is kept. In `finish` that comes last, when all rests are there: else a key would be free
between a row and its rest. A rest takes the place of its row, so what failed again stays before what was parked behind it. What comes once
more (a rewind) is put behind all that came since, whatever its row's number.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from poller.failures.journal import Entry
from poller.stores.posts import text

_IS_BEHIND = "SELECT 1 FROM held WHERE mapping = ? AND source = ? AND key = ? AND parked = 0 LIMIT 1"
_HOLD = """
    INSERT INTO held (failure, mapping, source, key, parked, place)
    SELECT number, ?1, ?2, ?3, state = 'parked', coalesce(?4, 1 + max(
        coalesce((SELECT max(place) FROM held WHERE mapping = ?1 AND source = ?2 AND key = ?3 AND parked = 0), 0),
        coalesce((SELECT max(place) FROM held WHERE mapping = ?1 AND source = ?2 AND key = ?3 AND parked = 1), 0)
    )) FROM failures WHERE id = ?5
    ON CONFLICT (failure, key) DO NOTHING
"""
_HOLDS = "UPDATE failures SET holds = 1 WHERE id = ? AND holds = 0"
_PLACES = "SELECT key, place FROM held WHERE failure = (SELECT number FROM failures WHERE id = ?)"
_CLOSE = "DELETE FROM held WHERE failure = ? RETURNING mapping, source, key"
_FIRST_PARKED = """
    SELECT failure FROM held WHERE mapping = ? AND source = ? AND key = ? AND parked = 1 ORDER BY place, number LIMIT 1
"""
_RELEASE = "UPDATE failures SET state = 'kept', changed = coalesce(?, changed) WHERE number = ? RETURNING id"


class Key(NamedTuple):
    """A key of a source, as a mapping sees it."""

    mapping: str
    source: str
    key: str


def keys_of(entry: Entry) -> list[Key]:
    """The keys of its records, each once."""
    keys = dict.fromkeys(record.key for record in entry.records)
    return [Key(text(entry.mapping), text(entry.source), text(key)) for key in keys if key is not None]


def behind(connection: sqlite3.Connection, entry: Entry) -> bool:
    """Whether it is to be parked: a row that is kept or claimed holds a key of it. What holds nothing itself nobody would release."""
    return entry.holds and any(connection.execute(_IS_BEHIND, key).fetchone() for key in keys_of(entry))


def hold(connection: sqlite3.Connection, entry: Entry, holders: Iterable[str], places: Mapping[str, int]) -> None:
    """The keys of its records, which these rows have, one a record, are held by them. `places`: of the row that it is a rest of, by its
    keys."""
    pairs = dict.fromkeys((row, record.key) for row, record in zip(holders, entry.records, strict=True))
    for row, key in pairs:
        if key is not None:
            values = (text(entry.mapping), text(entry.source), text(key), places.get(text(key)), row)
            connection.execute(_HOLD, values)
    for row in dict.fromkeys(row for row, key in pairs if key is not None):
        connection.execute(_HOLDS, (row,))


def places_of(connection: sqlite3.Connection, row: str) -> dict[str, int]:
    """Where the row with this id stands, by the keys that it holds."""
    return dict(connection.execute(_PLACES, (row,)).fetchall())


def close(connection: sqlite3.Connection, number: int) -> list[Key]:
    """The row with this number holds nothing any more; what it held."""
    return [Key(*columns) for columns in connection.execute(_CLOSE, (number,)).fetchall()]


def release(connection: sqlite3.Connection, keys: Iterable[Key], now: float | None = None) -> list[str]:
    """Of each key that no row holds which is kept or claimed, the first parked row is kept. The ids of these rows."""
    released = []
    for key in keys:
        if connection.execute(_IS_BEHIND, key).fetchone():
            continue
        first = connection.execute(_FIRST_PARKED, key).fetchone()
        if first is not None:
            connection.execute("UPDATE held SET parked = 0 WHERE failure = ?", first)
            released.append(str(connection.execute(_RELEASE, (now, first[0])).fetchone()[0]))
    return released
