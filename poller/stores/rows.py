"""How rows are read from the journal's tables. Called inside a transaction of the reader, or of the writer."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from poller.failures.journal import KeptRecord, Row, Selection
from poller.stores.entries import chunks, marks
from poller.stores.ids import SHOWN, meant
from poller.stores.kept import Kept, row
from poller.stores.posts import text

_ENTRY = {  # field of an Entry -> where it is kept
    **{field: f"lanes.{field}" for field in ("mapping", "source", "lane")},
    **{
        field: f"failures.{field}"
        for field in ("id", "function", "reason", "attempts", "first", "last", "time", "head", "tail", "kept", "run", "request_id")
    },
    "holds": "failures.holds",
    "taken_from": "failures.taken_from",
    "group": "failures.fingerprint",
}
_COLUMNS = ", ".join(("failures.number", "fault", "state", "failures.failures", "changed", *_ENTRY.values()))
_CANDIDATES = f"SELECT id FROM failures WHERE id >= ? AND id < ? || char(0x10FFFF) ORDER BY id LIMIT {SHOWN + 1}"
_NEXT = "SELECT min(fingerprint) FROM failures WHERE fingerprint"
_SELECTED = 500


def select(connection: sqlite3.Connection, selection: Selection) -> list[Row]:
    """Oldest first; of one time, in the order of appending. Raises ConfigError for an ambiguous prefix, StoreError for a damaged row."""
    where, values = narrowed(connection, selection)
    query = (
        f"SELECT {_COLUMNS} FROM failures JOIN lanes ON lanes.number = failures.lane WHERE {where} ORDER BY time, failures.number LIMIT ?"
    )
    found = connection.execute(query, (*values, -1 if selection.limit is None else selection.limit)).fetchall()
    records = _records(connection, [columns[0] for columns in found])
    return [row(tuple(_ENTRY), columns, records[columns[0]]) for columns in found]


def count(connection: sqlite3.Connection, selection: Selection) -> int:
    """How many rows `select` would give."""
    where, values = narrowed(connection, selection)
    query = f"SELECT 1 FROM failures WHERE {where} LIMIT ?"
    limit = -1 if selection.limit is None else selection.limit
    return int(connection.execute(f"SELECT count(*) FROM ({query})", (*values, limit)).fetchone()[0])


def narrowed(connection: sqlite3.Connection, selection: Selection) -> tuple[str, list[Any]]:
    """What comes behind WHERE, and its parameters. Raises ConfigError for an ambiguous prefix."""
    parts, values = ["1"], list[Any]()
    if selection.ids:
        ids = _whole(connection, selection.ids)
        parts.append(f"failures.id IN ({marks(len(ids))})")
        values += ids
    if selection.mapping is not None:
        parts.append("failures.lane IN (SELECT number FROM lanes WHERE mapping = ?)")
        values.append(selection.mapping)
    if selection.after is not None:
        parts.append("time >= ?")
        values.append(selection.after)
    if selection.before is not None:
        parts.append("time < ?")
        values.append(selection.before)
    if selection.states:
        parts.append(f"state IN ({marks(len(selection.states))})")
        values += selection.states
    if not selection.copies:
        parts.append("kept <> 'queue-dlq'")
    if selection.group is not None:
        # No fingerprint is NULL: a group that is not there has no rows.
        parts.append("fingerprint = ?")
        values.append(meant(selection.group, _fingerprints(connection, selection.group), "group"))
    if selection.key is not None:
        parts.append("failures.number IN (SELECT failure FROM records WHERE key = ?)")
        values.append(text(selection.key))
    return " AND ".join(parts), values


def _fingerprints(connection: sqlite3.Connection, prefix: str) -> list[str]:
    """Those that begin so, the first few; each is the least above the one before, for one may be that of a million rows."""
    found: list[str] = []
    value = connection.execute(f"{_NEXT} >= ? AND fingerprint > ''", (prefix,)).fetchone()[0]
    while value is not None and value.startswith(prefix) and len(found) <= SHOWN:
        found.append(value)
        value = connection.execute(f"{_NEXT} > ?", (value,)).fetchone()[0]
    return found


def _whole(connection: sqlite3.Connection, prefixes: Sequence[str]) -> list[str]:
    """Whole ids. An id that is there is among the first candidates for itself, so the limit cuts off nothing that `meant` asks for."""
    ids = []
    for prefix in prefixes:
        candidates = [candidate for (candidate,) in connection.execute(_CANDIDATES, (prefix, prefix))]
        if (whole := meant(prefix, candidates)) is not None:
            ids.append(whole)
    return ids


def _records(connection: sqlite3.Connection, numbers: Sequence[int]) -> dict[int, list[Kept]]:
    found: dict[int, list[Kept]] = defaultdict(list)
    for chunk in chunks(numbers, _SELECTED):
        query = f"SELECT failure, id, key, arrival, json, identifier FROM records WHERE failure IN ({marks(len(chunk))}) ORDER BY number"
        for failure, name, key, arrival, json, identifier in connection.execute(query, chunk):
            found[failure].append((KeptRecord(name, key, arrival, json), identifier))
    return found
