"""Which records a failure is of, as each connector tells it: whole, from what its own format wrote to the journal."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from connectors.dynamodb_streams import connector as dynamodb
from connectors.kafka import connector as kafka
from connectors.kafka.format import KafkaFormat
from connectors.kinesis import connector as kinesis
from connectors.kinesis.client import KinesisRecord
from connectors.kinesis.format import KinesisFormat
from connectors.local import queue_connector, stream_connector
from connectors.sqs import connector as sqs
from connectors.sqs.format import SqsFormat
from poller.failures.entry import entry
from poller.failures.invocation import event
from poller.failures.journal import Entry, KeptRecord
from poller.model import Failure, Window
from poller.protocols import Format
from poller.settings import Describing
from poller.testing.journals import make_entry
from poller.windows import FinalFormat, Windows

STREAM = "arn:aws:kinesis:eu-west-1:123456789012:stream/orders"
SHARD = "shardId-000000000001"


def kept(records: Any, format: Format, lane: str = SHARD) -> Entry:
    """As the engine gives it to the journal."""
    failure = Failure(records, "RetryAttemptsExhausted", 3)
    return entry(failure, format, mapping="m", source="s", lane=lane, function="f", now=1573691886.0)


def kinesis_records() -> list[KinesisRecord]:
    return [
        KinesisRecord("49590338271490256608559692538361571095921575989136588898", 1545084650.987, "k", "aGk=", SHARD),
        KinesisRecord("49590338271490256608559692540925702759324208523137515618", 1545084711.166, "k", "aGk=", SHARD),
    ]


KINESIS = {
    "shardId": SHARD,
    "startSequenceNumber": "49590338271490256608559692538361571095921575989136588898",
    "endSequenceNumber": "49590338271490256608559692540925702759324208523137515618",
    "approximateArrivalOfFirstRecord": "2018-12-17T22:10:50.987Z",
    "approximateArrivalOfLastRecord": "2018-12-17T22:11:51.166Z",
    "batchSize": 2,
    "streamArn": STREAM,
}


@pytest.mark.parametrize("connector", [kinesis, stream_connector])
def test_records_of_kinesis(connector: Describing) -> None:
    told = connector.describe(kept(kinesis_records(), KinesisFormat(STREAM, "role")))
    assert told == {"KinesisBatchInfo": KINESIS}
    assert list(told["KinesisBatchInfo"]) == [*KINESIS], "in AWS's order"


def test_user_records_of_an_aggregate_are_found_where_it_is() -> None:
    """Who reads the stream again between the two numbers knows no others."""
    records = kinesis_records()
    for number, each in enumerate(records, 1):
        each.sequence, each.sub, each.aggregated = records[0].sequence, number, True
    told = kinesis.describe(kept(records, KinesisFormat(STREAM, "role")))["KinesisBatchInfo"]
    assert told["startSequenceNumber"] == told["endSequenceNumber"] == KINESIS["startSequenceNumber"]
    assert told["shardId"] == SHARD


def test_a_windows_final_invocation_has_no_records() -> None:
    windows = Windows(60, SHARD, STREAM, Window(1545084600, 1545084660, 7, closing="over"))
    told = kinesis.describe(kept([windows.window], FinalFormat(windows)))
    assert told == {"KinesisBatchInfo": {"shardId": SHARD, "batchSize": 0, "streamArn": STREAM}}


def test_changes_of_a_table() -> None:
    arn = "arn:aws:dynamodb:eu-west-1:123456789012:table/orders/stream/2019-11-14T00:13:19.000"
    changes = [
        {"eventID": "1", "dynamodb": {"ApproximateCreationDateTime": moment, "SequenceNumber": sequence}, "eventSourceARN": arn}
        for moment, sequence in ((1573690399.0, "800000000003126276362"), (1573690400.0, "800000000003126276363"))
    ]
    shard = "shardId-00000001573689847184-864758bb"
    records = tuple(KeptRecord(f"{shard}:{each['dynamodb']['SequenceNumber']}", "k", 0.0, orjson.dumps(each)) for each in changes)  # type: ignore[index]
    told = dynamodb.describe(make_entry("f", records=records, lane=shard))
    expected = {
        "shardId": shard,
        "startSequenceNumber": "800000000003126276362",
        "endSequenceNumber": "800000000003126276363",
        "approximateArrivalOfFirstRecord": "2019-11-14T00:13:19Z",
        "approximateArrivalOfLastRecord": "2019-11-14T00:13:20Z",
        "batchSize": 2,
        "streamArn": arn,
    }
    assert told == {"DDBStreamBatchInfo": expected}
    assert list(told["DDBStreamBatchInfo"]) == [*expected]


def kafka_record(offset: int, timestamp: int | None) -> Any:
    return SimpleNamespace(offset=offset, timestamp=timestamp, timestamp_type=0, key=b"k", value=b"v", headers=())


def test_records_of_a_partition() -> None:
    made = kept([kafka_record(41, 1573691884835), kafka_record(57, -1)], KafkaFormat("one:9092,two:9092", "orders", 3), "orders-3")
    told = kafka.describe(made)
    expected = {
        "batchSize": 2,
        "bootstrapServers": "one:9092,two:9092",
        "payloadSize": len(event(made)),
        "recordsInfo": {
            "orders-3": {
                "firstRecordOffset": "41",
                "lastRecordOffset": "57",
                "firstRecordTimestamp": "2019-11-14T00:38:04.835Z",
                "lastRecordTimestamp": None,
            }
        },
    }
    assert told == {"KafkaBatchInfo": expected}
    assert list(told["KafkaBatchInfo"]) == [*expected]


def test_a_managed_cluster_is_named() -> None:
    made = kept([kafka_record(41, 1573691884835)], KafkaFormat("one:9092", "orders", 3), "orders-3")
    arn = "arn:aws:kafka:eu-west-1:123456789012:cluster/orders/1"
    named = replace(made, head=made.head.replace(b'{"eventSource"', b'{"eventSourceArn":"%s","eventSource"' % arn.encode()))
    assert list(kafka.describe(named)["KafkaBatchInfo"].items())[:2] == [("batchSize", 1), ("eventSourceArn", arn)]


@pytest.mark.parametrize("connector", [sqs, queue_connector])
def test_messages_of_a_queue(connector: Describing) -> None:
    """AWS has no such record; this is made after those that it has."""
    messages = [
        {
            "MessageId": name,
            "ReceiptHandle": "r",
            "Body": "half a pair: \ud83d",
            "MD5OfBody": "m",
            "Attributes": {"SentTimestamp": sent, "ApproximateReceiveCount": "2"},
        }
        for name, sent in (("m1", "1573691884835"), ("m2", "1573691885580"))
    ]
    arn = "arn:aws:sqs:eu-west-1:123456789012:orders"
    assert connector.describe(kept(messages, SqsFormat(arn, "eu-west-1"), "queue")) == {
        "SQSBatchInfo": {
            "firstMessageId": "m1",
            "lastMessageId": "m2",
            "approximateArrivalOfFirstRecord": "2019-11-14T00:38:04.835Z",
            "approximateArrivalOfLastRecord": "2019-11-14T00:38:05.580Z",
            "batchSize": 2,
            "queueArn": arn,
        }
    }
