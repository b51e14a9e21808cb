from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

from poller.logs import LINE_LIMIT, JsonFormatter, Output, Payload, Repeats, TextFormatter, bound, function_log, setup
from poller.settings import FunctionLog


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    names = ("", "poller", "connectors", "handlers")
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    logging.captureWarnings(False)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, Output)]:
        root.removeHandler(handler)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def record(text: str, at: float, level: int = logging.WARNING, *args: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("poller.test", level, __file__, 1, text, args, None)
    made.created = at
    made.__dict__.update(extra)
    return made


def test_json_lines_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    setup("auto", "info", stream)
    log = bound("poller.lane", mapping="orders", lane="shard-1")
    log.info("saved %d", 3, extra={"batch": 7, "secret": "not for the log"})
    (line,) = lines(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {"level": "INFO", "logger": "poller.lane", "message": "saved 3", "mapping": "orders", "lane": "shard-1", "batch": 7}


def test_text_on_a_terminal() -> None:
    stream = Terminal()
    setup("auto", "info", stream)
    bound("poller.lane", mapping="orders").bound(lane="shard-1").warning("slow", extra={"request_id": "r-1", "lane": "shard-2"})
    assert re.fullmatch(r"\S+Z WARNING orders/shard-2: slow \[request_id=r-1\]\n", stream.getvalue())


def test_times_are_utc_with_milliseconds() -> None:
    assert json.loads(JsonFormatter().format(record("x", 1763686800.0126)))["time"] == "2025-11-21T01:00:00.012Z"


def test_an_exception_is_two_fields_of_one_line() -> None:
    stream = io.StringIO()
    setup("json", "info", stream)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("poller.x").exception("broke")
    (line,) = lines(stream)
    assert line["error"] == "ValueError"
    assert line["trace"].startswith("Traceback") and line["trace"].endswith("two\nlines")


@pytest.mark.parametrize("value", ["\ud800", 2**100, {"a": 1}, object()])
def test_no_value_loses_a_line(value: object) -> None:
    line = JsonFormatter().format(record("%s", 0.0, logging.INFO, value, batch=value))
    assert json.loads(line.encode(errors="strict"))["batch"]


def test_text_cannot_drive_the_terminal_or_forge_a_line() -> None:
    text = TextFormatter().format(record("%s", 0.0, logging.INFO, "\x1b[2J\x9b1m\rgone\n2026-01-01T00:00:00.000Z ERROR forged"))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
    assert text.splitlines()[1].startswith("    2026")


def test_levels() -> None:
    stream = io.StringIO()
    setup("json", "info", stream)
    logging.getLogger("aiokafka").info("chatter")
    logging.getLogger("poller").debug("detail")
    logging.getLogger("connectors.sqs").info("ours")
    logging.getLogger("aiokafka").warning("theirs")
    assert [line["message"] for line in lines(stream)] == ["ours", "theirs"]
    with pytest.raises(ValueError, match="no log level"):
        setup("json", "loud", stream)


def test_setup_again_replaces_its_own_handler_and_no_other() -> None:
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    try:
        first, second = io.StringIO(), io.StringIO()
        setup("json", "info", first)
        setup("json", "info", second)
        logging.getLogger("poller").info("once")
        assert not first.getvalue() and len(lines(second)) == 1
        assert other in logging.getLogger().handlers
    finally:
        logging.getLogger().removeHandler(other)


def test_a_functions_output() -> None:
    log: FunctionLog = function_log
    stream = io.StringIO()
    setup("json", "info", stream)
    log("orders", "r-1", "100 % done")
    log("orders", "", "x" * (LINE_LIMIT + 5))
    first, second = lines(stream)
    assert (first["message"], first["function"], first["request_id"]) == ("100 % done", "orders", "r-1")
    assert second["message"].endswith("x ... (5 characters more)") and "request_id" not in second


def test_payloads_are_shown_only_when_asked_for() -> None:
    stream = io.StringIO()
    setup("json", "info", stream)
    logging.getLogger("poller").info("got %s %r", Payload(b"card 4111"), Payload("four"))
    setup("json", "info", stream, payloads=True)
    logging.getLogger("poller").info("got %s", Payload(b"card \xff4111"))
    assert [line["message"] for line in lines(stream)] == ["got <9 bytes> <4 characters>", r"got card \xff4111"]


# --- repeats ------------------------------------------------------------------------------------------------------------------------


def said(repeats: Repeats, *records: logging.LogRecord) -> list[tuple[str, int]]:
    return [(it.getMessage(), it.__dict__.get("repeated", 0)) for made in records for it in repeats.passed(made)]


def test_a_repeated_warning_is_written_once_a_minute_with_a_count() -> None:
    repeats = Repeats()
    assert said(repeats, *(record("away", at) for at in range(60))) == [("away", 0)]
    assert said(repeats, record("away", 60)) == [("away", 59)]
    assert said(repeats, record("away", 61)) == []


def test_what_was_left_out_comes_out_when_its_minute_is_over_whatever_is_logged_then() -> None:
    repeats = Repeats()
    said(repeats, record("away", 0), record("away", 1), record("away", 2))
    assert said(repeats, record("hello", 59, logging.INFO)) == [("hello", 0)]
    assert said(repeats, record("hello", 60, logging.INFO)) == [("away", 1), ("hello", 0)]
    # That was the line of the minute from 60 on.
    assert said(repeats, record("away", 119)) == []
    assert said(repeats, record("hello", 121, logging.INFO)) == [("away", 0), ("hello", 0)]


def test_no_warning_is_ever_uncounted() -> None:
    repeats = Repeats()
    ats = [0, 1, 2, 59, 60, 61, 150, 151, 152, 153, 400, 401]
    shown = said(repeats, *(record("away", at) for at in ats))
    shown += [(it.getMessage(), it.__dict__.get("repeated", 0)) for it in repeats.rest()]
    assert sum(1 + count for _, count in shown) == len(ats)


def test_what_counts_as_a_repetition() -> None:
    repeats = Repeats()
    assert said(repeats, record("away, again in %d s", 0, logging.WARNING, 1), record("away, again in %d s", 1, logging.WARNING, 2)) == [
        ("away, again in 1 s", 0)
    ]
    assert len(said(repeats, record("away", 0, lane="a"), record("away", 1, lane="b"), record("away", 2, mapping="m"))) == 3
    assert len(said(repeats, record("late", 0, mapping="m", destination="a"), record("late", 1, mapping="m", destination="b"))) == 2
    assert len(said(repeats, record("gave up %s", 0, logging.ERROR, "a"), record("gave up %s", 1, logging.ERROR, "b"))) == 2
    assert len(said(repeats, record("%s", 0, logging.WARNING, "a"), record("%s", 1, logging.WARNING, "b"))) == 2
    assert len(said(repeats, record("one", 0, key="k"), record("other", 1, key="k"))) == 1
    assert len(said(repeats, *(record("line", at, logging.INFO) for at in range(5)))) == 5
    assert len(said(repeats, *(record("end", at, logging.CRITICAL) for at in range(5)))) == 5


def test_a_clock_that_is_set_back_silences_nothing() -> None:
    repeats = Repeats()
    assert said(repeats, record("away", 1000), record("away", 10)) == [("away", 0), ("away", 0)]


def test_the_number_of_keys_is_bounded() -> None:
    repeats = Repeats(keys=10)
    said(repeats, record("first", 0), record("first", 1), record("first", 2))
    shown = said(repeats, *(record(f"text {n}", 3) for n in range(10)))
    assert ("first", 1) in shown and len(shown) == 11
    assert len(list(repeats._minutes)) == 10


def test_the_last_count_is_written_at_the_end() -> None:
    stream = io.StringIO()
    output = Output(stream)
    output.setFormatter(JsonFormatter())
    for _ in range(3):
        output.handle(record("away", 5.0))
    output.close()
    output.close()
    assert [line.get("repeated") for line in lines(stream)] == [None, 1]
