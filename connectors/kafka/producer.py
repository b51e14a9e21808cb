"""Writing to a topic: acknowledged by all replicas in sync, by an idempotent producer.

After whatever went wrong the producer is thrown away, and what is sent next makes another: aiokafka tries for ever what it has begun (an
idempotent producer may leave no gap), and brokers refuse what comes after a gap.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka

from connectors.kafka.logins import login, reach
from connectors.kafka.messages import Message
from connectors.kafka.options import KafkaOptions
from connectors.kafka.refusals import place_of, refused
from connectors.kafka.topics import Client, describe
from poller.errors import NotConnected

REQUEST_SECONDS = 10.0

_TOO_LARGE = (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError)


class Writing:
    """Of the first topic of `cluster`, in messages of at most `limit` bytes, each within so many seconds. Connects when it is needed."""

    def __init__(self, cluster: KafkaOptions, base: Path, limit: int, seconds: float) -> None:
        """`base`: the folder that files of the login are beside."""
        self._cluster, self._base = cluster, base
        self._limit, self._seconds = limit, seconds
        self._producer: Producer | None = None
        self._opening = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Writing {self._cluster.names[0]} [{'not connected' if self._producer is None else 'connected'}]>"

    async def write(self, drafts: Sequence[Message]) -> bool:
        """All are there. False: one was too large for the broker; of the others any may be there. Raises NotConnected."""
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
            raise rejected(error, self._cluster) from error
        return True

    async def _connected(self) -> Producer:
        async with self._opening:
            if self._producer is None:
                producer = await Producer.started(self._cluster, self._base, self._limit, self._seconds)
                self._producer = producer
            return self._producer

    async def _drop(self, producer: Producer | None) -> None:
        if producer is not None:
            if self._producer is producer:
                self._producer = None
            await producer.aclose()

    async def aclose(self) -> None:
        """Tolerated twice."""
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
    async def started(cls, cluster: KafkaOptions, base: Path, limit: int, seconds: float) -> Producer:
        """Raises NotConnected, KafkaError."""
        arguments = await login(cluster, base)
        await reach(cluster, arguments, min(seconds, REQUEST_SECONDS))  # aiokafka would only say that it could not
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it reports each try; what matters, we say
        await look(cluster, arguments)
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
        there = await self._client.partitions_for(self._topic)
        # One that is not there any more: its key chooses among those that are.
        partition = draft.partition if draft.partition in there else None
        headers = list(draft.headers)
        if draft.key is not None or draft.value is not None:
            return await self._client.send(self._topic, draft.value, draft.key, partition, headers=headers)  # type: ignore[no-any-return]
        # A tombstone of nothing: Kafka has it, and only aiokafka's `send` will not.
        batch = self._client.create_batch()
        batch.append(key=None, value=None, timestamp=None, headers=headers)
        into = min(there) if partition is None else partition
        return await self._client.send_batch(batch, self._topic, partition=into)  # type: ignore[no-any-return]

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


async def look(cluster: KafkaOptions, arguments: dict[str, Any]) -> None:
    """Whether the topic is there: a producer would have it made. Raises NotConnected, KafkaError."""
    client = Client(**arguments)
    try:
        await client.bootstrap()
        await describe(client, cluster.names)
    finally:
        await client.close()


def rejected(error: BaseException, cluster: KafkaOptions) -> NotConnected:
    """What to raise for what a topic that is written to answers."""
    place = place_of(cluster)
    match error:
        case kafka.TopicAuthorizationFailedError():
            return NotConnected(f"{place}: not allowed; grant this login WRITE and DESCRIBE on the topic", permanent=True)
        case kafka.ClusterAuthorizationFailedError():
            return NotConnected(f"{place}: not allowed; grant this login IDEMPOTENT_WRITE on the cluster", permanent=True)
        case kafka.NotEnoughReplicasError() | kafka.NotEnoughReplicasAfterAppendError():
            return NotConnected(f"{place}: too few replicas are in sync to acknowledge anything")
    return refused(error, place, cluster)
