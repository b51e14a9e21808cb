"""`poller.failures.protocols.Upkeep` in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from poller.failures.journal import ErrorGroup, Removed, Row, RowState, Selection
from poller.stores.kept import row_weight, weight

if TYPE_CHECKING:
    from poller.stores.memory_journal import MemoryJournal


class MemoryUpkeep:
    """`poller.failures.protocols.Upkeep`."""

    def __init__(self, journal: MemoryJournal) -> None:
        self._journal = journal

    async def groups(self, selection: Selection) -> Sequence[ErrorGroup]:
        self._journal.work_out()
        found: dict[str, list[Row]] = defaultdict(list)
        for row in self._journal.all(selection):
            found[row.entry.group].append(row)
        return sorted((_group(name, rows) for name, rows in found.items()), key=lambda group: (-group.rows, group.id))

    async def size(self) -> int:
        self._journal.work_out()
        return sum(_bytes(row) for row in self._journal.all(Selection(states=())))

    async def remove(self, states: Sequence[RowState], before: float, limit: int) -> Sequence[Removed]:
        if not states:
            return ()
        rows = sorted(self._journal.all(Selection(states=tuple(states), before=before)), key=lambda row: row.entry.time)
        over = [row for row in rows if row.state != "claimed" and row.changed < before][:limit]
        for row in over:
            self._journal.remove(row.entry.id)
        return [Removed(row.entry.id, row.entry.mapping, len(row.entry.records), _bytes(row)) for row in over]

    async def compact(self, limit: int) -> int:  # noqa: ARG002
        return 0


def _group(name: str, rows: Sequence[Row]) -> ErrorGroup:
    times, last = [row.entry.time for row in rows], rows[-1].entry
    mappings = tuple(sorted({row.entry.mapping for row in rows}))
    records = sum(len(row.entry.records) for row in rows)
    return ErrorGroup(name, len(rows), records, min(times), max(times), mappings, last.id, last.reason, last.fault)


def _bytes(row: Row) -> int:
    return row_weight(row.entry) + weight(row.entry.records)
