"""Reading topics of a real broker: where it begins, what comes, and what is said of it."""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
from collections.abc import Sequence
from itertools import pairwise

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, OffsetAndMetadata, TopicPartition

from connectors.kafka.format import Record
from connectors.kafka.reading import Reading
from connectors.kafka.source import READER
from poller.model import Shown
from tests.integration.kafka_workers import Mapping, Script, Worker, failing
from tests.servers.kafka.broker import Kafka
from tests.servers.kafka.client import KafkaClient, Message

pytestmark = pytest.mark.servers


def numbered(count: int, partition: int = 0, first: int = 0) -> list[Message]:
    return [Message(b'{"n": %d}' % n, b"k%d" % (n % 10), partition) for n in range(first, first + count)]


async def shown(worker: Worker, lane: str) -> Shown:
    return await worker.lanes[lane].show(time.time())


async def read_to_the_end(worker: Worker, lane: str, end: int) -> None:
    """The checkpoint has passed everything, what is no record too, and nothing is behind."""
    await worker.until(lambda: lane in worker.lanes and worker.lanes[lane].tracker.frontier == end)
    found = await shown(worker, lane)
    assert (found.position, found.lag_records, found.lag_seconds) == (str(end), 0, 0.0)


async def committed(client: KafkaClient, mapping: Mapping) -> dict[tuple[str, int], int]:
    return {(place.topic, place.partition): kept.offset for place, kept in (await client.committed(mapping.group)).items()}


# --- all of it --------------------------------------------------------------------------------------------------------------------------


async def test_every_record_of_every_topic_comes_once_and_in_order(kafka: Kafka, kafka_client: KafkaClient) -> None:
    one, two = await kafka_client.create_topic(partitions=3), await kafka_client.create_topic()
    await kafka_client.produce(one, [message for partition in range(3) for message in numbered(700, partition)])
    await kafka_client.produce(two, numbered(700))
    script, mapping = Script(), Mapping(kafka.bootstrap, one, two)
    async with Worker(mapping, script) as worker:
        await worker.handled(2800)
        assert worker.counters.tally.rebalances == 1
    for lane in (f"{one}-0", f"{one}-1", f"{one}-2", f"{two}-0"):
        assert [offset for place, offset in script.seen if place == lane] == list(range(700)), lane
    assert await committed(kafka_client, mapping) == {(one, 0): 700, (one, 1): 700, (one, 2): 700, (two, 0): 700}
    assert worker.counters.begun == worker.counters.batches


async def test_records_are_what_the_client_decodes_as_they_are(kafka: Kafka, kafka_client: KafkaClient) -> None:
    """A version of aiokafka that holds them in another way would give them as before, at twice the cost, and nothing else would tell."""
    place = TopicPartition(await kafka_client.create_topic(), 0)
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, **READER)
    await consumer.start()
    reading = Reading(consumer)
    try:
        for first in (0, 3):
            await kafka_client.produce(place.topic, numbered(3))
            reading.place(place, first)
            records: Sequence[Record] = ()
            while not records:
                await reading.arrival(place)
                records, _ = await reading.take(place, 10)
            assert [(type(record).__name__, record.offset) for record in records] == [("DefaultRecord", first + n) for n in range(3)]
    finally:
        await reading.aclose()


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_compressed_records_are_read(kafka: Kafka, kafka_client: KafkaClient, codec: str) -> None:
    topic = await kafka_client.create_topic()
    await kafka_client.produce(topic, numbered(300), compression_type=codec)
    script = Script()
    async with Worker(Mapping(kafka.bootstrap, topic), script) as worker:
        await worker.handled(300)
    values = [base64.b64decode(record["value"]) for call in script.calls for record in call.records]
    assert values == [message.value for message in numbered(300)]


