"""Leases in KCL's table.

    free --claim--> held --drop--> free, or kept for who asked
                     | '--renew, adds to leaseCounter--> held
                     '--the counter stands still for its duration, seen by who looks--> free for all

A claim reads the row and changes it only if leaseCounter and owner are still what was read: of many one wins, a worker of KCL included.
What is written under a lease presents owner and claim counter (`row.fence`). Renewals go out one by one, side by side: DynamoDB has no
batch of conditional updates but the transaction, which costs twice as much and fails as a whole for one lease that was lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from connectors.dynamodb.books import Books, check, leased
from connectors.dynamodb.expressions import Where, condition, item, number
from connectors.dynamodb.row import LeaseRow, asking, dropped, fresh, renewed, row, taken
from connectors.dynamodb.tables import Spot, Tables
from connectors.dynamodb.watch import Watch
from poller.model import Holding, LaneKey, Lease

SCAN_SECONDS = 1.0
"""`held` answers from what it read so long ago. A scan costs half a read unit a kilobyte, twice that for being consistent: a row has less
than a kilobyte while few batches are under retry, so a worker of a hundred lanes that looks each second takes some 25 units a second."""

CLAIM_TRIES = 3
"""A claim that others got in between of looks again so often; then they have it."""


class DynamoDBLeases:
    """`poller.protocols.Leases`. `now` is the caller's clock, and compared with no other's."""

    def __init__(self, tables: Tables, books: Books) -> None:
        self._tables = tables
        self._books = books
        self._watch = Watch()
        self._scans: dict[str, tuple[float, Sequence[LeaseRow]]] = {}

    def __repr__(self) -> str:
        return f"<DynamoDBLeases {self._tables!r}>"

    async def claim(self, key: LaneKey, owner: str, now: float, duration: float, ask: bool = False) -> Lease | None:
        """`owner` must not be empty. Raises StoreError if the table is another mapping's or source's, StoreUnavailable."""
        spot = await self._tables.spot(key)
        for _ in range(CLAIM_TRIES):
            seen = await self._seen(key, spot, now)
            if seen is not None and not self._free(spot.table, seen, owner, now):
                if ask and seen.listens:
                    await self._ask(spot, seen, owner, now, duration)
                return None
            # KCL deletes the rows of shards that are over: a counter that came from the row alone could come twice.
            counter = max(1 if seen is None or seen.ours is None else seen.ours.counter + 1, int(now * 1000))
            if await self._write(spot, key, seen, owner, counter, duration) is not None:
                renewals = 1 if seen is None else seen.renewals + 1
                self._scans.pop(spot.table, None)
                self._watch.renewed(spot.table, spot.name, owner, renewals, now, duration)
                lease = Lease(key, owner, counter)
                self._books.open(lease, spot, seen)
                return lease
        return None

    async def renew(self, leases: Sequence[Lease], now: float, duration: float) -> Sequence[Lease]:
        """Raises StoreUnavailable if any could not be asked for; those that could are extended all the same."""
        done = await asyncio.gather(*(self._renew(lease, now, duration) for lease in leases), return_exceptions=True)
        for each in done:
            if isinstance(each, BaseException):
                raise each
        return [lease for lease, kept in zip(leases, done, strict=True) if kept]

    async def drop(self, lease: Lease) -> None:
        spot = await self._tables.spot(lease.key)
        change = dropped(lease.owner, lease.counter)
        await self._tables.client.call("UpdateItem", spot.table, Key=spot.key, **change)
        self._scans.pop(spot.table, None)
        self._books.close(lease)

    async def held(self, mapping: str, source: str, now: float) -> Sequence[Holding]:
        """Named lanes alone; those of a worker of KCL, too. From what was read up to a second ago, but for what this worker changed."""
        table = await self._tables.table(mapping, source)
        read = self._scans.get(table)
        if read is None or not 0 <= now - read[0] < SCAN_SECONDS:
            found = [row(each) async for each in self._tables.pages("Scan", table)]
            read = self._scans[table] = now, [each for each in found if each is not None]
            for each in read[1]:
                check(table, each, mapping, source)
                self._watch.see(table, each, now)
        return [self._holding(table, each, now) for each in read[1]]

    def _holding(self, table: str, seen: LeaseRow, now: float) -> Holding:
        owner = self._watch.owner(table, seen, now)
        # A lease that is past its time is kept for nobody.
        return Holding(seen.name, owner, self._watch.wanted(table, seen, now) if owner or not seen.owner else "")

    async def _seen(self, key: LaneKey, spot: Spot, now: float) -> LeaseRow | None:
        seen = await leased(self._tables, spot, key)
        if seen is not None:
            self._watch.see(spot.table, seen, now)
        return seen

    def _free(self, table: str, seen: LeaseRow, owner: str, now: float) -> bool:
        if seen.owner == owner:
            return True
        if seen.owner:
            return not self._watch.owner(table, seen, now)
        return self._watch.wanted(table, seen, now) in {"", owner}

    async def _write(
        self, spot: Spot, key: LaneKey, seen: LeaseRow | None, owner: str, counter: int, duration: float
    ) -> Mapping[str, Any] | None:
        client = self._tables.client
        if seen is not None:
            return await client.call("UpdateItem", spot.table, Key=spot.key, **taken(seen, key, owner, counter, duration))
        whole = item(fresh(key, spot.name, owner, counter, duration)) | dict(spot.key)
        return await client.call("PutItem", spot.table, Item=whole, **condition([Where("leaseKey")]))

    async def _ask(self, spot: Spot, seen: LeaseRow, owner: str, now: float, duration: float) -> None:
        change = asking(seen, owner, duration)
        answer = await self._tables.client.call("UpdateItem", spot.table, Key=spot.key, ReturnValues="ALL_NEW", **change)
        if answer is not None and (asked := row(answer["Attributes"])) is not None:
            # Its time begins with the asking, not when it is next looked at.
            self._watch.see(spot.table, asked, now)
        self._scans.pop(spot.table, None)

    async def _renew(self, lease: Lease, now: float, duration: float) -> bool:
        spot = await self._tables.spot(lease.key)
        if self._watch.over(spot.table, spot.name, lease.owner, now):
            return False
        change = renewed(lease.owner, lease.counter, duration)
        answer = await self._tables.client.call("UpdateItem", spot.table, Key=spot.key, ReturnValues="UPDATED_NEW", **change)
        if answer is None:
            return False
        self._scans.pop(spot.table, None)
        self._watch.renewed(spot.table, spot.name, lease.owner, number(answer["Attributes"], "leaseCounter"), now, duration)
        return True
