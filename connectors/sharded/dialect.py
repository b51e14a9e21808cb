"""How a service of shards differs from the others: all that the shared reader and listing must know of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from connectors.sharded.pace import Limits
from connectors.sharded.sequence import apart
from connectors.sharded.shards import ShardReading
from poller.progress import ORIGIN
from poller.protocols import Format

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Dialect(Generic[R]):
    """`place` is for messages. `digits`: of sequence numbers that are asked for, at least. `times`: it knows AT_TIMESTAMP.

    `silent`: where a position is older than what is kept, it goes on at the trim horizon without a word. `expand` (None: not wanted): user
    records in place of aggregates; `expanded`: the same, wanted or not, for what an earlier life began (lane.py). `mark`: told of the
    records of each answer, and of their stream, before anyone else sees them. `refresh`: seconds after which a listing is out of date;
    `pause`: seconds between its pages.
    """

    place: str
    client: ShardReading[R]
    format: Format
    limits: Limits
    digits: int = 0
    times: bool = True
    silent: bool = False
    expand: Callable[[Sequence[R]], Sequence[R]] | None = None
    expanded: Callable[[Sequence[R]], Sequence[R]] | None = None
    mark: Callable[[Sequence[R], str], None] | None = None
    refresh: float = 10.0
    pause: float = 0.0

    def expanding(self, position: int) -> Callable[[Sequence[R]], Sequence[R]] | None:
        """How to take apart what is read from `position` on; None: not at all. A position says which way it was made, and is gone on with
        that way; `ShardLane` turns it where the way may change."""
        if position == ORIGIN:
            return self.expand
        return (self.expand or self.expanded) if apart(position) else None
