"""What functions get of DynamoDB Streams, and what the engine is told of its records."""

from __future__ import annotations

import json
import os
from math import inf
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.dynamodb_streams.client import ChangeRecord, answered
from connectors.dynamodb_streams.format import ChangeFormat
from connectors.dynamodb_streams.options import FILTERABLE
from connectors.sharded.sequence import token
from poller.failures.entry import entry
from poller.filtering import Filtering
from poller.model import Failure, Fault, Partial, Returned
from poller.outcome import interpret
from poller.protocols import Format
from poller.quotas import MAXIMUM_EVENT_BYTES
from poller.settings import FilterSettings
from poller.testing.strategies import laws

ARN = "arn:aws:dynamodb:us-west-2:111122223333:table/TestTable/stream/2015-05-11T21:21:33.291"
SHARD = "shardId-00000001541626099285-f35f62ef"
FORMAT: Format = ChangeFormat(ARN)

EVERY_TYPE: dict[str, Any] = {
    "s": {"S": 'a "quoted" \u00e9 \\ \n'},
    "n": {"N": "-1.50E+3"},
    "b": {"B": "AP8="},
    "ss": {"SS": ["a", "b"]},
    "ns": {"NS": ["1", "2"]},
    "bs": {"BS": ["AA==", "/w=="]},
    "m": {"M": {"inner": {"L": [{"NULL": True}, {"BOOL": False}, {"M": {}}]}}},
    "l": {"L": []},
    "null": {"NULL": True},
    "bool": {"BOOL": True},
}


def told(sequence: str = "111", name: str = "INSERT", *, keys: Any = None, who: Any = None, **change: Any) -> dict[str, Any]:
    """A record as the service sends it."""
    given_ = {
        "awsRegion": "us-west-2",
        "dynamodb": {
            "ApproximateCreationDateTime": 1.54508465e9,
            "Keys": keys or {"Id": {"N": "101"}},
            "SequenceNumber": sequence,
            "SizeBytes": 26,
            "StreamViewType": "NEW_AND_OLD_IMAGES",
            **change,
        },
        "eventID": "c4ca4238a0b923820dcc509a6f75849b",
        "eventName": name,
        "eventSource": "aws:dynamodb",
        "eventVersion": "1.1",
    }
    return given_ if who is None else given_ | {"userIdentity": who}


def records(*each: dict[str, Any]) -> list[ChangeRecord]:
    return list(answered(orjson.dumps({"Records": each}), SHARD).records)


def element(given_: dict[str, Any]) -> dict[str, Any]:
    (found,) = FORMAT.event(records(given_)).mapping()["Records"]
    assert isinstance(found, dict)
    return found


NEW = {"Message": {"S": "New item!"}, "Id": {"N": "101"}}

EVENT = (
    b'{"Records":[{"eventID":"c4ca4238a0b923820dcc509a6f75849b","eventName":"INSERT","eventVersion":"1.1","eventSource":"aws:dynamodb",'
    b'"awsRegion":"us-west-2","dynamodb":{"ApproximateCreationDateTime":1545084650.0,"Keys":{"Id":{"N":"101"}},'
    b'"NewImage":{"Message":{"S":"New item!"},"Id":{"N":"101"}},"SequenceNumber":"111","SizeBytes":26,'
    b'"StreamViewType":"NEW_AND_OLD_IMAGES"},'
    b'"eventSourceARN":"arn:aws:dynamodb:us-west-2:111122223333:table/TestTable/stream/2015-05-11T21:21:33.291"}]}'
)
"""AWS's guide, "Using Lambda with Amazon DynamoDB", with the keys that were recorded on AWS."""


def test_the_event_is_lambdas_byte_for_byte() -> None:
    event = FORMAT.event(records(told(NewImage=NEW)))
    assert event.json() == EVENT
    head, parts, tail = event.parts()
    assert head + b",".join(parts) + tail == EVENT
    first = event.mapping()
    first["Records"].clear()
    assert event.mapping() == orjson.loads(EVENT), "each mapping is the function's to change"


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("INSERT", {"NewImage": EVERY_TYPE}),
        ("MODIFY", {"NewImage": EVERY_TYPE, "OldImage": {"s": {"S": ""}}}),
        ("REMOVE", {"OldImage": EVERY_TYPE}),
        ("MODIFY", {}),
    ],
)
def test_every_type_of_attribute_and_every_view(name: str, images: dict[str, Any]) -> None:
    found = element(told(name=name, **images))
    assert found["eventName"] == name
    assert {key: value for key, value in found["dynamodb"].items() if key.endswith("Image")} == images
    assert isinstance(found["dynamodb"]["ApproximateCreationDateTime"], float)
    assert "userIdentity" not in found


