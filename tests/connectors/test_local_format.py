"""What functions get: SQS's and Kinesis's events."""

import json
from hashlib import md5
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.local.feed import draft
from connectors.local.format import Entry, EntryFormat, Message, MessageFormat
from poller.feed import Item
from poller.quotas import MAXIMUM_EVENT_BYTES

SQS = {
    "messageId": "059f36b4-87a3-44ab-83d2-661975830a7d",
    "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a...",
    "body": "test",
    "attributes": {
        "ApproximateReceiveCount": "1",
        "SentTimestamp": "1545082649183",
        "SenderId": "AIDA...",
        "ApproximateFirstReceiveTimestamp": "1545082649185",
        "SequenceNumber": "18849496460467696128",
        "MessageGroupId": "1",
        "MessageDeduplicationId": "dedup-1",
    },
    "messageAttributes": {
        "Author": {"stringValue": "John Grisham", "stringListValues": [], "binaryListValues": [], "dataType": "String"},
    },
    "md5OfMessageAttributes": "d25a6aea97eb8f585bfa92d314504a92",
    "md5OfBody": "098f6bcd4621d373cade4e832627b4f6",
    "eventSource": "aws:sqs",
    "eventSourceARN": "arn:aws:sqs:us-east-2:123456789012:my-queue",
    "awsRegion": "us-east-2",
}
KINESIS: dict[str, Any] = {
    "kinesis": {
        "kinesisSchemaVersion": "1.0",
        "partitionKey": "1",
        "sequenceNumber": "49590338271490256608559692538361571095921575989136588898",
        "data": "SGVsbG8sIHRoaXMgaXMgYSB0ZXN0Lg==",
        "approximateArrivalTimestamp": 1545084650.987,
    },
    "eventSource": "aws:kinesis",
    "eventVersion": "1.0",
    "eventID": "shardId-000000000006:49590338271490256608559692538361571095921575989136588898",
    "eventName": "aws:kinesis:record",
    "invokeIdentityArn": "arn:aws:iam::123456789012:role/lambda-role",
    "awsRegion": "us-east-2",
    "eventSourceARN": "arn:aws:kinesis:us-east-2:123456789012:stream/lambda-stream",
}


