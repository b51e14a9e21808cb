"""A topic as a destination, on a real broker: what its consumers find, and what happens when the broker does not take it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import groupby
from typing import Any

import pytest

from connectors.kafka import connector
from connectors.kafka.destination import TopicOptions, kind
from connectors.kafka.format import KafkaFormat
from poller.errors import NotConnected
from poller.failures.entry import entry
from poller.failures.journal import Delivery
from poller.failures.protocols import Destination
from poller.model import Failure, Fault
from poller.settings import DestinationContext, Finding
from poller.testing.destination_faults import DestinationFaultsContract
from poller.testing.destinations import context, make_delivery, make_record
from tests.servers.kafka.broker import Kafka
from tests.servers.kafka.client import KafkaClient, Message

pytestmark = pytest.mark.servers

ID = "0123456789abcdef0123456789abcdef"
FAULT = Fault("error", "ValueError", "no such order", ("handler in app.py", "order in app.py"))
ERRORS = (
    ("poller.id", ID.encode()),
    ("poller.mapping", b"orders"),
    ("poller.function", b"audit"),
    ("poller.reason", b"RetryAttemptsExhausted"),
    ("poller.attempts", b"3"),
)
MEAN = [
    Message(b'{"order": 7}', b"k\xff\x00", headers=(("trace", b"\x80\x00\xff"), ("trace", b"again"))),
    Message(b"\xff\x00 no text", None),
    Message(None, b"removed"),
]


async def failed(client: KafkaClient, records: list[Message], partitions: int = 1) -> Delivery:
    """A batch of a real topic's records that was given up."""
    topic = await client.create_topic(partitions=partitions)
    await client.produce(topic, records)
    read = await client.read(topic, len(records))
    failure = Failure(read, "RetryAttemptsExhausted", 3, FAULT)
    names: dict[str, Any] = {"mapping": "orders", "source": "kafka:c/orders/g", "lane": f"{topic}-0", "function": "audit"}
    kept = replace(entry(failure, KafkaFormat("b1:9092", topic, 0), now=1573691886.021, **names), id=ID)
    return Delivery(1, ID, "", "failure", kept)


async def sent(client: KafkaClient, kafka: Kafka, delivery: Delivery, given: DestinationContext, **options: Any) -> list[Any]:
    """What a consumer of the destination's topic finds."""
    topic = await client.create_topic(**options.pop("settings", {}))
    destination = await kind.open(f"kafka://{kafka.bootstrap}/{topic}", TopicOptions(**options), given)
    try:
        await destination.send(delivery)
    finally:
        await destination.aclose()
    return await client.read(topic, len(delivery.entry.records))


def of_kafka(**fields: Any) -> DestinationContext:
    return context(connector.describe, **fields)


async def test_each_record_is_a_message_with_its_key_its_headers_and_awss_record(kafka: Kafka, kafka_client: KafkaClient) -> None:
    delivery = await failed(kafka_client, MEAN)
    found = await sent(kafka_client, kafka, delivery, of_kafka())
    source = delivery.entry.lane.removesuffix("-0")
    for offset, (message, had, kept) in enumerate(zip(found, MEAN, delivery.entry.records, strict=True)):
        assert message.key == had.key
        where = (("topic", source.encode()), ("partition", b"0"), ("offset", str(offset).encode()))
        assert message.headers == (
            *had.headers,
            *ERRORS,
            *((f"__connect.errors.{name}", value) for name, value in where),
            ("__connect.errors.exception.class.name", b"ValueError"),
            ("__connect.errors.exception.message", b"no such order"),
            ("__connect.errors.exception.stacktrace", b"handler in app.py\norder in app.py"),
        )
        body = json.loads(message.value)
        assert body["requestContext"]["condition"] == "RetryAttemptsExhausted"
        info = body["KafkaBatchInfo"]
        element = json.loads(kept.json)
        moment = info["recordInfo"].pop("timestamp")
        assert moment.endswith("Z")
        assert info.pop("payloadSize") == len(json.dumps(body["payload"], separators=(",", ":"), ensure_ascii=False).encode())
        assert info == {"batchSize": 1, "bootstrapServers": "b1:9092", "recordInfo": {"offset": str(offset)}}
        assert body["payload"] == {
            "eventSource": "SelfManagedKafka",
            "bootstrapServers": "b1:9092",
            "records": {delivery.entry.lane: [element]},
        }
        assert body["error"]["message"] == "no such order"
        assert body["id"] == ID


async def test_as_aws_to_the_letter(kafka: Kafka, kafka_client: KafkaClient) -> None:
    delivery = await failed(kafka_client, MEAN)
    for message, had in zip(await sent(kafka_client, kafka, delivery, of_kafka(exact=True)), MEAN, strict=True):
        assert (message.key, message.headers) == (had.key, had.headers)
        keys = {"requestContext", "responseContext", "version", "timestamp", "KafkaBatchInfo", "payload"}
        assert {*json.loads(message.value)} == keys


