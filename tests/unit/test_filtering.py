"""What filters mean for the records of each source: AWS's matrix of data against patterns, and which keys there are.

AWS Lambda developer guide, "Control which events Lambda sends to your function", and its pages for SQS, Kinesis and Kafka.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.fields import MESSAGE, RECORD
from connectors.kafka.format import KafkaFormat
from connectors.kafka.options import FILTERABLE as TOPIC
from connectors.local.format import Entry, EntryFormat, Message, MessageFormat
from connectors.sqs.format import SqsFormat
from poller.filtering import Filtering, readable
from poller.filters import compile_pattern
from poller.protocols import DataFormat, Format
from poller.settings import Filterable, FilterSettings

NO_TEXT = b"\xff\xfe"


@dataclass(frozen=True)
class Source:
    """A source's format, how its records are made of data, and a pattern about something else that each of them meets."""

    name: str
    format: Format
    over: Filterable
    made: Callable[[bytes], Any]
    met: dict[str, Any]

    def __repr__(self) -> str:
        return self.name

    def lets_in(self, data: bytes | None, *patterns: dict[str, Any]) -> bool:
        """`DATA` in the patterns stands for the key of the data."""
        texts = tuple(json.dumps(pattern).replace("DATA", self.over.data) for pattern in patterns)
        record = self.made(cast("bytes", data))
        wanted, unwanted = Filtering(FilterSettings(texts, self.over)).split(self.format, [record])
        assert [*wanted, *unwanted] == [record]
        return bool(wanted)


@dataclass(frozen=True)
class TopicRecord:
    """A record as the client gives it, of which filters see no more than this."""

    value: bytes | None
    offset: int = 7
    timestamp: int = 1763686800000
    timestamp_type: int = 0


def sqs_message(body: bytes) -> dict[str, Any]:
    attributes = {
        "ApproximateReceiveCount": "1",
        "SentTimestamp": "1763686800000",
        "SenderId": "AIDAEXAMPLE",
        "ApproximateFirstReceiveTimestamp": "1763686800001",
    }
    return {"MessageId": "m", "ReceiptHandle": "h", "Body": body.decode(), "Attributes": attributes, "MD5OfBody": "5"}


def local_message(body: bytes) -> Message:
    return Message(1, 1, 0, 1.0, 1.0, 1.0, "m", body.decode(), "5", len(body), None, None, None, None, None)


def stream_entry(data: bytes) -> Entry:
    return Entry("s", 1, 1.0, "k", data)


SQS = Source("sqs", SqsFormat("arn:aws:sqs:r:1:q", "r"), MESSAGE, sqs_message, {"attributes": {"SenderId": ["AIDAEXAMPLE"]}})
LOCAL_QUEUE = Source("local-queue", MessageFormat("q"), MESSAGE, local_message, {"eventSource": ["aws:sqs"]})
LOCAL_STREAM = Source("local-stream", EntryFormat("s"), RECORD, stream_entry, {"partitionKey": ["k"]})
KAFKA = Source("kafka", KafkaFormat("broker:9092", "t", 0), TOPIC, TopicRecord, {"partition": [0]})

QUEUES = (SQS, LOCAL_QUEUE)
DROPPING = (SQS, LOCAL_QUEUE, LOCAL_STREAM)
ALL = (*DROPPING, KAFKA)

JSON = {"DATA": {"kind": ["order"]}}
OTHER_JSON = {"DATA": {"kind": ["bill"]}}
NO_FIELD = {"DATA": {"gone": [{"exists": False}]}}
TEXT = {"DATA": ["hello"]}
OTHER_TEXT = {"DATA": ["good-bye"]}
ANY_TEXT = {"DATA": [{"exists": True}]}

ORDER, ORDERS = b'{"kind": "order"}', b' [{"kind": "bill"}, {"kind": "order"}]'

COMPARED = [
    (ORDER, JSON, True),
    (ORDER, OTHER_JSON, False),
    (ORDER, NO_FIELD, True),
    (ORDERS, JSON, True),
    (b"[]", JSON, False),
    (b'{"kind": "bill", "kind": "order"}', JSON, True),
]

COMPARED_AS_TEXT = [
    (b"hello", TEXT, True),
    (b"hello", OTHER_TEXT, False),
    (b"hello", ANY_TEXT, True),
    (b"", {"DATA": [""]}, True),
    (b"", TEXT, False),
    # A number or a quoted text alone is a text like others.
    (b"300", {"DATA": ["300"]}, True),
    (b"300", {"DATA": [{"anything-but": ["300"]}]}, False),
    (b'"hello"', TEXT, False),
    (b'"hello"', {"DATA": ['"hello"']}, True),
    (b"null", {"DATA": ["null"]}, True),
]

