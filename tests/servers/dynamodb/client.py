"""What a test does to DynamoDB from outside the poller: tables, their streams, items."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Literal, Self

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

SECONDS = 30.0
REGION = "us-east-1"
View = Literal["NEW_AND_OLD_IMAGES", "NEW_IMAGE", "OLD_IMAGE", "KEYS_ONLY"]
Item = Mapping[str, Any]
"""Attributes by name, typed: {"id": {"S": "1"}}."""


class TablesClient:
    """Calls come back when what they did can be seen."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._stack = AsyncExitStack()
        self._tables: Any = None

    async def __aenter__(self) -> Self:
        config = AioConfig(read_timeout=20, retries={"total_max_attempts": 5, "mode": "standard"})
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        client = get_session().create_client("dynamodb", region_name=REGION, endpoint_url=self.url, config=config, **keys)
        self._tables = await self._stack.enter_async_context(client)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    async def create(self, key: str = "id:S", sort: str | None = None, view: View | None = "NEW_AND_OLD_IMAGES", name: str = "") -> str:
        """Returns its name, a new one by default. `key` and `sort`: name and type of the attribute; `view` None: without a stream."""
        name = name or f"t{uuid.uuid4().hex}"
        attributes = [each.split(":") for each in (key, sort) if each is not None]
        stream = {"StreamEnabled": False} if view is None else {"StreamEnabled": True, "StreamViewType": view}
        await self._tables.create_table(
            TableName=name,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": attribute, "AttributeType": kind} for attribute, kind in attributes],
            KeySchema=[
                {"AttributeName": attribute, "KeyType": kind} for (attribute, _), kind in zip(attributes, ("HASH", "RANGE"), strict=False)
            ],
            StreamSpecification=stream,
        )
        await self._active(name)
        return name

    async def delete_table(self, name: str) -> None:
        await self._tables.delete_table(TableName=name)

    async def describe(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self._tables.describe_table(TableName=name))["Table"]
        return found

    async def stream(self, name: str) -> str:
        """The ARN of its latest stream."""
        return str((await self.describe(name))["LatestStreamArn"])

    async def disable(self, name: str) -> None:
        """Its stream: closed, and readable until its records are too old."""
        await self._tables.update_table(TableName=name, StreamSpecification={"StreamEnabled": False})
        await self._active(name)

    async def enable(self, name: str, view: View = "NEW_AND_OLD_IMAGES") -> str:
        """A new stream; returns its ARN."""
        await self._tables.update_table(TableName=name, StreamSpecification={"StreamEnabled": True, "StreamViewType": view})
        await self._active(name)
        return await self.stream(name)

    async def put(self, name: str, *items: Item) -> None:
        """One after the other."""
        for item in items:
            await self._tables.put_item(TableName=name, Item=dict(item))

    async def put_many(self, name: str, items: Iterable[Item]) -> None:
        """Twenty-five at a time, in no order; each key once."""
        rest = list(items)
        while rest:
            requests = [{"PutRequest": {"Item": dict(item)}} for item in rest[:25]]
            answer = await self._tables.batch_write_item(RequestItems={name: requests})
            assert not answer.get("UnprocessedItems"), answer
            rest = rest[25:]

    async def update(self, name: str, key: Item, attribute: str, value: Mapping[str, Any]) -> None:
        await self._tables.update_item(
            TableName=name,
            Key=dict(key),
            UpdateExpression="SET #a = :v",
            ExpressionAttributeNames={"#a": attribute},
            ExpressionAttributeValues={":v": value},
        )

    async def delete(self, name: str, key: Item) -> None:
        await self._tables.delete_item(TableName=name, Key=dict(key))

    async def _active(self, name: str) -> None:
        async def is_active() -> bool:
            return bool((await self.describe(name))["TableStatus"] == "ACTIVE")

        await _until(is_active)


async def _until(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SECONDS):
        while not await is_so():
            await asyncio.sleep(0.02)
