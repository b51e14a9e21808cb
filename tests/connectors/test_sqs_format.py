"""The event of SQS messages, and the columns over them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.sqs.format import SqsFormat

ARN = "arn:aws:sqs:us-east-2:123456789012:my-queue"
FORMAT = SqsFormat(ARN, "us-east-2")

Message = dict[str, Any]


def message(body: str = "test", **more: Any) -> Message:
    attributes = {
        "ApproximateReceiveCount": "1",
        "SentTimestamp": "1545082649183",
        "SenderId": "AIDAIENQZJOLO23YVJ4VO",
        "ApproximateFirstReceiveTimestamp": "1545082649185",
    } | more.pop("attributes", {})
    return {
        "MessageId": "059f36b4-87a3-44ab-83d2-661975830a7d",
        "ReceiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a",
        "MD5OfBody": "098f6bcd4621d373cade4e832627b4f6",
        "Body": body,
        "Attributes": attributes,
    } | more


PLAIN = {
    "messageId": "059f36b4-87a3-44ab-83d2-661975830a7d",
    "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a",
    "body": "test",
    "attributes": {
        "ApproximateReceiveCount": "1",
        "SentTimestamp": "1545082649183",
        "SenderId": "AIDAIENQZJOLO23YVJ4VO",
        "ApproximateFirstReceiveTimestamp": "1545082649185",
    },
    "messageAttributes": {},
    "md5OfBody": "098f6bcd4621d373cade4e832627b4f6",
    "eventSource": "aws:sqs",
    "eventSourceARN": ARN,
    "awsRegion": "us-east-2",
}

ATTRIBUTED = message(
    MessageAttributes={
        "Author": {"StringValue": "John Grisham", "DataType": "String"},
        "WeeksOn": {"StringValue": "6", "DataType": "Number"},
        "Cover": {"BinaryValue": b"\x00\xff", "DataType": "Binary.png"},
        "Raw": {"BinaryValue": "AP8=", "DataType": "Binary"},
    },
    MD5OfMessageAttributes="d25a6aea97eb8f585bfa92d314504a92",
)

FIFO = message(
    attributes={
        "SequenceNumber": "18849496460467696128",
        "MessageGroupId": "1",
        "MessageDeduplicationId": "dedup-1",
        "AWSTraceHeader": "Root=1-5759e988-bd862e3fe1be46a994272793",
        "ApproximateReceiveCount": "3",
    }
)


def test_a_plain_message() -> None:
    event = FORMAT.event([message()])
    assert event.mapping() == {"Records": [PLAIN]}
    assert list(event.mapping()["Records"][0]) == list(PLAIN)  # AWS's order
    assert json.loads(event.json()) == event.mapping()


def test_message_attributes() -> None:
    (element,) = FORMAT.event([ATTRIBUTED]).mapping()["Records"]
    assert element["messageAttributes"] == {
        "Author": {"stringValue": "John Grisham", "stringListValues": [], "binaryListValues": [], "dataType": "String"},
        "WeeksOn": {"stringValue": "6", "stringListValues": [], "binaryListValues": [], "dataType": "Number"},
        "Cover": {"binaryValue": "AP8=", "stringListValues": [], "binaryListValues": [], "dataType": "Binary.png"},
        "Raw": {"binaryValue": "AP8=", "stringListValues": [], "binaryListValues": [], "dataType": "Binary"},
    }
    assert element["md5OfMessageAttributes"] == "d25a6aea97eb8f585bfa92d314504a92"
    assert [*element] == [*list(PLAIN)[:5], "md5OfMessageAttributes", *list(PLAIN)[5:]]
    json.loads(FORMAT.event([ATTRIBUTED]).json())


def test_fifo_attributes_and_the_trace_header_are_passed_on() -> None:
    (element,) = FORMAT.event([FIFO]).mapping()["Records"]
    assert element["attributes"] == FIFO["Attributes"]


def test_the_event_is_the_functions_to_change() -> None:
    records = [message(), ATTRIBUTED]
    event = FORMAT.event(records)
    spoilt = event.mapping()
    for element in spoilt["Records"]:
        element["attributes"].clear()
        element["messageAttributes"]["new"] = 1
    assert event.mapping() == FORMAT.event([message(), ATTRIBUTED]).mapping()


def test_columns() -> None:
    facts = FORMAT.facts([message(), FIFO])
    assert facts.tokens() == ["AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a"] * 2
    assert facts.arrivals() == [1545082649.183] * 2
    assert facts.keys() == [None, b"1"]
    assert facts.receives() == [1, 3]
    assert FORMAT.names([message()]) == FORMAT.event([message()]).identifiers() == ["059f36b4-87a3-44ab-83d2-661975830a7d"]


@given(
    st.lists(
        st.builds(
            message,
            st.text(),
            ReceiptHandle=st.text(max_size=5),
            attributes=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
            MessageAttributes=st.dictionaries(
                st.text(max_size=5), st.builds(lambda text: {"StringValue": text, "DataType": "String"}, st.text(max_size=5)), max_size=2
            ),
        )
        | st.builds(message, st.text(alphabet='"\\\n\x00é😀')),
        min_size=1,
        max_size=5,
    )
)
def test_sizes_are_exact_and_parts_make_the_event(records: list[Message]) -> None:
    event = FORMAT.event(records)
    head, parts, tail = event.parts()
    assert head + b",".join(parts) + tail == event.json()
    assert FORMAT.facts(records).sizes() == [len(part) + 1 for part in parts]  # and the comma


def test_half_a_surrogate_pair_stops_nothing() -> None:
    records = [message("\ud800 and text")]
    assert json.loads(FORMAT.event(records).json()) == FORMAT.event(records).mapping()
    assert FORMAT.facts(records).sizes()[0] > 0
    assert [document["body"] for document in FORMAT.documents(records)] == ["\ud800 and text"]


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        ('{"kind": "order", "n": 1.50}', {"kind": "order", "n": 1.5}),
        ('{"kind": 1, "kind": 2}', {"kind": 2}),
        ("[1, 2]", [1, 2]),
        ("plain text", "plain text"),
        ('{"broken": ', '{"broken": '),
        ('"quoted"', '"quoted"'),
        ("300", "300"),
        ("", ""),
        ("NaN", "NaN"),
        ("[" * 5000, "[" * 5000),
    ],
)
def test_filters_see_the_body_parsed_and_the_function_does_not(body: str, seen: Any) -> None:
    (document,) = FORMAT.documents([message(body)])
    assert document["body"] == seen
    assert document["attributes"]["ApproximateReceiveCount"] == "1"
    assert FORMAT.event([message(body)]).mapping()["Records"][0]["body"] == body


# --- recorded cases ---------------------------------------------------------------------------------------------------------------------


def cases(name: str) -> Any:
    folder = os.environ.get("POLLER_CASES")
    if folder is None:
        pytest.skip("POLLER_CASES names no folder of recorded cases")
    return json.loads((Path(folder) / name).read_text())


def test_the_shape_recorded_on_aws() -> None:
    recorded = {case["name"]: case for case in cases("esm-observed-on-aws.json")["cases"]}
    (element,) = recorded["sqs/event/plain"]["observed"]["events"][0]["Records"]
    ours = FORMAT.event([message()]).mapping()["Records"][0]
    assert set(ours) == set(element) - {"md5OfMessageAttributes"}  # null there, absent in its other recordings
    expected = recorded["sqs/event/message-attributes"]["expect"]
    attributes = recorded["sqs/event/message-attributes"]["input"]["MessageAttributes"]
    (ours,) = FORMAT.event([message(MessageAttributes=attributes, MD5OfMessageAttributes="d25a")]).mapping()["Records"]
    assert ours["messageAttributes"] == expected["messageAttributes"]
    assert set(ours) == set(expected["record_keys"])


def test_every_recorded_sample_event_comes_out_again() -> None:
    """Back to messages and into an event: nothing a handler reads is missing."""
    events = [event for event in cases("powertools-events.json")["events"].values() if _is_sqs(event)]
    assert events
    for event in events:
        for element in event["Records"]:
            raw = message(
                element["body"],
                MessageId=element["messageId"],
                ReceiptHandle=element["receiptHandle"],
                MD5OfBody=element["md5OfBody"],
            ) | {"Attributes": element["attributes"]}
            (ours,) = SqsFormat(element["eventSourceARN"], element["awsRegion"]).event([raw]).mapping()["Records"]
            assert ours == element | {"messageAttributes": {}}


def _is_sqs(event: Any) -> bool:
    return "Records" in event and event["Records"][0].get("eventSource") == "aws:sqs"
