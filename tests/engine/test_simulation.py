"""The laws hold in every run of the simulator; every kind of event is reached; and every broken part is found out.

POLLER_SEEDS says how many runs (default 30). A run that breaks a law names its seed: `simulate(seed)` plays it again, event for event.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from poller.testing.oracle import Broken
from poller.testing.report import Report, reached
from poller.testing.simulator import simulate
from tests.engine.counterparts import COUNTERPARTS, Counterpart, Rigged, kind_of, play
from tests.engine.seeds import replayable

pytestmark = pytest.mark.longest

SEEDS = int(os.environ.get("POLLER_SEEDS", "30"))

ENOUGH = 30
"""So many runs reach every kind of event."""

PLAYS = 60
"""In so many runs a broken part must be found out; most are in the first two or three."""

EVENTS = (
    *("fault: crash", "fault: stop", "fault: cut off", "fault: ask back", "fault: duplicate", "width changed"),
    *("save refused", "save answer lost", "save answered late", "save done twice", "claim refused", "renew refused", "append refused"),
    *("append answer lost", "read not connected", "receive not connected", "settle not connected", "open not connected", "read late"),
    *("ack", "retry", "release", "discard", "fault", "partial", "transient fault", "busy", "batch split", "lane opened", "lane lost"),
    *("span resumed", "handed back", "redriven", "store waited for", "save arrived late", "lane stumbled", "in a row", "cut, not begun"),
    *("shard split", "shard merged", "shard rolled over", "fault: trim", "list not connected", "list late"),
    *("RetryAttemptsExhausted", "RecordAgeExceeded", "MaximumReceiveCountExceeded", "ErrorDiscarded", "record named"),
)


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function looks at its code when it is made, and a simulated one has none."""
    monkeypatch.chdir(tmp_path)


@cache
def reports() -> tuple[Report, ...]:
    """A run of each seed."""
    return tuple(simulate(seed) for seed in range(SEEDS))


def test_the_laws_hold_whatever_happens(tell: Callable[[str], None]) -> None:
    runs = reports()
    tell(reached(runs))
    assert min(run.events for run in runs) >= 200


@pytest.mark.skipif(SEEDS < ENOUGH, reason=f"{SEEDS} runs are too few to reach everything")
def test_every_kind_of_event_is_reached() -> None:
    total: Counter[str] = sum((run.counts for run in reports()), Counter())
    assert [event for event in EVENTS if not total[event]] == []
    assert {run.scenario.kind for run in reports()} == {"stream", "queue", "fifo"}


def test_a_seed_is_the_same_run_every_time() -> None:
    for seed in range(min(SEEDS, 6)):
        first, second = simulate(seed), simulate(seed)
        assert (first.counts, first.events, first.scenario) == (second.counts, second.events, second.scenario)


def test_the_laws_hold_under_every_fault_at_once() -> None:
    """Among them saves that arrive long after their sender has crashed, and lanes that fail between a fetch and its strands."""
    runs = [_harsh(seed) for seed in range(SEEDS)]
    assert sum(run.counts["save arrived late"] for run in runs) > SEEDS
    assert sum(run.counts["lane stumbled"] for run in runs) > SEEDS / 3


def _harsh(seed: int) -> Report:
    with replayable(seed, f"tests.engine.counterparts.play(Rigged, {seed})"):
        return play(Rigged, seed)


@pytest.mark.parametrize("counterpart", COUNTERPARTS, ids=repr)
@pytest.mark.counterpart
def test_a_broken_part_is_found_out(counterpart: Counterpart) -> None:
    seeds = [seed for seed in range(PLAYS * 5) if kind_of(seed) in counterpart.kinds][:PLAYS]
    for seed in seeds:
        try:
            play(counterpart.world, seed)
        except Broken as broken:
            if re.search(counterpart.law, str(broken)):
                return
    pytest.fail(f"{counterpart.world.__name__} broke no law ({counterpart.law}) in {len(seeds)} runs")
