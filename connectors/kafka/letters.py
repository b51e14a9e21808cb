"""Dead letters of a topic: what is there now, read from where a group of our own has committed. They are left, and passed over next time.

fetched:  5 6 7 8      taken: 5 6 8     -> 7 is committed: whatever was not taken is read again
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka import errors as kafka

from connectors.kafka.destination import redrive_group
from connectors.kafka.logins import login, reach
from connectors.kafka.options import KafkaOptions
from connectors.kafka.refusals import place_of, refused
from connectors.kafka.topics import Client, Cluster, describe
from poller.errors import NotConnected
from poller.redrive.letters import Letter, RedriveContext

POLL_MILLISECONDS = 500
SILENT_SECONDS = 15.0
"""Brokers that bring nothing for so long, where there is more, do not answer."""


class TopicLetters:
    """See `poller.redrive.letters.DeadLetters`. Takes the consumer over. `ends`: where each partition ended when it was opened."""

    behind = ""

    def __init__(self, consumer: AIOKafkaConsumer, group: str, options: KafkaOptions, ends: Mapping[TopicPartition, int]) -> None:
        self.stays = f"messages are left in the topic, and those that were taken are passed over next time (group {group})"
        self._consumer = consumer
        self._options = options
        self._ends = ends
        self._fetched: dict[TopicPartition, dict[int, bool]] = {each: {} for each in ends}
        """Offset -> whether it was taken."""

    def __repr__(self) -> str:
        return f"<TopicLetters {self._options.topic}>"

    async def fetch(self, limit: int) -> Sequence[Letter]:
        try:
            async with asyncio.timeout(SILENT_SECONDS):
                while await self._behind():
                    answer = await self._consumer.getmany(timeout_ms=POLL_MILLISECONDS, max_records=limit)
                    found = [each for place, some in answer.items() for each in some if each.offset < self._ends[place]]
                    if found:
                        for each in found:
                            self._fetched[TopicPartition(each.topic, each.partition)][each.offset] = False
                        return [*map(_letter, found)]
        except TimeoutError as error:
            raise NotConnected(f"{place_of(self._options)}: no broker has answered for {SILENT_SECONDS:.0f} s") from error
        except kafka.KafkaError as error:
            raise refused(error, place_of(self._options), self._options) from error
        return ()

    async def remove(self, letters: Sequence[Letter]) -> int:
        for letter in letters:
            self._fetched[TopicPartition(letter.message.topic, letter.message.partition)][letter.message.offset] = True
        try:
            done = {place: await self._done(place, seen) for place, seen in self._fetched.items() if seen}
            if done:
                await self._consumer.commit(done)
        except kafka.KafkaError as error:
            raise refused(error, place_of(self._options), self._options) from error
        return 0

    async def aclose(self) -> None:
        await self._consumer.stop()

    async def _behind(self) -> bool:
        return any([await self._consumer.position(place) < end for place, end in self._ends.items()])

    async def _done(self, place: TopicPartition, seen: Mapping[int, bool]) -> int:
        left = next((offset for offset, taken in seen.items() if not taken), None)
        return int(await self._consumer.position(place)) if left is None else left


async def open_letters(options: KafkaOptions, context: RedriveContext) -> TopicLetters:
    """Raises NotConnected."""
    group = redrive_group(context.mapping.id)
    async with asking(options, context, group) as (consumer, cluster):
        places = [TopicPartition(topic, number) for topic, count in cluster.partitions.items() for number in range(count)]
        consumer.assign(places)
        return TopicLetters(consumer, group, options, await consumer.end_offsets(places))


@asynccontextmanager
async def asking(
    options: KafkaOptions, context: RedriveContext, group: str | None = None
) -> AsyncIterator[tuple[AIOKafkaConsumer, Cluster]]:
    """A consumer that has no partitions yet, and what the cluster says of the topics; stopped if the block fails. Raises NotConnected."""
    arguments: dict[str, Any] = await login(options, context.base)
    await reach(options, arguments)  # aiokafka would only say that it could not
    consumer = AIOKafkaConsumer(
        **arguments, group_id=group, enable_auto_commit=False, auto_offset_reset="earliest", isolation_level="read_committed"
    )
    consumer._client = client = Client(**arguments)  # noqa: SLF001 (its own would make topics anew)
    try:
        await consumer.start()
        yield consumer, await describe(client, options.names)
    except BaseException as error:
        await consumer.stop()
        if isinstance(error, kafka.KafkaError):
            raise refused(error, place_of(options), options) from error
        raise


def _letter(record: ConsumerRecord[bytes, bytes]) -> Letter:
    attributes = {name: value.decode(errors="replace") for name, value in record.headers if value is not None}
    name = f"{record.topic}-{record.partition}@{record.offset}"
    return Letter(name, record.value or b"", record.timestamp / 1000, attributes, record)
