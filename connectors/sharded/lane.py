"""Lanes over shards: what an earlier life began is finished the way it was begun, with aggregates taken apart or not.

Tokens of both ways never meet (sequence.py), so what is done, or under retry, one way means nothing the other way. As with another width, a
lane with unfinished work hands that out first, ends, and is opened anew; one without goes on behind it at once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from connectors.sharded.sequence import apart, turned
from poller.model import Lease
from poller.ordered import OrderedLane, Reader
from poller.progress import ORIGIN, Progress
from poller.protocols import Format
from poller.settings import Context


class ShardLane(OrderedLane):
    """A lane whose reader hands aggregates on as they are."""

    taken_apart: ClassVar[bool] = False

    def __init__(self, context: Context, lease: Lease, reader: Reader, format: Format, progress: Progress, trusted_until: float) -> None:
        other = progress.frontier != ORIGIN and apart(progress.frontier) is not self.taken_apart
        unfinished = progress.checkpoint < progress.frontier or bool(progress.spans)
        if other and not unfinished:
            way = self.taken_apart
            progress = replace(progress, frontier=turned(progress.frontier, way), careful=turned(progress.careful, way))
        super().__init__(context, lease, reader, format, progress, trusted_until)
        # Below the saved frontier positions are of the earlier way, and the reader goes by them.
        self.outgrown = self.outgrown or (other and unfinished)


class TakenApartLane(ShardLane):
    """A lane whose reader gives user records in place of aggregates."""

    taken_apart: ClassVar[bool] = True
