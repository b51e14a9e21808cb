"""What stands behind a destination on AWS: made for one test, it tells what has arrived. See `poller.testing.destinations.Target`."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from aiobotocore.session import AioSession
from aiohttp import web

from connectors.aws.options import SendOptions
from poller.failures.protocols import Destination
from poller.settings import DestinationContext, DestinationKind
from tests.servers.aws import ACCOUNT, REGION

SECONDS = 30.0
"""Within which what was sent must be there."""


_SESSION = AioSession()
"""One for all: it reads the services' models once."""


@asynccontextmanager
async def client(service: str, url: str) -> AsyncIterator[Any]:
    """botocore's own, of a service at this URL."""
    made = _SESSION.create_client(service, region_name=REGION, endpoint_url=url, aws_access_key_id="test", aws_secret_access_key="test")
    async with made as opened:
        yield opened


class Receiver:
    """A destination's address, and what arrived there."""

    distinct = False
    carries = False

    def __init__(self, kind: DestinationKind, to: str, options: SendOptions) -> None:
        self.kind, self.to, self.options = kind, to, options
        self.maximum_bytes = kind.traits(to, options).maximum_bytes

    async def open(self, context: DestinationContext) -> Destination:
        return await self.kind.open(self.to, self.options, context)


class Queue(Receiver):
    """Reads a queue: the destination's own, or the one that is behind it."""

    def __init__(self, kind: DestinationKind, to: str, options: SendOptions, sqs: Any, url: str, distinct: bool = False) -> None:
        super().__init__(kind, to, options)
        self.distinct = distinct
        self._sqs, self._url = sqs, url

    async def messages(self, count: int) -> list[dict[str, Any]]:
        """As SQS has them, oldest first; at least so many."""
        found: list[dict[str, Any]] = []
        async with asyncio.timeout(SECONDS):
            while len(found) < count:
                answer = await self._sqs.receive_message(
                    QueueUrl=self._url, MaxNumberOfMessages=10, WaitTimeSeconds=1, MessageSystemAttributeNames=["All"]
                )
                for message in answer.get("Messages", ()):
                    await self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])
                    found.append(message)
        return found

    async def bodies(self, count: int) -> list[Any]:
        return [json.loads(message["Body"]) for message in await self.messages(count)]


class Events(Queue):
    """Reads the queue that a rule sends the events of a bus to."""

    async def bodies(self, count: int) -> list[Any]:
        return [event["detail"] for event in await super().bodies(count)]


async def queue_at(stack: AsyncExitStack, url: str, kind: DestinationKind, fifo: bool = False) -> Queue:
    sqs = await stack.enter_async_context(client("sqs", url))
    name = f"q-{uuid.uuid4().hex}" + (".fifo" if fifo else "")
    made = await sqs.create_queue(QueueName=name, Attributes={"FifoQueue": "true"} if fifo else {})
    to = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"
    return Queue(kind, to, SendOptions(endpoint=url), sqs, made["QueueUrl"], distinct=fifo)


async def topic_at(stack: AsyncExitStack, url: str, kind: DestinationKind, queues: DestinationKind, fifo: bool = False) -> Queue:
    behind = await queue_at(stack, url, queues, fifo)
    sns = await stack.enter_async_context(client("sns", url))
    name = f"t-{uuid.uuid4().hex}" + (".fifo" if fifo else "")
    topic = await sns.create_topic(Name=name, Attributes={"FifoTopic": "true"} if fifo else {})
    await sns.subscribe(TopicArn=topic["TopicArn"], Protocol="sqs", Endpoint=behind.to, Attributes={"RawMessageDelivery": "true"})
    return Queue(kind, topic["TopicArn"], behind.options, behind._sqs, behind._url, distinct=fifo)


async def bus_at(stack: AsyncExitStack, url: str, kind: DestinationKind, queues: DestinationKind) -> Events:
    behind = await queue_at(stack, url, queues)
    events = await stack.enter_async_context(client("events", url))
    name = f"b-{uuid.uuid4().hex}"
    bus = await events.create_event_bus(Name=name)
    await events.put_rule(Name="all", EventBusName=name, EventPattern=json.dumps({"source": ["lambda"]}))
    await events.put_targets(Rule="all", EventBusName=name, Targets=[{"Id": "1", "Arn": behind.to}])
    return Events(kind, bus["EventBusArn"], behind.options, behind._sqs, behind._url)


class Bucket(Receiver):
    """Reads the objects of a bucket."""

    distinct = True
    carries = True

    def __init__(self, kind: DestinationKind, to: str, options: SendOptions, s3: Any, name: str) -> None:
        super().__init__(kind, to, options)
        self._s3, self._name = s3, name

    async def objects(self) -> dict[str, Any]:
        """By their keys."""
        answer = await self._s3.list_objects_v2(Bucket=self._name)
        found = {}
        for each in answer.get("Contents", ()):
            object_ = await self._s3.get_object(Bucket=self._name, Key=each["Key"])
            found[each["Key"]] = json.loads(await object_["Body"].read())
        return found

    async def bodies(self, count: int) -> list[Any]:
        found = [*(await self.objects()).values()]
        assert len(found) >= count
        return found


async def bucket_at(stack: AsyncExitStack, url: str, kind: DestinationKind, prefix: str = "") -> Bucket:
    s3 = await stack.enter_async_context(client("s3", url))
    name = f"b-{uuid.uuid4().hex}"
    await s3.create_bucket(Bucket=name)
    to = f"s3://{name}/{prefix}" if prefix else f"arn:aws:s3:::{name}"
    return Bucket(kind, to, SendOptions(region=REGION, endpoint=url), s3, name)


SILENT = 0, b"", dict[str, str]()
CLOSED = 1, b"", dict[str, str]()
"""Answers that are none: not a word, and a connection that ends."""


class Scripted:
    """An HTTP server that answers as it is told, and remembers what it was asked: for what no server at hand does on request, and for
    Lambda's Invoke, which none does at all without containers."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, Mapping[str, str], bytes]] = []
        """Path, headers, body."""
        self.script: list[tuple[int, bytes, dict[str, str]]] = []
        """The next answers: status, body, headers; or SILENT, or CLOSED. Then 202 without a body."""
        self.url = ""
        self._gone = asyncio.Event()

    async def __aenter__(self) -> Scripted:
        application = web.Application(client_max_size=16 * 1024 * 1024)
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._gone.set()
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.raw_path, request.headers, await request.read()))
        answer = self.script.pop(0) if self.script else (202, b"", {})
        if answer == SILENT:
            await self._gone.wait()
        if answer in (SILENT, CLOSED):
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        status, body, headers = answer
        return web.Response(status=status, body=body, headers=headers)


class Function(Receiver):
    """What a function was invoked with, asynchronously."""

    def __init__(self, kind: DestinationKind, to: str, options: SendOptions, server: Scripted) -> None:
        super().__init__(kind, to, options)
        self.server = server

    async def bodies(self, count: int) -> list[Any]:
        assert len(self.server.requests) >= count
        assert {headers["X-Amz-Invocation-Type"] for _, headers, _ in self.server.requests} == {"Event"}
        return [json.loads(body) for _, _, body in self.server.requests]


async def function_at(stack: AsyncExitStack, kind: DestinationKind) -> Function:
    server = await stack.enter_async_context(Scripted())
    return Function(kind, f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:failures:live", SendOptions(endpoint=server.url), server)
