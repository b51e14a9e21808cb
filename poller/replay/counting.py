"""What a replay would run, before it does: `poller replay --dry-run`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from poller.model import Row, Selection
from poller.protocols import Journal
from poller.replay.claims import CLAIM_SECONDS

PAGE_ROWS = 200
"""How many rows are read at once: each may hold megabytes."""

NAMED = 10
"""How many ids a preview names."""

ORDER = "within a row records keep their order; between rows no order is kept: they start oldest first, and none waits for another"


@dataclass(frozen=True, slots=True)
class Count:
    """So many rows, with so many records."""

    rows: int = 0
    records: int = 0


@dataclass(frozen=True, slots=True)
class Preview:
    """`total` is what would run; `claimed` is held by another run now; `copies` are of messages that are in a dead-letter queue too.

    `copies` are part of `total` only if the selection asks for them (`with_copies`). Times are epoch seconds, of the oldest and the newest
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


async def preview(journal: Journal, selection: Selection, now: float) -> Preview:
    """What a replay of this selection would run now. `selection.copies`: are copies asked for? Its states are not looked at.

    Raises StoreUnavailable, and ConfigError for an id that may be several.
    """
    lines = [_line(row, now) async for page in pages(journal, replace(selection, copies=True)) for row in page]
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
    )


async def pages(journal: Journal, selection: Selection) -> AsyncIterator[Sequence[Row]]:
    """The rows of a selection that a replay may claim, oldest first, a page at a time. Claimed ones are among them: a claim may run out."""
    selection = replace(selection, states=("kept", "claimed"))
    left, size, seen = selection.limit, PAGE_ROWS, frozenset[str]()
    while left is None or left > 0:
        found = await journal.select(replace(selection, limit=size))
        page = [row for row in found if row.entry.id not in seen][:left]
        if page:
            yield page
        if len(found) < size:
            return
        left = None if left is None else left - len(page)
        # The next page begins with the last one's last time again: there may be more rows of that time, even whole pages.
        last = found[-1].entry.time
        seen = frozenset(row.entry.id for row in found if row.entry.time == last)
        size = max(PAGE_ROWS, 2 * len(seen))
        selection = replace(selection, after=last)


def _line(row: Row, now: float) -> _Line:
    entry, fault = row.entry, row.entry.fault
    live = row.state == "claimed" and now - row.changed < CLAIM_SECONDS
    error = "" if fault is None else fault.type
    return _Line(entry.id, entry.mapping, entry.reason, error, entry.time, len(entry.records), entry.kept == "queue-dlq", live)


def _count(lines: Iterable[_Line]) -> Count:
    counts = [line.records for line in lines]
    return Count(len(counts), sum(counts))


def _grouped(lines: Sequence[_Line], name: Callable[[_Line], str]) -> dict[str, Count]:
    return {each: _count(line for line in lines if name(line) == each) for each in dict.fromkeys(map(name, lines))}


def _named(lines: Sequence[_Line]) -> tuple[str, ...]:
    return tuple(line.id for line in lines[:NAMED])
