"""A partition of Kafka keeps the contract of streams' lanes, over lives that end in every way: on a real broker, in the group's commits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from aiokafka.protocol.group import LeaveGroupRequest

from connectors.kafka import connector
from connectors.kafka.lane import KafkaLane
from connectors.kafka.options import KafkaOptions
from connectors.kafka.source import KafkaSource, open_source
from poller.model import Record
from poller.protocols import Lane
from poller.settings import Context
from poller.stores.memory import MemoryStore
from poller.testing.ordered_lanes import OrderedLaneContract
from poller.testing.stream_bench import LIMIT, StreamFeatures
from tests.contract.test_lanes import opened, settings_of
from tests.servers.kafka.broker import Kafka
from tests.servers.kafka.client import KafkaClient, Message

pytestmark = pytest.mark.servers


class KafkaBench:
    """A topic of one partition, and a group of its own."""

    def __init__(self, bootstrap: str, client: KafkaClient, topic: str, stack: AsyncExitStack) -> None:
        self._options = KafkaOptions(bootstrap_servers=[bootstrap], topic=topic, group=topic)
        self._client, self._topic, self._stack = client, topic, stack
        self._lives: list[tuple[KafkaSource, KafkaLane]] = []

    async def put(self, *names: str, key: str = "k") -> None:
        await self._client.produce(self._topic, [Message(name.encode(), key.encode(), 0) for name in names])

    async def open(self, owner: str, width: int = 1, *, interval: float = 3600.0, origin: str = "TRIM_HORIZON") -> Lane:
        await self._leave()
        settings, options = settings_of(width), msgspec.structs.replace(self._options, starting_position=cast("Any", origin))
        context = Context(settings, MemoryStore(), owner, time.time, Path(), Path())
        source = await open_source(options, context, connector.policy(options, settings))
        source._context = replace(source._context, checkpoint_interval=interval)  # it would save more often than is asked for
        lane = cast("KafkaLane", await opened(source, self._stack))
        self._lives.append((source, lane))
        return lane

    async def _leave(self) -> None:
        """Who has closed the lane hands it on: there is no other, so the worker leaves the group."""
        for life in [each for each in self._lives if each[1].closed]:
            self._lives.remove(life)
            await life[0].aclose()

    async def _settled(self) -> None:
        """No member is joining: it would come back by itself, under a new name, after the group has forgotten it."""
        group = str(self._options.group)
        async with asyncio.timeout(LIMIT):
            while True:
                if all(source._membership.steady for source, _ in self._lives):
                    (answer,) = await self._client._admin.describe_consumer_groups([group])
                    if answer.groups[0][2] != "PreparingRebalance" and all(source._membership.steady for source, _ in self._lives):
                        return
                await asyncio.sleep(0.02)

    async def expire(self) -> None:
        """The group has forgotten all its members, and none of them hears of it before it commits."""
        await self._leave()
        await self._settled()
        for source, _ in self._lives:
            membership = source._membership
            await membership._stop_heartbeat_task()
            if membership.member_id:
                node = await self._client._admin.find_coordinator(membership.group_id)
                await self._client._admin._send_request(LeaveGroupRequest(membership.group_id, membership.member_id), node)

    async def end(self) -> None:
        raise NotImplementedError

    def names(self, records: Sequence[Record]) -> list[str]:
        return [record.value.decode() for record in records]


class TestKafka(OrderedLaneContract):
    features = StreamFeatures(poll=1.0, origins=frozenset({"TRIM_HORIZON", "LATEST"}))
    server: tuple[str, KafkaClient]

    @pytest.fixture(autouse=True)
    def _server(self, kafka: Kafka, kafka_client: KafkaClient) -> None:
        self.server = kafka.bootstrap, kafka_client

    @asynccontextmanager
    async def bench(self) -> AsyncIterator[KafkaBench]:
        bootstrap, client = self.server
        async with AsyncExitStack() as stack:
            yield KafkaBench(bootstrap, client, await client.create_topic(), stack)

    async def test_leaving_ends_a_waiting_fetch_at_once(self) -> None:
        """A worker that stops keeps nobody waiting for its long poll."""
        async with self.bench() as bench:
            lane = await bench.open("a")
            await lane.fetch(10)
            fetch = asyncio.create_task(lane.fetch(10))
            await asyncio.sleep(0)
            left = time.monotonic()
            lane.leaving.set_result(asyncio.get_running_loop().time() + LIMIT)
            assert not (await fetch).records
            assert time.monotonic() - left < self.features.poll / 2
