"""Whether it is the function that fails, and not a record: the circuit breaker of a mapping, one in each worker. Pure.

    closed --IN_A_ROW batches, or HALF of the last LOOKED_AT, failed alike, no two with a key in common--> open
      ^                                                                                                   | ^
      '-- the probe was answered, or a person resets it -- half-open <--a probe is due, one batch runs----' |
                                                               '-- it failed: the next one is due later ----'

What counts are batches whose invocation failed as a whole, by the fingerprint of their fault. Those that have a key in common count as one,
the smallest of them, however often they fail: so a poison record, retried or bisected, is one failure, as is everything of a poison key. A
record without a key is a key of its own. A function that names records (a partial failure) has answered, and so has one that fails with an
error of which a rule says that it is the record's (error_rules.py: discard). Busy is nothing at all.

Laws, tested in tests/unit/test_breaker.py:

17. With fewer than IN_A_ROW poison keys it never opens, whatever else happens.
18. A function that fails alike for everything opens it before more batches are given up than IN_A_ROW - 1.
19. Open, at most one invocation begins before it is answered, and none before it is due.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from poller.model import Action, Batch, Fault, Record, Release, Retry
from poller.protocols import Policy
from poller.settings import BreakerSettings

IN_A_ROW = 5
LOOKED_AT = 20
HALF = 10

OUTAGE = Fault("error", "Poller.Outage", "the function fails for everything")
"""What a policy is asked about, to learn what a failure would cost records that wait."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A batch that failed: the fingerprint of its fault, and the keys of its records."""

    group: str
    keys: frozenset[Hashable]


@dataclass(frozen=True, slots=True)
class Closed:
    """`seen`: the last batches, oldest first, from one that failed on; None: the function answered. No two have a key in common."""

    seen: tuple[Failed | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Open:
    """Since when, for which fault, and when a probe is due, in seconds of one clock; `probes` have failed so far."""

    since: float
    group: str
    due: float
    probes: int = 0


State: TypeAlias = Closed | Open


def answered(state: Closed) -> Closed:
    """The function has answered."""
    return _looked_at((*state.seen, None))


def failed(state: Closed, batch: Failed, now: float, settings: BreakerSettings) -> State:
    """A batch has failed as a whole."""
    seen = _with(state.seen, batch)
    alike = [each is not None and each.group == batch.group for each in seen[-LOOKED_AT:]]
    row = alike[::-1].index(False) if False in alike else len(alike)
    if row >= IN_A_ROW or sum(alike) >= HALF:
        return Open(now, batch.group, now + settings.initial)
    return _looked_at(seen)


def missed(state: Open, now: float, settings: BreakerSettings, ran: bool) -> Open:
    """The probe has failed; or it has not run (`ran` False: nothing is known, and another may at once)."""
    if not ran:
        return replace(state, due=now)
    probes = state.probes + 1
    return replace(state, probes=probes, due=now + pause(probes, settings))


def pause(probes: int, settings: BreakerSettings) -> float:
    """Seconds until the next probe, after so many that have failed."""
    return min(settings.maximum, settings.initial * 2.0 ** min(probes, 60))


def spares(state: State, now: float, settings: BreakerSettings) -> bool:
    """Whether a batch that fails now keeps its attempts. Not for ever: a poison record may be all that there is to probe with."""
    return isinstance(state, Open) and now < state.since + settings.patience


def keys_of(batch: Batch) -> frozenset[Hashable]:
    """What tells its records from others: their keys, and the names of those that have none."""
    keys = batch.format.facts(batch.records).keys()
    if None not in keys:
        return frozenset(keys)
    names = batch.format.names(batch.records)
    return frozenset(name if key is None else key for key, name in zip(keys, names, strict=True))


def parted(batch: Batch, policy: Policy, grouped: bool, now: float) -> tuple[Sequence[Record], Sequence[Record]]:
    """Of messages that wait here, those to give back to their queue until the function is well, and those to keep: received once more, they
    would have been received too often. `grouped`: the messages of a key stay together, for their order."""
    harmless: set[int] = set()
    for action in policy.decide(batch, OUTAGE, now, 0.0):
        if isinstance(action, Release) and action.failure is None:
            harmless.update(map(id, action.records))
    kept = [record for record in batch.records if id(record) not in harmless]
    if grouped and kept:
        held = set(batch.format.facts(kept).keys())
        keys = batch.format.facts(batch.records).keys()
        harmless = {id(record) for record, key in zip(batch.records, keys, strict=True) if key not in held}
        kept = [record for record in batch.records if id(record) not in harmless]
    return [record for record in batch.records if id(record) in harmless], kept


def is_split(actions: Sequence[Action], batch: Batch) -> bool:
    """Whether the policy only cuts the batch in smaller ones: that costs no attempt, and finds out what is well of it."""
    return len(actions) > 1 and all(isinstance(action, Retry) and len(action.batch) < len(batch) for action in actions)


def _with(seen: tuple[Failed | None, ...], batch: Failed) -> tuple[Failed | None, ...]:
    """`seen` after this one: what has keys in common is one failure, and the smallest says most of it."""
    for place, each in enumerate(seen):
        if each is not None and not each.keys.isdisjoint(batch.keys):
            return (*seen[:place], batch, *seen[place + 1 :]) if batch.keys <= each.keys else seen
    return (*seen, batch)


def _looked_at(seen: tuple[Failed | None, ...]) -> Closed:
    seen = seen[-LOOKED_AT:]
    return Closed(seen if any(each is not None for each in seen) else ())
