"""Which failures hold the keys of their records, and what is parked behind them. Pure; the guard that does it is poller/parking.py.

A failure that *holds* its keys keeps later records of these keys from running: they are *parked* behind it, in their order, until it was
replayed or dropped; other keys go on. Keys compare as text, as rows have them. A record without a key is parked behind nothing, and holds
nothing.

Failures of one decision that have a key in common are one row (`joined`): two open rows of a key would have no order. On a FIFO queue an
error rule that parks the record an error names takes what came before it in its group along, for that would come again and be parked
behind it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from poller.failures.journal import text_of
from poller.model import Action, Batch, Discard, Failure, Reason, Record
from poller.settings import MappingSettings


def holds(reason: Reason, settings: MappingSettings) -> bool:
    """Whether a failure for this reason holds its keys. What an error rule discards is not to be waited for."""
    return reason in ("ErrorParked", "Parked") or (settings.on_failure_order == "park" and reason != "ErrorDiscarded")


def texts(keys: Iterable[bytes | None]) -> list[str | None]:
    """Keys in the form that rows have."""
    return [text_of(key) for key in keys]


def keys_of(batch: Batch) -> set[str]:
    """Of all its records."""
    return {key for key in texts(batch.format.facts(batch.records).keys()) if key is not None}


def keys_held(batch: Batch, actions: Sequence[Action], settings: MappingSettings) -> set[str]:
    """Those that what is given up of a batch is going to hold. A copy of what its queue moves away holds nothing: it may come back."""
    given_up = [action.failure for action in actions if isinstance(action, Discard) and holds(action.failure.reason, settings)]
    return {key for failure in given_up for key in texts(batch.format.facts(failure.records).keys()) if key is not None}


def behind(batch: Batch, held: Collection[str]) -> dict[str, list[Record]]:
    """The records of a batch whose key is held, by key, in their order."""
    found: dict[str, list[Record]] = {}
    for record, key in zip(batch.records, texts(batch.format.facts(batch.records).keys()), strict=True):
        if key is not None and key in held:
            found.setdefault(key, []).append(record)
    return found


def joined(batch: Batch, failures: Sequence[Failure], settings: MappingSettings) -> Sequence[Failure]:
    """The failures of one decision, as they are kept: those that hold a key in common are one, with what the first of them says, so that
    one row of a key is open before what is parked behind it."""
    if len(failures) < 2 or not settings.parks:
        return failures
    groups: list[tuple[set[str | None], list[Failure]]] = []
    for failure in failures:
        keys, own = set(texts(batch.format.facts(failure.records).keys())) - {None}, [failure]
        if failure.kept != "failure" or not holds(failure.reason, settings):
            keys = set()
        for group in [group for group in groups if group[0] & keys]:
            groups.remove(group)
            keys, own = keys | group[0], [*group[1], *own]
        groups.append((keys, own))
    return [_one(batch, own) for _, own in groups]


def _one(batch: Batch, failures: Sequence[Failure]) -> Failure:
    if len(failures) == 1:
        return failures[0]
    places = {id(record): place for place, record in enumerate(batch.records)}
    first = min(failures, key=lambda each: places[id(each.records[0])])
    records = sorted((record for each in failures for record in each.records), key=lambda record: places[id(record)])
    return replace(first, records=records, attempts=max(each.attempts for each in failures))


def parked(records: Sequence[Record]) -> Failure:
    """What is kept of records that were never invoked by themselves."""
    return Failure(records, "Parked", 0)


def full(held: Collection[str], keys: Collection[str], most: int) -> bool:
    """Whether so many keys are held that these must wait. What fails while nothing else is held waits for nothing: no replay could help."""
    others = len(set(held) - set(keys))
    return others > 0 and bool(set(keys) - set(held)) and others + len(keys) > most
