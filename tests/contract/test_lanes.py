"""Every lane keeps the contract of lanes: queues first, then streams. (test_broken_lanes.py shows that the contract finds broken ones.)"""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from aiobotocore.session import get_session

from connectors.local import QueueOptions, StreamOptions, queue_connector, stream_connector
from connectors.sqs import SqsOptions
from connectors.sqs import connector as sqs_connector
from connectors.sqs.format import SqsFormat
from connectors.sqs.lane import SqsLane
from connectors.sqs.queue import Queue
from poller.feed import Item
from poller.model import Record
from poller.ordered import OrderedLane
from poller.ordered_source import OrderedSource
from poller.policy import Block
from poller.protocols import Lane, Source, Store
from poller.settings import Backoff, Batching, Context, FailureSettings, MappingSettings
from poller.stores.memory import MemoryCheckpoints, MemoryStore
from poller.stores.sqlite import open_store
from poller.testing.clock import EPOCH, VirtualLoop, run_virtually
from poller.testing.fakes import FORMAT, FakeQueue, FakeQueueLane, FakeRecord, FakeShards, FakeStream, Gate
from poller.testing.lanes import LIMIT, FifoLaneContract, QueueFeatures, QueueLaneContract
from poller.testing.ordered_lanes import OrderedLaneContract
from poller.testing.sqs import FakeSqs
from poller.testing.stream_bench import StreamFeatures

C = TypeVar("C", bound=type)


def on_a_virtual_clock(suite: C) -> C:
    """Every test of the suite runs on a loop of its own, whose clock jumps."""
    for name, test in inspect.getmembers(suite, inspect.iscoroutinefunction):
        if name.startswith("test_"):
            setattr(suite, name, _run_virtually(test))
    return suite


def _run_virtually(test: Callable[..., Any]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any) -> None:
        run_virtually(test(*args))

    return run


def settings_of(width: int = 2) -> MappingSettings:
    return MappingSettings("orders", "orders", "f", Batching(10), FailureSettings(), width)


async def opened(source: Source, stack: AsyncExitStack) -> Lane:
    """The source's first lane; both are closed with the stack."""
    stack.push_async_callback(source.aclose)
    lanes = source.lanes()
    stack.push_async_callback(cast("Any", lanes).aclose)
    async with asyncio.timeout(LIMIT):
        lane = await anext(lanes)
    stack.push_async_callback(lane.aclose)
    return lane


# --- queues -----------------------------------------------------------------------------------------------------------------------------


class FakeQueueBench:
    """`FakeQueue`, with lanes of a class that may be a broken one."""

    def __init__(self, visibility: float, fifo: bool, lane: type[FakeQueueLane]) -> None:
        loop = cast("VirtualLoop", asyncio.get_running_loop())
        self.queue = FakeQueue(loop.now, visibility, fifo=fifo)
        self.lanes: list[Lane] = []
        self._lane = lane

    async def put(self, *names: str, group: str | None = None) -> None:
        for name in names:
            self.queue.send(name, (group or name).encode() if self.queue.fifo else None)

    async def open(self) -> Lane:
        lane = self._lane(self.queue, 2, Gate("life"))
        self.lanes.append(lane)
        return lane

    def names(self, records: Sequence[Record]) -> list[str]:
        return [record.name for record in records]


class FakeQueueSuite(QueueLaneContract):
    """The queue of the simulator. `lane` may be a broken one."""

    features = QueueFeatures(poll=5.0, slack=0.2)
    lane: type[FakeQueueLane] = FakeQueueLane

    @asynccontextmanager
    async def bench(self, visibility: float) -> AsyncIterator[FakeQueueBench]:
        bench = FakeQueueBench(visibility, self.features.fifo, self.lane)
        try:
            yield bench
        finally:
            for lane in bench.lanes:
                await lane.aclose()


@on_a_virtual_clock
class TestFakeQueue(FakeQueueSuite):
    pass


@on_a_virtual_clock
class TestFakeFifoQueue(FakeQueueSuite, FifoLaneContract):
    features = QueueFeatures(poll=5.0, slack=0.2, fifo=True)


