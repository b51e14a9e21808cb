"""Who is taken to live, by counters and the clock of who looks (connectors/dynamodb/watch.py)."""

from __future__ import annotations

import pytest

from connectors.dynamodb.checkpoint import TRIM_HORIZON
from connectors.dynamodb.row import KCL_SECONDS, LeaseRow
from connectors.dynamodb.watch import Watch


def held(renewals: int = 1) -> LeaseRow:
    """By a worker of KCL."""
    return LeaseRow("shard", "kcl", renewals, TRIM_HORIZON, None)


@pytest.mark.parametrize("back", [1.0, 3600.0])
def test_a_clock_that_is_set_back_keeps_no_lease_for_longer_than_its_duration(back: float) -> None:
    watch = Watch()
    watch.see("t", held(), 5000.0)
    now = 5000.0 - back
    watch.see("t", held(), now)
    assert watch.owner("t", held(), now) == "kcl"
    watch.see("t", held(), now + KCL_SECONDS)
    assert watch.owner("t", held(), now + KCL_SECONDS) == ""


def test_a_lease_that_is_renewed_stays_held_and_one_that_is_not_is_over() -> None:
    watch = Watch()
    for second in range(0, 40, 5):
        watch.see("t", held(second), float(second))
        assert watch.owner("t", held(second), float(second)) == "kcl"
    watch.see("t", held(35), 35.0 + KCL_SECONDS)
    assert watch.owner("t", held(35), 35.0 + KCL_SECONDS) == ""
