"""What functions get of Kinesis, and what the engine is told of its records."""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.fields import RECORD as FILTERABLE
from connectors.kinesis.client import KinesisRecord, answered
from connectors.kinesis.format import KinesisFormat
from connectors.local.format import Entry, EntryFormat
from connectors.sharded.sequence import token
from poller.failures.entry import entry
from poller.filtering import Filtering
from poller.model import Failure, Fault, Partial, Returned
from poller.outcome import interpret
from poller.protocols import Format
from poller.quotas import MAXIMUM_EVENT_BYTES
from poller.settings import FilterSettings
from poller.testing.strategies import laws

ARN = "arn:aws:kinesis:us-east-2:123456789012:stream/lambda-stream"
ROLE = "arn:aws:iam::123456789012:role/lambda-role"
SHARD = "shardId-000000000006"
FORMAT: Format = KinesisFormat(ARN, ROLE)
SEQUENCE = "49590338271490256608559692538361571095921575989136588898"


def record(data: bytes = b"Hello, this is a test.", key: str = "1", sequence: str = SEQUENCE, sub: int = 0) -> KinesisRecord:
    return KinesisRecord(sequence, 1545084650.987, key, b64encode(data).decode(), SHARD, sub, sub > 0)


EVENT = (
    b'{"Records":[{"kinesis":{"kinesisSchemaVersion":"1.0","partitionKey":"1",'
    b'"sequenceNumber":"49590338271490256608559692538361571095921575989136588898","data":"SGVsbG8sIHRoaXMgaXMgYSB0ZXN0Lg==",'
    b'"approximateArrivalTimestamp":1545084650.987},"eventSource":"aws:kinesis","eventVersion":"1.0",'
    b'"eventID":"shardId-000000000006:49590338271490256608559692538361571095921575989136588898","eventName":"aws:kinesis:record",'
    b'"invokeIdentityArn":"arn:aws:iam::123456789012:role/lambda-role","awsRegion":"us-east-2",'
    b'"eventSourceARN":"arn:aws:kinesis:us-east-2:123456789012:stream/lambda-stream"}]}'
)
"""AWS's guide, "Using Lambda with Amazon Kinesis", without its spaces."""


def test_the_event_is_lambdas_byte_for_byte() -> None:
    event = FORMAT.event([record()])
    assert event.json() == EVENT
    head, parts, tail = event.parts()
    assert head + b",".join(parts) + tail == EVENT
    first = event.mapping()
    first["Records"][0]["kinesis"].clear()
    assert event.json() == EVENT, "each mapping is the function's to change"


def test_the_sample_events_come_out_again() -> None:
    folder = os.environ.get("POLLER_CASES")
    if folder is None:
        pytest.skip("POLLER_CASES names no folder of recorded cases")
    samples = json.loads((Path(folder) / "powertools-events.json").read_text())["events"]
    for name in ("kinesisStreamEvent", "kinesisStreamEventOneRecord", "kinesisStreamCloudWatchLogsEvent"):
        for given_ in samples[name]["Records"]:
            told = given_["kinesis"]
            made = KinesisRecord(
                told["sequenceNumber"],
                told["approximateArrivalTimestamp"],
                told["partitionKey"],
                told["data"],
                given_["eventID"].partition(":")[0],
            )
            (ours,) = KinesisFormat(given_["eventSourceARN"], given_["invokeIdentityArn"]).event([made]).mapping()["Records"]
            assert ours == given_
            assert list(ours) == list(given_)


def test_the_local_stream_gives_the_same_event() -> None:
    """One shape, not two."""
    local = EntryFormat("clicks").event([Entry(SHARD, 42, 1545084650.987, "1", b"data")])
    arn, role = "arn:aws:kinesis:local:000000000000:stream/clicks", "arn:aws:iam::000000000000:role/local"
    assert local.json() == KinesisFormat(arn, role).event([record(b"data", sequence="42")]).json()


def test_a_user_record_has_a_name_of_its_own() -> None:
    users = [record(sub=1), record(sub=2), record(sequence="5")]
    event = FORMAT.event(users)
    told = [each["kinesis"] for each in event.mapping()["Records"]]
    assert [each["sequenceNumber"] for each in told] == [f"{SEQUENCE}:0", f"{SEQUENCE}:1", "5"] == list(event.identifiers())
    assert [each.get("subSequenceNumber") for each in told] == [0, 1, None]
    assert [each.get("aggregated") for each in told] == [True, True, None]
    assert [each["eventID"] for each in event.mapping()["Records"]] == list(FORMAT.names(users))
    answer = Returned(orjson.dumps({"batchItemFailures": [{"itemIdentifier": f"{SEQUENCE}:1"}]}))
    assert interpret(answer, event, reporting=True) == Partial((1,)), "the second, and not all of the aggregate"


def test_a_plain_record_looks_the_same_whether_aggregates_are_taken_apart_or_not() -> None:
    apart = record()
    apart.sub = 1
    assert FORMAT.event([apart]).json() == EVENT