def test_an_item_whose_time_was_over() -> None:
    """The API's letters are not the event's (DynamoDB guide, "DynamoDB Streams and Time to Live")."""
    found = element(told(name="REMOVE", who={"PrincipalId": "dynamodb.amazonaws.com", "Type": "Service"}))
    assert found["userIdentity"] == {"type": "Service", "principalId": "dynamodb.amazonaws.com"}


def test_the_recorded_and_the_sample_events_come_out_again() -> None:
    folder = os.environ.get("POLLER_CASES")
    if folder is None:
        pytest.skip("POLLER_CASES names no folder of recorded cases")
    cases = json.loads((Path(folder) / "esm-observed-on-aws.json").read_text())["cases"]
    (case,) = [each for each in cases if each["name"] == "dynamodb/event/insert"]
    recorded = case["observed"]["event_logs"][0]["Records"]
    samples = json.loads((Path(folder) / "powertools-events.json").read_text())["events"]["dynamoStreamEvent"]["Records"]
    for each in (*recorded, *samples):
        given_ = json.loads(json.dumps(each)) | {"eventSourceARN": None}
        moment = each["dynamodb"].get("ApproximateCreationDateTime")
        if isinstance(moment, str):  # what was recorded has a placeholder
            given_["dynamodb"]["ApproximateCreationDateTime"] = 0.0
        ours = element(given_)
        if isinstance(moment, str):
            ours["dynamodb"]["ApproximateCreationDateTime"] = moment
        assert ours == each | {"eventSourceARN": ARN}
        if each in recorded:
            assert list(ours) == list(each)
            assert list(ours["dynamodb"]) == list(each["dynamodb"])


def test_facts() -> None:
    long = "4421584500000000017450439092"
    facts = FORMAT.facts(records(told(), told(long), told("000000000000000000009")))
    assert facts.tokens() == [token(111), token(long), token(9)]
    assert facts.arrivals() == [1545084650.0] * 3
    assert FORMAT.names(records(told("000000000000000000009"))) == [f"{SHARD}:000000000000000000009"]
    assert not list(FORMAT.facts([]).sizes())


def test_a_record_without_a_time_is_never_too_old() -> None:
    given_ = told()
    del given_["dynamodb"]["ApproximateCreationDateTime"]
    assert FORMAT.facts(records(given_)).arrivals() == [inf]
    assert "ApproximateCreationDateTime" not in element(given_)["dynamodb"]


def test_a_key_is_the_items_however_it_is_written() -> None:
    one = {"id": {"S": "\u00e9"}, "at": {"N": "1"}}
    other = {"at": {"N": "1"}, "id": {"S": "\u00e9"}}
    body = orjson.dumps({"Records": [told(keys=one)]})
    escaped = json.dumps({"Records": [told(keys=other)]}, ensure_ascii=True, indent=1).encode()
    first, second = (FORMAT.facts(answered(each, SHARD).records).keys() for each in (body, escaped))
    assert first == second == ['{"at":{"N":"1"},"id":{"S":"é"}}'.encode()]
    numbers = ["1", "1.0", "1.00", "+1", "1E+0", "10e-1"]
    same = FORMAT.facts(records(*(told(keys={"id": {"N": number}}) for number in numbers))).keys()
    assert set(same) == {b'{"id":{"N":"1"}}'}
    exact = ["-" + "9" * 38, "-" + "9" * 37 + "8", "1E-130", "100", "0", "1E+125"]
    assert len(set(FORMAT.facts(records(*(told(keys={"id": {"N": number}}) for number in exact))).keys())) == len(exact)
    assert FORMAT.facts(records(told(keys={"id": {"N": "-0.0"}}))).keys() == [b'{"id":{"N":"0"}}']
    different = [{"id": {"S": "1"}}, {"id": {"N": "1"}}, {"id": {"B": "1"}}, {"id": {"S": "1"}, "at": {"S": "1"}}, {"at": {"S": "1"}}]
    assert len(set(FORMAT.facts(records(*(told(keys=each) for each in different))).keys())) == len(different)


def test_a_response_names_records_by_sequence_number() -> None:
    event = FORMAT.event(records(told("111"), told("222")))

    def answer(item: Any) -> Any:
        return interpret(Returned(orjson.dumps({"batchItemFailures": [{"itemIdentifier": item}]})), event, reporting=True)

    assert answer("222") == Partial((1,))
    for wrong in (222, "333", "", None):
        assert isinstance(answer(wrong), Fault), wrong


