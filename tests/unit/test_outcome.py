"""What a response means: AWS's rules for partial batch responses, row by row (AWS Lambda guide, and recordings where they exist)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.model import Busy, Done, Fault, Identifier, Outcome, Partial, Response, Returned
from poller.outcome import interpret
from poller.protocols import Event
from poller.testing.fakes import FakeEvent, FakeRecord
from poller.testing.strategies import laws

Kind = Literal["queue", "stream", "objects"]


class ObjectEvent(FakeEvent):
    """Records are named by objects, as Kafka's are: `{"partition": "orders-0", "offset": 100}`, as sorted pairs."""

    def identifiers(self) -> Sequence[Identifier]:
        return [(("offset", record.token), ("partition", "orders-0")) for record in self.records]


NAMES: dict[Kind, list[str]] = {
    "queue": ["059f36b4-87a3-44ab-83d2-661975830a7d", "2e1424d4-f796-459a-8184-9c92662be6da", "ffff-3"],
    # Longer than any machine integer; the last is the first with another end.
    "stream": [
        "49590338271490256608559692538361571095921575989136588898",
        "111",
        "49590338271490256608559692538361571095921575989136588899",
    ],
    "objects": ["orders-0@0", "orders-0@1", "orders-0@2"],
}
EVENTS: dict[Kind, Event] = {
    kind: (ObjectEvent if kind == "objects" else FakeEvent)([FakeRecord(i, name, None, 0.0) for i, name in enumerate(names)])
    for kind, names in NAMES.items()
}
KINDS: tuple[Kind, ...] = ("queue", "stream", "objects")


def named(kind: Kind, *places: int) -> list[Any]:
    """Items that name these records."""
    of: Any = [{"partition": "orders-0", "offset": place} for place in range(3)] if kind == "objects" else NAMES[kind]
    return [{"itemIdentifier": of[place]} for place in places]


def meaning(kind: Kind, answer: Any) -> Outcome:
    return interpret(Returned(json.dumps(answer).encode()), EVENTS[kind], reporting=True)


def is_malformed(outcome: Outcome) -> bool:
    """A complete failure; to Lambda the invocation was a success (recorded: statusCode 200, functionError null)."""
    return isinstance(outcome, Fault) and (outcome.kind, outcome.type, outcome.unhandled) == ("response", "MalformedResponse", False)


# --- success ------------------------------------------------------------------------------------------------------------------------

SUCCESS: list[tuple[str, Any]] = [
    ("an empty string", ""),
    ("null", None),
    ("an empty list", []),
    ("an empty object", {}),
    ("no failures", {"batchItemFailures": []}),
    ("null for failures", {"batchItemFailures": None}),
    ("an object without failures", {"statusCode": 200}),
    ("a string", "ok"),
    ("true", True),
    ("false", False),
    ("a number", 42),
    ("a list of something", [{"itemIdentifier": "111"}]),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("answer", [row[1] for row in SUCCESS], ids=[row[0] for row in SUCCESS])
def test_success(kind: Kind, answer: Any) -> None:
    assert meaning(kind, answer) == Done()


@pytest.mark.parametrize("payload", [b"", b" null ", b"\n{}\n", b'{"batchItemFailures" : [ ] }', b'{"batchItemFailures":[],"extra":1}'])
def test_success_however_it_is_written(payload: bytes) -> None:
    assert interpret(Returned(payload), EVENTS["queue"], reporting=True) == Done()


# --- partial failures -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("places", "indices"),
    [((0,), (0,)), ((2,), (2,)), ((0, 1, 2), (0, 1, 2)), ((2, 0), (0, 2)), ((1, 1), (1,))],
    ids=["the first", "the last", "all", "in any order", "twice"],
)
def test_valid_names(kind: Kind, places: tuple[int, ...], indices: tuple[int, ...]) -> None:
    assert meaning(kind, {"batchItemFailures": named(kind, *places)}) == Partial(indices)


def test_more_than_a_name_is_allowed() -> None:
    items = [item | {"reason": "no stock"} for item in named("queue", 1)]
    assert meaning("queue", {"batchItemFailures": items, "statusCode": 200}) == Partial((1,))


@pytest.mark.parametrize("kind", KINDS)
def test_records_of_one_name_fail_together(kind: Kind) -> None:
    """A queue may deliver a message twice, and both into one batch: what is named must not be acked under its other receipt."""
    twin = FakeRecord(0, NAMES[kind][0], None, 0.0)
    event = type(EVENTS[kind])([twin, FakeRecord(1, NAMES[kind][1], None, 0.0), twin])  # type: ignore[call-arg]
    answer = json.dumps({"batchItemFailures": named(kind, 0)}).encode()
    assert interpret(Returned(answer), event, reporting=True) == Partial((0, 2))


# --- complete failures ------------------------------------------------------------------------------------------------------------------

