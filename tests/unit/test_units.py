"""Durations and sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.testing.strategies import laws
from poller.units import duration, show_duration, size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0), ("500ms", 0.5), ("250us", 0.00025), ("1.5s", 1.5), ("90s", 90), ("2m", 120), ("1h", 3600), ("7d", 604_800), (" 30 s ", 30)],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [("0B", 0), ("100B", 100), ("6MB", 6_000_000), ("6MiB", 6_291_456), ("512KiB", 524_288), ("1.5KB", 1500), ("1 GiB", 2**30)],
)  # fmt: skip
def test_sizes(text: str, bytes_: int) -> None:
    assert size(text) == bytes_


BAD = ["", "30", "s", "-1s", "+1s", "1,5s", "1e3s", ".5s", "5.s", "30S", "30 sec", "1m30s", "1s 2s", "Infinity s", "١s\n2", "1ｓ"]


@pytest.mark.parametrize("text", [*BAD, "30MB"])
def test_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no duration; write a number and a unit .*'30s'"):
        duration(text)


@pytest.mark.parametrize("text", [*BAD, "6mb", "6 Mb", "6M", "6MIB", "30s"])
def test_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no size; write a number and a unit .*'512MiB'"):
        size(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.5, "500ms"), (0.001, "1ms"), (1, "1s"), (90, "90s"), (120, "2m"), (3600, "1h"), (86_400, "1d"), (1.5, "1500ms")],
)  # fmt: skip
def test_the_shortest_exact_form(seconds: float, text: str) -> None:
    assert show_duration(seconds) == text


@given(st.integers(0, 14 * 86_400_000))
@laws(300)
def test_what_is_shown_is_read_again(milliseconds: int) -> None:
    seconds = duration(f"{milliseconds}ms")
    assert duration(show_duration(seconds)) == pytest.approx(seconds, abs=1e-6)


@given(st.integers(0, 10**9))
@laws(300)
def test_a_size_loses_no_byte(bytes_: int) -> None:
    """Whatever floating point makes of 1.001 x 1000."""
    assert size(f"{bytes_ // 1000}.{bytes_ % 1000:03}KB") == bytes_