def test_a_response_names_records_by_sequence_number() -> None:
    event = FORMAT.event([record(), record(sequence="5")])

    def answer(item: Any) -> Any:
        return interpret(Returned(orjson.dumps({"batchItemFailures": [{"itemIdentifier": item}]})), event, reporting=True)

    assert answer("5") == Partial((1,))
    for wrong in (5, "6", "", None, f"{SHARD}:5"):
        assert isinstance(answer(wrong), Fault), wrong


def test_facts() -> None:
    facts = FORMAT.facts([record(key="\u00e9"), record(sequence="5", sub=3)])
    assert facts.tokens() == [token(SEQUENCE), token("5", 3)]
    assert facts.arrivals() == [1545084650.987, 1545084650.987]
    assert facts.keys() == ["\u00e9".encode(), b"1"]
    assert FORMAT.names([record()]) == [f"{SHARD}:{SEQUENCE}"]
    assert not list(FORMAT.facts([]).sizes())


@laws(300)
@given(st.text(st.characters(codec="utf-8"), max_size=256), st.binary(max_size=500), st.sampled_from([0, 1, 16_777_215]))
def test_a_size_is_never_too_small_and_not_much_too_large(key: str, data: bytes, sub: int) -> None:
    made = record(data, key, "9" * 56, sub)
    (size,) = FORMAT.facts([made]).sizes()
    (exact,) = FORMAT.event([made]).parts()[1]
    assert len(exact) + 1 <= size <= len(exact) + 1 + 6 * len(key) + 80


@pytest.mark.parametrize("beyond", [0, 1])
def test_the_size_of_one_that_may_be_over_the_limit_is_exact(beyond: int) -> None:
    fixed = len(FORMAT.event([record(b"")]).parts()[1][0]) + 1
    room = (MAXIMUM_EVENT_BYTES - fixed) // 4 * 3
    made = record(b"x" * room, key="1" * (1 + (MAXIMUM_EVENT_BYTES - fixed) % 4 + beyond))
    (size,) = FORMAT.facts([made]).sizes()
    assert size == len(FORMAT.event([made]).parts()[1][0]) + 1 == MAXIMUM_EVENT_BYTES + beyond


MATRIX = [
    # data, pattern, whether it goes on (AWS Lambda guide: "Filtering Kinesis data"; recorded: kinesis/filter/json-data)
    (b'{"kind":"order"}', {"data": {"kind": ["order"]}}, True),
    (b'{"kind":"other"}', {"data": {"kind": ["order"]}}, False),
    (b"plain text", {"data": {"kind": ["order"]}}, False),
    (b"\xff\xfe", {"data": {"kind": ["order"]}}, False),
    (b"\xff\xfe", {"partitionKey": ["1"]}, True),
    (b"plain text", {"partitionKey": ["1"]}, True),
    (b'{"kind":"order"}', {"partitionKey": ["2"], "data": {"kind": ["order"]}}, False),
    (b"x", {"eventSource": ["aws:kinesis"], "awsRegion": ["us-east-2"]}, True),
    (b"x", {"approximateArrivalTimestamp": [{"numeric": [">", 1545084650]}]}, True),
]


@pytest.mark.parametrize(("data", "pattern", "wanted"), MATRIX)
def test_what_filters_see(data: bytes, pattern: Any, wanted: bool) -> None:
    filtering = Filtering(FilterSettings((json.dumps(pattern),), FILTERABLE))
    made = record(data)
    assert filtering.split(FORMAT, [made]) == (([made], ()) if wanted else ([], [made]))


def test_documents_have_the_keys_that_filters_may_name() -> None:
    (document,) = FORMAT.documents([record()], FILTERABLE.keys)
    assert set(document) == set(FILTERABLE.keys)
    assert document["data"] == "Hello, this is a test."


def test_what_is_kept_replays() -> None:
    kept = entry(Failure([record()], "RetryAttemptsExhausted", 2), FORMAT, mapping="m", source=ARN, lane=SHARD, function="f", now=0.0)
    assert kept.head + b",".join(each.json for each in kept.records) + kept.tail == EVENT
    assert (kept.first, kept.records[0].key) == (f"{SHARD}:{SEQUENCE}", "1")


def test_an_answer_of_kinesis_is_read() -> None:
    told = {"SequenceNumber": "5", "ApproximateArrivalTimestamp": 1545084650, "Data": "eA==", "PartitionKey": "k", "EncryptionType": "KMS"}
    body = orjson.dumps({"Records": [told], "NextShardIterator": None, "MillisBehindLatest": 1500, "ChildShards": [], "New": {}})
    found = answered(body, "s0")
    assert found.records == [KinesisRecord("5", 1545084650.0, "k", "eA==", "s0")]
    assert (found.following, found.behind, found.size) == (None, 1.5, len(body))
    assert b64decode(found.records[0].data) == b"x"
    for wrong in (b"<html>", b"{}", b'{"Records":[{}]}', b'{"Records":[{"SequenceNumber":5}]}'):
        with pytest.raises(msgspec.MsgspecError):
            answered(wrong, "s0")
