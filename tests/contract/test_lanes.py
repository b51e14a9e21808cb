"""Every lane keeps the contract of lanes, and broken ones are found out: queues first, then streams."""

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
from poller.model import Ack, Action, Batch, Fetched, Lease, Record, Release, Retry
from poller.ordered import OrderedLane, OrderedSource
from poller.policy import Block
from poller.progress import Progress
from poller.protocols import Lane, Source, Store
from poller.settings import Backoff, Batching, Context, FailureSettings, MappingSettings
from poller.stores.memory import MemoryCheckpoints, MemoryStore
from poller.stores.sqlite import open_store
from poller.testing.clock import EPOCH, VirtualLoop, run_virtually
from poller.testing.fakes import FORMAT, FakeQueue, FakeQueueLane, FakeRecord, FakeShards, FakeStream, Gate
from poller.testing.lanes import LIMIT, QueueFeatures, QueueLaneContract
from poller.testing.ordered_lanes import OrderedLaneContract, StreamFeatures
from poller.testing.sqs import FakeSqs

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
    lanes = cast("AsyncIterator[Lane]", source.lanes())
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
class TestFakeFifoQueue(FakeQueueSuite):
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
class TestSqsFifo(TestSqs):
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


class TestLocalFifoQueue(TestLocalQueue):
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
class TestElasticMqFifo(TestElasticMq):
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
        return _SourceOf(self._lane, context, identity="fake", format=FORMAT, policy=policy, shards=shards, origin=origin)

    async def end(self) -> None:
        self._stream.closed.add("shard")

    def names(self, records: Sequence[Record]) -> list[str]:
        return [record.name for record in records]


class _SourceOf(OrderedSource):
    """A source whose lanes are of a class that may be a broken one."""

    def __init__(self, lane: type[OrderedLane], context: Context, **more: Any) -> None:
        super().__init__(context, **more)
        self._kind = lane

    async def _open(self, name: str) -> OrderedLane | None:
        lane = await super()._open(name)
        if lane is not None:
            lane.__class__ = self._kind
        return lane


class FakeStreamSuite(OrderedLaneContract):
    """`lane` and `checkpoints` may be broken ones."""

    features = StreamFeatures(poll=1.0, ends=True, slack=0.2)
    lane: type[OrderedLane] = OrderedLane
    checkpoints: type[MemoryCheckpoints] = MemoryCheckpoints

    @asynccontextmanager
    async def bench(self) -> AsyncIterator[FakeStreamBench]:
        store = MemoryStore()
        store.checkpoints = self.checkpoints(store._leases)
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


# --- counter-tests: each broken lane is rejected by the property it breaks --------------------------------------------------------------


class Greedy(FakeQueueLane):
    """Takes more than it was asked for."""

    async def fetch(self, limit: int) -> Fetched:
        return await super().fetch(limit + 1)


class Careless(FakeQueueLane):
    """Does not hide what it gives out."""

    async def fetch(self, limit: int) -> Fetched:
        fetched = await super().fetch(limit)
        for record in fetched.records:
            self._queue.change(record.token, 0.0)
        return fetched


class Heartless(FakeQueueLane):
    """Has no heartbeat."""

    async def _beat(self) -> None:
        return None


class Hoarding(FakeQueueLane):
    """Deletes nothing."""

    def _delete(self, records: Sequence[FakeRecord]) -> None:
        for record in records:
            self._held.pop(record.token, None)


class Changed(FakeQueueLane):
    """Settles by other actions than it was given."""

    async def settle(self, batch: Batch, actions: Sequence[Action]) -> None:
        await super().settle(batch, [self.change(action) for action in actions])

    def change(self, action: Action) -> Action:
        return action


class Impatient(Changed):
    """Releases at once, whatever the delay."""

    def change(self, action: Action) -> Action:
        return Release(action.records, 0.0) if isinstance(action, Release) else action


