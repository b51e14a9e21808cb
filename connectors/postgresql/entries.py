"""How failures get into the journal's tables, a group of appends at a time. Called inside a transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from connectors.postgresql.appending import Appended, Appending, Asked, Known
from connectors.postgresql.connections import Connection
from connectors.postgresql.held import behind, hold, lock
from connectors.postgresql.keys import Key, keys_of
from connectors.postgresql.outbox import post
from connectors.postgresql.texts import text
from poller.failures.journal import Entry, KeptRecord
from poller.model import Fault
from poller.stores.kept import row_weight, weight

Origin = tuple[str, str, str]
"""Mapping, source, lane."""

# Not in the transaction: numbers are given for good, and a row that is made under a lock would be waited for.
_NEW_ORIGINS = """
    INSERT INTO poller_origins (mapping, source, lane)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) AS asked (mapping, source, lane)
    ORDER BY mapping COLLATE "C", source COLLATE "C", lane COLLATE "C"
    ON CONFLICT (mapping, source, lane) DO NOTHING
"""
_ORIGINS = """
    SELECT mapping, source, lane, number
    FROM poller_origins JOIN unnest($1::text[], $2::text[], $3::text[]) AS asked (mapping, source, lane) USING (mapping, source, lane)
"""
_ROWS = """
    SELECT number, id, state, kept, ARRAY(SELECT id FROM poller_records AS records WHERE records.failure = failures.number)
    FROM poller_failures AS failures WHERE id = ANY($1::text[])
"""
_HOLDERS = """
    SELECT records.origin, records.id, failures.number, failures.id, failures.state, failures.kept
    FROM unnest($1::bigint[], $2::text[]) AS asked (origin, id)
    JOIN poller_records AS records USING (origin, id)
    JOIN poller_failures AS failures ON failures.number = records.failure
"""
# Numbers are given in the order of the rows.
_MAKE = """
    INSERT INTO poller_failures (id, origin, function, reason, attempts, fault, first, last, time, head, tail, kept, run, request_id,
                                 fingerprint, size, bytes, taken_from, holds, state, changed)
    SELECT id, origin, function, reason, attempts, fault, first, last, time, head, tail, kept, run, request_id, fingerprint,
           size, bytes, taken_from, holds, state, time
    FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::bytea[], $7::text[], $8::text[], $9::float8[],
                $10::bytea[], $11::bytea[], $12::text[], $13::text[], $14::text[], $15::text[], $16::bigint[], $17::bigint[],
                $18::text[], $19::boolean[], $20::text[])
         WITH ORDINALITY AS made (id, origin, function, reason, attempts, fault, first, last, time, head, tail, kept, run, request_id,
                                  fingerprint, size, bytes, taken_from, holds, state, nth)
    ORDER BY nth
"""
_REOPEN = """
    UPDATE poller_failures AS failures
    SET state = again.state, owner = '', until = 0, reason = again.reason, attempts = again.attempts, fault = again.fault,
        time = again.time, changed = again.time, kept = again.kept, run = again.run, request_id = again.request_id,
        fingerprint = CASE failures.fingerprint WHEN '' THEN '' ELSE again.fingerprint END, holds = again.holds
    FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[], $5::float8[], $6::text[], $7::text[], $8::text[], $9::text[],
                $10::boolean[], $11::text[])
         AS again (id, reason, attempts, fault, time, kept, run, request_id, fingerprint, holds, state)
    WHERE failures.id = again.id
"""
# A row that has no fingerprint yet is measured when it gets one.
_GROWN = """
    UPDATE poller_failures AS failures SET size = failures.size + grown.size, bytes = failures.bytes + grown.bytes
    FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS grown (id, size, bytes) WHERE failures.id = grown.id
"""
# Upkeep counts a row's age from there. One that is locked is being changed just now, and counts from that; to wait for it, with the
# origins locked, would be to wait for a run that holds its rows and waits for the origins.
_FAILING = """
    UPDATE poller_failures AS failures SET changed = again.time
    FROM (
        SELECT number, asked.time FROM unnest($1::text[], $2::float8[]) AS asked (id, time) JOIN poller_failures AS held USING (id)
        WHERE held.changed < asked.time FOR NO KEY UPDATE OF held SKIP LOCKED
    ) AS again
    WHERE failures.number = again.number
"""
_RECORDS = """
    INSERT INTO poller_records (failure, origin, id, key, arrival, identifier, json)
    SELECT failures.number, given.origin, given.id, given.key, given.arrival, given.identifier, given.json
    FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::float8[], $6::text[], $7::bytea[])
         WITH ORDINALITY AS given (failure, origin, id, key, arrival, identifier, json, nth)
    JOIN poller_failures AS failures ON failures.id = given.failure
    ORDER BY given.nth
