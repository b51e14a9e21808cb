"""Destinations on AWS, over servers that speak its protocols."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from connectors.awslambda import kind as functions
from connectors.eventbridge import kind as buses
from connectors.s3 import kind as buckets
from connectors.sns import kind as topics
from connectors.sqs.destination import kind as queues
from poller.testing.destinations import DestinationContract, Target
from tests.servers.receivers import bucket_at, bus_at, function_at, queue_at, topic_at

pytestmark = [pytest.mark.servers, pytest.mark.usefixtures("aws_credentials")]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


class TestQueue(DestinationContract):
    @pytest.fixture
    async def target(self, stack: AsyncExitStack, elasticmq: str) -> Target:
        return await queue_at(stack, elasticmq, queues)


class TestTopic(DestinationContract):
    @pytest.fixture
    async def target(self, stack: AsyncExitStack, aws_services: str) -> Target:
        return await topic_at(stack, aws_services, topics, queues)


class TestBus(DestinationContract):
    @pytest.fixture
    async def target(self, stack: AsyncExitStack, aws_services: str) -> Target:
        return await bus_at(stack, aws_services, buses, queues)


class TestBucket(DestinationContract):
    @pytest.fixture
    async def target(self, stack: AsyncExitStack, aws_services: str) -> Target:
        return await bucket_at(stack, aws_services, buckets)


class TestFunction(DestinationContract):
    @pytest.fixture
    async def target(self, stack: AsyncExitStack) -> Target:
        return await function_at(stack, functions)
