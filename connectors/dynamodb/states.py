"""States in the table beside the lease table. DynamoDB's items have at most 400 KB, so a value is cut into chunks:

    state/NUMBER                  its head: `version`, and how many `chunks`
    state/NUMBER/VERSION/CHUNK    `value`

Chunks are there before the head that names them, and a head changes in one step: a value is the old one or the new one. Every write is a
transaction that looks at the lane's lease, the row of another table. What a crash left behind goes with the next `put` of its
number, or the `prune` that does not keep it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from connectors.dynamodb.books import Books
from connectors.dynamodb.expressions import condition, item, octets, text
from connectors.dynamodb.row import fence
from connectors.dynamodb.tables import Beside, Spot, Tables
from poller.errors import StoreError
from poller.model import LaneKey, Lease
from poller.stores.fencing import lost

CHUNK_BYTES = 350_000
CHUNKS_AT_ONCE = 2
"""A transaction may have 4 MB; sending a body of more than one would hold up the loop (aiohttp warns of it)."""
DELETES_AT_ONCE = 90
"""A transaction has at most 100 items."""
READS = 3
"""A value that is replaced while it is read is read so often."""


class DynamoDBStates:
    """`poller.protocols.States`."""

    def __init__(self, tables: Tables, books: Books) -> None:
        self._tables = tables
        self._books = books
        self._puts = 0

    def __repr__(self) -> str:
        return f"<DynamoDBStates {self._tables!r}>"

    async def put(self, lease: Lease, number: int, value: bytes) -> None:
        """One transaction for 700 KB."""
        book, beside = await self._books.of(lease), await self._tables.beside(lease.key)
        self._puts += 1
        version = f"{lease.counter}.{self._puts}"
        chunks = [value[start : start + CHUNK_BYTES] for start in range(0, len(value), CHUNK_BYTES)]
        puts = [_put(beside, _chunk(number, version, place), {"value": chunk}) for place, chunk in enumerate(chunks)]
        puts.append(_put(beside, _head(number), {"version": version, "chunks": len(chunks)}))
        async with book.gate:
            before = await self._parts(beside, f"{_head(number)}/")
            for group in _grouped(puts, CHUNKS_AT_ONCE):
                await self._change(lease, book.spot, group)
            await self._delete(lease, book.spot, beside, before)

    async def get(self, key: LaneKey, number: int) -> bytes | None:
        """Raises StoreError for a value that is not whole."""
        beside = await self._tables.beside(key)
        for _ in range(READS):
            head = await self._tables.get(Spot(beside.table, beside.name, beside.part(_head(number))))
            if head is None:
                return None
            prefix = _chunk(number, text(head, "version"), None)
            chunks = [octets(each, "value") async for each in self._tables.pages("Query", beside.table, **_prefixed(beside, prefix))]
            if len(chunks) == int(head["chunks"]["N"]):
                return b"".join(chunks)
        raise StoreError(f"DynamoDB table {beside.table}: state {number} of lane {key.lane} of mapping {key.mapping} is not whole")

    async def prune(self, lease: Lease, keep: Collection[int]) -> None:
        book, beside = await self._books.of(lease), await self._tables.beside(lease.key)
        async with book.gate:
            kept = {f"{number}" for number in keep}
            away = [part for part in await self._parts(beside, "state/") if part.split("/")[1] not in kept]
            await self._change(lease, book.spot, [])
            await self._delete(lease, book.spot, beside, away)

    async def _parts(self, beside: Beside, prefix: str) -> list[str]:
        query = _prefixed(beside, prefix)
        names = query["ExpressionAttributeNames"] | {"#part": "part"}
        query |= {"ExpressionAttributeNames": names, "ProjectionExpression": "#part"}
        return [text(each, "part") async for each in self._tables.pages("Query", beside.table, **query)]

    async def _delete(self, lease: Lease, spot: Spot, beside: Beside, parts: Sequence[str]) -> None:
        # Heads come before their chunks, in the order of names: a chunk without a head is nothing, a head without chunks is damage.
        deletes = [{"Delete": {"TableName": beside.table, "Key": beside.part(part)}} for part in parts]
        for group in _grouped(deletes, DELETES_AT_ONCE):
            await self._change(lease, spot, group)

    async def _change(self, lease: Lease, spot: Spot, group: Sequence[Any]) -> None:
        """All of it, if the lease is still held."""
        held = {"ConditionCheck": {"TableName": spot.table, "Key": spot.key, **condition(fence(lease.owner, lease.counter))}}
        if await self._tables.client.call("TransactWriteItems", spot.table, TransactItems=[held, *group]) is None:
            raise lost(lease)


def _head(number: int) -> str:
    return f"state/{number}"


def _chunk(number: int, version: str, place: int | None) -> str:
    """None: what those of this version begin with."""
    return f"{_head(number)}/{version}/" + ("" if place is None else f"{place:05d}")


def _put(beside: Beside, part: str, values: dict[str, Any]) -> dict[str, Any]:
    return {"Put": {"TableName": beside.table, "Item": beside.part(part) | item(values)}}


def _prefixed(beside: Beside, prefix: str) -> dict[str, Any]:
    return {
        "KeyConditionExpression": "#leaseKey = :name AND begins_with(#part, :prefix)",
        "ExpressionAttributeNames": {"#leaseKey": "leaseKey", "#part": "part"},
        "ExpressionAttributeValues": item({":name": beside.name, ":prefix": prefix}),
    }


def _grouped(changes: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(changes), most):
        yield changes[start : start + most]
