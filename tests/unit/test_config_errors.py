"""`[[mappings.NAME.errors]]`: what is read, what is refused, and what a person is warned of."""

from __future__ import annotations

import pytest

from poller.settings import Backoff, ErrorRule
from tests.unit.test_config_parts import QUEUE, STREAM, Complain, Read, mapping


def table(*lines: str, match: str = "ValidationError*", action: str = "retry") -> str:
    return "\n".join(("[[mappings.m.errors]]", f'match = "{match}"', f'action = "{action}"', *lines)) + "\n"


def test_what_a_mapping_says_about_errors(read: Read) -> None:
    text = mapping(source=STREAM) + "\n".join(
        (
            table(action="discard"),
            table(
                "maximum_retry_attempts = -1",
                'bisect_batch_on_function_error = "key"',
                'retry_backoff = { initial = "5s", maximum = "10m" }',
                match="Throttled: *",
            ),
            table(match="Auth*", action="pause"),
            table("bisect_batch_on_function_error = false", match="Declined", action="park"),
        )
    )
    assert read(text).mappings["m"].settings.failure.errors == (
        ErrorRule("ValidationError*", "discard"),
        ErrorRule("Throttled: *", "retry", -1, None, Backoff(5.0, 600.0), "key"),
        ErrorRule("Auth*", "pause"),
        ErrorRule("Declined", "park", bisect=False),
    )
    queue = mapping("batch_size = 1", source=QUEUE) + table("maximum_receive_count = 2", 'retry_backoff = { maximum = "5s" }')
    assert read(queue).mappings["m"].settings.failure.errors == (
        ErrorRule("ValidationError*", "retry", maximum_receive_count=2, backoff=Backoff(1.0, 5.0)),
    )
    assert read(mapping()).mappings["m"].settings.failure.errors == ()


@pytest.mark.parametrize(("written", "meant"), [("true", True), ("false", False), ('"key"', "key")])
def test_how_a_batch_is_split(read: Read, written: str, meant: object) -> None:
    failure = read(mapping(f"bisect_batch_on_function_error = {written}", source=STREAM)).mappings["m"].settings.failure
    assert failure.bisect == meant and type(failure.bisect) is type(meant)


REFUSED = [
    (QUEUE, table(action="skip"), 'action] found "skip"; allowed "discard" or "park" or "retry" or "pause"'),
    (
        QUEUE,
        table(action="park"),
        'action] found "park" on a queue that keeps no order (source type "sqs"); allowed streams and FIFO queues',
    ),
    (
        STREAM,
        table("maximum_retry_attempts = 3", action="park"),
        'maximum_retry_attempts] found a key for action = "retry", and this is "park"; allowed bisect_batch_on_function_error',
    ),
    (QUEUE, table(match=""), 'match] found ""; allowed a string, at least 1 long'),
    (QUEUE, table("match_all = true"), "match_all] found an unknown key; "),
    (QUEUE, table("maximum_retry_attempts = 3"), 'maximum_retry_attempts] found a key for streams, and the source type "sqs" is a queue; '),
    (STREAM, table("maximum_receive_count = 3"), "maximum_receive_count] found a key for queues, "),
    (STREAM, table("maximum_retry_attempts = -2"), "maximum_retry_attempts] found -2; "),
    (
        STREAM,
        table("maximum_retry_attempts = 3", action="discard"),
        'maximum_retry_attempts] found a key for action = "retry", and this is "discard"; allowed bisect_batch_on_function_error',
    ),
    (
        STREAM,
        table("bisect_batch_on_function_error = true", action="pause"),
        'bisect_batch_on_function_error] found a key for action = "retry", and this is "pause"; allowed no such key',
    ),
    (STREAM, table('retry_backoff = { initial = "5m", maximum = "1s" }'), 'retry_backoff] found initial "5m" above maximum "1s"; '),
    (STREAM, table('bisect_batch_on_function_error = "keys"'), 'bisect_batch_on_function_error] found "keys"; '),
]


@pytest.mark.parametrize(("source", "errors", "sentence"), REFUSED, ids=[sentence[:40] for _, _, sentence in REFUSED])
def test_what_is_refused(complain: Complain, source: str, errors: str, sentence: str) -> None:
    (problem,) = complain(mapping("batch_size = 1", source=source) + errors)
    assert f"[mappings.m.errors.0.{sentence}" in problem


def test_a_rule_that_would_never_be_reached_is_refused(complain: Complain) -> None:
    (problem,) = complain(mapping(source=STREAM) + table(match="*") + table(match="Auth*", action="pause"))
    assert '[mappings.m.errors.1.match] found "Auth*" behind "*", which takes all that it would match' in problem
    (problem,) = complain(mapping(source=STREAM) + table() + table(action="pause"))
    assert 'found "ValidationError*" behind "ValidationError*"' in problem


def test_a_rule_cannot_raise_the_limit_of_a_queue(complain: Complain) -> None:
    (problem,) = complain(mapping("maximum_receive_count = 3", source=QUEUE) + table("maximum_receive_count = 4"))
    assert "[mappings.m.errors.0.maximum_receive_count] found 4; allowed 1 to 3, the mapping's" in problem


@pytest.mark.parametrize(
    ("source", "line", "own", "warned"),
    [
        (QUEUE, "batch_size = 10", "", "set batch_size = 1, or let the exception say which one it is (record_index)"),
        (QUEUE, "batch_size = 1", "", ""),
        (STREAM, "batch_size = 10", "", ""),
        (STREAM, "bisect_batch_on_function_error = false", "", "set bisect_batch_on_function_error = true"),
        (STREAM, 'bisect_batch_on_function_error = "key"', "", ""),
        (STREAM, "bisect_batch_on_function_error = false", "bisect_batch_on_function_error = true", ""),
        (STREAM, "batch_size = 10", "bisect_batch_on_function_error = false", "set bisect_batch_on_function_error = true"),
    ],
)
def test_a_person_is_warned_where_good_records_go_with_a_bad_one(read: Read, source: str, line: str, own: str, warned: str) -> None:
    warnings = [text for text in read(mapping(line, source=source) + table(own, action="discard")).warnings if "errors" in text]
    text = '[mappings.m.errors.0] an error that matches "ValidationError*" gives up every record of its batch, the good ones too; '
    assert len(warnings) == bool(warned) and all(warning.endswith(text + warned) for warning in warnings)
