"""Records of the journal read, changed and edited as their producers wrote them."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.dynamodb_streams.options import FILTERABLE as ITEM
from connectors.fields import MESSAGE as QUEUE
from connectors.fields import RECORD as STREAM
from connectors.kafka.options import FILTERABLE as TOPIC
from poller.errors import ConfigError
from poller.failures.journal import Entry, KeptRecord
from poller.failures.payload import change, changed, edit_of, element, encoded
from poller.failures.runs import Plan
from poller.replay import editing
from poller.replay.matching import matching
from poller.replay.pace import Pace, ahead
from poller.settings import Filterable
from poller.testing.journals import make_entry
from poller.testing.strategies import laws

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
OVERS = {"queue": QUEUE, "stream": STREAM, "topic": TOPIC, "item": ITEM, "none": None}


def record(over: Filterable | None, data: bytes) -> bytes:
    """A record's event JSON, with these data where the event of such a source has them."""
    match over:
        case None:
            return json.dumps({"plain": data.decode("utf-8", "replace")}).encode()
        case Filterable(encoding="json"):
            return json.dumps({"eventID": "1", "dynamodb": {"Keys": {"id": {"S": data.decode("utf-8", "replace")}}}}).encode()
        case Filterable(encoding="text"):
            return json.dumps({"messageId": "m", "body": data.decode("utf-8", "replace")}).encode()
        case Filterable(inside=()):
            return json.dumps({"offset": 1, "value": b64encode(data).decode()}).encode()
        case _:
            return json.dumps({"eventID": "1", "kinesis": {"partitionKey": "k", "data": b64encode(data).decode()}}).encode()


def row(*records: bytes, name: str = "f1") -> Entry:
    kept = tuple(KeptRecord(f"{name}-{place}", "k", 1.0, text) for place, text in enumerate(records))
    return make_entry(name, records=kept, identifiers=tuple(f'"{each.id}"' for each in kept))


@pytest.mark.parametrize("over", OVERS.values(), ids=OVERS)
@laws(100)
@given(data=st.binary(max_size=20) | JSON.map(lambda value: json.dumps(value).encode()))
def test_what_is_read_and_written_unchanged_means_the_same(over: Filterable | None, data: bytes) -> None:
    text = record(over, data)
    assert json.loads(encoded(element(text, over), over)) == _compact(json.loads(text), over)


def _compact(value: Any, over: Filterable | None) -> Any:
    """Spaces in JSON that was decoded and encoded again are gone; nothing else."""
    if over is not None and over.encoding != "json":
        holder, key = (value["kinesis"], "data") if over.inside else (value, over.data)
        holder[key] = json.loads(encoded(element(json.dumps(value).encode(), over), over))
        holder[key] = holder[key]["kinesis"]["data"] if over.inside else holder[key][over.data]
        plain = element(json.dumps(value).encode(), over)
        again = element(encoded(plain, over), over)
        assert json.dumps(again) == json.dumps(element(json.dumps(value).encode(), over))
    return value


@pytest.mark.parametrize(
    ("over", "path", "wanted"),
    [
        (QUEUE, "body.customer.id=7", {"messageId": "m", "body": '{"customer":{"id":7},"n":[1,2]}'}),
        (QUEUE, "body.n.1=x", {"messageId": "m", "body": '{"customer":{"id":1},"n":[1,"x"]}'}),
        (QUEUE, 'body={"a":1}', {"messageId": "m", "body": '{"a":1}'}),
        (QUEUE, "body=plain", {"messageId": "m", "body": "plain"}),
        (QUEUE, "messageId=other", {"messageId": "other", "body": '{"customer":{"id":1},"n":[1,2]}'}),
    ],
)
def test_a_change_is_made_inside_the_data_and_encoded_again(over: Filterable, path: str, wanted: Any) -> None:
    old = row(record(over, b'{"customer": {"id": 1}, "n": [1, 2]}'))
    new = changed(old, [change(path)], over)
    assert json.loads(new.records[0].json) == wanted
    assert [each.id for each in new.records] == [each.id for each in old.records]


@pytest.mark.parametrize(("over", "path"), [(STREAM, "data.a=2"), (STREAM, "kinesis.data.a=2"), (TOPIC, "value.a=2")])
def test_base64_is_decoded_and_encoded(over: Filterable, path: str) -> None:
    new = changed(row(record(over, b'{"a": 1}')), [change(path)], over)
    assert new.records[0].json == record(over, b'{"a":2}').replace(b" ", b"")


def test_numbers_that_no_double_holds_survive_a_change_beside_them() -> None:
    new = changed(row(record(QUEUE, b'{"id": 123456789012345678901, "a": 1}')), [change("body.a=2")], QUEUE)
    assert json.loads(json.loads(new.records[0].json)["body"]) == {"id": 123456789012345678901, "a": 2}


@pytest.mark.parametrize("text", ["body", "=1", "a..b=1", ".a=1"])
def test_what_is_no_change_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="path=value"):
        change(text)


@pytest.mark.parametrize("path", ["body.missing.a=1", "body.n.9=1", "body.n.x=1", "body.customer.id.deep=1", "nothing.at.all=1"])
def test_a_path_that_is_not_there_is_told_without_the_data(path: str) -> None:
    with pytest.raises(ConfigError, match="record 0 has nothing at") as refused:
        changed(row(record(QUEUE, b'{"customer": {"id": "secret"}, "n": [1]}')), [change(path)], QUEUE)
    assert "secret" not in str(refused.value)


