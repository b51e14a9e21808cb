"""A failure, as the journal keeps it. Pure.

Law 13: a failure's id is a hash of mapping, source identity, lane and record names, so that the same discard twice is one row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from math import inf

import orjson

from poller.failures.fingerprint import fingerprint
from poller.failures.journal import Delivery, Entry, KeptRecord, text_of
from poller.model import Failure, Identifier
from poller.protocols import Format


def identity(mapping: str, source: str, lane: str, names: Sequence[str]) -> str:
    """32 hexadecimal digits. Parts are length-prefixed, so that no two lists of parts run together."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (mapping, source, lane, *names):
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4, "big"))
        digest.update(encoded)
    return digest.hexdigest()


def entry(
    failure: Failure,
    format: Format,
    *,
    mapping: str,
    source: str,
    lane: str,
    function: str,
    now: float,
    run: str = "",
    request_id: str = "",
    destinations: Sequence[str] = (),
    holds: bool = False,
) -> Entry:
    """The journal's entry: the event's envelope and each record's JSON, so that it replays without broker, source or mapping."""
    records = failure.records
    facts, event, names = format.facts(records), format.event(records), format.names(records)
    head, parts, tail = event.parts()
    kept = tuple(
        KeptRecord(name, text_of(key), arrival if arrival < inf else now, bytes(part))
        for name, key, arrival, part in zip(names, facts.keys(), facts.arrivals(), parts, strict=True)
    )
    return Entry(
        id=identity(mapping, source, lane, names),
        mapping=mapping,
        source=source,
        lane=lane,
        function=function,
        reason=failure.reason,
        attempts=failure.attempts,
        fault=failure.fault,
        first=names[0],
        last=names[-1],
        time=now,
        head=head,
        tail=tail,
        records=kept,
        identifiers=tuple(_text(identifier) for identifier in event.identifiers()),
        kept=failure.kept,
        run=run,
        request_id=request_id,
        destinations=tuple(destinations),
        group=fingerprint(failure.fault, failure.reason),
        holds=holds,
    )


def successes(entry: Entry, result: bytes) -> list[Delivery]:
    """One for each destination of a batch that was handled, due at once by any clock. Of a batch that comes again the ids are the same, and
    differ from those of its failures."""
    name = identity(entry.mapping, entry.source, entry.lane, ["success", *(record.id for record in entry.records)])
    handled = replace(entry, id=name)
    return [Delivery(0, name, destination, "success", handled, result) for destination in entry.destinations]


def _text(identifier: Identifier) -> str:
    value = identifier if isinstance(identifier, str) else dict(identifier)  # type: ignore[call-overload]
    return orjson.dumps(value).decode()
