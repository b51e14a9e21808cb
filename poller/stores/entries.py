"""How a failure gets into the journal's tables, once. Called inside the writer's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import TypeVar

import msgspec

from poller.failures.journal import OPEN, Entry, KeptRecord, RowState
from poller.model import Fault
from poller.stores.held import behind, hold
from poller.stores.kept import row_weight, weight
from poller.stores.outbox import post
from poller.stores.posts import posted, text

T = TypeVar("T")

_NEW_LANE = "INSERT INTO lanes (mapping, source, lane) VALUES (?, ?, ?)"
_IS_THERE = "SELECT number, state, kept FROM failures WHERE id = ?"
_ITS_RECORDS = "SELECT id FROM records WHERE failure = ?"
_REOPEN = """
    UPDATE failures SET state = ?, owner = '', until = 0, reason = ?, attempts = ?, fault = ?, time = ?, changed = ?, kept = ?,
                        run = ?, request_id = ?, fingerprint = iif(fingerprint = '', '', ?), holds = ?
    WHERE number = ?
"""
# Of an id that is there it inserts nothing: that is found out on the way, and not looked up before.
_NEW_FAILURE = """
    INSERT INTO failures (id, lane, function, reason, attempts, fault, first, last, time, head, tail, kept, run, request_id,
                          fingerprint, size, bytes, taken_from, holds, state, failures, changed, owner, until)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, '', 0)
    ON CONFLICT (id) DO NOTHING
"""
# A row that has no fingerprint yet is measured when it gets one.
_GROWN = "UPDATE failures SET size = size + ?, bytes = bytes + ? WHERE number = ?"
# The row that a record was last put into, of those that any row holds it.
_LAST_HOLDER = """
    SELECT failures.id FROM records JOIN failures ON failures.number = records.failure
    WHERE records.lane = ? AND records.id = ? ORDER BY failures.number DESC LIMIT 1
