"""What SQS costs a message: ours beside a bare aiobotocore loop with as many pollers, both against canned answers (sqs_server.py).

A poller of the bare loop receives ten, builds the same event, calls the same function, and deletes the ten with one call. It does not
extend what it holds, or retry. Ours signs its calls by hand, and asks botocore for the credentials alone.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import function
from benchmarks.canned import canned
from benchmarks.comparison import Comparison, Limit, Reading, Side
from benchmarks.mapping import polled
from benchmarks.sqs_server import ARN
from benchmarks.usage import until
from connectors.sqs import SqsConnector, SqsOptions
from connectors.sqs.format import SqsFormat

POLLERS = 8
TEN = 10
REGION = "us-east-1"
HIDDEN = 30
"""Seconds; the canned queue's visibility timeout."""


async def ours(messages: int) -> Reading:
    """CPU a message through the connector and the engine."""
    with tempfile.TemporaryDirectory() as folder:
        # More than is measured: a queue that runs dry is another matter.
        async with canned("sqs_server", messages=2 * messages) as url:
            options = SqsOptions(queue="canned", region=REGION, endpoint=url, wait_time="1s")
            return await polled(
                SqsConnector(), options, "queue", Path(folder), messages, lambda counters: counters.deleted, size=TEN, width=POLLERS
            )


async def bare(messages: int) -> Reading:
    """CPU a message of the client alone."""
    from aiobotocore.config import AioConfig
    from aiobotocore.session import AioSession

    async with canned("sqs_server", messages=2 * messages) as url:
        config = AioConfig(max_pool_connections=2 * POLLERS)
        async with AioSession().create_client("sqs", region_name=REGION, endpoint_url=url, config=config) as client:
            loop = _Loop(client, (await client.get_queue_url(QueueName="canned"))["QueueUrl"])
            pollers = [asyncio.create_task(loop.poll()) for _ in range(POLLERS)]
            reading = await until(lambda: loop.deleted, messages)
            for poller in pollers:
                poller.cancel()
            await asyncio.gather(*pollers, return_exceptions=True)
            return reading


class _Loop:
    def __init__(self, client: Any, queue: str) -> None:
        self.client, self.queue, self.deleted = client, queue, 0
        self.format = SqsFormat(ARN, REGION)

    async def poll(self) -> None:
        while True:
            answer = await self.client.receive_message(
                QueueUrl=self.queue,
                MaxNumberOfMessages=TEN,
                VisibilityTimeout=HIDDEN,
                MessageSystemAttributeNames=["All"],
                MessageAttributeNames=["All"],
            )
            messages = answer["Messages"]
            function.queue(self.format.event(messages).mapping(), None)
            entries = [{"Id": str(place), "ReceiptHandle": message["ReceiptHandle"]} for place, message in enumerate(messages)]
            await self.client.delete_message_batch(QueueUrl=self.queue, Entries=entries)
            self.deleted += len(messages)


SIDES = {"ours": ours, "bare": bare}


def comparisons(quick: bool) -> list[Comparison]:
    parameters = {"messages": 1_000 if quick else 10_000}
    ours, bare = Side("sqs", "ours", parameters), Side("sqs", "bare", parameters)
    return [Comparison(f"SQS, batches of {TEN}, {POLLERS} at once", "us/message", ours, bare, Limit("times", at_most=1.15))]