class FakeSqsBench:
    """The connector's lane over an SQS in memory."""

    def __init__(self, visibility: float, fifo: bool) -> None:
        self.sqs = FakeSqs()
        self.queue = self.sqs.create("orders.fifo" if fifo else "orders", int(visibility))
        self.lanes: list[Lane] = []

    async def put(self, *names: str, group: str | None = None) -> None:
        for name in names:
            self.sqs.send(self.queue, name, group=(group or name) if self.queue.fifo else None)

    async def open(self) -> Lane:
        found = Queue(self.queue.url, self.queue.arn, self.queue.visibility)
        lane = SqsLane(self.sqs, found, SqsFormat(found.arn, found.region), 2, 10, 4, 5)
        self.lanes.append(lane)
        return lane

    def names(self, records: Sequence[Record]) -> list[str]:
        return [record["Body"] for record in records]


@on_a_virtual_clock
class TestSqs(QueueLaneContract):
    features = QueueFeatures(poll=5.0, slack=0.2)

    @asynccontextmanager
    async def bench(self, visibility: float) -> AsyncIterator[FakeSqsBench]:
        bench = FakeSqsBench(visibility, self.features.fifo)
        try:
            yield bench
        finally:
            for lane in bench.lanes:
                await lane.aclose()


@on_a_virtual_clock
class TestSqsFifo(TestSqs, FifoLaneContract):
    features = QueueFeatures(poll=5.0, slack=0.2, fifo=True)


class LocalQueueBench:
    """A queue in a file; each lane is of a source of its own."""

    def __init__(self, folder: Path, visibility: float, fifo: bool, stack: AsyncExitStack) -> None:
        self._options = QueueOptions(name="orders", fifo=fifo, visibility_timeout=f"{visibility}s")
        self._context = Context(settings_of(), MemoryStore(), "worker", time.time, folder, folder)
        self._stack = stack

    async def put(self, *names: str, group: str | None = None) -> None:
        items = [Item(name.encode(), (group or name) if self._options.fifo else None) for name in names]
        await queue_connector.put(self._options, self._context, items)

    async def open(self) -> Lane:
        return await opened(await queue_connector.open(self._options, self._context), self._stack)

    def names(self, records: Sequence[Record]) -> list[str]:
        return [record.body for record in records]


class TestLocalQueue(QueueLaneContract):
    features = QueueFeatures(poll=5.0)
    folder: Path

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    @asynccontextmanager
    async def bench(self, visibility: float) -> AsyncIterator[LocalQueueBench]:
        async with AsyncExitStack() as stack:
            yield LocalQueueBench(self.folder, visibility, self.features.fifo, stack)


class TestLocalFifoQueue(TestLocalQueue, FifoLaneContract):
    features = QueueFeatures(poll=5.0, fifo=True)


class ServerBench:
    """A queue of a real server."""

    def __init__(self, client: Any, url: str, endpoint: str, stack: AsyncExitStack) -> None:
        self._client, self._url, self._stack = client, url, stack
        self._fifo = url.endswith(".fifo")
        self._options = SqsOptions(queue=url.rpartition("/")[2], region="us-east-1", endpoint=endpoint, wait_time="1s")

    async def put(self, *names: str, group: str | None = None) -> None:
        for name in names:
            more = {"MessageGroupId": group or name} if self._fifo else {}
            await self._client.send_message(QueueUrl=self._url, MessageBody=name, **more)

    async def open(self) -> Lane:
        context = Context(settings_of(), MemoryStore(), "worker", time.time, Path(), Path())
        return await opened(await sqs_connector.open(self._options, context), self._stack)

    def names(self, records: Sequence[Record]) -> list[str]:
        return [record["Body"] for record in records]


