"""What became of batches, as it arrives at real queues, buckets and topics."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from connectors.s3 import kind as buckets
from connectors.sns import kind as topics
from connectors.sqs.destination import kind as queues
from tests.acceptance.harness import Site
from tests.acceptance.queues import Sqs
from tests.servers.aws import ACCOUNT, REGION
from tests.servers.receivers import Receiver, bucket_at, queue_at, topic_at

pytestmark = [pytest.mark.slow, pytest.mark.servers]


def address(receiver: Receiver) -> dict[str, Any]:
    """As a configuration names it."""
    return {"to": receiver.to, "endpoint": receiver.options.endpoint, "region": "us-east-1"}


async def test_failures_and_successes_of_a_stream_arrive_whole_and_what_is_too_large_in_the_bucket(
    site: Site, elasticmq: str, aws_services: str
) -> None:
    async with AsyncExitStack() as stack:
        queue = await queue_at(stack, elasticmq, queues)
        bucket = await bucket_at(stack, aws_services, buckets)
        topic = await topic_at(stack, aws_services, topics, queues)
        site.write(
            site.function(),
            site.mapping(
                "orders",
                {"type": "local-stream", "name": "orders"},
                batch_size=1,
                maximum_retry_attempts=1,
                retry_backoff={"initial": "10ms", "maximum": "10ms"},
                on_failure=[address(queue), address(bucket)],
                on_success=address(topic),
            ),
        )
        small, large = json.dumps({"do": "fail", "n": 1}), json.dumps({"do": "fail", "n": 2, "filling": "x" * 900_000})
        await in_thread(site.put, "orders", small, large, "good")
        with site.daemon() as daemon:
            told = await queue.bodies(2)
            (success,) = await topic.bodies(1)
            objects = await settled(bucket.objects, 2)
            await in_thread(daemon.stop)

    rows = {row.entry.id: row.entry for row in await in_thread(site.journal)}
    assert [(each["id"], each["requestContext"]["condition"], each["requestContext"]["approximateInvokeCount"]) for each in told] == [
        (entry.id, "RetryAttemptsExhausted", 2) for entry in rows.values()
    ]
    assert [each["KinesisBatchInfo"]["batchSize"] for each in told] == [1, 1]
    for each in told:
        entry = rows[each["id"]]
        assert entry.fault is not None
        assert each["error"]["message"] == entry.fault.message
        assert each["requestContext"]["requestId"] == entry.request_id != ""
    assert [json.loads(each["payload"])["Records"][0]["eventSource"] for each in told if "payload" in each] == ["aws:kinesis"]
    pointer = told[1]["payloadIn"].removeprefix(f"s3://{bucket.to.rpartition(':')[2]}/")
    # It was written twice, for the bucket and for who points there, and is one object.
    assert {name: body["id"] for name, body in objects.items()} == {
        pointer: told[1]["id"],
        next(name for name in objects if name != pointer): told[0]["id"],
    }
    assert len(objects[pointer]["payload"]) > 900_000
    assert success["requestContext"]["condition"] == "Success"
    assert success["requestPayload"]["Records"][0]["kinesis"]["sequenceNumber"]


def test_failures_that_would_come_back_as_messages_are_refused_though_the_queue_has_two_names(site: Site, sqs: Sqs) -> None:
    """Its ARN is known only once the queue was asked."""
    orders = sqs.create()
    source = sqs.source(orders)
    to = {"to": f"arn:aws:sqs:{REGION}:{ACCOUNT}:{orders}", "endpoint": source["endpoint"]}
    site.write(site.function(), site.mapping("orders", source, on_failure=to))
    sqs.send(orders, ["good"])
    with site.daemon() as daemon:
        daemon.complaint(f"the destination {to['to']} is the mapping's own source, and would feed it: name another one")
        daemon.stop()
    assert sqs.counts(orders) == (1, 0), "and nothing was received"


async def in_thread(call: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(call, *arguments)


async def settled(look: Callable[[], Awaitable[dict[str, Any]]], count: int) -> dict[str, Any]:
    """What is there once there is so much."""
    async with asyncio.timeout(15):
        while len(found := await look()) < count:
            await asyncio.sleep(0.05)
    return found
