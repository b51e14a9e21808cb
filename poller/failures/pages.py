"""Rows of the journal, a page at a time: however many there are, and however large, few are in memory at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

from poller.failures.journal import Entry, Row, Selection
from poller.failures.protocols import Journal

PAGE_BYTES = 8 * 1024 * 1024
"""What a page aims at, by the rows of the one before."""
FIRST_ROWS, MOST_ROWS = 20, 1000
"""How many rows the first page has, and any at most; a row may have six megabytes."""


async def pages(journal: Journal, selection: Selection) -> AsyncIterator[Sequence[Row]]:
    """The selected rows, oldest first, each once. No snapshot: what is changed meanwhile is seen as it is when its page is read, what fails
    again meanwhile comes at its later time. Raises StoreError, and ConfigError for an id that may be several."""
    left, size, seen = selection.limit, FIRST_ROWS, frozenset[str]()
    while left is None or left > 0:
        found = await journal.select(replace(selection, limit=size + len(seen)))
        page = [row for row in found if row.entry.id not in seen][:left]
        if page:
            yield page
        if len(found) < size + len(seen):
            return
        left = None if left is None else left - len(page)
        # The next page begins with this one's last time again: there may be more rows of that time, even whole pages.
        last = found[-1].entry.time
        same = {row.entry.id for row in found if row.entry.time == last}
        seen = frozenset(same | seen if selection.after == last else same)
        size = max(1, min(MOST_ROWS, PAGE_BYTES * len(found) // max(1, sum(map(_bytes, found)))))
        selection = replace(selection, after=last)


async def matching(journal: Journal, selection: Selection, matches: Callable[[Entry], bool]) -> AsyncIterator[Row]:
    """Of the selected rows those whose entry matches, oldest first; the selection's limit is of these."""
    left = selection.limit
    async for page in pages(journal, replace(selection, limit=None)):
        for row in page:
            if left is not None and left <= 0:
                return
            if matches(row.entry):
                left = None if left is None else left - 1
                yield row


def _bytes(row: Row) -> int:
    entry = row.entry
    return len(entry.head) + len(entry.tail) + sum(len(record.json) for record in entry.records)