async def test_tombstones_keyless_records_and_poison_headers_are_records_like_any_other(kafka: Kafka, kafka_client: KafkaClient) -> None:
    topic = await kafka_client.create_topic()
    poison = (("trace", bytes(range(256))), ("trace", b""), ("", b"\xff"))
    messages = [Message(None, b"gone"), Message(b"no key"), Message(b"", b""), Message(b"\xff\xfe", b"\x80", headers=poison)]
    await kafka_client.produce(topic, messages)
    for width in (1, 7):
        script = Script()
        async with Worker(Mapping(kafka.bootstrap, topic, width=width), script) as worker:
            await worker.handled(4)
        found = {record["offset"]: record for call in script.calls for record in call.records}
        assert {offset: (record.get("key"), record.get("value")) for offset, record in found.items()} == {
            0: (_text(b"gone"), None),
            1: (None, _text(b"no key")),
            2: ("", ""),
            3: (_text(b"\x80"), _text(b"\xff\xfe")),
        }
        signed = [byte if byte < 128 else byte - 256 for byte in range(256)]
        assert found[3]["headers"] == [{"trace": signed}, {"trace": []}, {"": [-1]}]


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def test_large_records_are_read_and_those_above_lambda_s_limit_kept(kafka: Kafka, kafka_client: KafkaClient) -> None:
    topic = await kafka_client.create_topic(max_message_bytes="16000000")
    sizes = [10, 3_000_000, 10, 6_000_000, 10]  # in an event, base64 makes 4 bytes of 3
    await kafka_client.produce(topic, [bytes(size) for size in sizes], max_request_size=16_000_000, linger_ms=0, max_batch_size=1)
    script, mapping = Script(), Mapping(kafka.bootstrap, topic)
    async with Worker(mapping, script) as worker:
        await worker.handled(5)
    assert [offset for _, offset in script.seen] == [0, 1, 2, 4]
    (entry,) = await mapping.journal()
    assert (entry.reason, entry.attempts, await mapping.kept()) == ("MaximumPayloadSizeExceeded", 0, [f"{topic}-0@3"])
    assert await committed(kafka_client, mapping) == {(topic, 0): 5}


# --- transactions -----------------------------------------------------------------------------------------------------------------------


async def test_of_transactions_only_committed_ones_are_seen_and_the_checkpoint_passes_all(kafka: Kafka, kafka_client: KafkaClient) -> None:
    topic = await kafka_client.create_topic()
    script, loose = Script(), Script()
    mapping, other = Mapping(kafka.bootstrap, topic), Mapping(kafka.bootstrap, topic, isolation_level="read_uncommitted")
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=uuid.uuid4().hex)
    async with Worker(mapping, script) as worker, Worker(other, loose, "b") as uncommitted, producer:
        for commits in (True, False):  # 0, 1 and a marker; 3, 4 and a marker
            await producer.begin_transaction()
            for n in range(2):
                await producer.send_and_wait(topic, b"%d" % n)
            await (producer.commit_transaction() if commits else producer.abort_transaction())
        await read_to_the_end(worker, f"{topic}-0", 6)
        assert script.seen == [(f"{topic}-0", 0), (f"{topic}-0", 1)]
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"open")
        await uncommitted.handled(5)
        await read_to_the_end(worker, f"{topic}-0", 6)  # it waits before the open one
        await producer.commit_transaction()
        await read_to_the_end(worker, f"{topic}-0", 8)
        await read_to_the_end(uncommitted, f"{topic}-0", 8)
    assert [offset for _, offset in script.seen] == [0, 1, 6]
    assert [offset for _, offset in loose.seen] == [0, 1, 3, 4, 6]
    assert await committed(kafka_client, mapping) == {(topic, 0): 8}


# --- where it begins --------------------------------------------------------------------------------------------------------------------


async def test_trim_horizon_begins_with_the_first_record_there_is(kafka: Kafka, kafka_client: KafkaClient) -> None:
    topic = await kafka_client.create_topic()
    await kafka_client.produce(topic, numbered(10))
    await kafka_client.delete_records(topic, {0: 4})
    script = Script()
    async with Worker(Mapping(kafka.bootstrap, topic), script) as worker:
        await worker.handled(6)
        assert [offset for _, offset in script.seen] == [4, 5, 6, 7, 8, 9]
        assert worker.counters.tally.expired == 0


async def test_latest_loses_nothing_between_its_start_and_the_first_read(kafka: Kafka, kafka_client: KafkaClient) -> None:
    topic = await kafka_client.create_topic(partitions=2)
    await kafka_client.produce(topic, [*numbered(10), *numbered(5, 1)])
    script = Script()
    worker = Worker(Mapping(kafka.bootstrap, topic, starting_position="LATEST"), script)
    opened = await worker.runner._open_source()  # it has started, and is not in the group for long
    await kafka_client.produce(topic, [*numbered(3), *numbered(3, 1)])

    async def again() -> object:
        return opened

    worker.runner._open_source = again  # type: ignore[assignment]
    async with worker:
        await worker.handled(6)
    assert sorted(offset for _, offset in script.seen) == [5, 6, 7, 10, 11, 12]


