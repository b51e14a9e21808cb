"""Which guards the lanes of a mapping have, in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from poller.idempotency import IdempotencyGuard
from poller.parking import ParkingGuard
from poller.protocols import Guard, Lane, Store
from poller.work import Work


def guarding(work: Work, store: Store) -> Callable[[Lane], Sequence[Guard]]:
    """What makes them for a lane that opens (`Work.guards`). A replay has none of these."""

    def guards(lane: Lane) -> Sequence[Guard]:
        made: list[Guard] = []
        if (window := work.settings.idempotency) is not None:
            # First: what was acknowledged is not parked.
            made.append(IdempotencyGuard(work, window, store.acknowledged))
        if work.settings.parks:
            made.append(ParkingGuard(lane, work, store.parking))
        return made

    return guards
