"""What is told of a batch at its destinations: tables of AWS's rules, and laws of what is left out where not all fits."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.failures.invocation import alone, event, group, key, milliseconds, record
from poller.failures.journal import Delivery, KeptRecord
from poller.model import Fault
from poller.settings import DestinationContext
from poller.testing.destinations import MAPPING, SHARD, context, make_delivery
from poller.testing.laws import require
from poller.testing.oracle import Broken
from poller.testing.strategies import counter_test, laws

EXACT = context(lambda _: {}, exact=True)
OURS = context(lambda _: {})

RESPONSE = {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"}
PARTIAL = Fault("partial", "PartialFailure", "2 of 3", unhandled=False)

ROWS = [
    # reason, attempts, fault -> condition with aws_exact, approximateInvokeCount, responseContext (() : not there)
    ("RetryAttemptsExhausted", 3, Fault("error", "ValueError", "no"), "RetryAttemptsExhausted", 3, RESPONSE),
    ("RetryAttemptsExhausted", 3, PARTIAL, "RetryAttemptsExhausted", 3, RESPONSE | {"functionError": None}),
    ("RecordAgeExceeded", 0, None, "RecordAgeExceeded", 1, ()),
    ("RecordAgeExceeded", 8, Fault("error", "ValueError", "no"), "RecordAgeExceeded", 8, ()),
    ("RetentionExpiring", 2, Fault("error", "ValueError", "no"), "RecordAgeExceeded", 2, ()),
    ("MaximumReceiveCountExceeded", 4, Fault("timeout", "Timeout", "3 s"), "RetryAttemptsExhausted", 4, RESPONSE),
    ("MaximumPayloadSizeExceeded", 0, None, "MaximumPayloadSizeExceeded", 1, None),
]


@pytest.mark.parametrize(("reason", "attempts", "fault", "condition", "count", "response"), ROWS)
def test_why_a_batch_was_given_up(reason: Any, attempts: int, fault: Fault | None, condition: str, count: int, response: Any) -> None:
    delivery = make_delivery(reason=reason, attempts=attempts, fault=fault)
    body = json.loads(record(delivery, EXACT))
    assert body["requestContext"] == {
        "requestId": "c9b8fa9f-5a7f-4000-af9c-0c604cde93a5",
        "functionArn": "arn:aws:lambda:us-east-1:000000000000:function:orders",
        "condition": condition,
        "approximateInvokeCount": count,
    }
    assert body.get("responseContext", ()) == response
    assert (body["version"], body["timestamp"]) == ("1.0", "2019-11-14T00:38:06.021Z")
    assert json.loads(record(delivery, OURS))["requestContext"]["condition"] == reason, "ours says more"


def test_what_is_added_comes_behind_what_aws_has() -> None:
    delivery = make_delivery()
    told = context(lambda entry: {"KinesisBatchInfo": {"batchSize": len(entry.records)}})
    awss = json.loads(record(delivery, replace(told, exact=True)))
    ours = json.loads(record(delivery, told))
    assert list(ours) == [*awss, "payload", "error", "id"]
    assert {name: ours[name] for name in awss} == awss
    fault = delivery.entry.fault
    assert fault is not None
    assert ours["error"] == {"type": fault.type, "message": fault.message, "trace": [*fault.trace]}
    assert ours["payload"] == event(delivery.entry).decode(), "a text, as AWS writes it to S3"
    assert json.loads(record(delivery, told, form="object"))["payload"] == json.loads(event(delivery.entry))


def test_an_error_that_is_no_text_is_told_all_the_same() -> None:
    delivery = make_delivery(fault=Fault("error", "Odd\udc80", "half \ud83d", ("\udfff",)))
    assert json.loads(record(delivery, OURS))["error"] == {"type": "Odd\\udc80", "message": "half \\ud83d", "trace": ["\\udfff"]}


def test_what_is_left_in_the_journal_is_found_there() -> None:
    """The second failure of a batch has an id of its own to receivers, and its row the one that it had."""
    again = replace(make_delivery(), id="f" * 32)
    body = json.loads(record(again, OURS, 500))
    assert (body["id"], body["payloadIn"]) == ("f" * 32, f"journal:{make_delivery().id}")


def test_a_record_without_an_invocation_has_a_request_id_all_the_same() -> None:
    """AWS's have; it is the same one each time."""
    delivery = make_delivery(request_id="")
    assert json.loads(record(delivery, OURS))["requestContext"]["requestId"] == "01234567-89ab-cdef-0123-456789abcdef"


@pytest.mark.parametrize("result", [b'{"a":[1,"\xc3\xa9"]}', b"null", b"12345678901234567890123456789", None])
def test_a_success_is_told_as_lambda_tells_of_an_asynchronous_one(result: bytes | None) -> None:
    delivery = make_delivery(outcome="success", result=result, attempts=1, fault=None)
    body = json.loads(record(delivery, replace(context(), exact=True)))
    assert body == {
        "version": "1.0",
        "timestamp": "2019-11-14T00:38:06.021Z",
        "requestContext": {
            "requestId": "c9b8fa9f-5a7f-4000-af9c-0c604cde93a5",
            "functionArn": "arn:aws:lambda:us-east-1:000000000000:function:orders:$LATEST",
            "condition": "Success",
            "approximateInvokeCount": 1,
        },
        "requestPayload": json.loads(event(delivery.entry)),
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST"},
        "responsePayload": json.loads(result or b"null"),
    }
    assert list(json.loads(record(delivery, context()))) == [*body, "BatchInfo", "id"]


# --- what does not fit ----------------------------------------------------------------------------------------------------------------