class Slow(FakeQueueLane):
    """Counts the visibility timeout from the failure."""

    async def settle(self, batch: Batch, actions: Sequence[Action]) -> None:
        whole = self._queue.visibility
        await super().settle(batch, [Release(a.records, whole) if isinstance(a, Release) and a.delay is None else a for a in actions])


class Releasing(Changed):
    """Gives back what is to be tried again here."""

    def change(self, action: Action) -> Action:
        return Release(action.batch.records, 0.0) if isinstance(action, Retry) else action


class ByName(FakeQueueLane):
    """Deletes by name, whoever holds it."""

    def _delete(self, records: Sequence[FakeRecord]) -> None:
        for record in records:
            self._queue.messages = [message for message in self._queue.messages if message.name != record.name]
        super()._delete(records)


class Keeping(FakeQueueLane):
    """Gives nothing back when it is closed."""

    async def aclose(self, broken: bool = False) -> None:
        self._heart.cancel()


class Deaf(FakeQueueLane):
    """Does not end a long poll that nobody waits for any more."""

    async def fetch(self, limit: int) -> Fetched:
        leaving, self.leaving = self.leaving, asyncio.get_running_loop().create_future()
        try:
            return await super().fetch(limit) if not leaving.done() else Fetched(())
        finally:
            await asyncio.sleep(7.0)
            self.leaving = leaving


class Latest(FakeQueueLane):
    """The newest first."""

    async def fetch(self, limit: int) -> Fetched:
        fetched = await super().fetch(limit)
        return Fetched(fetched.records[::-1])


class Unlocked(FakeQueueLane):
    """Takes no notice of groups."""

    async def fetch(self, limit: int) -> Fetched:
        self._queue.fifo = False
        try:
            return await super().fetch(limit)
        finally:
            self._queue.fifo = True


BROKEN_QUEUES = [
    (Greedy, QueueLaneContract.test_a_fetch_brings_no_more_than_it_was_asked_for),
    (Careless, QueueLaneContract.test_what_is_held_is_given_to_nobody_else),
    (Heartless, QueueLaneContract.test_the_heartbeat_outlives_the_visibility_timeout),
    (Heartless, QueueLaneContract.test_a_retry_stays_held),
    (Hoarding, QueueLaneContract.test_what_is_acked_is_gone_for_good),
    (Impatient, QueueLaneContract.test_a_release_comes_back_after_its_delay_and_no_sooner),
    (Impatient, QueueLaneContract.test_a_release_without_a_delay_waits_for_the_rest_of_the_visibility_timeout),
    (Slow, QueueLaneContract.test_a_release_without_a_delay_waits_for_the_rest_of_the_visibility_timeout),
    (Slow, QueueLaneContract.test_what_was_held_for_longer_than_that_comes_back_at_once),
    (Releasing, QueueLaneContract.test_a_retry_stays_held),
    (ByName, QueueLaneContract.test_what_is_settled_again_is_not_taken_from_its_new_holder),
    (Keeping, QueueLaneContract.test_closing_gives_back_at_once_what_is_held),
    (Deaf, QueueLaneContract.test_leaving_ends_a_waiting_fetch_within_its_poll),
    (Latest, QueueLaneContract.test_a_group_comes_in_order),
    (Unlocked, QueueLaneContract.test_a_group_waits_while_one_of_it_is_held),
    (Unlocked, QueueLaneContract.test_what_came_after_a_released_message_of_its_group_comes_after_it),
]


