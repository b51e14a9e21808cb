"""Powertools for AWS Lambda (Python) over Kinesis and DynamoDB Streams: its batch processors and data classes, unmodified.

The functions (functions/powertools_streams.py) are written as its documentation has them. They import nothing of this project.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from connectors.dynamodb_streams.client import answered as changes_of
from connectors.dynamodb_streams.format import ChangeFormat
from connectors.kinesis.client import answered as records_of
from connectors.kinesis.format import KinesisFormat
from handlers import python
from poller.model import Call, Returned
from poller.protocols import Event
from poller.settings import FunctionSettings
from tests.acceptance.harness import FUNCTIONS, Site
from tests.acceptance.shards import Stream, Table

REPORTING = ["ReportBatchItemFailures"]
SHARD = "shardId-000000000006"
STREAM = "arn:aws:kinesis:us-east-2:123456789012:stream/lambda-stream"
TABLE = "arn:aws:dynamodb:us-west-2:111122223333:table/TestTable/stream/2015-05-11T21:21:33.291"


def order(n: int, do: str = "") -> str:
    return json.dumps({"n": n, "do": do} if do else {"n": n})


async def result(name: str, event: Event, out: Path) -> Any:
    """What a function in a process of its own makes of it."""
    settings = FunctionSettings("orders", f"powertools_streams.{name}", FUNCTIONS, timeout=20.0, environment=(("OUT", str(out)),))
    handler = python.connect(settings, lambda *_: None)
    try:
        async with asyncio.timeout(30.0):
            response = await handler.invoke(event, Call(str(uuid.uuid4()), time.time() + 20.0, 20.0))
    finally:
        await handler.aclose()
    assert isinstance(response, Returned), response
    return json.loads(response.payload)


async def test_the_data_class_of_kinesis_reads_every_field(tmp_path: Path) -> None:
    number = "49590338271490256608559692538361571095921575989136588898"
    told = {
        "SequenceNumber": number,
        "ApproximateArrivalTimestamp": 1545084650.987,
        "Data": base64.b64encode("\u00e9 {}".encode()).decode(),
        "PartitionKey": "1",
    }
    records = records_of(json.dumps({"Records": [told]}).encode(), SHARD).records
    event = KinesisFormat(STREAM, "arn:aws:iam::123456789012:role/poller").event(records)
    (seen,) = await result("look_at_records", event, tmp_path / "out")
    assert seen == {
        "id": f"{SHARD}:{number}",
        "name": "aws:kinesis:record",
        "source": "aws:kinesis",
        "arn": STREAM,
        "version": "1.0",
        "region": "us-east-2",
        "role": "arn:aws:iam::123456789012:role/poller",
        "arrival": 1545084650.987,
        "schema": "1.0",
        "key": "1",
        "number": number,
        "data": "\u00e9 {}",
    }


async def test_the_data_class_of_dynamodb_reads_every_field(tmp_path: Path) -> None:
    change = {
        "ApproximateCreationDateTime": 1545084650.0,
        "Keys": {"Id": {"N": "101"}},
        "OldImage": {"Id": {"N": "101"}, "Blob": {"B": "AP8="}},
        "NewImage": {"Id": {"N": "101"}, "Names": {"SS": ["a"]}, "Deep": {"M": {"L": {"L": [{"NULL": True}, {"BOOL": False}]}}}},
        "SequenceNumber": "222",
        "SizeBytes": 59,
        "StreamViewType": "NEW_AND_OLD_IMAGES",
    }
    told = {"eventID": "c81e728d9d4c2f636f067f89cc14862c", "eventName": "MODIFY", "awsRegion": "us-west-2", "dynamodb": change}
    event = ChangeFormat(TABLE).event(changes_of(json.dumps({"Records": [told]}).encode(), SHARD).records)
    (seen,) = await result("look_at_changes", event, tmp_path / "out")
    assert seen == {
        "id": "c81e728d9d4c2f636f067f89cc14862c",
        "name": "MODIFY",
        "source": "aws:dynamodb",
        "arn": TABLE,
        "version": "1.1",
        "region": "us-west-2",
        "identity": {},
        "created": 1545084650,
        "keys": "{'Id': Decimal('101')}",
        "old": "{'Id': Decimal('101'), 'Blob': 'AP8='}",
        "new": "{'Id': Decimal('101'), 'Names': {'a'}, 'Deep': {'L': [None, False]}}",
        "number": "222",
        "size": 59,
        "view": "NEW_AND_OLD_IMAGES",
    }


def processed(site: Site, source: Stream | Table, handler: str) -> list[str]:
    """Some records fail once, one always; all others are handled. The body of that one, and what is kept of it."""
    site.write(
        site.function(code=FUNCTIONS, handler=f"powertools_streams.{handler}", concurrency=2),
        site.mapping(
            "orders",
            source.source,
            batch_size=10,
            maximum_retry_attempts=2,
            retry_backoff={"initial": "10ms", "maximum": "50ms"},
            function_response_types=REPORTING,
        ),
    )
    deeds = dict.fromkeys(range(3, 40, 9), "fail-once") | {25: "fail"}
    bodies = [order(n, deeds.get(n, "")) for n in range(40)]
    source.fill(bodies)
    with site.daemon() as daemon:
        daemon.until(lambda: len(site.journal()) == 1 and site.handled(*(body for n, body in enumerate(bodies) if n != 25)))
        daemon.stop()
    (row,) = site.journal()
    assert row.entry.reason == "RetryAttemptsExhausted"
    (kept,) = row.entry.records
    element = json.loads(kept.json)
    return [bodies[25], element["kinesis"]["data"] if "kinesis" in element else element["dynamodb"]["NewImage"]["body"]["S"]]


@pytest.mark.slow
@pytest.mark.servers
def test_a_batch_processor_on_a_stream(site: Site, kinesis_local: str) -> None:
    poison, kept = processed(site, Stream(kinesis_local, 2), "handle_records")
    assert base64.b64decode(kept).decode() == poison


@pytest.mark.slow
@pytest.mark.servers
def test_a_batch_processor_on_the_changes_of_a_table(site: Site, dynamodb: str) -> None:
    poison, kept = processed(site, Table(dynamodb), "handle_changes")
    assert kept == poison
