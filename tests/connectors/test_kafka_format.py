"""What functions get of Kafka, and what the engine is told of its records."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka.structs import ConsumerRecord
from hypothesis import given
from hypothesis import strategies as st

from connectors.kafka.format import KafkaFormat
from connectors.kafka.options import FILTERABLE
from poller.failures.entry import entry
from poller.filtering import Filtering
from poller.model import Failure, Fault, Partial, Returned
from poller.outcome import interpret
from poller.protocols import Format
from poller.quotas import MAXIMUM_EVENT_BYTES
from poller.replay.format import FORMAT as REPLAYED
from poller.replay.format import records_of
from poller.settings import FilterSettings
from poller.testing.strategies import laws

BOOTSTRAP = "b-2.demo:9092,b-1.demo:9092"
FORMAT: Format = KafkaFormat(BOOTSTRAP, "mytopic", 0)
Headers = Sequence[tuple[str, bytes | None]]


def record(
    offset: int = 15,
    key: bytes | None = b"recordKey",
    value: bytes | None = b'{"key":"value"}',
    headers: Headers = (),
    timestamp: int | None = 1545084650987,
    timestamp_type: int | None = 0,
) -> Any:
    """As aiokafka gives it."""
    sizes = (-1 if each is None else len(each) for each in (key, value))
    made: Any = ConsumerRecord
    return made("mytopic", 0, offset, timestamp, timestamp_type, key, value, None, *sizes, tuple(headers))


def element(made: Any) -> dict[str, Any]:
    (found,) = FORMAT.event([made]).mapping()["records"]["mytopic-0"]
    assert isinstance(found, dict)
    return found


# --- the event ------------------------------------------------------------------------------------------------------------------------

EVENT = (
    b'{"eventSource":"SelfManagedKafka","bootstrapServers":"b-2.demo:9092,b-1.demo:9092","records":{"mytopic-0":['
    b'{"topic":"mytopic","partition":0,"offset":15,"timestamp":1545084650987,"timestampType":"CREATE_TIME",'
    b'"key":"cmVjb3JkS2V5","value":"eyJrZXkiOiJ2YWx1ZSJ9","headers":[{"headerKey":[104,101,97,100,101,114,86,97,108,117,101]}]},'
    b'{"topic":"mytopic","partition":0,"offset":17,"timestamp":1545084650999,"timestampType":"LOG_APPEND_TIME",'
    b'"value":"","headers":[]}]}}'
)
"""By hand from AWS's guide; keys in its order."""

RECORDS = [record(headers=[("headerKey", b"headerValue")]), record(17, None, b"", (), 1545084650999, 1)]


def test_the_event_is_that_of_a_self_managed_cluster_byte_for_byte() -> None:
    event = FORMAT.event(RECORDS)
    assert event.json() == EVENT
    head, parts, tail = event.parts()
    assert head + b",".join(parts) + tail == EVENT


def test_each_mapping_is_the_functions_to_change() -> None:
    event = FORMAT.event(RECORDS)
    first = event.mapping()
    first["records"]["mytopic-0"][0]["headers"].append("more")
    first["records"]["mytopic-0"][1]["headers"].append("more")
    first["records"]["mytopic-0"].clear()
    assert event.json() == EVENT


@pytest.mark.parametrize(
    ("headers", "seen"),
    [
        ([], []),
        ([("a", b"\x00\x7f\x80\xff\xc3\xab")], [{"a": [0, 127, -128, -1, -61, -85]}]),
        ([("a", b"1"), ("b", b""), ("a", b"2")], [{"a": [49]}, {"b": []}, {"a": [50]}]),
        ([("none", None)], [{"none": None}]),
        ([("", b"x"), ('"\\\n\u00e9\U0001f600', b"y")], [{"": [120]}, {'"\\\n\u00e9\U0001f600': [121]}]),
    ],
    ids=["none", "signed", "repeated", "null", "names"],
)
def test_headers_are_lists_of_signed_bytes(headers: Headers, seen: list[Any]) -> None:
    for made in (record(headers=headers), record(key=None, headers=headers), record(value=None, headers=headers)):
        assert element(made)["headers"] == seen
        assert orjson.loads(FORMAT.event([made]).json())["records"]["mytopic-0"][0]["headers"] == seen


def test_a_record_without_a_key_has_none() -> None:
    """As AWS's poller sends it; an empty key is a key."""
    assert "key" not in element(record(key=None))
    assert element(record(key=b""))["key"] == ""


def test_the_value_of_a_tombstone_is_null() -> None:
    for key in (b"k", None):
        made = element(record(key=key, value=None, headers=[("h", b"\xff")]))
        assert made["value"] is None
        assert ("key" in made) == (key is not None)
        assert list(made) == [name for name in element(record()) if name != "key" or key is not None], "keys in AWS's order"
    assert element(record(value=b""))["value"] == ""