@pytest.mark.parametrize(("lane", "prove"), BROKEN_QUEUES, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_queue_is_rejected(lane: type[FakeQueueLane], prove: Callable[[Any], Any]) -> None:
    suite = TestFakeFifoQueue()
    suite.lane = lane
    with pytest.raises((AssertionError, TimeoutError)):
        run_virtually(prove(suite))


class Forgetful(OrderedLane):
    """Saves no attempt before it begins."""

    async def begin(self, batch: Batch) -> None:
        ends = self.format.facts((batch.records[0], batch.records[-1])).tokens()
        self.tracker.begin(batch, ends[0], ends[1])


class Stubborn(OrderedLane):
    """Goes on after it was lost."""

    def lose(self, why: str) -> None:
        self.lost = False


class Tidy(OrderedLane):
    """Saves in any case."""

    async def aclose(self, broken: bool = False) -> None:
        await super().aclose(broken=False)


class Lazy(OrderedLane):
    """Saves only when it is closed."""

    def _touch(self) -> None:
        return None


class Vanishing(OrderedLane):
    """Is closed without a save."""

    async def aclose(self, broken: bool = False) -> None:
        await super().aclose(broken=True)


class Advanced(OrderedLane):
    """Saves what it has read as done."""

    def _heads(self) -> list[tuple[int, int]]:
        return []


class Spanless(OrderedLane):
    """Forgets what is under retry."""

    async def settle(self, batch: Batch, actions: Sequence[Action]) -> None:
        await super().settle(batch, [action if not isinstance(action, Retry) else Ack(action.batch.records) for action in actions])


class Rewidening(OrderedLane):
    """Takes the new width at once."""

    async def fetch(self, limit: int) -> Fetched:
        if self.outgrown:
            width, self.outgrown = self._context.mapping.width, False
            self.strands = type(self.strands)(width, "hash")
            self.tracker.earlier = Progress(self.tracker.earlier.origin, width, self.tracker.earlier.checkpoint)
            self.tracker.spans.clear()
        return await super().fetch(limit)


class Plenty(OrderedLane):
    """Reads more than it was asked for."""

    async def fetch(self, limit: int) -> Fetched:
        return await super().fetch(limit + 1)


class Unfenced(MemoryCheckpoints):
    """Saves without looking at the lease."""

    async def save(self, lease: Lease, progress: Progress) -> None:
        self._saved[lease.key] = progress


BROKEN_STREAMS = [
    (Plenty, OrderedLaneContract.test_records_come_in_order_and_no_more_than_were_asked_for),
    (Vanishing, OrderedLaneContract.test_a_closed_lane_goes_on_where_it_was),
    (Vanishing, OrderedLaneContract.test_a_span_goes_on_with_its_attempts_before_what_is_later),
    (Vanishing, OrderedLaneContract.test_an_attempt_that_ran_at_the_close_is_counted),
    (Forgetful, OrderedLaneContract.test_what_was_acked_before_a_save_is_not_given_again),
    (Forgetful, OrderedLaneContract.test_a_later_attempt_is_durable_before_begin_returns),
    (Lazy, OrderedLaneContract.test_progress_is_saved_within_the_interval),
    (Advanced, OrderedLaneContract.test_what_was_neither_acked_nor_discarded_is_given_again),
    (Spanless, OrderedLaneContract.test_what_was_neither_acked_nor_discarded_is_given_again),
    (Spanless, OrderedLaneContract.test_a_span_goes_on_with_its_attempts_before_what_is_later),
    (Stubborn, OrderedLaneContract.test_a_lane_that_another_has_taken_is_lost_and_saves_nothing_more),
    (Unfenced, OrderedLaneContract.test_a_lane_that_another_has_taken_is_lost_and_saves_nothing_more),
    (Unfenced, OrderedLaneContract.test_a_lane_that_is_closed_not_knowing_that_it_was_taken_saves_nothing),
    (Tidy, OrderedLaneContract.test_a_broken_close_saves_nothing),
    (Rewidening, OrderedLaneContract.test_another_width_loses_neither_records_nor_attempts),
]


@pytest.mark.parametrize(("part", "prove"), BROKEN_STREAMS, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_stream_is_rejected(part: type[Any], prove: Callable[[Any], Any]) -> None:
    suite = FakeStreamSuite()
    if issubclass(part, MemoryCheckpoints):
        suite.checkpoints = part
    else:
        suite.lane = part
    with pytest.raises((AssertionError, TimeoutError, pytest.fail.Exception)):
        run_virtually(prove(suite))
