"""A topic as a destination: acknowledged by all replicas in sync, by an idempotent producer.

After whatever went wrong the producer is thrown away, and the next delivery makes another: aiokafka tries for ever what it has begun (an
idempotent producer may leave no gap), and brokers refuse what comes after a gap.

One delivery is a message for each record: all of them are acknowledged, or the whole delivery is sent again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from itertools import chain
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka

from connectors.kafka.destination import TopicOptions
from connectors.kafka.logins import login, reach
from connectors.kafka.messages import Message, messages
from connectors.kafka.options import KafkaOptions
from connectors.kafka.refusals import place_of, refused
from connectors.kafka.topics import Client, describe
from poller.errors import NotConnected
from poller.failures.journal import Delivery
from poller.settings import DestinationContext, Finding
from poller.units import duration, size

REQUEST_SECONDS = 10.0
ANSWER_SECONDS = 4.0
"""How long one question of a probe may take."""

SMALL = 16 * 1024
"""What is tried where a broker takes less than we were told."""

_TOO_LARGE = (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError)


class KafkaTopic:
    """See `poller.failures.protocols.Destination`. Connects with the first delivery."""

    def __init__(self, cluster: KafkaOptions, options: TopicOptions, context: DestinationContext) -> None:
        self._cluster = cluster
        self._raw = options.raw
        self._limit = size(options.maximum_bytes)
        self._seconds = duration(options.timeout)
        self._context = context
        self._producer: Producer | None = None
        self._opening = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<KafkaTopic {self._cluster.topic} [{'not connected' if self._producer is None else 'connected'}]>"

    async def send(self, delivery: Delivery) -> None:
        drafts = [*messages(delivery, self._context, self._raw, self._limit)]
        if not all(draft.whole for draft in drafts) and self._context.spill is not None and not self._context.exact:
            place = await self._context.spill(delivery)
            drafts = [*messages(delivery, self._context, self._raw, self._limit, place)]
        if await self._produced(drafts):
            return
        smaller = [*messages(delivery, self._context, self._raw, SMALL)]
        if not await self._produced(smaller):
            text = f"{place_of(self._cluster)}: even without its event the record is too large for the topic; raise its max.message.bytes"
            raise NotConnected(text, permanent=True)

    async def _produced(self, drafts: Sequence[Message]) -> bool:
        """False: one was too large for the broker. What others of them came of it is sent again then, and bears the same id."""
        producer = None
        try:
            async with asyncio.timeout(self._seconds):
                producer = await self._connected()
                await producer.send(drafts)
        except _TOO_LARGE:
            await self._drop(producer)
            return False
        except (kafka.KafkaError, NotConnected, OSError, TimeoutError, AssertionError) as error:
            # The last: aiokafka's word for a broker that is not the one it knew.
            await self._drop(producer)
            raise _refused(error, self._cluster) from error
        return True

    async def _connected(self) -> Producer:
        async with self._opening:
            if self._producer is None:
                producer = await Producer.started(self._cluster, self._context, self._limit, self._seconds)
                self._producer = producer
            return self._producer

    async def _drop(self, producer: Producer | None) -> None:
        if producer is not None:
            if self._producer is producer:
                self._producer = None
            await producer.aclose()

    async def aclose(self) -> None:
        async with self._opening:
            producer, self._producer = self._producer, None
        if producer is not None:
            await producer.aclose()


class Producer:
    """aiokafka's, which can be closed at once whatever it waits for. Use `started`."""

    def __init__(self, topic: str, limit: int, seconds: float, arguments: dict[str, Any]) -> None:
        self._topic = topic
        self._running = set[asyncio.Task[Any]]()
        patience = int(min(seconds, REQUEST_SECONDS) * 1000)
        self._client = AIOKafkaProducer(**arguments, enable_idempotence=True, max_request_size=limit, request_timeout_ms=patience)
        sender = self._client._sender  # noqa: SLF001 (aiokafka leaves no other way to know what runs)
        produce = sender._send_produce_req  # noqa: SLF001

        async def noted(*place: Any) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            await produce(*place)

        sender._send_produce_req = noted  # noqa: SLF001

    @classmethod
    async def started(cls, cluster: KafkaOptions, context: DestinationContext, limit: int, seconds: float) -> Producer:
        """Raises NotConnected, KafkaError."""
        arguments = await login(cluster, context.base)
        await reach(cluster, arguments, min(seconds, REQUEST_SECONDS))  # aiokafka would only say that it could not
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it reports each try; what matters, we say
        await _look(cluster, arguments)
        producer = cls(cluster.names[0], limit, seconds, arguments)
        try:
            await producer._client.start()
        except BaseException:
            await producer.aclose()
            raise
        return producer

    async def send(self, drafts: Sequence[Message]) -> None:
        """All of them, in order within a partition. Raises KafkaError, when all that were begun have ended."""
        waiting = list[asyncio.Future[Any]]()
        try:
            for draft in drafts:
                waiting.append(await self._put(draft))
        except BaseException:
            for each in waiting:
                each.cancel()  # nobody will ask what became of them
            raise
        for error in await asyncio.gather(*waiting, return_exceptions=True):
            if isinstance(error, BaseException):
                raise error

    async def _put(self, draft: Message) -> asyncio.Future[Any]:
        headers = list(draft.headers)
        if draft.key is not None or draft.value is not None:
            return await self._client.send(self._topic, draft.value, draft.key, headers=headers)  # type: ignore[no-any-return]
        # A tombstone of nothing: Kafka has it, and only aiokafka's `send` will not.
        batch = self._client.create_batch()
        batch.append(key=None, value=None, timestamp=None, headers=headers)
        partition = min(await self._client.partitions_for(self._topic))
        return await self._client.send_batch(batch, self._topic, partition=partition)  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        """What was not acknowledged is given up, at once. Tolerated twice."""
        sender = self._client._sender  # noqa: SLF001
        ending = [*self._running, *([] if sender.sender_task is None else [sender.sender_task])]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        # Else `stop` would wait until all was acknowledged: for ever, while no broker answers.
        unsent = self._client._message_accumulator  # noqa: SLF001
        for batch in chain.from_iterable(unsent._batches.values()):  # noqa: SLF001
            batch.drain_ready()  # else it would be told as failed to nobody
        unsent.fail_all(kafka.ProducerClosed())
        await self._client.stop()