MISMATCHED_AS_JSON = [
    (b"hello", JSON),
    (b"hello", NO_FIELD),
    (b"", JSON),
    (b'{"kind": "order"', JSON),
    (b"300", NO_FIELD),
    pytest.param(b"[" * 5000, NO_FIELD, id="nested too deep"),
]

MISMATCHED_AS_TEXT = [
    (ORDER, TEXT),
    (ORDER, ANY_TEXT),
    (ORDER, {"DATA": [{"exists": False}]}),
    (b'["hello"]', TEXT),
]


@pytest.mark.parametrize(("data", "pattern", "matches"), COMPARED)
@pytest.mark.parametrize("source", ALL, ids=repr)
def test_json_is_compared_with_a_pattern_for_json(source: Source, data: bytes, pattern: dict[str, Any], matches: bool) -> None:
    assert source.lets_in(data, pattern) is matches


@pytest.mark.parametrize(("data", "pattern", "matches"), COMPARED_AS_TEXT)
@pytest.mark.parametrize("source", [*QUEUES, KAFKA], ids=repr)
def test_text_is_compared_with_a_pattern_for_text(source: Source, data: bytes, pattern: dict[str, Any], matches: bool) -> None:
    assert source.lets_in(data, pattern) is matches


@pytest.mark.parametrize(("data", "pattern"), [*MISMATCHED_AS_JSON, *MISMATCHED_AS_TEXT])
@pytest.mark.parametrize("source", QUEUES, ids=repr)
def test_a_queue_drops_what_is_of_the_other_kind(source: Source, data: bytes, pattern: dict[str, Any]) -> None:
    assert not source.lets_in(data, pattern)
    assert not source.lets_in(data, {**pattern, **source.met})
    assert source.lets_in(data, pattern, source.met), "the other pattern may match all the same"


@pytest.mark.parametrize(("data", "pattern"), [*MISMATCHED_AS_JSON, (NO_TEXT, JSON), (NO_TEXT, NO_FIELD)])
def test_a_stream_drops_what_is_no_json(data: bytes, pattern: dict[str, Any]) -> None:
    assert not LOCAL_STREAM.lets_in(data, pattern)
    assert not LOCAL_STREAM.lets_in(data, {**pattern, **LOCAL_STREAM.met})
    assert LOCAL_STREAM.lets_in(data, pattern, LOCAL_STREAM.met)


@pytest.mark.parametrize(
    ("data", "pattern"),
    [*MISMATCHED_AS_JSON, *MISMATCHED_AS_TEXT, (NO_TEXT, JSON), (NO_TEXT, TEXT), (None, JSON), (None, TEXT), (None, NO_FIELD)],
)
def test_a_topic_ignores_what_a_pattern_says_of_the_other_kind(data: bytes | None, pattern: dict[str, Any]) -> None:
    assert KAFKA.lets_in(data, pattern)
    assert KAFKA.lets_in(data, {**pattern, "partition": [0]})
    assert not KAFKA.lets_in(data, {**pattern, "partition": [1]})


@pytest.mark.parametrize("data", [ORDER, b"hello", b"", b"300"])
@pytest.mark.parametrize("source", ALL, ids=repr)
def test_a_pattern_that_does_not_name_the_data_is_about_the_rest_alone(source: Source, data: bytes) -> None:
    assert source.lets_in(data, source.met)
    key, _ = next(iter(source.met.items()))
    assert not source.lets_in(data, {key: ["another"]})


@pytest.mark.parametrize(("source", "data"), [(LOCAL_STREAM, NO_TEXT), (KAFKA, NO_TEXT), (KAFKA, None)], ids=repr)
def test_nor_does_it_matter_whether_the_data_can_be_read(source: Source, data: bytes | None) -> None:
    assert source.lets_in(data, source.met)


@pytest.mark.parametrize("source", ALL, ids=repr)
def test_data_and_the_rest_must_both_match(source: Source) -> None:
    assert source.lets_in(ORDER, {**JSON, **source.met})
    assert not source.lets_in(ORDER, {**OTHER_JSON, **source.met})
    assert source.lets_in(ORDER, OTHER_JSON, JSON)


