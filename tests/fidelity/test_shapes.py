"""What counts as like a recording, and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fidelity.shapes import Likeness, events_in

ALIKE = [
    ("aws:sqs", "aws:sqs"),
    (1, 1),
    (None, None),
    ("<region>", "local"),
    ("<approximate-arrival-timestamp>", 1545084650.987),
    ("arn:<partition>:sqs:<region>:111111111111:<resource:1>", "arn:aws:sqs:us-east-1:123456789012:orders"),
    ({"body": {"a": 1}}, {"body": '{"a": 1}'}),
    ({"md5OfMessageAttributes": None, "a": 1}, {"a": 1}),
    ({"SenderId": "sender-id"}, {"SenderId": "AIDA"}),
    (["<uuid:1>", "<uuid:2>", "<uuid:1>"], ["a", "b", "a"]),
    (["<uuid:1>", "<sequence-number:2>"], ["a", "a"]),
]

UNLIKE: list[tuple[Any, Any]] = [
    ("aws:sqs", "aws:kinesis"),
    (1, True),
    ("1", 1),
    (None, "a"),
    ("<region>", None),
    ("arn:<partition>:sqs:<region>:111111111111:<resource:1>", "arn:aws:sqs:us-east-1:123:orders"),
    ({"body": {"a": 1}}, {"body": '{"a": 2}'}),
    ({"a": 1}, {"a": 1, "b": 2}),
    ({"a": 1, "b": 2}, {"a": 1}),
    ({"SenderId": "sender-id"}, {"SenderId": 1}),
    ({"a": 1}, [1]),
    ([1], [1, 2]),
    (["<uuid:1>", "<uuid:1>"], ["a", "b"]),
    (["<uuid:1>", "<uuid:2>"], ["a", "a"]),
    (["<uuid:1>"], [1]),
]


@pytest.mark.parametrize(("recorded", "ours"), ALIKE)
def test_alike(recorded: Any, ours: Any) -> None:
    assert Likeness().differences(recorded, ours) == []


@pytest.mark.parametrize(("recorded", "ours"), UNLIKE)
def test_unlike(recorded: Any, ours: Any) -> None:
    assert Likeness().differences(recorded, ours) != []


def test_what_was_bound_stays_bound_from_event_to_event() -> None:
    like = Likeness()
    assert like.differences("<uuid:1>", "a") == []
    assert like.differences("<uuid:1>", "b", "later") == ["later: 'b' for '<uuid:1>'"]


def test_events_are_found_wherever_they_are() -> None:
    event = {"Records": [{"body": "x"}]}
    assert list(events_in({"first": {"Messages": [{"Body": {"event": event}}]}, "all": [event], "none": {"Records": "<the failed>"}})) == [
        event,
        event,
    ]
    assert list(events_in(None)) == []
