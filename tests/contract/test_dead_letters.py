"""Readers of dead letters keep their contract: files, embedded queues, and real queues, buckets and topics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from connectors.file import FileOptions
from connectors.file import kind as files
from connectors.kafka.destination import TopicOptions
from connectors.kafka.destination import kind as topics
from connectors.local.destination import LocalQueueOptions
from connectors.local.destination import kind as local_queues
from connectors.s3 import kind as buckets
from connectors.sqs.destination import kind as queues
from poller.redrive.letters import GROUPS
from poller.testing.dead_letters import DeadLettersContract, Shelf, ids, rest
from tests.servers.kafka.broker import Kafka
from tests.servers.kafka.client import KafkaClient
from tests.servers.receivers import bucket_at, queue_at


class TestFile(DeadLettersContract):
    @pytest.fixture
    def shelf(self, tmp_path: Path) -> Shelf:
        return Shelf(files, "file:failures.jsonl", FileOptions(maximum_bytes="3KiB"), tmp_path)


class TestLocalQueue(DeadLettersContract):
    @pytest.fixture
    def shelf(self, tmp_path: Path) -> Shelf:
        return Shelf(local_queues, "local-queue:dead", LocalQueueOptions(), tmp_path)


@pytest.mark.servers
class TestTopic(DeadLettersContract):
    @pytest.fixture
    async def shelf(self, kafka: Kafka, kafka_client: KafkaClient, tmp_path: Path) -> Shelf:
        return Shelf(topics, f"kafka://{kafka.bootstrap}/{await kafka_client.create_topic(partitions=2)}", TopicOptions(), tmp_path)


@pytest.mark.servers
@pytest.mark.usefixtures("aws_credentials")
class TestQueue(DeadLettersContract):
    @pytest.fixture
    async def shelf(self, elasticmq: str, tmp_path: Path) -> AsyncIterator[Shelf]:
        async with AsyncExitStack() as stack:
            at = await queue_at(stack, elasticmq, queues)
            yield Shelf(queues, at.to, at.options, tmp_path)


@pytest.mark.servers
@pytest.mark.usefixtures("aws_credentials")
class TestBucket(DeadLettersContract):
    @pytest.fixture
    async def shelf(self, aws_services: str, tmp_path: Path) -> AsyncIterator[Shelf]:
        async with AsyncExitStack() as stack:
            at = await bucket_at(stack, aws_services, buckets, "failures")
            yield Shelf(buckets, at.to, at.options, tmp_path)


async def test_what_stands_behind_in_a_group_is_said_and_comes_once_that_is_gone(tmp_path: Path) -> None:
    shelf = Shelf(local_queues, "local-queue:dead", LocalQueueOptions(fifo=True), tmp_path)
    sent = [f"{number:032x}" for number in range(3)]
    await shelf.put(*sent)
    async with shelf.opened() as letters:
        assert letters.behind == ""
        first = await letters.fetch(2)
        assert ids(list(first)) == sent[:2]
        assert (list(await letters.fetch(9)), letters.behind) == ([], GROUPS)
        assert await letters.remove(first) == 2
        assert letters.behind == ""
        assert ids(await rest(letters)) == sent[2:]