def test_a_plan_edits_first_and_changes_then() -> None:
    old = row(record(QUEUE, b'{"a": 1}'))
    plan = Plan(changes=("body.b=2",), edits={"f1": ('{"messageId":"m","body":"{\\"a\\":5}"}',)})
    edited = edit_of(plan, lambda _: QUEUE)(old)
    assert edited is not None and json.loads(json.loads(edited.records[0].json)["body"]) == {"a": 5, "b": 2}
    assert edit_of(Plan(), lambda _: QUEUE)(old) is None
    with pytest.raises(ConfigError, match="edit it once more"):
        edit_of(plan, lambda _: QUEUE)(row(record(QUEUE, b"a"), record(QUEUE, b"b")))


@pytest.mark.parametrize(
    ("over", "pattern", "matches"),
    [
        (QUEUE, '{"body": {"kind": ["order"]}}', True),
        (QUEUE, '{"messageId": ["m"]}', True),
        (QUEUE, '{"body": {"kind": ["refund"]}}', False),
        (STREAM, '{"data": {"kind": ["order"]}}', True),
        (STREAM, '{"partitionKey": ["k"]}', True),
        (STREAM, '{"kinesis": {"partitionKey": ["k"]}}', True),
        (TOPIC, '{"value": {"kind": [{"prefix": "ord"}]}}', True),
        (ITEM, '{"dynamodb": {"Keys": {"id": {"S": [{"prefix": "{"}]}}}}', True),
        (None, '{"plain": [{"suffix": "}"}]}', True),
    ],
)
def test_a_pattern_sees_a_record_as_a_filter_does(over: Filterable | None, pattern: str, matches: bool) -> None:
    other, one = record(over, b"plain"), record(over, b'{"kind": "order"}')
    assert matching(pattern, lambda _: over)(row(other, one)) is matches


def test_records_that_are_no_json_match_nothing_and_are_not_edited() -> None:
    broken = row(b"\x00\xff not even text")
    assert not matching('{"body": [{"exists": true}]}', lambda _: QUEUE)(broken)
    with pytest.raises(ConfigError, match="no JSON"):
        editing.written([broken], lambda _: QUEUE)


# --- the editor's text -----------------------------------------------------------------------------------------------------------------


ROWS = [row(record(QUEUE, b'{"a": 1}'), record(QUEUE, b"plain")), row(record(QUEUE, b'{"b": 2}'), name="f2")]


def over(_: str) -> Filterable:
    return QUEUE


def test_what_was_not_edited_is_no_edit_and_what_was_is_encoded() -> None:
    text = editing.written(ROWS, over)
    assert json.loads(text)["f1"][0] == {"messageId": "m", "body": {"a": 1}}
    assert editing.read(text, ROWS, over) == {}
    edited = editing.read(text.replace('"a": 1', '"a": 7'), ROWS, over)
    assert edited == {"f1": ('{"messageId":"m","body":"{\\"a\\":7}"}', ROWS[0].records[1].json.decode())}


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"a": 1', '"a": ', "line 7, column 7: Expecting value"),
        ('"f2"', '"f3"', "'f3' is no failure that is edited\nfailure f2 is missing"),
        ('"body": "plain"', '"body": "plain"}, {"messageId": "more"', "failure f1 has 2 records, and 3 now"),
        ('"a": 1', '"a": NaN', "NaN is no JSON"),
        ('"a": 1', '"a": 1, "a": 2', "'a' stands twice"),
    ],
)
def test_what_is_wrong_is_said_where_it_is(old: str, new: str, problem: str) -> None:
    text = editing.written(ROWS, over)
    assert old in text
    with pytest.raises(ConfigError, match=problem):
        editing.read(text.replace(old, new), ROWS, over)


def test_binary_data_are_shown_and_edited_as_base64() -> None:
    rows = [row(record(STREAM, b"\xff\x00"))]
    text = editing.written(rows, lambda _: STREAM)
    assert json.loads(text)["f1"][0]["kinesis"]["data"] == {"base64": "/wA="}
    edited = editing.read(text.replace("/wA=", "AAA="), rows, lambda _: STREAM)
    assert json.loads(edited["f1"][0])["kinesis"]["data"] == "AAA="
    with pytest.raises(ConfigError, match="no base64"):
        editing.read(text.replace("/wA=", "???"), rows, lambda _: STREAM)


# --- pace ------------------------------------------------------------------------------------------------------------------------------


@given(rate=st.floats(0.1, 1000), rows=st.lists(st.tuples(st.integers(0, 50), st.floats(0, 10)), max_size=50))
def test_in_any_stretch_of_time_no_more_records_begin_than_the_rate_allows(rate: float, rows: list[tuple[int, float]]) -> None:
    pace, now, begun = Pace(rate), 0.0, list[tuple[float, int]]()
    for records, idle in rows:
        now += idle + pace.wait(records, now + idle)
        begun.append((now, max(1, records)))
    for start in range(len(begun)):
        for end in range(start, len(begun)):
            # The last one has begun only: it counts with the stretch that follows.
            assert sum(count for _, count in begun[start:end]) <= (begun[end][0] - begun[start][0]) * rate + 1e-6 * (1 + rate)


def test_claims_grow_while_rows_are_fast_and_shrink_when_they_are_not() -> None:
    assert [ahead(4, seconds) for seconds in (0.1, 1.0, 3.0)] == [8, 4, 2]
    assert (ahead(200, 0.1), ahead(1, 9.0)) == (200, 1)