@pytest.mark.parametrize("source", ALL, ids=repr)
def test_keys_with_dots_are_inside_the_data_too(source: Source) -> None:
    assert source.lets_in(ORDER, {"DATA.kind": ["order"]})
    assert not source.lets_in(ORDER, {"DATA.kind": ["bill"]})
    assert source.lets_in(b"hello", {"DATA.kind": ["order"]}) is (source is KAFKA)


@pytest.mark.parametrize("source", [*QUEUES, KAFKA], ids=repr)
def test_either_kind_may_be_asked_for_in_alternatives(source: Source) -> None:
    either = {"$or": [JSON, TEXT]}
    assert [source.lets_in(data, either) for data in (ORDER, b"hello")] == [True, True]
    strange = [source.lets_in(data, either) for data in (b'{"kind": "bill"}', b"good-bye")]
    # Each alternative by itself, as if each were a filter: on a topic one of the two ignores the data.
    assert strange == [source is KAFKA] * 2


def test_an_alternative_about_the_rest_stays_where_the_data_is_of_the_other_kind() -> None:
    pattern = {"$or": [JSON, {"attributes": {"SenderId": ["AIDAEXAMPLE"]}}]}
    assert SQS.lets_in(b"hello", pattern)
    assert not SQS.lets_in(b"hello", {**pattern, "messageId": ["another"]})


# --- what the formats show ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", DROPPING, ids=repr)
def test_a_documents_keys_are_those_that_may_be_named(source: Source) -> None:
    record = source.made(ORDER)
    (document,) = source.format.documents([record], source.over.keys)
    (element,) = source.format.event([record]).mapping()["Records"]
    assert set(document) <= set(source.over.keys)
    assert set(source.over.keys) - set(document) <= {"md5OfMessageAttributes"}, "there only with message attributes"
    assert document[source.over.data] == {"kind": "order"}
    event = {**element, **element.get("kinesis", {})}
    assert {key: value for key, value in document.items() if key != source.over.data} == {
        key: event[key] for key in document if key != source.over.data
    }


@pytest.mark.parametrize("source", ALL, ids=repr)
def test_the_data_alone_is_what_was_written(source: Source) -> None:
    assert isinstance(source.format, DataFormat)
    (data,) = source.format.data([source.made(ORDER)])
    assert data in (ORDER, ORDER.decode())


def test_of_a_topic_filters_see_the_value_and_where_it_stands_but_neither_key_nor_headers() -> None:
    record = KAFKA.made(ORDER)
    (document,) = KAFKA.format.documents([record], TOPIC.keys)
    assert set(document) == set(TOPIC.keys) == {"topic", "partition", "offset", "timestamp", "timestampType", "value"}


def test_a_document_is_not_the_event() -> None:
    record = sqs_message(ORDER)
    (document,) = SQS.format.documents([record], MESSAGE.keys)
    cast("dict[str, Any]", document)["attributes"].clear()
    assert SQS.format.event([record]).mapping()["Records"][0]["body"] == '{"kind": "order"}'
    assert record["Attributes"]


# --- laws ---------------------------------------------------------------------------------------------------------------------------------

VALUES = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["order", "bill", ""])
OBJECTS = st.dictionaries(st.sampled_from(["kind", "total"]), VALUES | st.lists(VALUES, max_size=3), max_size=2)
CONDITIONS = st.lists(VALUES | st.just({"exists": False}) | st.just({"anything-but": "order"}), min_size=1, max_size=3)
PATTERNS = st.dictionaries(st.sampled_from(["kind", "total"]), CONDITIONS, min_size=1)


@given(st.lists(OBJECTS | st.lists(OBJECTS, max_size=2)), st.lists(PATTERNS, min_size=1, max_size=3))
def test_law_of_json_a_filter_says_what_its_patterns_say(datas: list[Any], patterns: list[dict[str, Any]]) -> None:
    records = [KAFKA.made(json.dumps(data).encode()) for data in datas]
    texts = tuple(json.dumps({"value": pattern}) for pattern in patterns)
    wanted, unwanted = Filtering(FilterSettings(texts, TOPIC)).split(KAFKA.format, records)
    compiled = [compile_pattern(text) for text in texts]
    expected = [any(each.matches({"value": data}) for each in compiled) for data in datas]
    assert list(wanted) == [record for record, matches in zip(records, expected, strict=True) if matches]
    assert list(unwanted) == [record for record, matches in zip(records, expected, strict=True) if not matches]


