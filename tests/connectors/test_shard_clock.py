"""Whose clock says when LATEST began: `Heard.corrected`."""

from __future__ import annotations

from math import floor

from hypothesis import given
from hypothesis import strategies as st

from connectors.sharded.shards import Heard


@given(st.floats(-300, 300), st.floats(0, 30), st.floats(0, 1), st.floats(0, 60))
def test_a_clock_that_is_off_is_corrected_and_one_that_may_be_right_is_believed(off: float, took: float, part: float, since: float) -> None:
    """`part` of what the call took is over when the service looks at its clock."""
    service = 1_790_000_000.7  # when it did
    sent, received = 100.0, 100.0 + took
    now = received + since
    right = service + took * (1 - part) + since
    corrected = Heard(floor(service), sent, received).corrected(right + off, now)
    if abs(off) < 1e-6:
        assert corrected == right + off
    if off > 1.0 + took:
        assert right - took - 1.001 <= corrected <= right + 1e-6, "what comes from now on is read"
    assert abs(corrected - right) <= 1.001 + took
