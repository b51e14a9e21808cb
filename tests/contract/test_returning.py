"""Sources take their own records back: embedded ones, and real queues, streams and topics."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from connectors.kafka import connector as kafka_connector
from connectors.kafka.options import KafkaOptions
from connectors.kinesis import connector as kinesis_connector
from connectors.kinesis.options import KinesisOptions
from connectors.local import QueueOptions, StreamOptions, queue_connector, stream_connector
from connectors.sqs import SqsOptions
from connectors.sqs import connector as sqs_connector
from poller.errors import NotConnected, SourceError
from poller.failures.journal import KeptRecord
from poller.feed import Item
from poller.testing.returning import Home, KeyedReturningContract, ReturningContract, put_all
from tests.servers.aws import REGION
from tests.servers.kafka.broker import Kafka
from tests.servers.kafka.client import KafkaClient, Message
from tests.servers.kinesis.client import StreamsClient
from tests.servers.receivers import client

ATTRIBUTES = {
    "text": {"DataType": "String", "StringValue": "x"},
    "number": {"DataType": "Number.int", "StringValue": "7"},
    "binary": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
}


def of_queue(element: Any) -> Any:
    return element["body"], element["messageAttributes"], element["attributes"].get("MessageGroupId")


def of_stream(element: Any) -> Any:
    return element["kinesis"]["partitionKey"], element["kinesis"]["data"]


def of_topic(element: Any) -> Any:
    return [element.get(name) for name in ("topic", "partition", "key", "value", "headers")]


class TestLocalQueue(ReturningContract):
    fifo = False

    @pytest.fixture
    def home(self, tmp_path: Path) -> Home:
        options = QueueOptions(name="orders", fifo=self.fifo)

        async def put(pairs: Sequence[tuple[str, str]]) -> None:
            items = [Item(text.encode(), key if self.fifo else None, {"kind": "x"}) for key, text in pairs]
            await queue_connector.put(options, there.context(), items)

        there = Home(queue_connector, options, tmp_path, put, of_queue)
        return there


class TestLocalFifoQueue(TestLocalQueue, KeyedReturningContract):
    fifo = True


class TestLocalStream(KeyedReturningContract):
    @pytest.fixture
    def home(self, tmp_path: Path) -> Home:
        options = StreamOptions(name="clicks")

        async def put(pairs: Sequence[tuple[str, str]]) -> None:
            await stream_connector.put(options, there.context(), [Item(text.encode(), key) for key, text in pairs])

        there = Home(stream_connector, options, tmp_path, put, of_stream)
        return there


@pytest.mark.servers
@pytest.mark.usefixtures("aws_credentials")
class TestQueue(ReturningContract):
    fifo = False

    @pytest.fixture
    async def home(self, elasticmq: str, tmp_path: Path) -> AsyncIterator[Home]:
        name, settings = uuid.uuid4().hex, {}
        if self.fifo:
            name, settings = f"{name}.fifo", {"FifoQueue": "true", "ContentBasedDeduplication": "true"}
        async with client("sqs", elasticmq) as sqs:
            url = (await sqs.create_queue(QueueName=name, Attributes=settings))["QueueUrl"]

            async def put(pairs: Sequence[tuple[str, str]]) -> None:
                for key, text in pairs:
                    group = {"MessageGroupId": key} if self.fifo else {}
                    await sqs.send_message(QueueUrl=url, MessageBody=text, MessageAttributes=ATTRIBUTES, **group)

            options = SqsOptions(queue=name, region=REGION, endpoint=elasticmq, wait_time="1s")
            yield Home(sqs_connector, options, tmp_path, put, of_queue)

    async def test_ten_at_once_and_fewer_where_they_are_large(self, home: Home) -> None:
        async with home.opened() as reader, home.returner() as returner:
            await home.put([("k", f"x{n}") for n in range(11)])
            small = await reader.kept(11)
            assert await returner.put(small) == (1 if self.fifo else 10)
            large = [replace(each, json=json.dumps({**json.loads(each.json), "body": "x" * 90_000}).encode()) for each in small]
            assert await returner.put(large) == (1 if self.fifo else 2)

    async def test_what_the_queue_refuses_is_told(self, home: Home) -> None:
        async with home.opened() as reader, home.returner() as returner:
            await home.put([("k", "x")])
            kept = await reader.kept(1)
            with pytest.raises(NotConnected, match=r"(?i)invalid") as caught:
                await put_all(returner, [replace(kept[0], json=kept[0].json.replace(b'"x"', b'"\\u0001"', 1))])
            assert caught.value.permanent


class TestFifoQueue(TestQueue, KeyedReturningContract):
    fifo = True

    async def test_one_without_a_group_is_refused(self, home: Home) -> None:
        async with home.opened() as reader, home.returner() as returner:
            await home.put([("k", "x")])
            (kept,) = await reader.kept(1)
            element = json.loads(kept.json)
            del element["attributes"]["MessageGroupId"]
            with pytest.raises(SourceError, match="has no MessageGroupId"):
                await returner.put([replace(kept, json=json.dumps(element).encode())])

    async def test_one_that_is_sent_again_after_its_answer_was_lost_is_there_once(self, home: Home) -> None:
        async with home.opened() as reader, home.returner() as returner:
            await home.put([("k", "x"), ("k", "y")])
            kept = await reader.kept(2)
            for record in (kept[0], kept[0], kept[1]):
                await returner.put([record])
            assert [json.loads(each.json)["body"] for each in await reader.kept(2)] == ["x", "y"]


@pytest.mark.servers
@pytest.mark.usefixtures("aws_credentials")
class TestStream(KeyedReturningContract):
    @pytest.fixture
    async def home(self, streams: StreamsClient, kinesis_local: str, tmp_path: Path) -> Home:
        name = await streams.create()

        async def put(pairs: Sequence[tuple[str, str]]) -> None:
            for key, text in pairs:
                await streams.put(name, [(key, text.encode())])

        options = KinesisOptions(stream=name, region=REGION, endpoint=kinesis_local)
        return Home(kinesis_connector, options, tmp_path, put, of_stream)


@pytest.mark.servers
class TestTopic(KeyedReturningContract):
    @pytest.fixture
    async def home(self, kafka: Kafka, kafka_client: KafkaClient, tmp_path: Path) -> Home:
        topic = await kafka_client.create_topic()

        async def put(pairs: Sequence[tuple[str, str]]) -> None:
            headers = (("h", b"\x00\xff"),)
            await kafka_client.produce(topic, [Message(text.encode(), key.encode(), 0, headers=headers) for key, text in pairs])

        return Home(kafka_connector, KafkaOptions(bootstrap_servers=[kafka.bootstrap], topic=topic), tmp_path, put, of_topic)

    async def test_into_its_partition_with_the_time_of_now_and_what_was_empty_is_empty(self, kafka_client: KafkaClient, home: Home) -> None:
        topic = home.options.topic
        await kafka_client.add_partitions(topic, 3)
        place = {"topic": topic, "partition": 2, "offset": 7, "timestamp": 1_000, "timestampType": "CREATE_TIME", "headers": []}
        elements: tuple[dict[str, Any], ...] = ({"key": "Z29uZQ==", "value": None}, {"value": "dg=="}, {"value": None})
        kept = [KeptRecord(f"{topic}-2:{n}", None, 1.0, json.dumps({**place, **each}).encode()) for n, each in enumerate(elements)]
        async with home.returner() as returner:
            await put_all(returner, kept)
        found = await kafka_client.read(topic, 3)
        assert [(each.key, each.value, each.partition) for each in found] == [(b"gone", None, 2), (None, b"v", 2), (None, None, 2)]
        assert all(each.timestamp > 1_000_000 for each in found)

    async def test_a_topic_that_its_mapping_does_not_read_is_refused(self, home: Home) -> None:
        async with home.opened() as reader, home.returner() as returner:
            await home.put([("k", "x")])
            (kept,) = await reader.kept(1)
            with pytest.raises(SourceError, match="does not read any more"):
                await returner.put([replace(kept, json=kept.json.replace(home.options.topic.encode(), b"another"))])

    async def test_a_partition_that_is_not_there_any_more_is_chosen_by_the_key(self, kafka_client: KafkaClient, home: Home) -> None:
        async with home.opened() as reader, home.returner() as returner:
            await home.put([("k", "x")])
            (kept,) = await reader.kept(1)
            await returner.put([replace(kept, json=kept.json.replace(b'"partition":0', b'"partition":7'))])
            (again,) = await reader.kept(1)
            assert json.loads(again.json)["partition"] == 0