@given(st.binary(max_size=20) | st.text(max_size=20).map(str.encode) | OBJECTS.map(json.dumps).map(str.encode))
def test_law_whatever_the_data_is_it_is_read_without_an_error(data: bytes) -> None:
    value = readable(data)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        assert value is None
        return
    assert value == text or (isinstance(value, dict | list) and value == json.loads(text))
    assert readable(text) == value


class Documents:
    """A format of which filters do not know that they may look at the data alone."""

    def __init__(self, format: Format) -> None:
        self.facts, self.event, self.names, self.documents = format.facts, format.event, format.names, format.documents


DATA = (
    st.none()
    | st.binary(max_size=9)
    | st.sampled_from([b"order", b"1", b"null"])
    | (OBJECTS | st.lists(OBJECTS)).map(json.dumps).map(str.encode)
)


@given(
    st.lists(DATA),
    st.lists(PATTERNS | st.sampled_from([["order"], [{"exists": False}], [{"anything-but": ["1"]}]]), min_size=1, max_size=3),
)
def test_law_of_the_data_alone_filters_say_what_they_say_of_whole_documents(datas: list[bytes | None], patterns: list[Any]) -> None:
    records = [TopicRecord(data) for data in datas]
    filtering = Filtering(FilterSettings(tuple(json.dumps({"value": pattern}) for pattern in patterns), TOPIC))
    assert filtering.split(KAFKA.format, records) == filtering.split(Documents(KAFKA.format), records)


def test_half_of_a_surrogate_pair_is_text() -> None:
    assert readable("\ud800") == "\ud800"


# --- recorded on AWS ----------------------------------------------------------------------------------------------------------------------

CASES: list[dict[str, Any]] = (
    json.loads((Path(folder) / "esm-observed-on-aws.json").read_text())["cases"] if (folder := os.environ.get("POLLER_CASES")) else []
)


def recorded(prefix: str) -> pytest.MarkDecorator:
    found = [pytest.param(case, id=case["name"]) for case in CASES if case["name"].startswith(prefix)]
    return pytest.mark.parametrize("case", found)


def patterns_of(config: dict[str, Any]) -> list[dict[str, Any]]:
    return [each["Pattern"] for each in config["FilterCriteria"]["Filters"]]


def body_of(value: Any) -> bytes:
    return (value if isinstance(value, str) else json.dumps(value)).encode()


@recorded("sqs/filter/")
@pytest.mark.parametrize("source", QUEUES, ids=repr)
def test_a_message_that_aws_delivered_or_deleted(source: Source, case: dict[str, Any]) -> None:
    patterns, sent = patterns_of(case["config"]), case["input"]
    assert source.lets_in(body_of(sent["matching"]), *patterns)
    if "not_matching" in sent:
        assert case["expect"]["not_matching_is_deleted_from_queue"]
        assert not source.lets_in(body_of(sent["not_matching"]), *patterns)
    record = source.made(body_of(sent["matching"]))
    body = source.format.event([record]).mapping()["Records"][0]["body"]
    assert body == case["expect"].get("delivered_body_is_original_string", body)


@recorded("kinesis/filter/")
def test_records_that_aws_gave_to_one_of_two_functions(case: dict[str, Any]) -> None:
    for number, config in enumerate(case["config"]["mappings"], 1):
        got = [record for record in case["input"]["records"] if LOCAL_STREAM.lets_in(body_of(record), *patterns_of(config))]
        assert got == case["expect"][f"function_{number}_gets"]


@recorded("dynamodb/filter/")
def test_changes_that_aws_delivered_or_passed_over(case: dict[str, Any]) -> None:
    """There is no such source yet; its documents are the records of the event, and these are the recorded ones."""
    if case["name"].endswith("insert_same_entry_twice"):
        pytest.skip("the second change is none: there is no record of it")
    observed = [record for event in case["observed"]["lambda-multiple-log-events"] for record in event["Records"]]
    compiled = [compile_pattern(json.dumps(pattern)) for pattern in patterns_of(case["config"])]
    for record in observed:
        record["dynamodb"]["ApproximateCreationDateTime"] = 1763686800.0
        assert any(pattern.matches(record) for pattern in compiled)
    for item, matches in zip(case["input"]["put_items"], ("first_item_matches", "second_item_matches"), strict=True):
        if not case["expect"][matches] and "MODIFY" not in str(observed) and "eventName" not in str(case["config"]):
            assert not any(pattern.matches({"eventName": "INSERT", "dynamodb": {"NewImage": item}}) for pattern in compiled)
