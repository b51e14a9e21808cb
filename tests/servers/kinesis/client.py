"""What a test does to Kinesis from outside the poller: streams, records, shards, consumers."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

SECONDS = 30.0
REGION = "us-east-1"


class StreamsClient:
    """Calls come back when what they did can be seen."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._stack = AsyncExitStack()
        self._kinesis: Any = None

    async def __aenter__(self) -> Self:
        # kinesis-local answers large requests late, and drops one now and then.
        config = AioConfig(read_timeout=20, retries={"total_max_attempts": 5, "mode": "standard"})
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        client = get_session().create_client("kinesis", region_name=REGION, endpoint_url=self.url, config=config, **keys)
        self._kinesis = await self._stack.enter_async_context(client)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    async def create(self, shards: int = 1, name: str = "") -> str:
        """Returns its name, a new one by default."""
        name = name or f"s{uuid.uuid4().hex}"
        await self._kinesis.create_stream(StreamName=name, ShardCount=shards)
        await self.active(name)
        return name

    async def delete(self, name: str) -> None:
        await self._kinesis.delete_stream(StreamName=name)

        async def gone() -> bool:
            return name not in (await self._kinesis.list_streams(Limit=10_000))["StreamNames"]

        await _until(gone)

    async def summary(self, name: str) -> dict[str, Any]:
        answer = await self._kinesis.describe_stream_summary(StreamName=name)
        summary: dict[str, Any] = answer["StreamDescriptionSummary"]
        return summary

    async def active(self, name: str) -> None:
        async def is_active() -> bool:
            return bool((await self.summary(name))["StreamStatus"] == "ACTIVE")

        await _until(is_active)

    async def shards(self, name: str) -> list[dict[str, Any]]:
        """As ListShards tells them, closed ones included."""
        answer = await self._kinesis.list_shards(StreamName=name)
        found = list(answer["Shards"])
        while token := answer.get("NextToken"):
            answer = await self._kinesis.list_shards(NextToken=token)
            found += answer["Shards"]
        return found

    async def open_shards(self, name: str) -> list[str]:
        return [each["ShardId"] for each in await self.shards(name) if "EndingSequenceNumber" not in each["SequenceNumberRange"]]

    async def put(self, name: str, records: Iterable[tuple[str, bytes]], batch: int = 500) -> list[tuple[str, str]]:
        """(partition key, data), in order, batch by batch; returns (shard, sequence number) of each."""
        put, rest = list[tuple[str, str]](), list(records)
        while rest:
            entries = [{"PartitionKey": key, "Data": data} for key, data in rest[:batch]]
            answer = await self._kinesis.put_records(StreamName=name, Records=entries)
            assert answer.get("FailedRecordCount", 0) == 0, answer
            put += [(each["ShardId"], each["SequenceNumber"]) for each in answer["Records"]]
            rest = rest[batch:]
        return put

    async def put_to(self, name: str, shard: str, data: Sequence[bytes], key: str = "k") -> list[str]:
        """To this shard, whatever the partition key; returns their sequence numbers."""
        (found,) = [each for each in await self.shards(name) if each["ShardId"] == shard]
        start = found["HashKeyRange"]["StartingHashKey"]
        entries = [{"PartitionKey": key, "ExplicitHashKey": start, "Data": each} for each in data]
        answer = await self._kinesis.put_records(StreamName=name, Records=entries)
        assert {each["ShardId"] for each in answer["Records"]} == {shard}, answer
        return [each["SequenceNumber"] for each in answer["Records"]]

    async def split(self, name: str, shard: str) -> list[str]:
        """In the middle; returns its children."""
        (found,) = [each for each in await self.shards(name) if each["ShardId"] == shard]
        start, end = (int(found["HashKeyRange"][each]) for each in ("StartingHashKey", "EndingHashKey"))
        middle = str((start + end) // 2 + 1)
        return await self._resharded(
            name, lambda: self._kinesis.split_shard(StreamName=name, ShardToSplit=shard, NewStartingHashKey=middle)
        )

    async def merge(self, name: str, shard: str, other: str) -> str:
        """Returns their child."""
        (child,) = await self._resharded(
            name, lambda: self._kinesis.merge_shards(StreamName=name, ShardToMerge=shard, AdjacentShardToMerge=other)
        )
        return child

    async def update_shard_count(self, name: str, count: int) -> list[str]:
        """Returns the new shards (kinesalite cannot)."""
        return await self._resharded(
            name,
            lambda: self._kinesis.update_shard_count(StreamName=name, TargetShardCount=count, ScalingType="UNIFORM_SCALING"),
        )

    async def _resharded(self, name: str, reshard: Callable[[], Awaitable[Any]]) -> list[str]:
        before = {each["ShardId"] for each in await self.shards(name)}
        await reshard()
        await self.active(name)

        async def is_new() -> bool:
            return bool({each["ShardId"] for each in await self.shards(name)} - before)

        await _until(is_new)
        return sorted({each["ShardId"] for each in await self.shards(name)} - before)

    async def register(self, name: str, consumer: str = "fan-out") -> str:
        """A consumer with enhanced fan-out; returns its ARN."""
        arn = (await self.summary(name))["StreamARN"]
        answer = await self._kinesis.register_stream_consumer(StreamARN=arn, ConsumerName=consumer)
        found: str = answer["Consumer"]["ConsumerARN"]

        async def is_active() -> bool:
            answer = await self._kinesis.describe_stream_consumer(ConsumerARN=found)
            return bool(answer["ConsumerDescription"]["ConsumerStatus"] == "ACTIVE")

        await _until(is_active)
        return found

    async def deregister(self, consumer: str) -> None:
        await self._kinesis.deregister_stream_consumer(ConsumerARN=consumer)


async def _until(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SECONDS):
        while not await is_so():
            await asyncio.sleep(0.02)
