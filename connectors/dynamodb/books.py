"""What a worker remembers of the lanes it holds: how many saves it has sent, and which records a checkpoint may name next."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from connectors.dynamodb.checkpoint import Landmarks
from connectors.dynamodb.row import LeaseRow, row
from connectors.dynamodb.tables import Spot, Tables, another
from poller.errors import StoreError
from poller.model import LaneKey, Lease
from poller.stores.fencing import lost


@dataclass(slots=True)
class Book:
    """Of one lease. `gate`: its saves go out one after the other."""

    spot: Spot
    landmarks: Landmarks
    saves: int = 0
    gate: asyncio.Lock = field(default_factory=asyncio.Lock)


class Books:
    """Of all leases of this worker, by what was read when they were claimed."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._books: dict[LaneKey, tuple[Lease, Book]] = {}

    def open(self, lease: Lease, spot: Spot, seen: LeaseRow | None) -> Book:
        """`seen`: the row as it was before the claim, or as it is."""
        try:
            landmarks = Landmarks() if seen is None else seen.landmarks(lease.key, spot.table)
        except StoreError:
            landmarks = Landmarks()  # damaged; whoever loads it says so
        book = Book(spot, landmarks, 0 if seen is None or seen.ours is None else seen.ours.save)
        self._books[lease.key] = lease, book
        return book

    async def of(self, lease: Lease) -> Book:
        """Raises LaneLost for a lease that is not held any more, as far as this worker knows, or else the row."""
        lease_there, book = self._books.get(lease.key, (None, None))
        if lease_there == lease and book is not None:
            return book
        spot = await self._tables.spot(lease.key)
        seen = await leased(self._tables, spot, lease.key)
        if seen is None or seen.ours is None or (seen.owner, seen.ours.counter) != (lease.owner, lease.counter):
            raise lost(lease)
        return self.open(lease, spot, seen)

    def close(self, lease: Lease) -> None:
        if self._books.get(lease.key, (None,))[0] == lease:
            del self._books[lease.key]


async def leased(tables: Tables, spot: Spot, key: LaneKey) -> LeaseRow | None:
    """The lane's row as it is now. Raises StoreError for one that is of another mapping or source, or no lease."""
    found = await tables.get(spot)
    if found is None:
        return None
    seen = row(found)
    if seen is None:
        raise StoreError(f"DynamoDB table {spot.table}: the row {spot.name!r} is no lease of one stream, and lane {key.lane} needs it")
    check(spot.table, seen, key.mapping, key.source)
    return seen


def check(table: str, seen: LeaseRow, mapping: str, source: str) -> None:
    """Raises StoreError for a row that bears another's mark."""
    ours = seen.ours
    if ours is not None and ours.mapping != mapping:
        raise another(table, "mapping", ours.mapping, mapping)
    if ours is not None and ours.source != source:
        raise another(table, "source", ours.source, source)
