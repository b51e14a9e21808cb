"""Streams of Kinesis and tables of DynamoDB as a test needs them: the source of the mapping "orders", filled and changed from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from tests.servers.dynamodb.client import TablesClient
from tests.servers.kinesis.client import REGION, StreamsClient

T = TypeVar("T")


class Stream:
    """A new stream. `source` are more keys of the mapping's source."""

    def __init__(self, url: str, shards: int = 1, **source: object) -> None:
        self._url = url
        self.name = self.run(lambda client: client.create(shards))
        own = {"type": "kinesis", "stream": self.name, "region": REGION, "endpoint": url}
        self.source: dict[str, object] = {**own, **source}

    def fill(self, bodies: Sequence[str], keys: Sequence[str] = ()) -> list[tuple[str, str]]:
        """In order; (shard, sequence number) of each. Without keys, each is a key of its own."""
        return self.run(lambda client: client.put(self.name, zip(keys or bodies, map(str.encode, bodies), strict=True)))

    def run(self, ask: Callable[[StreamsClient], Awaitable[T]]) -> T:
        async def asked() -> T:
            async with StreamsClient(self._url) as client:
                return await ask(client)

        return asyncio.run(asked())


class Table:
    """A new table with a stream; an item is a body by its key."""

    def __init__(self, url: str, **source: object) -> None:
        self._url = url
        self.name = self.run(lambda client: client.create())
        own = {"type": "dynamodb-streams", "table": self.name, "region": REGION, "endpoint": url}
        self.source: dict[str, object] = {**own, **source}

    def fill(self, bodies: Sequence[str], keys: Sequence[str] = ()) -> None:
        """In order. Without keys, each is an item of its own."""
        items = [{"id": {"S": key}, "body": {"S": body}} for key, body in zip(keys or bodies, bodies, strict=True)]
        self.run(lambda client: client.put(self.name, *items))

    def run(self, ask: Callable[[TablesClient], Awaitable[T]]) -> T:
        async def asked() -> T:
            async with TablesClient(self._url) as client:
                return await ask(client)

        return asyncio.run(asked())
