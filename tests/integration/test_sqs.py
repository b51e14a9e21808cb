"""The SQS source against a real server (ElasticMQ): what the fake promises of SQS, a server keeps."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import pytest
from aiobotocore.session import get_session

from connectors.sqs import SqsOptions, connector
from connectors.sqs.lane import SqsLane
from connectors.sqs.source import SqsSource
from poller.errors import NotConnected
from poller.model import Ack, Batch, Release
from poller.policy import SAFE_RECEIVE_COUNT, Redeliver
from poller.protocols import Store
from poller.settings import Batching, Context, FailureSettings, MappingSettings

pytestmark = pytest.mark.servers

Message = dict[str, Any]


class Desk:
    """One test's queues, and a raw client to look at them with."""

    def __init__(self, url: str, client: Any, stack: AsyncExitStack) -> None:
        self.url = url
        self.client = client
        self.stack = stack

    async def create(self, fifo: bool = False, **attributes: str) -> str:
        """Returns the queue's URL."""
        name = f"q{uuid.uuid4().hex}{'.fifo' if fifo else ''}"
        if fifo:
            attributes |= {"FifoQueue": "true", "ContentBasedDeduplication": "true"}
        answer = await self.client.create_queue(QueueName=name, Attributes=attributes)
        return str(answer["QueueUrl"])

    async def send(self, queue: str, *bodies: str, **more: Any) -> None:
        for body in bodies:
            await self.client.send_message(QueueUrl=queue, MessageBody=body, **more)

    async def receive(self, queue: str, wait: int = 0) -> list[Message]:
        answer = await self.client.receive_message(
            QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=wait, VisibilityTimeout=0, MessageSystemAttributeNames=["All"]
        )
        return list(answer.get("Messages", []))

    async def counts(self, queue: str) -> tuple[int, int]:
        """Visible, in flight."""
        answer = await self.client.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])
        found = answer["Attributes"]
        return int(found["ApproximateNumberOfMessages"]), int(found["ApproximateNumberOfMessagesNotVisible"])

    async def open(self, queue: str, size: int = 10, **options: Any) -> tuple[SqsSource, SqsLane]:
        mapping = MappingSettings("m", "m", "f", Batching(size), FailureSettings(), 4)
        context = Context(mapping, cast("Store", None), "w", lambda: 0.0, Path(), Path())
        settings = SqsOptions(
            **{"queue": queue.rpartition("/")[2], "region": "us-east-1", "endpoint": self.url, "wait_time": "1s", **options}
        )
        source = await connector.open(settings, context)
        self.stack.push_async_callback(source.aclose)
        lane = cast("SqsLane", await anext(source.lanes()))
        self.stack.push_async_callback(lane.aclose)
        return source, lane