MALFORMED: list[tuple[str, list[Any]]] = [
    ("an unknown name", [{"itemIdentifier": "b9a2"}]),
    ("a number", [{"itemIdentifier": 123}]),
    ("a number that looks like a name", [{"itemIdentifier": 111}]),
    ("an empty name", [{"itemIdentifier": ""}]),
    ("null for a name", [{"itemIdentifier": None}]),
    ("true", [{"itemIdentifier": True}]),
    ("a list", [{"itemIdentifier": ["111"]}]),
    ("an empty object", [{"itemIdentifier": {}}]),
    ("a wrong key", [{"foo": "notvalid"}]),
    ("a wrong key, and null", [{"foo": None}]),
    ("a wrong key, and a number", [{"foo": 123}]),
    ("a key in another case", [{"ItemIdentifier": "111"}]),
    ("nothing in an item", [{}]),
    ("a string for an item", ["111"]),
    ("null for an item", [None]),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("items", [row[1] for row in MALFORMED], ids=[row[0] for row in MALFORMED])
def test_complete_failure(kind: Kind, items: list[Any]) -> None:
    assert is_malformed(meaning(kind, {"batchItemFailures": items}))
    assert is_malformed(meaning(kind, {"batchItemFailures": [*named(kind, 0), *items]})), "one such item fails the batch"


@pytest.mark.parametrize("failures", ["111", {"itemIdentifier": "111"}, 3, True], ids=["a string", "an object", "a number", "true"])
def test_failures_that_are_no_list(failures: Any) -> None:
    assert is_malformed(meaning("stream", {"batchItemFailures": failures}))


@pytest.mark.parametrize("payload", [b"{", b"ok", b"{'batchItemFailures': []}", b'"\xff"', b'{"batchItemFailures": [}', b"[" * 100_000])
def test_what_is_no_json(payload: bytes) -> None:
    assert is_malformed(interpret(Returned(payload), EVENTS["queue"], reporting=True))


@pytest.mark.parametrize(
    "identifier",
    [
        {"partition": "orders-0"},
        {"offset": 1},
        {"partition": "orders-1", "offset": 1},
        {"partition": "orders-0", "offset": 3},
        {"partition": "orders-0", "offset": "1"},
        {"partition": "orders-0", "offset": 1.5},
        {"partition": "orders-0", "offset": True},
        {"partition": "orders-0", "offset": None},
        {"partition": ["orders-0"], "offset": 1},
        {"partition": "orders-0", "offset": 1, "topic": "orders"},
        "orders-0",
    ],
    ids=str,
)
def test_an_object_that_names_no_record(identifier: Any) -> None:
    """AWS Lambda guide, Kafka: any invalid topic-partition or offset, and the entire batch is retried."""
    assert is_malformed(meaning("objects", {"batchItemFailures": [{"itemIdentifier": identifier}]}))


def test_the_keys_of_an_object_come_in_any_order() -> None:
    for identifier in ({"partition": "orders-0", "offset": 2}, {"offset": 2, "partition": "orders-0"}):
        assert meaning("objects", {"batchItemFailures": [{"itemIdentifier": identifier}]}) == Partial((2,))


# --- what was not asked for, or did not return --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b'{"batchItemFailures":[{"itemIdentifier":"111"}]}', b'{"batchItemFailures":3}', b"no json", b""])
def test_without_report_batch_item_failures_whatever_returns_is_success(payload: bytes) -> None:
    assert interpret(Returned(payload), EVENTS["stream"], reporting=False) == Done()


@pytest.mark.parametrize("reporting", [True, False])
@pytest.mark.parametrize("response", [Fault("error", "ValueError", "no"), Fault("timeout", "Sandbox.Timedout", ""), Busy(3.0, "throttled")])
def test_what_did_not_return_is_what_it_is(response: Response, reporting: bool) -> None:
    assert interpret(response, EVENTS["queue"], reporting) is response


# --- laws -------------------------------------------------------------------------------------------------------------------------------

json_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(allow_nan=False), st.sampled_from(("", "111", "x"))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(("batchItemFailures", "itemIdentifier", "offset")), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.one_of(json_values, json_values.map(lambda value: {"batchItemFailures": [{"itemIdentifier": value}]})), st.sampled_from(KINDS))
@laws(150)
def test_whatever_a_function_returns_has_a_meaning(answer: Any, kind: Kind) -> None:
    outcome = meaning(kind, answer)
    assert outcome == Done() or is_malformed(outcome) or isinstance(outcome, Partial)
    if isinstance(outcome, Partial):
        assert outcome.indices == tuple(sorted(set(outcome.indices))) and outcome.indices


@given(st.binary(max_size=60))
@laws(200)
def test_whatever_bytes_come_have_a_meaning(payload: bytes) -> None:
    outcome = interpret(Returned(payload), EVENTS["queue"], reporting=True)
    assert outcome == Done() or is_malformed(outcome)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.sampled_from(KINDS))
@laws(100)
def test_exactly_what_is_named_fails(places: list[int], kind: Kind) -> None:
    assert meaning(kind, {"batchItemFailures": named(kind, *places)}) == Partial(tuple(sorted(set(places))))
