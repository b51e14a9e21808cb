"""What a test does to a broker from outside the poller: topics, records, and what groups have committed."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, OffsetAndMetadata, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.errors import (
    AuthenticationFailedError,
    InvalidReplicationFactorError,
    KafkaError,
    KafkaTimeoutError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.commit import OffsetFetchRequest

T = TypeVar("T")
C = TypeVar("C", AIOKafkaProducer, AIOKafkaConsumer)
SECONDS = 30.0
"""How long a call tries again before it gives up: a fail-over takes less."""
PRODUCE_SECONDS = 120.0
"""There may be many records."""


@dataclass(frozen=True, slots=True)
class Message:
    """A record to produce. Without a partition the key chooses it; `timestamp` in milliseconds, now by default."""

    value: bytes | None
    key: bytes | None = None
    partition: int | None = None
    timestamp: int | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


class KafkaClient:
    """Calls come back when what they did can be seen, and try again while brokers come and go; what never helps is a `KafkaError`."""

    def __init__(self, bootstrap: str, **login: Any) -> None:
        # A paused broker answers nothing and does not hang up: so long each call waits for it before it looks for another.
        self._options: dict[str, Any] = {"bootstrap_servers": bootstrap, "retry_backoff_ms": 50, "request_timeout_ms": 3000, **login}
        self._admin = AIOKafkaAdminClient(**self._options)
        self._offsets = AIOKafkaConsumer(**self._options)

    async def start(self) -> Self:
        await self._admin.start()
        end = time.monotonic() + SECONDS
        while not self._admin._client.cluster.brokers():
            # A refused token is no error to aiokafka, which takes what comes next for an answer without brokers; without a login it is one
            # of a broker that has only just begun to answer.
            if "sasl_mechanism" in self._options or time.monotonic() > end:
                raise AuthenticationFailedError("the broker did not say who is there")
            await asyncio.sleep(0.02)
            await self._admin._client.force_metadata_update()
        await self._offsets.start()
        return self

    async def aclose(self) -> None:
        await self._offsets.stop()
        await self._admin.close()

    async def __aenter__(self) -> Self:
        try:
            return await self.start()
        except BaseException:
            await self.aclose()
            raise

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    # --- topics ---------------------------------------------------------------------------------------------------------------------------

    async def create_topic(self, name: str = "", partitions: int = 1, **settings: str) -> str:
        """Returns its name, a new one by default. `settings` are the topic's, `_` for `.`; replicated as the brokers' default says."""
        name = name or f"t{uuid.uuid4().hex}"
        topic = NewTopic(name, partitions, 1, topic_configs={key.replace("_", "."): value for key, value in settings.items()})
        topic.replication_factor = -1  # the brokers' default, which the constructor refuses

        async def create() -> None:
            answer = await self._admin.create_topics([topic], timeout_ms=2000)
            for _, code, message in answer.topic_errors:
                _check(code, message)

        await self._insist(create)
        await self.end_offsets(name, partitions)
        return name

    async def delete_topic(self, name: str) -> None:
        async def delete() -> None:
            for _, code in (await self._admin.delete_topics([name], timeout_ms=2000)).topic_error_codes:
                _check(code)

        await self._insist(delete)
        async with asyncio.timeout(SECONDS):
            while (await self._topic(name))["error_code"] != UnknownTopicOrPartitionError.errno:
                await asyncio.sleep(0.02)

    async def add_partitions(self, name: str, total: int) -> None:
        """So that there are `total`."""
        await self._insist(lambda: self._admin.create_partitions({name: NewPartitions(total)}, timeout_ms=2000))
        await self.end_offsets(name, total)

    async def leader(self, topic: str, partition: int = 0) -> int:
        """The node id of the broker that leads it; -1 if none does."""
        (found,) = [each for each in (await self._topic(topic))["partitions"] if each["partition"] == partition]
        return int(found["leader"])

    # --- records --------------------------------------------------------------------------------------------------------------------------

    async def produce(self, topic: str, records: Iterable[Message | bytes], **options: Any) -> list[tuple[int, int]]:
        """Acknowledged by all replicas in sync, in order within a partition; returns partition and offset of each.

        `options` are the producer's, such as `compression_type`. With `transactional_id` all are one transaction.
        """

        def make() -> AIOKafkaProducer:
            producer = AIOKafkaProducer(**{**self._options, "enable_idempotence": True, **options})
            # Else a record of a partition that nobody leads is given up as soon as a request is.
            producer._message_accumulator._batch_ttl = PRODUCE_SECONDS
            return producer

        # A producer for each call: one that lasts would not know of new partitions, or of a topic that was made again.
        async with asyncio.timeout(PRODUCE_SECONDS), self._started(make) as producer:
            if "transactional_id" not in options:
                return await _send(producer, topic, records)
            async with producer.transaction():
                return await _send(producer, topic, records)

    async def read(self, topic: str, count: int, seconds: float = SECONDS) -> list[ConsumerRecord[bytes, bytes]]:
        """The first `count` records of all partitions, as they come in, without a group."""

        def make() -> AIOKafkaConsumer:
            return AIOKafkaConsumer(topic, **self._options, auto_offset_reset="earliest")

        async with asyncio.timeout(seconds), self._started(make) as consumer:
            return [await consumer.getone() for _ in range(count)]

    async def delete_records(self, topic: str, before: Mapping[int, int]) -> None:
        """Of each partition those before an offset, as retention would."""
        wanted = {TopicPartition(topic, partition): RecordsToDelete(offset) for partition, offset in before.items()}
        await self._insist(lambda: self._admin.delete_records(wanted, timeout_ms=2000))

    async def end_offsets(self, topic: str, partitions: int = 0) -> dict[int, int]:
        """The offset of the next record, by partition. Waits until all (or the first so many) partitions have a leader that answers."""
        count = partitions or len((await self._topic(topic))["partitions"])
        asked = [TopicPartition(topic, partition) for partition in range(count)]
        found = await self._insist(lambda: self._offsets.end_offsets(asked))
        return {partition.partition: offset for partition, offset in found.items()}

    # --- groups ---------------------------------------------------------------------------------------------------------------------------

    async def committed(self, group: str) -> dict[TopicPartition, OffsetAndMetadata]:
        """Offset and metadata of all partitions that the group committed, be there members or not."""

        async def ask() -> dict[TopicPartition, OffsetAndMetadata]:
            node = await self._admin.find_coordinator(group)
            answer = await self._admin._send_request(OffsetFetchRequest(group, None), node)
            _check(answer.error_code)
            found = {}
            for topic, partitions in answer.topics:
                for partition, offset, metadata, code in partitions:
                    _check(code)
                    found[TopicPartition(topic, partition)] = OffsetAndMetadata(offset, metadata)
            return found

        return await self._insist(ask)

    async def commit(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Set a group without members to these offsets, by partition, as kafka-consumer-groups.sh does."""

        def make() -> AIOKafkaConsumer:
            return AIOKafkaConsumer(**self._options, group_id=group, enable_auto_commit=False)

        meant = {TopicPartition(topic, partition): offset for partition, offset in offsets.items()}
        async with asyncio.timeout(SECONDS), self._started(make) as consumer:
            consumer.assign([*meant])
            await consumer.commit(meant)

    async def coordinator(self, group: str) -> int:
        """The node id of the broker that looks after the group."""
        return int(await self._insist(lambda: self._admin.find_coordinator(group)))

    async def members(self, group: str) -> list[str]:
        """The client ids of the members."""

        async def ask() -> list[str]:
            (answer,) = await self._admin.describe_consumer_groups([group])
            (found,) = answer.to_object()["groups"]
            _check(found["error_code"])
            return [member["client_id"] for member in found["members"]]

        return await self._insist(ask)

    # --- trying again ---------------------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _started(self, make: Callable[[], C]) -> AsyncIterator[C]:
        """It may be made while no broker is there."""

        async def start() -> C:
            client = make()
            try:
                await client.start()
            except BaseException:
                await client.stop()
                raise
            return client

        client = await self._insist(start)
        try:
            yield client
        finally:
            await client.stop()

    async def _topic(self, name: str) -> dict[str, Any]:
        (found,) = await self._insist(lambda: self._admin.describe_topics([name]))
        return cast("dict[str, Any]", found)

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        async with asyncio.timeout(SECONDS):
            while True:
                try:
                    return await call()
                except (TimeoutError, KafkaTimeoutError, InvalidReplicationFactorError):
                    pass  # of the last: a broker is not back yet
                except KafkaError as error:
                    if not error.retriable:
                        raise
                await asyncio.sleep(0.05)
                for client in (self._admin._client, self._offsets._client):
                    with contextlib.suppress(KafkaError):
                        await client.force_metadata_update()


async def _send(producer: AIOKafkaProducer, topic: str, records: Iterable[Message | bytes]) -> list[tuple[int, int]]:
    sent = []
    for record in records:
        each = record if isinstance(record, Message) else Message(record)
        sent.append(await producer.send(topic, each.value, each.key, each.partition, each.timestamp, list(each.headers)))
    return [(done.partition, done.offset) for done in [await each for each in sent]]


def _check(code: int, message: str | None = None) -> None:
    if code:
        raise for_code(code)(message)


class Blocking:
    """The same for a test without a loop: `kafka.run(kafka.client.create_topic())`."""

    def __init__(self, bootstrap: str, **login: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="kafka-client")
        self._thread.start()

        async def make() -> KafkaClient:
            return KafkaClient(bootstrap, **login)

        self.client = self.run(make())
        try:
            self.run(self.client.start())
        except BaseException:
            self.close()
            raise

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    def close(self) -> None:
        self.run(self.client.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def warm(bootstrap: str) -> None:
    """The first group of a broker waits until the topic of the commits is there: no test need be the first."""
    with contextlib.closing(Blocking(bootstrap)) as kafka:
        kafka.run(kafka.client.coordinator("warm"))