"""
_LOOKED_UP = 500
_INSERTED = 100


def chunks(values: Sequence[T], size: int) -> Iterator[list[T]]:
    """The values in order, `size` at a time: a statement takes a limited number of parameters."""
    rest = iter(values)
    while chunk := list(islice(rest, size)):
        yield chunk


@cache
def marks(count: int) -> str:
    """So many question marks, for IN (...)."""
    return ",".join("?" * count)


@cache
def _new_records(count: int) -> str:
    # Many rows a statement: a quarter faster than a statement for each row.
    values = ",".join(["(?,?,?,?,?,?,?)"] * count)
    return f"INSERT INTO records (failure, lane, id, key, arrival, identifier, json) VALUES {values}"


@cache
def _holders(records: int, states: int) -> str:
    # The lane comes along, in a row without a failure at least.
    return f"""
        SELECT lanes.number, records.id, failures.id FROM lanes
        LEFT JOIN records ON records.lane = lanes.number AND records.id IN ({marks(records)})
        LEFT JOIN failures ON failures.number = records.failure AND failures.kept IN ('failure', ?) AND failures.state IN ({marks(states)})
        WHERE lanes.mapping = ? AND lanes.source = ? AND lanes.lane = ? ORDER BY failures.number
    """


def encode_fault(fault: Fault | None) -> bytes | None:
    """JSON text of a fault; rows.py reads it back."""
    if fault is None:
        return None
    try:
        return msgspec.json.encode(fault)
    except UnicodeEncodeError:
        trace = tuple(map(text, fault.trace))
        return msgspec.json.encode(Fault(fault.kind, text(fault.type), text(fault.message), trace, fault.unhandled, fault.record_index))


def append(connection: sqlite3.Connection, entry: Entry, places: Mapping[str, int] | None = None) -> str:
    """Add the entry, less what is in a row already, and say which row holds its first record. The contract: protocols.Journal.append.
    `places`, of a rest: those of the row that it is of, by the keys that this held.

    Reads and writes under the transaction's write lock, so of two appends of one record, here or in another process, one sees the other.
    """
    names = [text(record.id) for record in entry.records]
    lane, held = holders(connection, entry, names, ("kept", "parked") if entry.run else OPEN)
    for chunk in chunks(sorted(set(held.values())), _LOOKED_UP):
        _fail_once_more(connection, chunk, entry.time)
    first = held.get(names[0]) if names else None
    left = [place for place, name in enumerate(names) if name not in held]
    if left:
        state: RowState = "parked" if entry.reason == "Parked" and behind(connection, entry) else "kept"
        lane = _new_lane(connection, entry) if lane is None else lane
        number = _insert_failure(connection, lane, entry, left, state)
        if number is not None:
            _insert_records(connection, number, lane, names, left, entry)
            post(connection, posted(entry, left))
        else:
            _add_to(connection, lane, names, left, entry, state)
            if first is None:
                last = connection.execute(_LAST_HOLDER, (lane, names[0])).fetchone()
                first = None if last is None else last[0]
    if entry.holds:
        hold(connection, entry, [held.get(name, entry.id) for name in names], places or {})
    return entry.id if first is None else first


def _fail_once_more(connection: sqlite3.Connection, ids: Sequence[str], time: float) -> None:
    """These rows were open, and a record of theirs has failed again."""
    connection.execute(f"UPDATE failures SET changed = ? WHERE changed < ? AND id IN ({marks(len(ids))})", (time, time, *ids))


def _add_to(
    connection: sqlite3.Connection,
    lane: int,
    names: Sequence[str],
    places: Sequence[int],
    entry: Entry,
    becomes: RowState,
) -> None:
    """The id is there, and no open row holds these of its records: what was replayed or dropped before has failed once more."""
    number, state, kept = connection.execute(_IS_THERE, (entry.id,)).fetchone()
    reopened = state in ("replayed", "dropped") or kept != entry.kept == "failure"
    if reopened:
        fault = encode_fault(entry.fault)
        values = (entry.reason, entry.attempts, fault, entry.time, entry.time, entry.kept, entry.run, entry.request_id)
        connection.execute(_REOPEN, (becomes, *values, entry.group, entry.holds, number))
    own = {name for (name,) in connection.execute(_ITS_RECORDS, (number,))}
    new = [place for place in places if names[place] not in own]
    _insert_records(connection, number, lane, names, new, entry)
    if new:
        connection.execute(_GROWN, (len(new), weight([entry.records[place] for place in new]), number))
    if failed := places if reopened else new:
        post(connection, posted(entry, failed, again=True))


def holders(
    connection: sqlite3.Connection, entry: Entry, names: Sequence[str], states: Sequence[RowState]
) -> tuple[int | None, dict[str, str]]:
    """The lane's number, None: nothing of it was ever put down; and record id -> id of the newest row in one of these states that holds
    it. A copy ("queue-dlq") holds nothing against a failure."""
    lane: int | None = None
    found: dict[str, str] = {}
    for chunk in chunks(names, _LOOKED_UP):
        values = (*chunk, entry.kept, *states, entry.mapping, entry.source, entry.lane)
        for number, name, row in connection.execute(_holders(len(chunk), len(states)), values):
            lane = number
            if row is not None:
                found[name] = row
        if lane is None:
            break
    return lane, found


def _new_lane(connection: sqlite3.Connection, entry: Entry) -> int:
    return int(connection.execute(_NEW_LANE, (entry.mapping, entry.source, entry.lane)).lastrowid or 0)


def _insert_failure(connection: sqlite3.Connection, lane: int, entry: Entry, places: Sequence[int], state: RowState) -> int | None:
    """Its number; None where its id is there."""
    inserted = connection.execute(
        _NEW_FAILURE,
        (
            entry.id,
            lane,
            entry.function,
            entry.reason,
            entry.attempts,
            encode_fault(entry.fault),
            text(entry.first),
            text(entry.last),
            entry.time,
            entry.head,
            entry.tail,
            entry.kept,
            entry.run,
            entry.request_id,
            entry.group,
            len(places),
            row_weight(entry) + weight([entry.records[place] for place in places]),
            text(entry.taken_from),
            entry.holds,
            state,
            entry.time,
        ),
    )
    return inserted.lastrowid if inserted.rowcount else None


def _insert_records(
    connection: sqlite3.Connection, number: int, lane: int, names: Sequence[str], places: Sequence[int], entry: Entry
) -> None:
    for chunk in chunks(places, _INSERTED):
        values: list[object] = []
        for place in chunk:
            record: KeptRecord = entry.records[place]
            key = None if record.key is None else text(record.key)
            identifier = text(entry.identifiers[place]) if entry.identifiers else None
            values += (number, lane, names[place], key, record.arrival, identifier, record.json)
        connection.execute(_new_records(len(chunk)), values)