@pytest.mark.parametrize(("number", "name"), [(0, "CREATE_TIME"), (1, "LOG_APPEND_TIME"), (None, "NO_TIMESTAMP_TYPE")])
def test_whose_clock_the_timestamp_is_of(number: int | None, name: str) -> None:
    assert element(record(timestamp_type=number))["timestampType"] == name


def test_the_sample_events_come_out_again() -> None:
    """Back to records and into an event: nothing that a handler reads is missing. MSK's differs in whose it is."""
    folder = os.environ.get("POLLER_CASES")
    if folder is None:
        pytest.skip("POLLER_CASES names no folder of recorded cases")
    samples = json.loads((Path(folder) / "powertools-events.json").read_text())["events"]
    for name in ("kafkaEventMsk", "kafkaEventSelfManaged"):
        sample = samples[name]
        (given,) = sample["records"]["mytopic-0"]
        headers = [(key, bytes(byte & 0xFF for byte in value)) for each in given["headers"] for key, value in each.items()]
        key, value = base64.b64decode(given["key"]), base64.b64decode(given["value"])
        shape = KafkaFormat(sample["bootstrapServers"], "mytopic", 0)
        ours = shape.event([record(given["offset"], key, value, headers, given["timestamp"])]).mapping()
        assert ours["records"] == sample["records"]
        assert ours["bootstrapServers"] == sample["bootstrapServers"]
        assert list(ours) == [each for each in sample if each != "eventSourceArn"]
        assert list(ours["records"]["mytopic-0"][0]) == list(given)


# --- what a response names, and what is kept --------------------------------------------------------------------------------------------


def test_a_response_names_records_by_partition_and_offset() -> None:
    def answer(*items: Any) -> Any:
        response = {"batchItemFailures": [{"itemIdentifier": item} for item in items]}
        return interpret(Returned(json.dumps(response).encode()), FORMAT.event(RECORDS), reporting=True)

    assert answer({"partition": "mytopic-0", "offset": 17}) == Partial((1,))
    assert answer({"offset": 17, "partition": "mytopic-0"}, {"partition": "mytopic-0", "offset": 15}) == Partial((0, 1))
    for wrong in (
        {"partition": "mytopic-0", "offset": 16},
        {"partition": "mytopic-1", "offset": 15},
        {"partition": "mytopic-0", "offset": "15"},
        {"partition": "mytopic", "offset": 15},
        {"partition": "mytopic-0"},
        {},
        None,
        "",
        "mytopic-0",
        15,
    ):
        assert isinstance(answer({"partition": "mytopic-0", "offset": 17}, wrong), Fault), wrong


def test_a_failure_is_replayed_as_it_was() -> None:
    failure = Failure(RECORDS, "RetryAttemptsExhausted", 3)
    kept = entry(failure, FORMAT, mapping="m", source="cluster/mytopic/group", lane="mytopic-0", function="f", now=0.0)
    assert (kept.first, kept.last) == ("mytopic-0@15", "mytopic-0@17")
    assert [record.id for record in kept.records] == ["mytopic-0@15", "mytopic-0@17"]
    assert [record.key for record in kept.records] == ["recordKey", None]
    again = REPLAYED.event(records_of(kept))
    assert again.json() == EVENT
    assert again.identifiers() == FORMAT.event(RECORDS).identifiers()
    part = REPLAYED.event(records_of(kept)[1:])
    assert part.json() == FORMAT.event(RECORDS[1:]).json()


# --- columns --------------------------------------------------------------------------------------------------------------------------


def test_columns() -> None:
    facts = FORMAT.facts(RECORDS)
    assert list(facts.tokens()) == [15, 17]
    assert list(facts.keys()) == [b"recordKey", None]
    assert list(facts.arrivals()) == [1545084650.987, 1545084650.999]
    assert list(FORMAT.names(RECORDS)) == ["mytopic-0@15", "mytopic-0@17"]


def test_no_records() -> None:
    facts, event = FORMAT.facts([]), FORMAT.event([])
    assert [*facts.tokens(), *facts.keys(), *facts.arrivals(), *facts.sizes(), *event.identifiers(), *FORMAT.names([])] == []
    assert list(FORMAT.documents([], FILTERABLE.keys)) == []


@pytest.mark.parametrize("timestamp", [None, -1])
def test_a_record_without_a_timestamp_is_never_too_old(timestamp: int | None) -> None:
    assert FORMAT.facts([record(timestamp=timestamp, timestamp_type=None)]).arrivals() == [inf]


binaries = st.none() | st.binary(max_size=300)
headers = st.lists(st.tuples(st.text(max_size=20), binaries), max_size=3)
records = st.builds(
    record,
    offset=st.integers(0, 2**63 - 1),
    key=binaries,
    value=binaries,
    headers=st.just([]) | headers,
    timestamp=st.integers(-(2**63), 2**63 - 1),
    timestamp_type=st.sampled_from((0, 1, None)),
)


