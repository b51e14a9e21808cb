"""Fifty workers and five hundred shards, whatever happens to them; and every broken part is found out, in a smaller fleet.

POLLER_SEEDS / 25 says how many runs. A run that breaks a law names its seed: `rally(seed)` plays it again, event for event.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from poller.model import LaneKey, Lease
from poller.ordered_source import OrderedSource
from poller.progress import Progress
from poller.sharing import Shares, View
from poller.stores.memory import MemoryCheckpoints, MemoryStore
from poller.testing.fleet import Fleet, FleetLane, Report, ShownLeases, rally
from poller.testing.oracle import Broken

pytestmark = [pytest.mark.slow, pytest.mark.longest]

SEEDS = max(2, int(os.environ.get("POLLER_SEEDS", "30")) // 25)

ENOUGH = 10
"""So many runs reach every kind of event."""

PLAYS = 12
"""In so many runs of a small fleet a broken part must be found out."""

EVENTS = (
    *("fault: crash", "fault: stop", "fault: stand still", "fault: cut off", "fault: start", "fault: outage"),
    *("handed over", "left", "lost", "opened", "records", "renew refused", "held refused", "save refused"),
)


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A function looks at its code when it is made, and a simulated one has none. What fifty workers log is not worth its time."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.CRITICAL, logger="poller")


def told(reports: Sequence[Report]) -> str:
    slowest: dict[str, float] = {}
    for report in reports:
        for kind, seconds in report.slowest.items():
            slowest[kind or "start"] = max(slowest.get(kind or "start", 0.0), seconds)
    gaps = ", ".join(f"{kind} {seconds:.1f} s" for kind, seconds in sorted(slowest.items()))
    return f"{len(reports)} fleets; longest that a lane was read by nobody, after: {gaps}"


def test_a_fleet_shares_its_shards_whatever_happens(tell: Callable[[str], None]) -> None:
    reports = [rally(seed) for seed in range(SEEDS)]
    tell(told(reports))
    total: Counter[str] = sum((report.counts for report in reports), Counter())
    if len(reports) >= ENOUGH:
        assert [event for event in EVENTS if not total[event]] == []
    assert total["handed over"] > 100


def test_a_seed_is_the_same_run_every_time() -> None:
    first, second = rally(3, Small), rally(3, Small)
    assert (first.counts, first.slowest) == (second.counts, second.slowest)


# --- broken parts -----------------------------------------------------------------------------------------------------------------------


class Small(Fleet):
    workers = 10
    shards = 100


class Altered(OrderedSource):
    """A source with other rules."""

    def _share(self, view: View) -> Shares:
        return self.altered(super()._share(view))

    def altered(self, shares: Shares) -> Shares:
        return shares


class IdleSource(Altered):
    """Asks for nothing."""

    def altered(self, shares: Shares) -> Shares:
        return replace(shares, ask=())


class MiserlySource(Altered):
    """Gives nothing."""

    def altered(self, shares: Shares) -> Shares:
        return replace(shares, give=())


class ModestSource(OrderedSource):
    """Never takes more than its share."""

    def _share(self, view: View) -> Shares:
        return super()._share(replace(view, overdue=()))


class GreedySource(Altered):
    """Takes all that is free, and asks for all there is."""

    def _share(self, view: View) -> Shares:
        shares = super()._share(view)
        others = [holding.lane for holding in view.holdings if holding.owner not in ("", view.me)]
        wanted = {holding.lane for holding in view.holdings if holding.wanted not in ("", view.me)}
        return replace(shares, claim=(*shares.claim, *shares.spare), spare=(), ask=tuple(others[:3]), give=tuple(wanted & {*view.ours}))


class Idle(Small):
    source = IdleSource


class Miserly(Small):
    source = MiserlySource


class Modest(Small):
    source = ModestSource


class Greedy(Small):
    source = GreedySource


class ThievishLeases(ShownLeases):
    """Whoever asks, has it."""

    async def claim(self, key: LaneKey, owner: str, now: float, duration: float, ask: bool = False) -> Lease | None:
        if ask and key in self._held:
            self._held[key].owner = ""
        return await super().claim(key, owner, now, duration, ask)


class Thievish(Small):
    def make_store(self) -> MemoryStore:
        store = super().make_store()
        store.leases = ThievishLeases(self.oracle.claimed)
        store.checkpoints._leases = store.leases
        return store


class UnfencedCheckpoints(MemoryCheckpoints):
    """Save without looking at the lease."""

    async def save(self, lease: Lease, progress: Progress) -> None:
        self._saved[lease.key] = progress


class Unfenced(Small):
    """And its lanes trust in their leases for ever."""

    def make_store(self) -> MemoryStore:
        store = super().make_store()
        store.checkpoints = UnfencedCheckpoints(store.leases)
        return store


class TrustingLane(FleetLane):
    """Believes in its lease, whatever the time."""

    @property
    def trusted_until(self) -> float:
        return float("inf")

    @trusted_until.setter
    def trusted_until(self, until: float) -> None:
        pass


class Trusting(Small):
    lane = TrustingLane


class LongTrustingLane(FleetLane):
    """Believes that all clocks are the same."""

    @property
    def trusted_until(self) -> float:
        return self._until + 1.0

    @trusted_until.setter
    def trusted_until(self, until: float) -> None:
        self._until = until


class LongTrusting(Small):
    lane = LongTrustingLane


class CarelessLane(FleetLane):
    """Is given up without a save."""

    async def aclose(self, broken: bool = False) -> None:
        await super().aclose(broken=broken or self.leaving.done())


class Careless(Small):
    lane = CarelessLane


COUNTERPARTS: list[tuple[type[Fleet], str]] = [
    (Idle, "lanes are shared so"),
    (Miserly, "lanes are shared so"),
    (Modest, "read again only|nobody reads it"),
    (Greedy, "go on moving|lanes are shared so|nobody reads it"),
    (Thievish, "both .* believe in it|begun by"),
    (Unfenced, "set the checkpoint back"),
    (Trusting, "both .* believe in it"),
    (LongTrusting, "both .* believe in it"),
    (Careless, "begun twice"),
]


@pytest.mark.parametrize(("fleet", "law"), COUNTERPARTS, ids=lambda part: getattr(part, "__name__", ""))
@pytest.mark.counterpart
def test_a_broken_part_is_found_out(fleet: type[Fleet], law: str) -> None:
    for seed in range(PLAYS):
        try:
            rally(seed, fleet)
        except Broken as broken:
            if re.search(law, str(broken)):
                return
            raise
    pytest.fail(f"{fleet.__name__} broke no law ({law}) in {PLAYS} runs")