@st.composite
def deliveries(draw: st.DrawFn) -> Delivery:
    text = st.text(max_size=60)
    fault = draw(st.none() | st.builds(Fault, st.just("error"), text, text, st.lists(text, max_size=3).map(tuple)))
    data = draw(st.lists(st.text(max_size=200), min_size=1, max_size=4))
    records = tuple(KeptRecord(str(n), None, 0.0, json.dumps({"body": each}).encode()) for n, each in enumerate(data))
    outcome: Literal["failure", "success"] = draw(st.sampled_from(("failure", "success")))
    result = json.dumps(draw(text)).encode() if outcome == "success" else None
    return make_delivery(outcome=outcome, result=result, fault=fault, records=records, first="0", last=str(len(records) - 1))


def law_of_limits(make: Callable[..., bytes]) -> None:
    """Whatever the limit, it is kept, or nothing is left that could go; nothing goes that would have fitted; `id` and condition stay; and
    who is not told the event is told where it is."""

    @laws(300)
    @given(deliveries(), st.integers(200, 3000), st.booleans(), st.none() | st.just("s3://b/k"))
    def holds(delivery: Delivery, limit: int, exact: bool, place: str | None) -> None:
        given_ = replace(OURS, exact=exact)
        body, whole = make(delivery, given_, limit, place=place), record(delivery, given_)
        least = record(delivery, given_, 0, place=place)
        require(len(body) <= limit or len(body) <= len(least), f"{len(body)} bytes for {limit}, and {len(least)} would have done")
        require(len(whole) > limit or body == whole, "something is missing though all fits")
        told = json.loads(body)
        require(told["requestContext"] == json.loads(whole)["requestContext"], "what it is about is missing")
        if not exact:
            require(told["id"] == delivery.id, "its id is missing")
            here = "requestPayload" if delivery.outcome == "success" else "payload"
            require((here in told) != ("payloadIn" in told), "the event is neither here nor there, or both")
            if "payloadIn" in told and (place or delivery.outcome == "failure"):
                require(told["payloadIn"] == (place or f"journal:{delivery.entry.id}"), "it is somewhere else")

    holds()


def test_law_of_limits() -> None:
    law_of_limits(record)


def unlimited(delivery: Delivery, given_: DestinationContext, limit: int, **more: Any) -> bytes:
    """Sends all there is."""
    return record(delivery, given_, None, **more)


def frugal(delivery: Delivery, given_: DestinationContext, limit: int, **more: Any) -> bytes:
    """Never sends the event."""
    return record(delivery, given_, 0, **more)


def silent(delivery: Delivery, given_: DestinationContext, limit: int, place: str | None) -> bytes:
    """Does not say where the event is."""
    fields = json.loads(record(delivery, given_, limit, place=place))
    fields.pop("payloadIn", None)
    whole = record(delivery, given_)
    return whole if len(whole) <= limit else json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize("broken", [unlimited, frugal, silent])
def test_the_law_of_limits_rejects(broken: Callable[..., bytes]) -> None:
    with pytest.raises(Broken), counter_test():
        law_of_limits(broken)


# --- one at a time, and names ---------------------------------------------------------------------------------------------------------


@given(deliveries())
@laws(100)
def test_records_alone_are_all_the_records_in_order(delivery: Delivery) -> None:
    parts = [*alone(delivery)]
    assert [part.entry.records for part in parts] == [(each,) for each in delivery.entry.records]
    assert {part.id for part in parts} == {delivery.id}
    for part in parts:
        assert json.loads(event(part.entry))["Records"] == [json.loads(part.entry.records[0].json)]
        assert (part.entry.first, part.entry.last) == (part.entry.records[0].id,) * 2


def test_identifiers_stay_with_their_records() -> None:
    assert [part.entry.identifiers for part in alone(make_delivery())] == [("7",), ("8",)]
    assert [part.entry.identifiers for part in alone(make_delivery(identifiers=()))] == [(), ()]


KEY = re.compile(r"aws/lambda/m/[^/]+/2019/11/14/2019-11-14T00\.38\.06-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.mark.parametrize("lane", [SHARD, "orders-0", "a/b", "queue"])
def test_an_objects_key_is_as_awss_and_always_the_same(lane: str) -> None:
    one, other = make_delivery(lane=lane), make_delivery("f" * 32, lane=lane)
    assert KEY.fullmatch(key(one, "m"))
    assert key(one, "m") == key(replace(one, attempts=7, number=9), "m") != key(other, "m")
    assert key(one, MAPPING.id).startswith(f"aws/lambda/{MAPPING.id}/")


@given(st.floats(1.0, 4e9))
@laws(200)
def test_an_objects_key_tells_the_records_own_time(moment: float) -> None:
    delivery = make_delivery(time=moment)
    told = json.loads(record(delivery, OURS))["timestamp"]
    assert f"/{told[:10].replace('-', '/')}/{told[:19].replace(':', '.')}-" in key(delivery, "m")


@given(st.lists(st.text(max_size=200), min_size=2, max_size=2, unique=True))
@laws(200)
def test_a_group_is_a_lanes_own_and_one_that_aws_takes(lanes: list[str]) -> None:
    groups = [group(make_delivery(lane=lane)) for lane in lanes]
    assert all(re.fullmatch(r"[!-~]{1,128}", each) for each in groups)
    assert groups[0] != groups[1]


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (1573691886.021, "2019-11-14T00:38:06.021Z"),
        (1573691886.0, "2019-11-14T00:38:06.000Z"),
        (1573691886.9996, "2019-11-14T00:38:07.000Z"),
    ],
)
def test_times_have_milliseconds(moment: float, text: str) -> None:
    assert milliseconds(moment) == text