def test_sizes_are_upper_bounds_and_close() -> None:
    @laws(400)
    @given(st.lists(records, min_size=1, max_size=5))
    def holds(some: list[Any]) -> None:
        _, parts, _ = FORMAT.event(some).parts()
        for made, size, part in zip(some, FORMAT.facts(some).sizes(), parts, strict=True):
            assert size >= len(part) + 1, "and the comma"
            loose = sum(6 * len(name) + 5 * len(value or b"") for name, value in made.headers)
            assert size <= len(part) + 110 + loose

    holds()


@pytest.mark.parametrize("size", [None, 0, 1, 2, 3, 100])
def test_no_record_is_larger_than_its_bound(size: int | None) -> None:
    """Of everything the longest."""
    some = None if size is None else b"x" * size
    worst = record(2**63 - 1, some, some, [("\x00" * 50, b"\x80" * 200)], -(2**63), None)
    shape = KafkaFormat(BOOTSTRAP, "mytopic", 2**31 - 1)
    for headers in ((), worst.headers, (("", None),)):
        worst.headers = headers
        _, (part,), _ = shape.event([worst]).parts()
        (bound,) = shape.facts([worst]).sizes()
        assert len(part) + 1 <= bound <= len(part) + 30


def test_the_json_is_that_of_the_mapping() -> None:
    @laws(200)
    @given(st.lists(records, min_size=1, max_size=5))
    def holds(some: list[Any]) -> None:
        event = FORMAT.event(some)
        head, parts, tail = event.parts()
        assert head + b",".join(parts) + tail == event.json()
        assert orjson.loads(event.json()) == event.mapping()
        for made, seen in zip(some, event.mapping()["records"]["mytopic-0"], strict=True):
            assert (None if seen["value"] is None else base64.b64decode(seen["value"])) == made.value
            assert (base64.b64decode(seen["key"]) if "key" in seen else None) == made.key
            back = [
                (name, None if value is None else bytes(byte & 0xFF for byte in value))
                for each in seen["headers"]
                for name, value in each.items()
            ]
            assert back == list(made.headers)

    holds()


@pytest.mark.parametrize(
    "made",
    [
        record(value=b"x" * MAXIMUM_EVENT_BYTES),
        record(value=b"x" * (MAXIMUM_EVENT_BYTES * 3 // 4)),
        record(value=b"x", headers=[("h", b"\x01" * (MAXIMUM_EVENT_BYTES // 4))]),
        record(value=b"x", headers=[("\x00" * (MAXIMUM_EVENT_BYTES // 6), b"")]),
    ],
    ids=["value", "just", "header", "name"],
)
def test_the_size_of_what_may_be_too_large_alone_is_exact(made: Any) -> None:
    _, (small, part), _ = FORMAT.event([record(), made]).parts()
    first, size = FORMAT.facts([record(), made]).sizes()
    assert size == len(part) + 1
    assert len(small) < first < len(small) + 110


# --- what filters see -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (b'{"kind": "order", "n": 1.50}', {"kind": "order", "n": 1.5}),
        (b"[1, 2]", [1, 2]),
        (b"plain text", "plain text"),
        (b'{"broken": ', '{"broken": '),
        (b"", ""),
        (b"\xff\xfe", None),
        (None, None),
    ],
)
def test_filters_see_the_value_decoded(value: bytes | None, seen: Any) -> None:
    made = record(value=value, headers=[("h", b"1")])
    for keys in (frozenset({"value"}), frozenset(FILTERABLE.keys), frozenset({"offset"})):
        (document,) = FORMAT.documents([made], keys)
        assert document.get("value") == seen
        assert keys <= {*document}
    assert {*document} == {*FILTERABLE.keys}, "neither key nor headers"
    assert {name: document[name] for name in document if name != "value"} == {
        name: each for name, each in element(made).items() if name in FILTERABLE.keys and name != "value"
    }


MIXED = [record(n, value=value) for n, value in enumerate((b'{"kind":"order"}', b'{"kind":"other"}', b"order", b"other", b"\xff", None))]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        # AWS Lambda guide, "Filtering events from ... Apache Kafka": where data and pattern differ, only the rest of the pattern counts.
        ({"value": {"kind": ["order"]}}, [0, 2, 3, 4, 5]),
        ({"value": ["order"]}, [0, 1, 2, 4, 5]),
        ({"value": {"kind": ["order"]}, "offset": [{"numeric": ["<", 4]}]}, [0, 2, 3]),
        ({"value": ["order"], "offset": [{"numeric": [">", 0]}]}, [1, 2, 4, 5]),
        ({"timestampType": ["CREATE_TIME"], "topic": ["mytopic"], "partition": [0]}, [0, 1, 2, 3, 4, 5]),
        ({"topic": ["another"]}, []),
    ],
)
def test_which_records_a_pattern_lets_in(pattern: Any, wanted: list[int]) -> None:
    kept, left = Filtering(FilterSettings((json.dumps(pattern),), FILTERABLE)).split(FORMAT, MIXED)
    assert [each.offset for each in kept] == wanted
    assert [each.offset for each in left] == [n for n in range(6) if n not in wanted]