@pytest.mark.servers
class TestElasticMq(QueueLaneContract):
    features = QueueFeatures(poll=1.0, short=2.0)
    endpoint: str

    @pytest.fixture(autouse=True)
    def _server(self, elasticmq: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        self.endpoint = elasticmq

    @asynccontextmanager
    async def bench(self, visibility: float) -> AsyncIterator[ServerBench]:
        attributes = {"VisibilityTimeout": str(int(visibility))}
        name = uuid.uuid4().hex
        if self.features.fifo:
            attributes |= {"FifoQueue": "true", "ContentBasedDeduplication": "true"}
            name += ".fifo"
        async with AsyncExitStack() as stack:
            create = get_session().create_client("sqs", region_name="us-east-1", endpoint_url=self.endpoint)
            client = await stack.enter_async_context(create)
            answer = await client.create_queue(QueueName=name, Attributes=attributes)
            yield ServerBench(client, answer["QueueUrl"], self.endpoint, stack)


@pytest.mark.servers
class TestElasticMqFifo(TestElasticMq, FifoLaneContract):
    features = QueueFeatures(poll=1.0, short=2.0, fifo=True)


# --- streams ----------------------------------------------------------------------------------------------------------------------------


class Clock:
    """Epoch seconds that only a test moves on."""

    def __init__(self) -> None:
        self.now = EPOCH

    def __call__(self) -> float:
        return self.now


class OrderedBench:
    """What the benches of streams share: a store, and leases that end when the test says so."""

    def __init__(self, store: Store, folder: Path, stack: AsyncExitStack) -> None:
        self.clock = Clock()
        self._store, self._folder, self._stack = store, folder, stack

    def context(self, owner: str, width: int, interval: float) -> Context:
        return Context(settings_of(width), self._store, owner, self.clock, self._folder, self._folder, interval)

    async def source(self, context: Context, origin: str) -> Source:
        raise NotImplementedError

    async def open(self, owner: str, width: int = 1, *, interval: float = 3600.0, origin: str = "TRIM_HORIZON") -> Lane:
        return await opened(await self.source(self.context(owner, width, interval), origin), self._stack)

    async def expire(self) -> None:
        self.clock.now += 11.0

    async def end(self) -> None:
        raise NotImplementedError


class FakeStreamBench(OrderedBench):
    """`OrderedLane` over a stream in memory; the lane, and the store's checkpoints, may be broken ones."""

    def __init__(self, store: Store, stack: AsyncExitStack, lane: type[OrderedLane]) -> None:
        super().__init__(store, Path(), stack)
        self._stream = FakeStream({"shard": []})
        self._lane = lane

    async def put(self, *names: str, key: str = "k") -> None:
        for name in names:
            token = 3 * len(self._stream.shards["shard"])  # with gaps, as sequence numbers have
            self._stream.put("shard", FakeRecord(token, name, key.encode(), self.clock.now))

    async def source(self, context: Context, origin: str) -> Source:
        shards = FakeShards(self._stream, Gate(context.owner))
        policy = Block(10, None, True, Backoff())
        return OrderedSource(context, identity="fake", format=FORMAT, policy=policy, shards=shards, origin=origin, lane=self._lane)

    async def end(self) -> None:
        self._stream.closed.add("shard")

    def names(self, records: Sequence[Record]) -> list[str]:
        return [record.name for record in records]


class FakeStreamSuite(OrderedLaneContract):
    """`lane` and `checkpoints` may be broken ones."""

    features = StreamFeatures(poll=1.0, ends=True, slack=0.2)
    lane: type[OrderedLane] = OrderedLane
    checkpoints: type[MemoryCheckpoints] = MemoryCheckpoints

    @asynccontextmanager
    async def bench(self) -> AsyncIterator[FakeStreamBench]:
        store = MemoryStore()
        store.checkpoints = self.checkpoints(store.leases)
        async with AsyncExitStack() as stack:
            yield FakeStreamBench(store, stack, self.lane)


@on_a_virtual_clock
class TestFakeStream(FakeStreamSuite):
    pass


class LocalStreamBench(OrderedBench):
    """A stream in a file, and the store in another."""

    async def put(self, *names: str, key: str = "k") -> None:
        context = self.context("feed", 1, 1.0)
        self.clock.now += 0.01  # a later time for each put: positions by time tell them apart
        await stream_connector.put(self._options("TRIM_HORIZON"), context, [Item(name.encode(), key) for name in names])
        self.clock.now += 0.01

    async def source(self, context: Context, origin: str) -> Source:
        return await stream_connector.open(self._options(origin), context)

    @staticmethod
    def _options(origin: str) -> StreamOptions:
        return StreamOptions(name="clicks", starting_position=cast("Any", origin))

    def names(self, records: Sequence[Record]) -> list[str]:
        return [record.data.decode() for record in records]


class TestLocalStream(OrderedLaneContract):
    features = StreamFeatures(poll=1.0, origins=frozenset({"TRIM_HORIZON", "LATEST"}))
    folder: Path

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    @asynccontextmanager
    async def bench(self) -> AsyncIterator[LocalStreamBench]:
        folder = self.folder / uuid.uuid4().hex
        folder.mkdir()
        async with AsyncExitStack() as stack:
            store = await open_store(folder / "poller.db")
            stack.push_async_callback(store.aclose)
            yield LocalStreamBench(store, folder, stack)