async def _look(cluster: KafkaOptions, arguments: dict[str, Any]) -> None:
    """Whether the topic is there: a producer would have it made. Raises NotConnected, KafkaError."""
    client = Client(**arguments)
    try:
        await client.bootstrap()
        await describe(client, cluster.names)
    finally:
        await client.close()


def _refused(error: BaseException, cluster: KafkaOptions) -> NotConnected:
    place = place_of(cluster)
    match error:
        case kafka.TopicAuthorizationFailedError():
            return NotConnected(f"{place}: not allowed; grant this login WRITE and DESCRIBE on the topic", permanent=True)
        case kafka.ClusterAuthorizationFailedError():
            return NotConnected(f"{place}: not allowed; grant this login IDEMPOTENT_WRITE on the cluster", permanent=True)
        case kafka.NotEnoughReplicasError() | kafka.NotEnoughReplicasAfterAppendError():
            return NotConnected(f"{place}: too few replicas are in sync to acknowledge anything")
    return refused(error, place, cluster)


async def probe(cluster: KafkaOptions, options: TopicOptions, context: DestinationContext) -> list[Finding]:
    """See `poller.settings.DestinationKind.probe`. Whether we may write is told only to who does."""
    try:
        arguments = await login(cluster, context.base)
        seconds = min(duration(options.timeout), ANSWER_SECONDS)
        server = await reach(cluster, arguments, seconds)
        async with asyncio.timeout(seconds):
            await _look(cluster, arguments)
    except (kafka.KafkaError, NotConnected, OSError, TimeoutError) as error:
        return [Finding("error", str(_refused(error, cluster)))]
    return [Finding("ok", f"topic {cluster.topic!r} is there, at {server}; nothing was sent")]