@pytest.fixture
async def desk(elasticmq: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(get_session().create_client("sqs", region_name="us-east-1", endpoint_url=elasticmq))
        yield Desk(elasticmq, client, stack)


async def fetched(lane: SqsLane, count: int) -> list[Message]:
    records: list[Message] = []
    async with asyncio.timeout(20):
        while len(records) < count:
            records += (await lane.fetch(100)).records
    assert len(records) == count
    return records


async def settle(lane: SqsLane, records: list[Message], *actions: Any) -> None:
    await lane.settle(Batch(records, lane.format), actions)


async def until(true: Callable[[], Any], seconds: float = 15.0) -> None:
    """A server has no event to wait for: it is asked."""
    async with asyncio.timeout(seconds):
        while not await true():
            await asyncio.sleep(0.1)


async def test_received_and_deleted(desk: Desk) -> None:
    queue = await desk.create()
    await desk.send(queue, *(f"m{n}" for n in range(25)))
    source, lane = await desk.open(queue)
    assert source.identity == f"arn:aws:sqs:us-east-1:123456789012:{queue.rpartition('/')[2]}"
    records = await fetched(lane, 25)
    assert {record["Body"] for record in records} == {f"m{n}" for n in range(25)}
    await settle(lane, records, Ack(records))
    assert await desk.counts(queue) == (0, 0)
    await settle(lane, records, Ack(records))  # again
    assert lane.held == 0


async def test_a_message_wakes_the_long_poll(desk: Desk) -> None:
    queue = await desk.create()
    _, lane = await desk.open(queue, wait_time="20s")
    async with asyncio.timeout(10):
        fetch = asyncio.create_task(lane.fetch(10))
        await desk.send(queue, "m1")
        assert [record["Body"] for record in (await fetch).records] == ["m1"]


async def test_a_stale_receipt_handle_is_data(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    queue = await desk.create()
    await desk.send(queue, "m1", "m2", "m3")
    _, lane = await desk.open(queue)
    records = await fetched(lane, 3)
    broken = [{**records[0], "ReceiptHandle": "none of yours"}, *records[1:]]
    await settle(lane, broken, Ack(broken))
    assert await desk.counts(queue) == (0, 1)  # the others are deleted all the same
    assert lane.expired == 1
    assert "no longer ours" in caplog.text


async def test_a_function_may_outlive_the_visibility_timeout(desk: Desk) -> None:
    queue = await desk.create(VisibilityTimeout="3")
    await desk.send(queue, *(f"m{n}" for n in range(12)))
    _, lane = await desk.open(queue)
    records = await fetched(lane, 12)
    for _ in range(5):  # the function runs
        assert not (await lane.fetch(10)).records
    await settle(lane, records, Ack(records))
    assert await desk.counts(queue) == (0, 0)
    assert lane.expired == 0


async def test_a_failed_message_comes_again_and_its_receives_are_counted(desk: Desk) -> None:
    queue = await desk.create(VisibilityTimeout="1")
    await desk.send(queue, "m1")
    _, lane = await desk.open(queue)
    for receive in (1, 2, 3):
        records = await fetched(lane, 1)
        assert [record["Attributes"]["ApproximateReceiveCount"] for record in records] == [str(receive)]
        # By visibility timeout, by a delay, at once.
        await settle(lane, records, Release(records, {1: None, 2: 1.0, 3: 0.0}[receive]))
    assert await desk.counts(queue) == (1, 0)


async def test_a_queue_moves_what_always_fails_to_its_dead_letter_queue(desk: Desk) -> None:
    dead = await desk.create()
    arn = f"arn:aws:sqs:us-east-1:123456789012:{dead.rpartition('/')[2]}"
    queue = await desk.create(RedrivePolicy=json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "2"}))
    await desk.send(queue, "m1")
    source, lane = await desk.open(queue)
    assert source.policy == Redeliver(None, 2, None, False, fallback=SAFE_RECEIVE_COUNT)
    for _ in range(2):
        records = await fetched(lane, 1)
        await settle(lane, records, Release(records, 0.0))
    assert not (await lane.fetch(10)).records
    assert [message["Body"] for message in await desk.receive(dead, wait=5)] == ["m1"]
    assert await desk.counts(queue) == (0, 0)


async def test_groups_are_in_order_and_locked(desk: Desk) -> None:
    queue = await desk.create(fifo=True, VisibilityTimeout="30")
    for body in ("a0", "b0", "a1", "b1"):
        await desk.send(queue, body, MessageGroupId=body[0])
    _, lane = await desk.open(queue)
    records = await fetched(lane, 4)
    groups = {group: [record["Body"] for record in records if record["Body"][0] == group] for group in "ab"}
    assert groups == {"a": ["a0", "a1"], "b": ["b0", "b1"]}
    assert set(lane.format.facts(records).keys()) == {b"a", b"b"}
    await desk.send(queue, "a2", MessageGroupId="a")
    assert not (await lane.fetch(10)).records  # a is locked
    by_body = {record["Body"]: record for record in records}
    done, failed = [by_body["b0"], by_body["b1"], by_body["a0"]], [by_body["a1"]]
    await settle(lane, records, Ack(done), Release(failed, 1.0))
    again = await fetched(lane, 2)
    assert [record["Body"] for record in again] == ["a1", "a2"]  # the failed one first
    await settle(lane, again, Ack(again))
    assert await desk.counts(queue) == (0, 0)


