"""What waits in the outbox, as the command line reads and drops it: straight from the store, with a daemon and without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from poller.admin.overview import destination_statuses
from poller.cli.journal import opened
from poller.cli.options import mapping_id
from poller.cli.text import iso
from poller.config import Config
from poller.errors import StoreError
from poller.failures.journal import Waiting
from poller.registry import Registry
from poller.status import DestinationStatus

PAGE = 500
"""So many deliveries are dropped in one transaction: a daemon waits for it."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What waits for one destination of a mapping: `waiting`, by which the outbox knows it, and how it is `shown`."""

    waiting: Waiting
    shown: DestinationStatus

    def number(self, *, damaged: bool) -> int:
        """Of deliveries that wait; of those that cannot be read."""
        return self.waiting.damaged if damaged else self.waiting.count


async def waiting(config: Config) -> list[Kept]:
    """All that waits."""
    async with opened(config) as store:
        return _kept(config, await store.outbox.waiting())


async def chosen(config: Config, destination: str, mapping: str | None, *, damaged: bool) -> list[Kept]:
    """What waits for a destination of this name, as it is written or as it is shown. Raises StoreError where nothing does."""
    everything = await waiting(config)
    found = [each for each in everything if destination in (each.shown.name, each.waiting.destination)]
    if mapping is not None:
        found = [each for each in found if each.waiting.mapping == mapping_id(config, mapping)]
    found = [each for each in found if each.number(damaged=damaged)]
    if not found:
        what = "nothing that cannot be read" if damaged else "nothing"
        of = "" if mapping is None else f" of the mapping {mapping}"
        raise StoreError(f"{what} waits for {destination}{of}; `poller outbox list` names what does")
    return found


async def dropped(config: Config, found: Sequence[Kept], *, damaged: bool) -> int:
    """How many were dropped: of what was waiting when it was looked at, for what has come since was not asked about."""
    count = 0
    async with opened(config) as store:
        for each in found:
            while gone := await store.outbox.drop(each.waiting, PAGE, damaged):
                count += gone
    return count


def _kept(config: Config, lines: Sequence[Waiting]) -> list[Kept]:
    registry = Registry()
    return [Kept(line, each) for line in lines for each in destination_statuses(config, (line,), registry) if each.waiting]


def document(each: Kept) -> dict[str, Any]:
    """A line for a program."""
    line = each.waiting
    return {
        "destination": each.shown.name,
        "mapping": each.shown.mapping,
        "waiting": line.count,
        "oldest": iso(line.oldest),
        "attempts": line.attempts,
        "last_error": line.error,
        "damaged": line.damaged,
        "configured": each.shown.configured,
    }