"""


def encode_fault(fault: Fault | None) -> bytes | None:
    """JSON text of a fault; rows.py reads it back. JSON writes a NUL as six letters, so only half surrogates are in its way."""
    if fault is None:
        return None
    clean = [part.encode("utf-8", "backslashreplace").decode() for part in (fault.type, fault.message, *fault.trace)]
    return msgspec.json.encode(Fault(fault.kind, clean[0], clean[1], tuple(clean[2:]), fault.unhandled, fault.record_index))


def origin_of(entry: Entry) -> Origin:
    return text(entry.mapping), text(entry.source), text(entry.lane)


async def number_origins(connection: Connection, origins: Sequence[Origin]) -> dict[Origin, int]:
    """The numbers of these, which are given if they are new. Called outside of a transaction."""
    columns = _columns(origins, 3)
    await connection.execute(_NEW_ORIGINS, *columns)
    return {(mapping, source, lane): number for mapping, source, lane, number in await connection.fetch(_ORIGINS, *columns)}


def origins_of(entries: Iterable[Entry]) -> set[Origin]:
    """Theirs, and of those that hold keys those of their sources too."""
    found = set[Origin]()
    for entry in entries:
        mapping, source, lane = origin_of(entry)
        found.add((mapping, source, lane))
        if entry.holds:
            found.add((mapping, source, ""))
    return found


async def append(connection: Connection, asked: Sequence[Asked], origins: dict[Origin, int]) -> list[str]:
    """The answers. The origins stay locked until the transaction ends: of two appends of one record, here or in another process, one sees
    the other."""
    entries = [each.entry for each in asked]
    numbers = [origins[origin_of(entry)] for entry in entries]
    # Of what holds nothing it is none: so it is behind nothing either, for nobody would release it.
    sources = [origins[(*origin_of(entry)[:2], "")] if entry.holds else 0 for entry in entries]
    await lock(connection, {*numbers, *(source for source in sources if source)})
    rows = [
        Known(number, name, state, kept, set(records))
        for number, name, state, kept, records in await connection.fetch(_ROWS, [text(entry.id) for entry in entries])
    ]
    wanted = {(number, text(record.id)) for number, entry in zip(numbers, entries, strict=True) for record in entry.records}
    found = await connection.fetch(_HOLDERS, *_columns(list(wanted), 2))
    keys = {key for entry, source in zip(entries, sources, strict=True) if entry.reason == "Parked" for key in keys_of(entry, source)}
    held = await behind(connection, keys) if keys else set[Key]()
    appending = Appending(rows, ((origin, name, Known(*row)) for origin, name, *row in found), held)
    for number, source, each in zip(numbers, sources, asked, strict=True):
        appending.add(number, each, source)
    await _write(connection, appending.done)
    return appending.done.answers


async def _write(connection: Connection, done: Appended) -> None:
    grown: dict[str, list[KeptRecord]] = defaultdict(list)
    for name, _, entry, place in done.records:
        grown[name].append(entry.records[place])
    fresh = {text(entry.id) for _, entry, _ in done.made}
    if done.made:
        made = [_failure(origin, entry, grown.pop(text(entry.id), []), state) for origin, entry, state in done.made]
        await connection.execute(_MAKE, *_columns(made, 20))
    if done.reopened:
        again = [_again(name, entry, state) for name, (entry, state) in done.reopened.items()]
        await connection.execute(_REOPEN, *_columns(again, 11))
    if grown:
        await connection.execute(_GROWN, *_columns([(name, len(records), weight(records)) for name, records in grown.items()], 3))
    if done.records:
        await connection.execute(_RECORDS, *_columns([_record(*each) for each in done.records], 7))
    if done.failing:
        await connection.execute(_FAILING, *_columns(list(done.failing.items()), 2))
    if done.holds:
        await hold(connection, done.holds, sorted({each.row for each in done.holds} - fresh))
    await post(connection, done.posts)


def _again(name: str, entry: Entry, state: str) -> tuple[Any, ...]:
    what = (entry.reason, entry.attempts, encode_fault(entry.fault), entry.time, entry.kept)
    return name, *what, text(entry.run), text(entry.request_id), entry.group, entry.holds, state


def _failure(origin: int, entry: Entry, records: Sequence[KeptRecord], state: str) -> tuple[Any, ...]:
    return (
        text(entry.id),
        origin,
        text(entry.function),
        entry.reason,
        entry.attempts,
        encode_fault(entry.fault),
        text(entry.first),
        text(entry.last),
        entry.time,
        entry.head,
        entry.tail,
        entry.kept,
        text(entry.run),
        text(entry.request_id),
        entry.group,
        len(records),
        row_weight(entry) + weight(records),
        text(entry.taken_from),
        entry.holds,
        state,
    )


def _record(failure: str, origin: int, entry: Entry, place: int) -> tuple[Any, ...]:
    record = entry.records[place]
    key = None if record.key is None else text(record.key)
    identifier = text(entry.identifiers[place]) if entry.identifiers else None
    return failure, origin, text(record.id), key, record.arrival, identifier, record.json


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [[row[n] for row in rows] for n in range(width)]
