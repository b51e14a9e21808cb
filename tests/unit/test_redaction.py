"""Redaction: what a path leads to is hidden, whatever else the record holds stays; what cannot be looked into is hidden whole."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.errors import ConfigError
from poller.failures.journal import Delivery, Entry, KeptRecord
from poller.failures.redaction import HIDDEN, path, redacted, redacted_delivery
from poller.settings import Filterable, RedactionSettings
from poller.testing.journals import make_entry
from poller.testing.laws import require
from poller.testing.strategies import laws

QUEUE = Filterable(keys=("body",), data="body")
STREAM = Filterable(keys=("data",), data="data", inside=("kinesis", "data"), encoding="base64")
CARD = {"kind": "order", "card": {"number": "4111", "holder": "A"}, "items": [{"card": 1}, {"card": 2}, {"free": True}]}


def entry(*records: bytes) -> Entry:
    return make_entry("f1", records=tuple(KeptRecord(f"m{n}", None, 1.0, record) for n, record in enumerate(records)), identifiers=())


def hide(record: Any, *paths: str, over: Filterable | None = QUEUE) -> Any:
    """What is left of a record, as JSON."""
    text = record if isinstance(record, bytes) else json.dumps(record).encode()
    return json.loads(redacted(entry(text), RedactionSettings(tuple(map(path, paths)), over)).records[0].json)


def test_a_path_leads_into_the_data() -> None:
    left = hide({"messageId": "m", "body": json.dumps(CARD)}, "body.card.number", "$.body.items.card")
    assert left["messageId"] == "m"
    assert json.loads(left["body"]) == {
        "kind": "order",
        "card": {"number": HIDDEN, "holder": "A"},
        "items": [{"card": HIDDEN}, {"card": HIDDEN}, {"free": True}],
    }


def test_base64_is_looked_into_and_stays_base64() -> None:
    record = {"kinesis": {"data": b64encode(json.dumps(CARD).encode()).decode(), "partitionKey": "k"}}
    left = hide(record, "kinesis.data.card", over=STREAM)
    assert left["kinesis"]["partitionKey"] == "k"
    assert json.loads(b64decode(left["kinesis"]["data"])) == {**CARD, "card": HIDDEN}


@pytest.mark.parametrize(
    ("record", "paths", "expected"),
    [
        ({"body": "plain text with 4111"}, ["body.card"], {"body": HIDDEN}),
        ({"body": '{"card": "4111"}'}, ["body"], {"body": HIDDEN}),
        ({"body": '{"a": {"x": 1}, "b": {"x": 2}, "c": 3}'}, ["body.*.x"], {"body": '{"a":{"x":"***"},"b":{"x":"***"},"c":3}'}),
        ({"other": 1}, ["body.card"], {"other": 1}),
        ({"body": None}, ["body.card"], {"body": None}),
        (b"\xff no JSON at all", ["body.card"], HIDDEN),
        ({"body": "{}", "attributes": {"SenderId": "A"}}, ["*.SenderId"], {"body": "{}", "attributes": {"SenderId": HIDDEN}}),
    ],
    ids=["text", "all of it", "any key", "absent", "nothing", "no JSON", "beside the data"],
)  # fmt: skip
def test_what_is_hidden(record: Any, paths: list[str], expected: Any) -> None:
    left = hide(record, *paths)
    if isinstance(left, dict) and isinstance(left.get("body"), str) and left["body"].startswith("{"):
        left, expected = ({**each, "body": json.loads(each["body"])} for each in (left, expected))
    assert left == expected


@pytest.mark.parametrize("depth", [300, 900, 100_000])
def test_what_is_nested_too_deep_is_hidden_whole(depth: int) -> None:
    nested = "[" * depth + '{"card": 4111}' + "]" * depth
    left = hide({"messageId": "m", "body": nested, "sender": 7}, "body.card", "sender")
    assert (left["messageId"], left["sender"]) == ("m", HIDDEN) and "4111" not in left["body"]
    record = {"kinesis": {"sequenceNumber": "1", "data": b64encode(nested.encode()).decode()}}
    left = hide(record, "kinesis.data.card", over=STREAM)["kinesis"]
    assert left["sequenceNumber"] == "1" and b"4111" not in b64decode(left["data"])
    assert "4111" not in json.dumps(hide(f'{{"body": {nested}}}'.encode(), "body.card", over=None))


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        ('{"card": "4111", "card": "4111"}', "card"),
        ('{"card": {"number": "4111"}, "card": 5}', "card.number"),
        ('{"order": {"card": "4111"}, "order": {}}', "order.card"),
        ('{"order": [{"card": {"n": "4111"}, "card": null}]}', "order.card.n"),
        ('{"card": "4111", "c\\u0061rd": [], "free": "4"}', "card.number"),
    ],
)
def test_a_key_that_stands_there_twice_hides_nothing(data: str, keys: str) -> None:
    record = {"messageId": "m", "body": data}
    assert "4111" not in hide(record, f"body.{keys}")["body"]
    stream = {"kinesis": {"data": b64encode(data.encode()).decode()}}
    assert b"4111" not in b64decode(hide(stream, f"kinesis.data.{keys}", over=STREAM)["kinesis"]["data"])
    whole = f'{{"body": {data}}}'.encode()
    assert b"4111" not in redacted(entry(whole), RedactionSettings((path(f"body.{keys}"),), None)).records[0].json


@pytest.mark.parametrize(
    ("result", "paths", "expected"),
    [
        ({"card": "4111", "n": 1}, ["responsePayload.card"], {"card": HIDDEN, "n": 1}),
        ({"cards": [{"no": "4111"}, {"no": 2}]}, ["responsePayload.*.no"], {"cards": [{"no": HIDDEN}, {"no": HIDDEN}]}),
        ({"card": "4111"}, ["responsePayload"], HIDDEN),
        ("4111", ["responsePayload.card"], HIDDEN),
        ({"card": "4111"}, ["card", "*", "body.card"], {"card": "4111"}),
        (None, ["responsePayload.card"], None),
    ],
)
def test_what_the_function_returned_is_hidden_by_paths_of_its_own(result: Any, paths: list[str], expected: Any) -> None:
    whole = Delivery(1, "s", "post:a", "success", entry(b'{"card": 1}'), json.dumps(result).encode())
    sent = redacted_delivery(whole, RedactionSettings(tuple(map(path, paths)), None))
    assert json.loads(sent.result or b"") == expected
    assert sent.entry.records[0].json == (b'{"card":"***"}' if "card" in paths else b'{"card": 1}')


def test_a_delivery_without_a_response_has_none_to_hide() -> None:
    failure = Delivery(1, "f", "post:a", "failure", entry(b"{}"))
    assert redacted_delivery(failure, RedactionSettings((("responsePayload",),), None)) == failure
    assert redacted_delivery(failure, None) is failure


def test_bytes_that_may_hold_anything_are_hidden_whole() -> None:
    record = {"kinesis": {"data": b64encode(b"\xff\xfe4111").decode()}}
    assert b"4111" not in b64decode(hide(record, "kinesis.data.card", over=STREAM)["kinesis"]["data"])


def test_without_anything_to_hide_an_entry_stays_itself() -> None:
    whole = entry(b'{ "body" : "{}" }', b"{}")
    assert redacted(whole, None) is whole
    assert redacted(whole, RedactionSettings((("body", "card"),), QUEUE)) is whole


@pytest.mark.parametrize("text", ["", "$", "body..card", ".body", "body."])
def test_a_path_is_keys(text: str) -> None:
    with pytest.raises(ConfigError, match="is no path"):
        path(text)


leaves = st.none() | st.integers() | st.text(max_size=4)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3))


@given(st.dictionaries(st.sampled_from("abc"), values), st.lists(st.sampled_from("abc*"), min_size=1, max_size=3))
@laws(300)
def test_nothing_is_left_where_a_path_leads(record: dict[str, Any], keys: list[str]) -> None:
    left = hide(record, ".".join(keys), over=None)
    require(all(value == HIDDEN for value in _at(left, keys)), f"{'.'.join(keys)} of {record} left {left}")
    require(hide(left, ".".join(keys), over=None) == left, "hiding twice is hiding once")


def _at(value: Any, keys: list[str]) -> list[Any]:
    if isinstance(value, list):
        return [found for item in value for found in _at(item, keys)] if keys else [value]
    if not keys:
        return [value]
    if not isinstance(value, dict):
        return []
    names = [*value] if keys[0] == "*" else [key for key in keys[:1] if key in value]
    return [found for name in names for found in _at(value[name], keys[1:])]