async def test_message_and_system_attributes_are_in_the_event(desk: Desk) -> None:
    queue = await desk.create()
    await desk.send(
        queue,
        '{"a": 1}',
        MessageAttributes={
            "Author": {"StringValue": "John Grisham", "DataType": "String"},
            "Cover": {"BinaryValue": b"\x00\xff", "DataType": "Binary"},
        },
        MessageSystemAttributes={"AWSTraceHeader": {"StringValue": "Root=1-5759e988-bd862e3fe1be46a994272793", "DataType": "String"}},
    )
    source, lane = await desk.open(queue)
    records = await fetched(lane, 1)
    (element,) = lane.format.event(records).mapping()["Records"]
    assert element["messageAttributes"] == {
        "Author": {"stringValue": "John Grisham", "stringListValues": [], "binaryListValues": [], "dataType": "String"},
        "Cover": {"binaryValue": "AP8=", "stringListValues": [], "binaryListValues": [], "dataType": "Binary"},
    }
    assert element["attributes"]["AWSTraceHeader"] == "Root=1-5759e988-bd862e3fe1be46a994272793"
    assert {type(value) for value in element["attributes"].values()} == {str}
    assert (element["eventSourceARN"], element["awsRegion"]) == (source.identity, "us-east-1")
    head, parts, tail = lane.format.event(records).parts()
    assert lane.format.facts(records).sizes() == [len(parts[0]) + 1]
    assert json.loads(head + parts[0] + tail)["Records"] == [element]
    assert [document["body"] for document in lane.format.documents(records, ("body",))] == [{"a": 1}]


async def test_a_delayed_message_comes_when_it_is_due(desk: Desk) -> None:
    queue = await desk.create()
    sent = time.monotonic()
    await desk.send(queue, "m1", DelaySeconds=2)
    _, lane = await desk.open(queue)
    assert [record["Body"] for record in await fetched(lane, 1)] == ["m1"]
    assert time.monotonic() - sent > 1.9


async def test_closing_gives_back_at_once_what_is_not_settled(desk: Desk) -> None:
    queue = await desk.create(VisibilityTimeout="600")
    await desk.send(queue, *(f"m{n}" for n in range(13)))
    _, lane = await desk.open(queue)
    records = await fetched(lane, 13)
    await settle(lane, records[:2], Ack(records[:2]))
    await lane.aclose()
    await lane.aclose()
    assert await desk.counts(queue) == (11, 0)


async def test_a_missing_queue_says_what_to_do(desk: Desk) -> None:
    with pytest.raises(NotConnected, match=r"nowhere.*us-east-1.*127\.0\.0\.1.*no such thing") as raised:
        await desk.open("nowhere")
    assert raised.value.permanent


async def test_a_queue_that_is_deleted_while_it_is_polled(desk: Desk) -> None:
    queue = await desk.create()
    _, lane = await desk.open(queue)
    await desk.client.delete_queue(QueueUrl=queue)
    with pytest.raises(NotConnected) as raised:
        await lane.fetch(10)
    assert raised.value.permanent


async def test_check_live(desk: Desk) -> None:
    queue = await desk.create(VisibilityTimeout="10")
    await desk.send(queue, "m1")
    mapping = MappingSettings("m", "m", "f", Batching(10), FailureSettings(), 4)
    context = Context(mapping, cast("Store", None), "w", lambda: 0.0, Path(), Path())
    options = SqsOptions(queue=queue.rpartition("/")[2], region="us-east-1", endpoint=desk.url)
    findings = await connector.probe(options, context, 60.0)
    assert [finding.level for finding in findings] == ["ok", "warning", "ok"]
    (message,) = await desk.receive(queue)
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"  # ours, the first
