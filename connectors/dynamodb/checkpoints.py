"""Progress in KCL's table: its checkpoint columns, which it may go on from, and beside them all that we know."""

from __future__ import annotations

from connectors.dynamodb.books import Books, leased
from connectors.dynamodb.checkpoint import TRIM_HORIZON, Landmarks, Notation
from connectors.dynamodb.row import saved
from connectors.dynamodb.tables import Tables
from poller.model import LaneKey, Lease
from poller.progress import Progress
from poller.stores.fencing import lost


class DynamoDBCheckpoints:
    """`poller.protocols.Checkpoints`."""

    def __init__(self, tables: Tables, books: Books) -> None:
        self._tables = tables
        self._books = books

    def __repr__(self) -> str:
        return f"<DynamoDBCheckpoints {self._tables!r}>"

    async def load(self, key: LaneKey) -> Progress | None:
        """Ours, or what KCL has come to since. Raises StoreError if it cannot be read, or is another mapping's; StoreUnavailable."""
        spot = await self._tables.spot(key)
        seen = await leased(self._tables, spot, key)
        return None if seen is None else seen.progress(key, spot.table)

    async def save(self, lease: Lease, progress: Progress) -> None:
        await self._write(lease, progress)

    async def forget(self, lease: Lease) -> None:
        """KCL would begin at the trim horizon."""
        await self._write(lease, None)

    async def _write(self, lease: Lease, progress: Progress | None) -> None:
        book = await self._books.of(lease)
        async with book.gate:
            book.saves += 1
            columns = TRIM_HORIZON if progress is None else Notation(lease.key.source).written(progress, book.landmarks)
            change = saved(lease.owner, lease.counter, book.saves, columns, progress)
            if await self._tables.client.call("UpdateItem", book.spot.table, Key=book.spot.key, **change) is None:
                self._books.close(lease)
                raise lost(lease)
            book.landmarks = Landmarks() if progress is None else book.landmarks.past(progress)
