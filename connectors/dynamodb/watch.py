"""Who has shown a sign of life, as KCL judges it: by counters that change, and the clock of who looks. Pure.

No two clocks are compared. A holder adds to the lease's counter; whoever sees it unchanged for the holder's duration takes him for dead. So
a worker that has just started waits that long for what it finds held, however long the holder has been gone.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from connectors.dynamodb.row import LeaseRow


@dataclass(slots=True)
class Watch:
    """What one process has seen of many leases. Times are the caller's."""

    _seen: dict[Hashable, tuple[Hashable, float]] = field(default_factory=dict)
    _until: dict[tuple[str, str], tuple[str, float]] = field(default_factory=dict)

    def see(self, table: str, seen: LeaseRow, now: float) -> None:
        self._note((table, seen.name, "lease"), (seen.owner, seen.renewals), now)
        if seen.ours is not None and seen.ours.wanted:
            self._note((table, seen.name, "word"), (seen.ours.wanted, seen.ours.asked), now)

    def renewed(self, table: str, name: str, owner: str, renewals: int, now: float, duration: float) -> None:
        """By us, for certain."""
        self._seen[table, name, "lease"] = ((owner, renewals), now)
        self._until[table, name] = (owner, now + duration)

    def over(self, table: str, name: str, owner: str, now: float) -> bool:
        """Whether a lease of ours is known to be past its time; False where nothing is known of it."""
        found = self._until.get((table, name))
        return found is not None and found[0] == owner and found[1] <= now

    def owner(self, table: str, seen: LeaseRow, now: float) -> str:
        """Whose it is, after `see`; "" if nobody's, or if his time is over."""
        return seen.owner if now < self._since(table, seen.name, "lease", now) + seen.duration else ""

    def wanted(self, table: str, seen: LeaseRow, now: float) -> str:
        """Who asked for it, likewise."""
        ours = seen.ours
        return ours.wanted if ours is not None and now < self._since(table, seen.name, "word", now) + ours.patience else ""

    def _note(self, key: Hashable, mark: Hashable, now: float) -> None:
        found = self._seen.get(key)
        # A clock that was set back would keep a lease that nobody renews for as long.
        if found is None or found[0] != mark or found[1] > now:
            self._seen[key] = (mark, now)

    def _since(self, table: str, name: str, what: str, now: float) -> float:
        found = self._seen.get((table, name, what))
        return now if found is None else found[1]