async def test_latest_reads_partitions_that_came_later_from_their_beginning(kafka: Kafka, kafka_client: KafkaClient) -> None:
    topic = await kafka_client.create_topic()
    await kafka_client.produce(topic, numbered(10))
    script, mapping = Script(), Mapping(kafka.bootstrap, topic, starting_position="LATEST")
    async with Worker(mapping, script) as worker:
        await worker.owns(f"{topic}-0")
        await kafka_client.add_partitions(topic, 2)
        await kafka_client.produce(topic, numbered(3, 1))
        await worker.refresh()
        await worker.handled(3)
        assert set(worker.lanes) == {f"{topic}-0", f"{topic}-1"}
    await kafka_client.add_partitions(topic, 3)
    await kafka_client.produce(topic, numbered(4, 2))  # nobody runs
    async with Worker(mapping, script, "b") as worker:
        await worker.handled(4)
    assert script.seen == [(f"{topic}-1", n) for n in range(3)] + [(f"{topic}-2", n) for n in range(4)]


async def test_at_timestamp_begins_with_the_first_record_that_is_not_older(kafka: Kafka, kafka_client: KafkaClient) -> None:
    topic = await kafka_client.create_topic(partitions=2)
    now = int(time.time()) - 100
    times = [now - 10, now, now + 5]
    await kafka_client.produce(topic, [Message(b"x", partition=0, timestamp=1000 * second) for second in times])
    await kafka_client.produce(topic, [Message(b"x", partition=1, timestamp=1000 * (now - 10))])
    script = Script()
    mapping = Mapping(kafka.bootstrap, topic, starting_position="AT_TIMESTAMP", starting_position_timestamp=now)
    async with Worker(mapping, script) as worker:
        await worker.handled(2)
        await worker.steady(2)
        await kafka_client.produce(topic, [Message(b"x", partition=1)])  # all there was is older: it begins at the end
        await worker.handled(3)
    assert sorted(script.seen) == [(f"{topic}-0", 1), (f"{topic}-0", 2), (f"{topic}-1", 1)]


@pytest.mark.parametrize("position", ["TRIM_HORIZON", "LATEST"])
async def test_committed_offsets_win(kafka: Kafka, kafka_client: KafkaClient, position: str) -> None:
    topic = await kafka_client.create_topic(partitions=2)
    await kafka_client.produce(topic, [*numbered(10), *numbered(10, 1)])
    mapping = Mapping(kafka.bootstrap, topic, starting_position=position)
    async with AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id=mapping.group, enable_auto_commit=False) as tool:
        tool.assign([TopicPartition(topic, 0)])
        await tool.commit({TopicPartition(topic, 0): OffsetAndMetadata(7, "")})
    script = Script()
    async with Worker(mapping, script) as worker:
        await worker.handled(3 if position == "LATEST" else 13)
    rest = [] if position == "LATEST" else [(f"{topic}-1", n) for n in range(10)]
    assert sorted(script.seen) == [(f"{topic}-0", n) for n in (7, 8, 9)] + rest


# --- what is said of it -----------------------------------------------------------------------------------------------------------------


async def test_a_lane_shows_where_it_is_how_far_behind_and_what_holds_it_up(kafka: Kafka, kafka_client: KafkaClient) -> None:
    topic = await kafka_client.create_topic()
    await kafka_client.produce(topic, numbered(10))
    mapping = Mapping(kafka.bootstrap, topic, size=4)
    async with Worker(mapping, Script()) as worker:
        await worker.handled(10)
        await read_to_the_end(worker, f"{topic}-0", 10)
        assert (await shown(worker, f"{topic}-0")).owner == "a"
        assert worker.counters.tally.rebalances == 1
    mapping.failure = mapping.failure.__class__(maximum_retry_attempts=None, bisect=False)  # backoffs of seconds
    async with Worker(mapping, failing(12), "b") as worker:
        before = time.time()
        await kafka_client.produce(topic, numbered(10))
        await worker.until(lambda: worker.counters.faults)
        await asyncio.sleep(0)
        found = await shown(worker, f"{topic}-0")
        assert (found.position, found.owner, found.lag_records) == ("10", "b", 10)
        assert found.head is not None and (found.head.first, found.head.last, found.head.attempts) == (10, 13, 1)
        assert found.lag_seconds is not None and 0 <= found.lag_seconds <= time.time() - before
        assert found.head.not_before > before


async def test_batches_follow_each_other(kafka: Kafka, kafka_client: KafkaClient) -> None:
    """Also where a partition is read in many small pieces, beside empty ones."""
    topic = await kafka_client.create_topic(partitions=20)
    script = Script()
    async with Worker(Mapping(kafka.bootstrap, topic), script) as worker:
        await worker.steady(20)
        for n in range(20):
            await kafka_client.produce(topic, numbered(5, partition=7, first=n))
        await worker.handled(100)
    assert all(before < after for (_, before), (_, after) in pairwise(script.seen))
