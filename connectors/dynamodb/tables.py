"""Which table and row a lane has, and that the tables are there and nobody else's.

The table that the URL names is KCL's own: one row a lane, and rows of KCL that are none of ours. What KCL must not see is in the table
beside it, whose rows have a name and a part: leases of lanes without a name or source, states, and whose the tables are.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from connectors.dynamodb.client import DynamoDB
from connectors.dynamodb.expressions import Item, Where, condition, item, text
from connectors.dynamodb.url import COMPANION
from connectors.dynamodb.url import Where as Url
from poller.errors import StoreError, StoreUnavailable
from poller.model import LaneKey

TABLE_SECONDS = 60.0
"""A new table is ready after some ten seconds."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A row: its table and key. `name`: what the lease table calls it."""

    table: str
    name: str
    key: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Beside:
    """Where a lane keeps what KCL must not see."""

    table: str
    name: str

    def part(self, part: str) -> dict[str, Any]:
        return item({"leaseKey": self.name, "part": part})


class Tables:
    """The tables of one URL. Those of a mapping are looked at, or created, when one of its lanes is first asked for."""

    def __init__(self, client: DynamoDB, url: Url, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self.client = client
        self._url = url
        self._sleep = sleep
        self._ready: dict[tuple[str, str], str] = {}
        self._gate = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Tables {self._url.table} [{len(self._ready)} in use]>"

    async def spot(self, key: LaneKey) -> Spot:
        """The row of a lane's lease and progress. Raises StoreError for a table that is another's, StoreUnavailable."""
        table = await self.table(key.mapping, key.source)
        if key.source and key.lane:
            return Spot(table, key.lane, item({"leaseKey": key.lane}))
        beside = Beside(table + COMPANION, _name(key))
        return Spot(beside.table, beside.name, beside.part("lease"))

    async def beside(self, key: LaneKey) -> Beside:
        return Beside(await self.table(key.mapping, key.source) + COMPANION, _name(key))

    async def table(self, mapping: str, source: str) -> str:
        """The lease table of these lanes, ready for use and theirs alone."""
        ready = self._ready.get((mapping, source))
        if ready is None:
            async with self._gate:
                ready = self._ready.get((mapping, source)) or await self._prepared(mapping, source)
                self._ready[mapping, source] = ready
        return ready

    async def get(self, spot: Spot) -> Item | None:
        """As it is now, not as it was a moment ago."""
        answer = await self.client.call("GetItem", spot.table, Key=spot.key, ConsistentRead=True)
        assert answer is not None, "reading has no condition"
        found: Item | None = answer.get("Item")
        return found

    async def pages(self, operation: str, table: str, **parameters: Any) -> AsyncIterator[Item]:
        """All items of a Scan or Query."""
        more: dict[str, Any] = {}
        while True:
            answer = await self.client.call(operation, table, ConsistentRead=True, **parameters, **more)
            assert answer is not None, "reading has no condition"
            for found in answer["Items"]:
                yield found
            if not answer.get("LastEvaluatedKey"):
                return
            more = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    async def _prepared(self, mapping: str, source: str) -> str:
        table = self._url.name(mapping, source)
        await self._there(table, ["leaseKey"])
        await self._there(table + COMPANION, ["leaseKey", "part"])
        await self._own(table, "mapping", mapping)
        if source:
            await self._own(table, "source", source)
        return table

    async def _there(self, table: str, keys: list[str]) -> None:
        """The table has this key: created if it was not there, waited for while it is made."""
        schema = [{"AttributeName": name, "KeyType": kind} for name, kind in zip(keys, ("HASH", "RANGE"), strict=False)]
        found = await self.client.describe(table)
        if found is None:
            kinds = [{"AttributeName": name, "AttributeType": "S"} for name in keys]
            await self.client.create(table, AttributeDefinitions=kinds, KeySchema=schema)
        try:
            async with asyncio.timeout(TABLE_SECONDS):
                while found is None or found["TableStatus"] not in {"ACTIVE", "UPDATING"}:
                    found = await self.client.describe(table)
                    if found is None or found["TableStatus"] == "CREATING":
                        await self._sleep(0.2)
        except TimeoutError as error:
            raise StoreUnavailable(f"DynamoDB table {table} is not ready after {TABLE_SECONDS:.0f} s") from error
        if sorted(found["KeySchema"], key=lambda each: str(each["KeyType"])) != schema:
            raise StoreError(f"DynamoDB table {table} is no lease table (its key is not {' and '.join(keys)}); name another one")

    async def _own(self, table: str, what: str, value: str) -> None:
        """Two fleets on one table by mistake would read each other's lanes: the first one marks it, and no other may use it."""
        beside, named = table + COMPANION, {"leaseKey": "table", "part": what}
        free = condition([Where("leaseKey")])
        if await self.client.call("PutItem", beside, Item=item({**named, "value": value}), **free) is not None:
            return
        found = await self.get(Spot(beside, "table", item(named)))
        if found is not None and text(found, "value") != value:
            raise another(table, what, text(found, "value"), value)


def another(table: str, what: str, theirs: str, ours: str) -> StoreError:
    """What is raised where a table, or a row of it, is not for these lanes."""
    return StoreError(
        f"DynamoDB table {table} holds lanes of {what} {theirs}, not of {what} {ours}; name another table, put {{{what}}} into its name, "
        f"or delete it and {table}{COMPANION} if nobody needs them any more"
    )


def _name(key: LaneKey) -> str:
    return json.dumps([key.mapping, key.source, key.lane], ensure_ascii=False)
