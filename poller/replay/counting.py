"""What a replay would run, before it does: `poller replay --dry-run`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from poller.failures.journal import Entry, Row, Selection
from poller.failures.pages import pages as any_pages
from poller.failures.protocols import Journal
from poller.replay.claims import CLAIM_SECONDS

NAMED = 10
"""How many ids a preview names."""

ORDER = "within a failure records keep their order; between failures no order is kept: they start oldest first, and none waits for another"
IN_ORDER = "records keep their order within a failure, and failures theirs, oldest first: each begins when the one before has ended"


def order(concurrency: int, to: str = "") -> str:
    """What order a replay keeps that runs so many rows at once; `to`: where it sends them instead."""
    kept = IN_ORDER if concurrency == 1 else ORDER
    return kept + "; where they are sent, they come after what is there already" if to else kept


def every(_: Entry) -> bool:
    """The choice that leaves nothing out."""
    return True


@dataclass(frozen=True, slots=True)
class Count:
    """So many rows, with so many records."""

    rows: int = 0
    records: int = 0


@dataclass(frozen=True, slots=True)
class Preview:
    """`total` is what would run; `claimed` is held by another run now; `copies` are of messages that are in a dead-letter queue too.

    `copies` are part of `total` only if the selection asks for them (`with_copies`). `parked` is what is parked now behind what would run,
    and would run after it, in order, unless something before it fails again. Times are epoch seconds, of the oldest and the newest
    row that would run. `errors` are by the fault's type, "" where the function was never invoked. `ids`, `copy_ids`, `claimed_ids`: a few.
    """

    total: Count
    mappings: dict[str, Count]
    reasons: dict[str, Count]
    errors: dict[str, Count]
    copies: Count
    with_copies: bool
    claimed: Count
    first: float | None
    last: float | None
    ids: tuple[str, ...]
    copy_ids: tuple[str, ...]
    claimed_ids: tuple[str, ...]
    order: str = ORDER
    parked: Count = Count()


_Key: TypeAlias = tuple[str, str, str]
"""Mapping, source, and a key of it."""


class _Line(NamedTuple):
    """What a preview needs of a row: not its payload."""

    id: str
    mapping: str
    reason: str
    error: str
    time: float
    records: int
    copy: bool
    claimed: bool
    holds: frozenset[_Key]


async def preview(
    journal: Journal, selection: Selection, now: float, matches: Callable[[Entry], bool] = every, order: str = ORDER
) -> Preview:
    """What a replay of this selection would run now. `selection.copies`: are copies asked for? Its states are not looked at.
    `matches`: which of the selected rows are meant.

    Raises StoreUnavailable, and ConfigError for an id that may be several.
    """
    whole = pages(journal, replace(selection, copies=True))
    lines = [_line(row, now) async for page in whole for row in page if matches(row.entry)]
    copies = [line for line in lines if line.copy]
    asked = [line for line in lines if selection.copies or not line.copy]
    claimed = [line for line in asked if line.claimed]
    runs = [line for line in asked if not line.claimed]
    return Preview(
        total=_count(runs),
        mappings=_grouped(runs, lambda line: line.mapping),
        reasons=_grouped(runs, lambda line: line.reason),
        errors=_grouped(runs, lambda line: line.error),
        copies=_count(copies),
        with_copies=selection.copies,
        claimed=_count(claimed),
        first=min((line.time for line in runs), default=None),
        last=max((line.time for line in runs), default=None),
        ids=_named(runs),
        copy_ids=_named(copies),
        claimed_ids=_named(claimed),
        order=order,
        parked=await _parked(journal, frozenset(key for line in runs for key in line.holds)),
    )


def pages(journal: Journal, selection: Selection) -> AsyncIterator[Sequence[Row]]:
    """The rows of a selection that a replay may claim, oldest first, a page at a time. Claimed ones are among them: a claim may run out."""
    return any_pages(journal, replace(selection, states=("kept", "claimed")))


def _line(row: Row, now: float) -> _Line:
    entry, fault = row.entry, row.entry.fault
    live = row.state == "claimed" and now - row.changed < CLAIM_SECONDS
    error = "" if fault is None else fault.type
    return _Line(
        entry.id, entry.mapping, entry.reason, error, entry.time, len(entry.records), entry.kept == "queue-dlq", live, _held(entry)
    )


def _held(entry: Entry) -> frozenset[_Key]:
    keys = (record.key for record in entry.records if entry.holds)
    return frozenset((entry.mapping, entry.source, key) for key in keys if key is not None)


async def _parked(journal: Journal, keys: frozenset[_Key]) -> Count:
    """What is parked behind rows that hold these keys."""
    if not keys:
        return Count()
    found = any_pages(journal, Selection(states=("parked",)))
    records = [len(row.entry.records) async for page in found for row in page if keys & _held(row.entry)]
    return Count(len(records), sum(records))


def _count(lines: Iterable[_Line]) -> Count:
    counts = [line.records for line in lines]
    return Count(len(counts), sum(counts))


def _grouped(lines: Sequence[_Line], name: Callable[[_Line], str]) -> dict[str, Count]:
    return {each: _count(line for line in lines if name(line) == each) for each in dict.fromkeys(map(name, lines))}


def _named(lines: Sequence[_Line]) -> tuple[str, ...]:
    return tuple(line.id for line in lines[:NAMED])
