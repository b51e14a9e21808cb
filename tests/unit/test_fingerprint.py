"""Fingerprints: the same error with other values is the same, another error is another; and for good."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.failures.fingerprint import FRAMES, fingerprint, masked
from poller.model import Fault
from poller.testing.laws import require
from poller.testing.oracle import Broken
from poller.testing.strategies import counter_test, laws

letters = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=7)
digits = st.text("0123456789", min_size=1, max_size=12)
inside = st.text("abc 1.,/-", max_size=9)

values = st.one_of(
    digits,
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(str),
    st.integers(1000, 10**15).map("{:,}".format),
    st.integers(0, 2**64).map(hex),
    st.binary(min_size=4, max_size=20).map(bytes.hex),
    st.uuids().map(str),
    st.datetimes(datetime(1970, 1, 1)).map(lambda moment: moment.isoformat()),
    st.datetimes(datetime(1970, 1, 1)).map(str),
    st.datetimes(datetime(1970, 1, 1)).map(lambda moment: moment.strftime("%a, %d %b %Y %H:%M:%S")),
    st.builds("{}-{}".format, letters, digits),
    inside.map("'{}'".format),
    inside.map('"{}"'.format),
    st.builds("/{}/{}.txt".format, letters, letters),
    st.builds("C:\\{}\\{}".format, letters, letters),
    st.builds("https://{}.example/{}?q={}".format, letters, letters, digits),
    st.builds("{}@{}.example".format, letters, letters),
    st.builds("10.{}.2.3".format, st.integers(0, 255)),
)
"""Texts that are a value, whatever they are."""

words = st.lists(letters.map(lambda word: f"{word}q"), min_size=1, max_size=4).map(" ".join)
"""Texts that are none: the q keeps them from looking hexadecimal."""

templates = st.lists(words, min_size=2, max_size=4)


def filled(template: list[str], given: list[str]) -> str:
    return "".join(f"{word} {value} " for word, value in zip(template, given, strict=False)) + template[-1]


@st.composite
def same_errors(draw: st.DrawFn) -> tuple[Fault, Fault]:
    """One error twice: other values of the same kinds, other line numbers, other folders."""
    template, lists = draw(templates), st.lists(values, min_size=3, max_size=3)
    type_, places = draw(letters), draw(st.lists(st.tuples(letters, letters), max_size=7))

    def fault() -> Fault:
        trace = tuple(f'  File "/{draw(letters)}/{file}.py", line {draw(digits)}, in {name}\n    {draw(words)}' for file, name in places)
        return Fault(draw(st.sampled_from(("error", "timeout"))), type_, filled(template, draw(lists)), trace)

    return fault(), fault()


def law_same(fingerprint: Callable[[Fault | None, Any], str]) -> None:
    """The same error with other values has the same fingerprint."""

    @laws(400)
    @given(same_errors())
    def holds(pair: tuple[Fault, Fault]) -> None:
        one, other = pair
        same = fingerprint(one, "RetryAttemptsExhausted") == fingerprint(other, "RecordAgeExceeded")
        require(same, f"two fingerprints: {one} and {other}")

    holds()


def law_other(fingerprint: Callable[[Fault | None, Any], str]) -> None:
    """Another type, other words or another function have another fingerprint."""

    @laws(200)
    @given(same_errors(), letters)
    def holds(pair: tuple[Fault, Fault], word: str) -> None:
        one = pair[0]
        others = (
            Fault(one.kind, one.type + word, one.message, one.trace),
            Fault(one.kind, one.type, f"{word}q {one.message}", one.trace),
            Fault(one.kind, one.type, one.message, (*one.trace, f'  File "app.py", line 7, in {word}_')),
            None,
        )
        for other in others:
            different = fingerprint(one, "RetryAttemptsExhausted") != fingerprint(other, "RetryAttemptsExhausted")
            require(different, f"one fingerprint: {one} and {other}")

    holds()


def test_the_same_error_with_other_values_is_the_same() -> None:
    law_same(fingerprint)


def test_another_error_is_another() -> None:
    law_other(fingerprint)


def unmasked(fault: Fault | None, reason: Any) -> str:
    return "" if fault is None else f"{fault.type} {fault.message}"


def lines_and_all(fault: Fault | None, reason: Any) -> str:
    return fingerprint(fault, reason) + ("" if fault is None else str(fault.trace))


def typeless(fault: Fault | None, reason: Any) -> str:
    return "" if fault is None else fingerprint(Fault(fault.kind, "", fault.message, fault.trace), reason)


def message_alone(fault: Fault | None, reason: Any) -> str:
    return "" if fault is None else f"{fault.type} {masked(fault.message)}"


@pytest.mark.parametrize("broken", [unmasked, lines_and_all])
@pytest.mark.counterpart
def test_the_first_law_finds_out(broken: Any) -> None:
    with pytest.raises(Broken), counter_test():
        law_same(broken)


@pytest.mark.parametrize("broken", [typeless, message_alone])
@pytest.mark.counterpart
def test_the_second_law_finds_out(broken: Any) -> None:
    with pytest.raises(Broken), counter_test():
        law_other(broken)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("invalid literal for int() with base 10: 'abc'", "invalid literal for int() with base *"),
        ("order 123 of cust-9a8f: not found", "order * of *: not found"),
        ('duplicate key violates "x_pk"\nDETAIL:  Key (id)=(5) exists.', "duplicate key violates * DETAIL: Key (id)=(*) exists."),
        ("Task timed out after 3.00 seconds", "Task timed out after * seconds"),
        ("[Errno 2] No such file or directory: '/tmp/x'", "[Errno *] No such file or directory: *"),
        ("Mon, 05 Jan 2026 08:00:00 GMT is over", "* GMT is over"),
        ("user a.b+c@example.com isn't 'x' and/or y", "user * isn't * and/or y"),
        ("values [1, 2, 3] bad {'a': 1}", "values [*] bad {*}"),
        ("get https://x.y/z?a=1 failed: 503.", "get * failed: *."),
        ("std::string at fe80::1:ab", "std::string at *"),
        ("-1,234.5% and x=-7", "* and x=*"),
        ("deadbeefcafe was effaced", "* was effaced"),
    ],
)  # fmt: skip
def test_what_is_a_value(message: str, expected: str) -> None:
    assert masked(message) == expected


@pytest.mark.parametrize(
    "traces",
    [
        (
            ('  File "/var/task/app.py", line 3, in handle\n    x(order)', '  File "/usr/lib/json/decoder.py", line 355, in raw_decode'),
            ('  File "/srv/app.py", line 9, in handle\n    y(order)', '  File "/opt/json/decoder.py", line 1, in raw_decode'),
        ),
        (("at handle (/var/task/index.js:3:9)", "at node:x:5:6"), ("at handle (C:\\task\\index.js:7:1)", "at node:x:1:1")),
        (("    at com.foo.Bar.baz(Bar.java:12)",), ("    at com.foo.Bar.baz(Bar.java:99)",)),
        (("/var/task/app.rb:12:in `handle'",), ("/srv/app.rb:3:in `handle'",)),
        (("main.go:12 +0x4f",), ("main.go:19 +0x1",)),
    ],
    ids=["python", "node", "java", "ruby", "whatever"],
)  # fmt: skip
def test_a_frame_is_its_function_and_file(traces: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
    one, other, none = (fingerprint(Fault("error", "E", "m", trace), "RetryAttemptsExhausted") for trace in (*traces, ()))
    assert one == other != none


def test_only_the_innermost_frames_count_and_a_recursion_once() -> None:
    def of(*names: str) -> str:
        return fingerprint(
            Fault("error", "E", "m", tuple(f'  File "app.py", line 1, in {name}' for name in names)), "RetryAttemptsExhausted"
        )

    deep = [f"f{n}" for n in range(FRAMES)]
    assert of("main", *deep) == of("other", *deep)
    assert of("main", *deep[1:]) != of("other", *deep[1:])
    assert of("main", *["f"] * 40) == of("main", *["f"] * 3)


def test_a_fingerprint_is_for_good() -> None:
    """Written down: what one version kept, the next must find again. Another value here is another version of the rules."""
    fault = Fault("error", "KeyError", "order 7 of 'x'", ('  File "/var/task/app.py", line 3, in handle\n    x()',))
    assert fingerprint(fault, "RetryAttemptsExhausted") == "7fcc04f876e4e15f-1"
    assert fingerprint(None, "RecordAgeExceeded") == "b082724d4d6fb619-1"


@pytest.mark.parametrize("text", ["a.", "a-", "'\\", "/", "1,", "+-", "a@", "ab:", "* ", "\ud83d", '"', "a/b/"])
def test_no_message_takes_long(text: str, record_property: Any) -> None:
    """Nothing here grows with the square of the message: the function writes it, and may write anything."""
    began = time.process_time()
    fingerprint(Fault("error", text, text * 100_000, (text * 1000,) * 3), "RetryAttemptsExhausted")
    took = time.process_time() - began
    record_property("seconds", took)
    assert took < 1.0
