"""What one read of a shard brought, handed out in slices. No clock, no IO.

A service's answer holds thousands of records, a lane asks for hundreds. Aggregates are taken apart only when they are handed out: an answer
of ten megabytes may hold a hundred times as many user records as records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Generic, TypeVar

from connectors.sharded.sequence import after_all
from poller.progress import ORIGIN
from poller.protocols import Format

R = TypeVar("R")

Expand = Callable[[Sequence[R]], Sequence[R]]
"""User records in place of aggregates."""


def latest(arrival: float) -> float:
    """When a record of this time may have come at the latest: services without AT_TIMESTAMP tell whole seconds, or whole minutes."""
    return arrival + (60.0 if arrival % 60.0 == 0.0 else 1.0)


class Slices(Generic[R]):
    """Records of one shard from a position on. `position`: after all that was handed out; what was passed over counts."""

    __slots__ = ("_expand", "_floor", "_format", "_records", "_since", "_users", "position")

    def __init__(self, format: Format) -> None:
        self.position = ORIGIN
        self._format = format
        self._expand: Expand[R] | None = None
        # Both the other way round: what is handed out is cut off at the end.
        self._records = list[R]()
        self._users = list[R]()
        self._floor = ORIGIN
        self._since = -inf

    def begin(self, position: int, since: float = -inf, expand: Expand[R] | None = None) -> None:
        """Anew from `position`. What came before `since` (epoch seconds) for certain is passed over, up to the first that came later for
        certain."""
        self.position, self._since, self._expand = position, since, expand
        self._records.clear()
        self._users.clear()
        self.repeat()

    def repeat(self) -> None:
        """What is added next may begin below the position."""
        self._floor = self.position

    def add(self, records: Sequence[R]) -> None:
        """The next ones, in order."""
        self._records[:0] = records[::-1]

    def take(self, limit: int) -> list[R]:
        """At most `limit`, in order; none: there is nothing left."""
        found = list[R]()
        while len(found) < limit and (self._users or self._records):
            batch, self.position = self._next(limit - len(found))
            found += self._wanted(batch)
        return found

    def _next(self, room: int) -> tuple[list[R], int]:
        """Some, and the position after them."""
        if self._expand is None:
            batch = _cut(self._records, room)
            return batch, max(self.position, self._token(batch[-1]) + 1)
        if not self._users:
            self._users[:0] = self._expand((self._records.pop(),))[::-1]
        batch = _cut(self._users, room)
        last = self._token(batch[-1])
        # Once all of an aggregate is handed out, the position says so: it is not read again.
        return batch, max(self.position, last + 1 if self._users else after_all(last))

    def _token(self, record: R) -> int:
        token: int = self._format.facts((record,)).tokens()[0]
        return token

    def _wanted(self, batch: list[R]) -> list[R]:
        if self._floor > ORIGIN:
            tokens = self._format.facts(batch).tokens()
            batch = [record for record, token in zip(batch, tokens, strict=True) if token >= self._floor]
            if batch:
                self._floor = ORIGIN
        if self._since > -inf and batch:
            arrivals = self._format.facts(batch).arrivals()
            young = next((i for i, arrival in enumerate(arrivals) if arrival >= self._since), len(batch))
            old = zip(batch[:young], arrivals[:young], strict=True)
            batch = [record for record, arrival in old if latest(arrival) > self._since] + batch[young:]
            if young < len(arrivals):
                self._since = -inf
        return batch


def _cut(left: list[R], count: int) -> list[R]:
    """The next ones, at most so many (1 or more), in order: in one piece, for there are thousands, and out of `left`, so that they die once
    they are done."""
    cut = left[-count:]
    del left[-count:]
    cut.reverse()
    return cut
