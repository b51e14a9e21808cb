"""What runs of the simulator reached."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from poller.testing.scenario import Scenario


@dataclass(slots=True)
class Report:
    """What one run reached, so that a suite can show that its scenarios reach everything.

    `events`: invocations begun and ended, saves and deletes that took effect, calls of store and source, decisions, and faults.
    """

    seed: int
    scenario: Scenario
    events: int
    counts: Counter[str]


def reached(reports: Sequence[Report]) -> str:
    """What a set of runs reached, for the log of a suite."""
    total: Counter[str] = Counter()
    for report in reports:
        total.update(report.counts)
    width = max(map(len, total), default=0)
    events = sum(report.events for report in reports)
    lines = [f"{what:{width}}  {count}" for what, count in sorted(total.items())]
    return "\n".join((f"{len(reports)} runs, {events} events, fewest {min(r.events for r in reports)}", *lines))
