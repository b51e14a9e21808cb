"""When Python looks for cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from poller.collector import OBJECTS, settle_down


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
    gc.unfreeze()


def test_it_waits_for_as_many_objects_as_may_be_in_flight() -> None:
    usual = gc.get_threshold()
    settle_down(64)
    assert gc.get_threshold() == usual
    settle_down(1000)
    assert gc.get_threshold() == (1000 * OBJECTS, *usual[1:])
    assert gc.get_freeze_count() > 0
