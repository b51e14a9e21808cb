"""A shard of Kinesis, or of a table's stream, keeps the contract of streams' lanes, over lives that end in every way: on real servers."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, cast

import msgspec
import pytest

from connectors import dynamodb_streams, kinesis
from connectors.dynamodb_streams.options import DynamoDBOptions
from connectors.kinesis.options import KinesisOptions
from poller.model import Record
from poller.protocols import Source
from poller.settings import Context
from poller.stores.memory import MemoryStore
from poller.testing.ordered_lanes import OrderedLaneContract
from poller.testing.stream_bench import StreamFeatures
from tests.contract.test_lanes import OrderedBench
from tests.servers.dynamodb.client import TablesClient
from tests.servers.kinesis.client import REGION, StreamsClient

pytestmark = pytest.mark.servers

FIRST = "shardId-000000000000"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


class ShardBench(OrderedBench):
    """The clock stands still between lives, and is never behind the server's."""

    def __init__(self, stack: AsyncExitStack) -> None:
        super().__init__(MemoryStore(), Path(), stack)
        self.clock.now = time.time()

    async def source(self, context: Context, origin: str) -> Source:
        self.clock.now = max(self.clock.now, time.time())
        return await self.opened(context, cast("Any", origin))

    async def opened(self, context: Context, origin: Any) -> Source:
        raise NotImplementedError


class KinesisBench(ShardBench):
    """A stream of one shard."""

    def __init__(self, streams: StreamsClient, stream: str, deaggregate: bool, stack: AsyncExitStack) -> None:
        super().__init__(stack)
        self._streams, self._stream, self._deaggregate = streams, stream, deaggregate

    async def put(self, *names: str, key: str = "k") -> None:
        await self._streams.put_to(self._stream, FIRST, [name.encode() for name in names], key)

    async def opened(self, context: Context, origin: Any) -> Source:
        options = KinesisOptions(
            stream=self._stream, region=REGION, endpoint=self._streams.url, starting_position=origin, deaggregate=self._deaggregate
        )
        return await kinesis.connector.open(options, context)

    async def end(self) -> None:
        await self._streams.split(self._stream, FIRST)

    def names(self, records: Sequence[Record]) -> list[str]:
        return [base64.b64decode(record.data).decode() for record in records]


class KinesisSuite(OrderedLaneContract):
    features = StreamFeatures(poll=1.0, origins=frozenset({"TRIM_HORIZON", "LATEST"}), ends=True)
    deaggregate: ClassVar[bool] = False
    streams: StreamsClient

    @asynccontextmanager
    async def bench(self) -> AsyncIterator[KinesisBench]:
        async with AsyncExitStack() as stack:
            yield KinesisBench(self.streams, await self.streams.create(), self.deaggregate, stack)


class TestKinesis(KinesisSuite):
    @pytest.fixture(autouse=True)
    def _server(self, streams: StreamsClient) -> None:
        self.streams = streams


class TestFastKinesis(KinesisSuite):
    """Another imitation of Kinesis; every aggregate would be taken apart."""

    deaggregate = True

    @pytest.fixture(autouse=True)
    def _server(self, load_streams: StreamsClient) -> None:
        self.streams = load_streams


class TableBench(ShardBench):
    """A table whose stream has one shard. Names are items of the key; the same name twice is the same item, changed."""

    def __init__(self, tables: TablesClient, table: str, stack: AsyncExitStack) -> None:
        super().__init__(stack)
        self._tables, self._table = tables, table

    async def put(self, *names: str, key: str = "k") -> None:
        await self._tables.put(self._table, *({"id": {"S": key}, "name": {"S": name}} for name in names))

    async def opened(self, context: Context, origin: Any) -> Source:
        options = DynamoDBOptions(table=self._table, region=REGION, endpoint=self._tables.url, starting_position=origin)
        return await dynamodb_streams.connector.open(options, context)

    async def end(self) -> None:
        await self._tables.disable(self._table)

    def names(self, records: Sequence[Record]) -> list[str]:
        return [msgspec.json.decode(memoryview(record.change.new_image))["name"]["S"] for record in records]


class TestDynamoDBStreams(OrderedLaneContract):
    """LATEST is a law of the reader's (tests/connectors/test_shard_reader.py): here times are whole minutes."""

    features = StreamFeatures(poll=1.0, ends=True)
    tables: TablesClient

    @pytest.fixture(autouse=True)
    def _server(self, tables: TablesClient) -> None:
        self.tables = tables

    @asynccontextmanager
    async def bench(self) -> AsyncIterator[TableBench]:
        async with AsyncExitStack() as stack:
            yield TableBench(self.tables, await self.tables.create(), stack)