async def test_raw_is_what_the_producer_wrote(kafka: Kafka, kafka_client: KafkaClient) -> None:
    records = [*MEAN, Message(None, b"k")]
    delivery = await failed(kafka_client, records)
    records[-1] = Message(None, None)  # a tombstone of nothing, which Kafka takes, and the test's own client does not
    last = delivery.entry.records[-1]
    keyless = replace(last, json=last.json.replace(b'"key":"aw==",', b""))
    delivery = replace(delivery, entry=replace(delivery.entry, records=(*delivery.entry.records[:-1], keyless)))
    found = await sent(kafka_client, kafka, delivery, of_kafka(), raw=True)
    assert [(each.key, each.value) for each in found] == [(each.key, each.value) for each in records]
    assert [each.headers[: len(had.headers)] for each, had in zip(found, records, strict=True)] == [had.headers for had in records]
    assert all(dict(each.headers)["__connect.errors.exception.message"] == b"no such order" for each in found)


@pytest.mark.parametrize("raw", [False, True])
async def test_what_the_broker_finds_too_large_stays_in_the_journal(raw: bool, kafka: Kafka, kafka_client: KafkaClient) -> None:
    """Whatever we were told of its limit; and records that are not stay whole."""
    records = [Message(b"x" * 50_000, b"large"), Message(b"small", b"small")]
    settings = {"max_message_bytes": "20000"}
    found = await sent(kafka_client, kafka, await failed(kafka_client, records), of_kafka(), raw=raw, settings=settings)
    large, small = sorted(found, key=lambda each: str(each.key))
    assert json.loads(large.value)["payloadIn"] == dict(large.headers)["poller.payload-in"].decode() == f"journal:{ID}"
    assert "payload" not in json.loads(large.value)
    assert "poller.payload-in" not in dict(small.headers)
    assert small.value == b"small" if raw else json.loads(small.value)["payload"]


async def test_what_we_know_to_be_too_large_goes_where_there_is_a_place_for_it(kafka: Kafka, kafka_client: KafkaClient) -> None:
    placed = list[str]()

    async def spill(delivery: Delivery) -> str:
        placed.append(delivery.id)
        return "s3://failures/large"

    records = [Message(b"x" * 50_000, b"1"), Message(b"x" * 50_000, b"2")]
    delivery = await failed(kafka_client, records)
    found = await sent(kafka_client, kafka, delivery, of_kafka(spill=spill), maximum_bytes="16KiB")
    assert {json.loads(each.value)["payloadIn"] for each in found} == {"s3://failures/large"}
    assert placed == [ID]  # the batch, once: its place is the same for all of them


async def test_a_topic_that_is_missing_is_said_and_not_made(kafka: Kafka, kafka_client: KafkaClient) -> None:
    destination = await kind.open(f"kafka://{kafka.bootstrap}/none.such", TopicOptions(timeout="2s"), context())
    try:
        with pytest.raises(NotConnected, match=r"^topic 'none.such' does not exist") as caught:
            await destination.send(make_delivery())
        assert caught.value.permanent
        (finding,) = await kind.probe(f"kafka://{kafka.bootstrap}/none.such", TopicOptions(), context())
        assert finding.level == "error"
        await kafka_client.create_topic("none.such")
        await destination.send(make_delivery())
        await kafka_client.delete_topic("none.such")
        # Known to be there, and gone: the producer is given up, and the next try says why.
        for text in ("Kafka topic none.such at", "topic 'none.such' does not exist"):
            with pytest.raises(NotConnected, match=text):
                await destination.send(make_delivery())
    finally:
        await destination.aclose()


async def test_records_of_another_kind_of_source_keep_their_key(kafka: Kafka, kafka_client: KafkaClient) -> None:
    delivery = make_delivery(records=(make_record("7", "b3JkZXI="),))
    (found,) = await sent(kafka_client, kafka, delivery, context(), raw=True)
    assert (found.key, found.value) == (b"k", b"order")
    assert "__connect.errors.topic" not in dict(found.headers)


class BrokerTarget:
    """A broker that can be stopped in its tracks. A delivery's messages are taken together."""

    maximum_bytes: int | None = 1024 * 1024
    distinct = True
    carries = True
    foretells = True

    def __init__(self, broker: Kafka, client: KafkaClient, topic: str) -> None:
        self.broker, self.client, self.topic = broker, client, topic
        self.to, self.options = f"kafka://{broker.bootstrap}/{topic}", TopicOptions(timeout="2s")

    async def open(self, context: DestinationContext) -> Destination:
        return await kind.open(self.to, self.options, context)

    async def probe(self, context: DestinationContext) -> list[Finding]:
        return await kind.probe(self.to, self.options, context)

    async def refuse(self) -> None:
        self.broker.pause()

    async def accept(self) -> None:
        self.broker.resume()

    async def _arrived(self) -> dict[str, list[Any]]:
        total = sum((await self.client.end_offsets(self.topic)).values())
        bodies = [json.loads(each.value) for each in await self.client.read(self.topic, total)] if total else []
        by_id = groupby(sorted(bodies, key=lambda body: str(body["id"])), key=lambda body: str(body["id"]))
        return {name: list(each) for name, each in by_id}

    async def count(self) -> int:
        return len(await self._arrived())

    async def bodies(self, count: int) -> list[Any]:
        found = await self._arrived()
        assert len(found) == count
        for each in found.values():
            assert {body["payload"]["Records"][0]["eventID"] for body in each} == {record.id for record in make_delivery().entry.records}
        return [each[0] for each in found.values()]


class TestBrokerThatStops(DestinationFaultsContract):
    @pytest.fixture
    async def target(self, kafka_own: Kafka) -> AsyncIterator[BrokerTarget]:
        async with KafkaClient(kafka_own.bootstrap) as client:
            yield BrokerTarget(kafka_own, client, await client.create_topic())
            kafka_own.resume()
