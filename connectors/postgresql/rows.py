"""How rows are read from the journal's tables. Called inside a transaction that sees one snapshot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from connectors.postgresql.connections import Connection
from connectors.postgresql.texts import text
from poller.failures.journal import KeptRecord, Row, Selection
from poller.stores.ids import SHOWN, meant
from poller.stores.kept import Kept, row

_ENTRY = {  # field of an Entry -> where it is kept
    **{field: f"origins.{field}" for field in ("mapping", "source", "lane")},
    **{
        field: f"failures.{field}"
        for field in ("id", "function", "reason", "attempts", "first", "last", "time", "head", "tail", "kept", "run", "request_id")
    },
    "taken_from": "failures.taken_from",
    "holds": "failures.holds",
    "group": "failures.fingerprint",
}
_COLUMNS = ", ".join(("failures.number", "failures.fault", "failures.state", "failures.failures", "failures.changed", *_ENTRY.values()))
_FROM = "FROM poller_failures AS failures JOIN poller_origins AS origins ON origins.number = failures.origin"
_CANDIDATES = f"SELECT id FROM poller_failures WHERE id >= $1 AND id < $1 || chr(1114111) ORDER BY id LIMIT {SHOWN + 1}"
_NEXT = "SELECT min(fingerprint) FROM poller_failures WHERE fingerprint"
_HOLDS_KEY = "failures.number IN (SELECT failure FROM poller_records WHERE left(key, 200) = left({0}::text, 200) AND key = {0}::text)"
_RECORDS = """
    SELECT failure, id, key, arrival, json, identifier FROM poller_records
    WHERE failure = ANY($1::bigint[]) ORDER BY failure, number
"""


async def select(connection: Connection, selection: Selection) -> list[Row]:
    """Oldest first; of one time, in the order of appending. Raises ConfigError for an ambiguous prefix, StoreError for a damaged row."""
    where, values = await narrowed(connection, selection)
    limit = f"LIMIT ${len(values) + 1}::bigint"
    query = f"SELECT {_COLUMNS} {_FROM} WHERE {where} ORDER BY failures.time, failures.number {limit}"
    found = await connection.fetch(query, *values, selection.limit)
    records: dict[int, list[Kept]] = defaultdict(list)
    for failure, name, key, arrival, json, identifier in await connection.fetch(_RECORDS, [columns[0] for columns in found]):
        records[failure].append((KeptRecord(name, key, arrival, json), identifier))
    return [row(tuple(_ENTRY), tuple(columns), records[columns[0]]) for columns in found]


async def count(connection: Connection, selection: Selection) -> int:
    """How many rows `select` would give."""
    where, values = await narrowed(connection, selection)
    query = f"SELECT count(*) FROM (SELECT 1 {_FROM} WHERE {where} LIMIT ${len(values) + 1}::bigint) AS found"
    return int(await connection.fetchval(query, *values, selection.limit))


async def narrowed(connection: Connection, selection: Selection) -> tuple[str, list[Any]]:
    """What comes behind WHERE, and its parameters. Raises ConfigError for an ambiguous prefix."""
    parts, values = ["true"], list[Any]()

    def narrow(condition: str, value: Any) -> None:
        values.append(value)
        parts.append(condition.format(f"${len(values)}"))

    if selection.ids:
        narrow("failures.id = ANY({}::text[])", await _whole(connection, selection.ids))
    if selection.mapping is not None:
        narrow("failures.origin IN (SELECT number FROM poller_origins WHERE mapping = {})", text(selection.mapping))
    if selection.after is not None:
        narrow("failures.time >= {}", selection.after)
    if selection.before is not None:
        narrow("failures.time < {}", selection.before)
    if selection.states:
        narrow("failures.state = ANY({}::text[])", list(selection.states))
    if not selection.copies:
        parts.append("failures.kept <> 'queue-dlq'")
    if selection.group is not None:
        # No fingerprint is NULL: a group that is not there has no rows.
        narrow("failures.fingerprint = {}::text", meant(selection.group, await _fingerprints(connection, selection.group), "group"))
    if selection.key is not None:
        narrow(_HOLDS_KEY, text(selection.key))
    return " AND ".join(parts), values


async def _fingerprints(connection: Connection, prefix: str) -> list[str]:
    """Those that begin so, the first few; each is the least above the one before, for one may be that of a million rows."""
    found: list[str] = []
    value = await connection.fetchval(f"{_NEXT} >= $1 AND fingerprint > ''", text(prefix))
    while value is not None and value.startswith(prefix) and len(found) <= SHOWN:
        found.append(value)
        value = await connection.fetchval(f"{_NEXT} > $1", value)
    return found


async def _whole(connection: Connection, prefixes: Sequence[str]) -> list[str]:
    """Whole ids. An id that is there is among the first candidates for itself, so the limit cuts off nothing that `meant` asks for."""
    ids = []
    for prefix in prefixes:
        candidates = [candidate for (candidate,) in await connection.fetch(_CANDIDATES, text(prefix))]
        if (whole := meant(prefix, candidates)) is not None:
            ids.append(whole)
    return ids