def shape(value):
    """Names and types, all the way down; what messageAttributes are called is the sender's."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    return [shape(each) for each in value] if isinstance(value, list) else type(value)


def message(item: Item, fifo: bool, receives=1, earlier=0, origin=None, id=7) -> Message:
    made = draft(0, item, fifo)
    return Message(
        *(id, receives, earlier, 1545082649.185, 1545082649.1834, 1545082649.185, made.message_id, made.body, made.md5, made.size),
        *(made.attributes, made.attributes_md5, made.group, made.deduplication or (made.message_id if fifo else None), origin),
    )


FIFO = message(Item(b"test", "1", {"Author": "John Grisham"}, "dedup-1"), True)
PLAIN = message(Item(b"test"), False)
ENTRY = Entry("shardId-000000000006", 42, 1545084650.98712, "1", b"Hello, this is a test.")


def test_a_fifo_message_has_the_shape_of_sqs():
    (element,) = MessageFormat("orders").event([FIFO]).mapping()["Records"]
    assert shape(element) == shape(SQS)
    same = ("body", "md5OfBody", "messageAttributes", "eventSource")
    assert {key: element[key] for key in same} == {key: SQS[key] for key in same}
    assert element["eventSourceARN"] == "arn:aws:sqs:local:000000000000:orders"
    assert element["attributes"] == {
        "ApproximateReceiveCount": "1",
        "SentTimestamp": "1545082649183",
        "SenderId": "local",
        "ApproximateFirstReceiveTimestamp": "1545082649185",
        "SequenceNumber": "00000000000000000007",
        "MessageGroupId": "1",
        "MessageDeduplicationId": "dedup-1",
    }


def test_the_digest_of_message_attributes_is_sqss():
    # Recorded on AWS: one String and one Number attribute gave another digest; this one is computed by hand from SQS's description.
    packed = b"\0\0\0\x06Author" + b"\0\0\0\x06String" + b"\x01" + b"\0\0\0\x0cJohn Grisham"
    (element,) = MessageFormat("orders").event([FIFO]).mapping()["Records"]
    assert element["md5OfMessageAttributes"] == md5(packed).hexdigest()


def test_a_standard_message_has_no_fifo_attributes_and_no_digest_of_none():
    (element,) = MessageFormat("orders").event([PLAIN]).mapping()["Records"]
    expected = {key: value for key, value in shape(SQS).items() if key != "md5OfMessageAttributes"} | {"messageAttributes": {}}
    expected["attributes"] = dict.fromkeys(
        ("ApproximateReceiveCount", "SentTimestamp", "SenderId", "ApproximateFirstReceiveTimestamp"), str
    )
    assert shape(element) == expected


def test_receipt_handles_differ_from_receive_to_receive():
    again = message(Item(b"test"), False, receives=2)
    handles = [element["receiptHandle"] for element in MessageFormat("orders").elements([PLAIN, again])]
    assert len(set(handles)) == 2


def test_a_redriven_message_says_where_from_and_goes_on_counting():
    moved = message(Item(b"x"), False, receives=1, earlier=3, origin="arn:aws:sqs:local:000000000000:orders")
    dead = MessageFormat("dead")
    (element,) = dead.elements([moved])
    assert element["attributes"]["DeadLetterQueueSourceArn"] == "arn:aws:sqs:local:000000000000:orders"
    assert element["attributes"]["ApproximateReceiveCount"] == "4"
    assert dead.facts([moved]).receives() == [1]


def test_a_record_has_the_shape_of_kinesis():
    (element,) = EntryFormat("clicks").event([ENTRY]).mapping()["Records"]
    assert shape(element) == shape(KINESIS)
    assert element["kinesis"] == dict(KINESIS["kinesis"], sequenceNumber="42")
    assert element["eventID"] == "shardId-000000000006:42"
    assert element["eventSourceARN"] == "arn:aws:kinesis:local:000000000000:stream/clicks"


@pytest.mark.parametrize(("format", "records"), [(MessageFormat("q"), [FIFO, PLAIN]), (EntryFormat("s"), [ENTRY, ENTRY])])
def test_the_event_is_the_same_in_all_its_forms(format, records):
    event = format.event(records)
    head, parts, tail = event.parts()
    assert head + b",".join(parts) + tail == event.json()
    assert json.loads(event.json()) == event.mapping()
    event.mapping()["Records"].clear()
    assert len(event.mapping()["Records"]) == 2, "the mapping is the function's to change"


def test_columns_and_identifiers():
    queue, stream = MessageFormat("q"), EntryFormat("s")
    facts = queue.facts([FIFO, PLAIN])
    assert (facts.keys(), facts.receives(), facts.arrivals()) == ([b"1", None], [1, 1], [1545082649.1834] * 2)
    assert queue.event([FIFO]).identifiers() == [FIFO.message_id] == queue.names([FIFO])
    columns = stream.facts([ENTRY])
    assert (columns.tokens(), columns.keys(), columns.arrivals()) == ([42], [b"1"], [1545084650.98712])
    assert stream.event([ENTRY]).identifiers() == ["42"]
    assert stream.names([ENTRY]) == ["shardId-000000000006:42"]


def test_filters_see_the_body_parsed_where_it_is_json():
    documents = list(MessageFormat("q").documents([message(Item(b'{"kind": "order"}'), False), message(Item(b"no json"), False)]))
    assert [document["body"] for document in documents] == [{"kind": "order"}, "no json"]
    assert documents[0]["attributes"]["SenderId"] == "local"


def test_filters_see_a_streams_data_and_kinesis_fields_at_the_top():
    datas = (b'{"a": 1}', b"text", b"\xff\xfe")
    documents = list(EntryFormat("s").documents([Entry("shardId-000000000000", 1, 1.0, "k", data) for data in datas]))
    assert [document["data"] for document in documents] == [{"a": 1}, "text", None]
    assert documents[0]["partitionKey"] == "k" and documents[0]["eventSource"] == "aws:kinesis" and "kinesis" not in documents[0]


@given(
    st.text(min_size=1, max_size=300),
    st.text(min_size=1, max_size=128),
    st.dictionaries(st.text(min_size=1, max_size=20), st.text(max_size=50), max_size=5),
    st.none() | st.text(min_size=1, max_size=128),
    st.booleans(),
)
def test_law_a_messages_size_bounds_its_json(body, group, attributes, deduplication, fifo):
    record = message(Item(body.encode(), group, attributes, deduplication), fifo, 10**6, 10**6, "arn:" + "x" * 160, 2**62)
    queue = MessageFormat("q" * 128)
    assert queue.facts([record]).sizes()[0] >= len(queue.event([record]).parts()[1][0]) + 1


@given(st.text(min_size=1, max_size=256), st.binary(max_size=300), st.integers(0, 2**40), st.floats(0, 2e9))
def test_law_a_records_size_bounds_its_json(key, data, sequence, arrival):
    record = Entry("shardId-000000000999", sequence, arrival, key, data)
    stream = EntryFormat("s" * 128)
    assert stream.facts([record]).sizes()[0] >= len(stream.event([record]).parts()[1][0]) + 1


def test_sizes_are_exact_where_one_record_may_be_over_the_limit_alone():
    huge = Entry("shardId-000000000000", 1, 1.0, "k", b"x" * MAXIMUM_EVENT_BYTES)
    control = message(Item(b"\x01" * 1024 * 1024), False)
    cases: list[tuple[Any, Any, Any]] = [(EntryFormat("s"), ENTRY, huge), (MessageFormat("q"), PLAIN, control)]
    for own, small, large in cases:
        sizes = own.facts([small, large]).sizes()
        assert sizes[1] == len(orjson.dumps(own.elements([large])[0])) + 1 > MAXIMUM_EVENT_BYTES
        assert sizes[0] < 2000