values = st.recursive(
    st.builds(lambda text: {"S": text}, st.text(st.characters(codec="utf-8"), max_size=50)),
    lambda inner: st.builds(lambda each: {"L": each}, st.lists(inner, max_size=3)),
    max_leaves=5,
)


@laws(200)
@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=20), values, max_size=5), st.booleans())
def test_a_size_is_never_too_small_and_not_much_too_large(image: dict[str, Any], escaped: bool) -> None:
    who = {"PrincipalId": "dynamodb.amazonaws.com", "Type": "Service"}
    given_ = told("9" * 40, NewImage=image, OldImage=image, who=who)
    body = json.dumps({"Records": [given_]}, ensure_ascii=True).encode() if escaped else orjson.dumps({"Records": [given_]})
    made = answered(body, SHARD).records
    (size,) = FORMAT.facts(made).sizes()
    (exact,) = FORMAT.event(made).parts()[1]
    assert orjson.loads(exact)["dynamodb"]["NewImage"] == image
    assert len(exact) + 1 <= size <= len(exact) + 1 + 1024


@pytest.mark.parametrize("beyond", [0, 1])
def test_the_size_of_one_that_may_be_over_the_limit_is_exact(beyond: int) -> None:
    fixed = len(FORMAT.event(records(told(NewImage={"x": {"S": ""}}))).parts()[1][0]) + 1
    made = records(told(NewImage={"x": {"S": "x" * (MAXIMUM_EVENT_BYTES - fixed + beyond)}}))
    (size,) = FORMAT.facts(made).sizes()
    assert size == len(FORMAT.event(made).parts()[1][0]) + 1 == MAXIMUM_EVENT_BYTES + beyond


FILTERS = [
    # pattern, whether it goes on (recorded: dynamodb/filter/*)
    ({"eventName": ["INSERT"]}, True),
    ({"eventName": ["REMOVE"]}, False),
    ({"dynamodb": {"NewImage": {"Message": {"S": [{"prefix": "New"}]}}}}, True),
    ({"dynamodb": {"NewImage": {"Id": {"N": [{"numeric": [">", 100]}]}}}}, False),
    ({"dynamodb": {"ApproximateCreationDateTime": [{"numeric": [">", 0]}]}}, True),
    ({"dynamodb": {"OldImage": {"Id": {"N": [{"exists": False}]}}}}, True),
    ({"eventName": ["INSERT"], "dynamodb": {"Keys": {"Id": {"N": ["101"]}}}}, True),
    ({"userIdentity": {"type": ["Service"], "principalId": ["dynamodb.amazonaws.com"]}}, False),
]


@pytest.mark.parametrize(("pattern", "wanted"), FILTERS)
def test_what_filters_see(pattern: Any, wanted: bool) -> None:
    filtering = Filtering(FilterSettings((json.dumps(pattern),), FILTERABLE))
    made = records(told(NewImage=NEW))
    assert filtering.split(FORMAT, made) == ((made, ()) if wanted else ([], made))


def test_filters_see_who_deleted() -> None:
    pattern = {"userIdentity": {"type": ["Service"], "principalId": ["dynamodb.amazonaws.com"]}}
    made = records(told(name="REMOVE", who={"PrincipalId": "dynamodb.amazonaws.com", "Type": "Service"}))
    assert Filtering(FilterSettings((json.dumps(pattern),), FILTERABLE)).split(FORMAT, made) == (made, ())
    (document,) = FORMAT.documents(made, FILTERABLE.keys)
    assert set(document) == set(FILTERABLE.keys)


def test_what_is_kept_replays() -> None:
    failure = Failure(records(told(NewImage=NEW)), "RetryAttemptsExhausted", 2)
    kept = entry(failure, FORMAT, mapping="m", source=ARN, lane=SHARD, function="f", now=0.0)
    assert kept.head + b",".join(each.json for each in kept.records) + kept.tail == EVENT
    assert (kept.first, kept.records[0].key) == (f"{SHARD}:111", '{"Id":{"N":"101"}}')


def test_what_is_no_answer_is_refused() -> None:
    assert answered(b'{"Records":[],"NextShardIterator":"i"}', SHARD).following == "i"
    for wrong in (b"<html>", b"{}", b'{"Records":[{}]}', orjson.dumps({"Records": [told(SequenceNumber=5)]})):
        with pytest.raises(msgspec.MsgspecError):
            answered(wrong, SHARD)
