"""Records of topics made again, for redrive: from the event that a letter holds, from a message of a dead-letter topic that says where it
came from (Kafka Connect's headers, KIP-298, which ours are), or fetched from their topic."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from aiokafka import TopicPartition
from aiokafka import errors as kafka
from aiokafka.client import AIOKafkaClient
from msgspec import Raw

from connectors.kafka.commits import lane_name
from connectors.kafka.format import KafkaFormat
from connectors.kafka.letters import asking
from connectors.kafka.logins import login, reach
from connectors.kafka.options import KafkaOptions
from connectors.kafka.refusals import place_of, refused
from connectors.kafka.topics import Client, describe
from connectors.regaining import told_of
from poller.errors import NotConnected, SourceError
from poller.failures.entry import entry
from poller.failures.journal import KeptRecord, text_of
from poller.model import Failure, Fault
from poller.redrive.letters import Letter, RangeGone, RedriveContext, Regained

RANGE_SECONDS = 60.0
"""Within which a batch must have been read again; aiokafka itself would try for ever."""

_CONNECT = "__connect.errors."


@dataclass(frozen=True, slots=True)
class Message:
    """`connectors.kafka.format.Record` of what was moved to another topic."""

    topic: str
    partition: int
    offset: int
    timestamp: int | None
    timestamp_type: int | None
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class TopicRegainer:
    """See `poller.redrive.letters.Regainer`. Asks for the cluster once, when it must."""

    def __init__(self, options: KafkaOptions, context: RedriveContext) -> None:
        self._options = options
        self._context = context
        self._cluster: str | None = None

    def __repr__(self) -> str:
        return f"<TopicRegainer {', '.join(self._options.names)}>"

    async def of_event(self, event: bytes, told: Mapping[str, Any]) -> Regained:  # noqa: ARG002 -- its elements name their partition
        try:
            rest = msgspec.json.decode(event, type=dict[str, Raw])
            partitions = msgspec.json.decode(rest.pop("records"), type=dict[str, list[Raw]])
            found = {partition: [self._read(partition, bytes(text)) for text in texts] for partition, texts in partitions.items()}
        except (KeyError, TypeError, ValueError, AttributeError, msgspec.MsgspecError) as error:
            raise SourceError(f"its event is none of these topics ({type(error).__name__}: {error})") from error
        records = [record for some in found.values() for record in some]
        if not records:
            raise SourceError("its event has no records")
        source = await self._identity()
        if len(found) > 1:  # AWS's batches may be of several partitions; ours are of one
            name = ",".join((records[0][0].id, records[-1][0].id))
            return Regained(source, "", (KeptRecord(name, None, records[0][0].arrival, event),))
        (partition,) = found
        head = b"{" + b"".join(msgspec.json.encode(name) + b":" + bytes(text) + b"," for name, text in rest.items())
        head += b'"records":{' + msgspec.json.encode(partition) + b":["
        return Regained(source, partition, tuple(record for record, _ in records), tuple(name for _, name in records), head, b"]}}")

    async def of_message(self, letter: Letter) -> Regained:
        """With what its headers tell of the error."""
        message, told = letter.message, letter.attributes
        try:
            topic, partition, offset = told[f"{_CONNECT}topic"], int(told[f"{_CONNECT}partition"]), int(told[f"{_CONNECT}offset"])
        except (KeyError, ValueError):
            raise SourceError("it is no invocation record, and no header tells which record it was (__connect.errors.topic, ...)") from None
        if not hasattr(message, "headers"):
            raise SourceError("it is no invocation record, and was no message of a topic")
        self._check(topic)
        headers = [(name, value) for name, value in message.headers if not name.startswith((_CONNECT, "poller."))]
        had = Message(topic, partition, offset, message.timestamp, message.timestamp_type, message.key, message.value, headers)
        made = await self._made([had])
        kind, text = told.get(f"{_CONNECT}exception.class.name"), told.get(f"{_CONNECT}exception.message", "")
        trace = tuple(told.get(f"{_CONNECT}exception.stacktrace", "").splitlines())
        return made if kind is None else replace(made, fault=Fault("error", kind, text, trace))

    async def of_range(self, told: Mapping[str, Any]) -> Regained:
        info = told_of(told, "KafkaBatchInfo")
        try:
            ((partition, bounds),) = info["recordsInfo"].items()
            topic, _, number = partition.rpartition("-")
            first, last, place = int(bounds["firstRecordOffset"]), int(bounds["lastRecordOffset"]), TopicPartition(topic, int(number))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SourceError("it does not tell which records of one partition failed") from error
        self._check(topic)
        return await self._made(await self._fetched(place, first, last))

    async def aclose(self) -> None:
        """Nothing stays open."""

    async def _fetched(self, place: TopicPartition, first: int, last: int) -> list[Any]:
        found = list[Any]()
        wanted = f"{place.topic}-{place.partition} from {first} to {last}"
        async with asking(self._options, self._context) as (consumer, _):
            (begins,), (ends,) = (await consumer.beginning_offsets([place])).values(), (await consumer.end_offsets([place])).values()
            if begins > first or ends <= last:
                raise RangeGone(f"{wanted}: the topic keeps {begins} to {ends - 1}: its records are gone, or not all of them are there")
            consumer.assign([place])
            consumer.seek(place, first)
            try:
                async with asyncio.timeout(RANGE_SECONDS):
                    while await consumer.position(place) <= last:
                        for some in (await consumer.getmany(timeout_ms=1000)).values():
                            found += [record for record in some if record.offset <= last]
            except TimeoutError as error:
                raise NotConnected(f"{wanted}: not read within {RANGE_SECONDS:.0f} s; run the command again") from error
            await consumer.stop()
        if not found or found[0].offset != first:
            raise RangeGone(f"{wanted}: its first record was compacted away")
        return found

    async def _made(self, records: Sequence[Any]) -> Regained:
        source, place = await self._identity(), TopicPartition(records[0].topic, records[0].partition)
        mapping = self._context.mapping
        kept = entry(
            Failure(records, "RetryAttemptsExhausted", 1),
            KafkaFormat(",".join(self._options.bootstrap_servers), *place),
            mapping=mapping.id,
            source=source,
            lane=lane_name(place),
            function=mapping.function,
            now=self._context.clock(),
        )
        return Regained(source, kept.lane, kept.records, kept.identifiers, kept.head, kept.tail)

    def _read(self, partition: str, text: bytes) -> tuple[KeptRecord, str]:
        element = json.loads(text)
        self._check(element["topic"])
        stamp, key, offset = element.get("timestamp"), element.get("key"), int(element["offset"])
        arrival = self._context.clock() if stamp is None or stamp < 0 else stamp / 1000
        named = text_of(None if key is None else base64.b64decode(key))
        identifier = msgspec.json.encode({"offset": offset, "partition": partition}).decode()
        return KeptRecord(f"{partition}@{offset}", named, arrival, text), identifier

    def _check(self, topic: str) -> None:
        if topic not in self._options.names:
            raise SourceError(f"it is of another topic: {topic}")

    async def _identity(self) -> str:
        """As the source's own (source.py); the topics need not be there any more."""
        options = self._options
        if self._cluster is None:
            arguments = await login(options, self._context.base)
            await reach(options, arguments)
            client: AIOKafkaClient = Client(**arguments)
            try:
                await client.bootstrap()
                self._cluster = (await describe(client, ())).id
            except kafka.KafkaError as error:
                raise refused(error, place_of(options), options) from error
            finally:
                await client.close()
        return f"kafka:{self._cluster}/{','.join(sorted(options.names))}/{options.group_of(self._context.mapping.id)}"
