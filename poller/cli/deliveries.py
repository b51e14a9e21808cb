"""What waits in the outbox, as the command line reads and drops it: straight from the store, with a daemon and without."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from shlex import quote
from typing import Any

from poller.admin.overview import destination_statuses
from poller.cli.journal import opened
from poller.cli.options import mapping_id
from poller.cli.text import clean, iso, moment, shortened, table
from poller.config import Config
from poller.errors import StoreError
from poller.failures.journal import Damaged, Waiting
from poller.failures.protocols import Outbox
from poller.registry import Registry

PAGE = 100
"""So many deliveries are read, and dropped, at once: what they hold may be megabytes each."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What waits for one destination of a mapping: `waiting`, by which the outbox knows it, and how it is shown. `configured`: the
    configuration names it."""

    waiting: Waiting
    mapping: str
    name: str
    configured: bool

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
    found = [each for each in everything if destination in (each.name, each.waiting.destination)]
    if mapping is not None:
        found = [each for each in found if each.waiting.mapping == mapping_id(config, mapping)]
    found = [each for each in found if each.number(damaged=damaged)]
    if not found:
        what = "nothing that cannot be read" if damaged else "nothing"
        of = "" if mapping is None else f" of the mapping {mapping}"
        raise StoreError(f"{what} waits for {destination}{of}; `poller outbox list` names what does")
    return found


async def dropped(config: Config, found: Sequence[Kept], *, damaged: bool) -> int:
    """How many were dropped: no more of each than were waiting when it was looked at, for what has come since was not asked about."""
    async with opened(config) as store:
        return sum([await _dropped(store.outbox, each.waiting, damaged=damaged) for each in found])


async def _dropped(outbox: Outbox, line: Waiting, *, damaged: bool) -> int:
    if damaged:
        numbers = await _damaged(outbox, line)
        await asyncio.gather(*(outbox.settle(number, None) for number in numbers))
        return len(numbers)
    count = 0
    while count < line.count and (page := await outbox.due(line.mapping, line.destination, inf, min(PAGE, line.count - count))):
        await asyncio.gather(*(outbox.settle(each.number, None) for each in page))
        count += len(page)
    return count


async def _damaged(outbox: Outbox, line: Waiting) -> list[int]:
    """The numbers of those that cannot be read. The outbox gives the oldest first, readable or not, so ever more are looked at."""
    limit = PAGE
    while True:
        page = await outbox.due(line.mapping, line.destination, inf, limit)
        found = [each.number for each in page if isinstance(each, Damaged)]
        if len(found) >= line.damaged or len(page) < limit:
            return found
        limit *= 2


def _kept(config: Config, lines: Sequence[Waiting]) -> list[Kept]:
    registry, names = Registry(), {each.settings.id: each.settings.name for each in config.mappings.values()}
    shown = [next(each for each in destination_statuses(config, (line,), registry) if each.waiting) for line in lines]
    return [Kept(line, names.get(line.mapping, line.mapping), each.name, each.configured) for line, each in zip(lines, shown, strict=True)]


# --- for a person, and for a program ------------------------------------------------------------------------------------------------------


def document(each: Kept) -> dict[str, Any]:
    """A line for a program."""
    line = each.waiting
    return {
        "destination": each.name,
        "mapping": each.mapping,
        "waiting": line.count,
        "oldest": iso(line.oldest),
        "attempts": line.attempts,
        "last_error": line.error,
        "damaged": line.damaged,
        "configured": each.configured,
    }


def overview(found: Sequence[Kept]) -> str:
    """A table, a line each; what is to be known of one stands below it."""
    heads = ("DESTINATION", "OF", "WAITING", "SINCE", "ATTEMPTS")
    rows = ((each.name, each.mapping, each.waiting.count, moment(each.waiting.oldest), each.waiting.attempts or "") for each in found)
    head, *lines = table(heads, rows).splitlines()
    told = [head]
    for each, line in zip(found, lines, strict=True):
        told.append(line)
        if each.waiting.error:
            told.append(clean(f"    {shortened(each.waiting.error, 160)}"))
        giving_up = clean(f"poller outbox drop {quote(each.name)} --mapping {quote(each.mapping)}")
        if each.waiting.damaged:
            told.append(f"    {each.waiting.damaged:,} of them cannot be read; to give these up: {giving_up} --damaged")
        if not each.configured:
            told.append(f"    the configuration names it no more; to give up what waits: {giving_up}")
    return "\n".join(told)
