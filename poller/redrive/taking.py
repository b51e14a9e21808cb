"""Takes dead letters into the journal, and only then removes them from where they were.

Whoever is killed in between finds the letter again next time, and its row in the journal: it is taken for the same by its id (law 13), so
that it is neither kept twice nor run twice. What cannot be removed is recognised likewise, for as long as the journal has its row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from poller.errors import SourceError
from poller.failures.journal import OPEN, Row, Selection
from poller.failures.protocols import Journal
from poller.redrive.entries import Understood, understood
from poller.redrive.letters import DeadLetters, Letter, RangeGone, RedriveContext, Regainer

CHUNK = 100
"""So many letters are taken in one transaction at most."""

MOST = 10_000
"""So many are taken by one command."""

NAMED = 20
"""So many of those that are left are named."""


@dataclass(slots=True)
class Taken:
    """What became of letters. `rows`: what is to be run, in the order in which it was found. `records`: of the rows that were taken.
    `handled`: they are in the journal, replayed or dropped; `known`: they are in it, and to be run. `left`: where they are, with why, the
    first few of `left_count`; of these `gone` have records that their source does not have any more. `fetched`: rows whose records were in
    their source still, the first of which will be there until `until` (epoch seconds). `more`: there may be others."""

    address: str
    stays: str = ""
    found: int = 0
    taken: int = 0
    records: int = 0
    known: int = 0
    handled: int = 0
    removed: int = 0
    left: list[tuple[str, str]] = field(default_factory=list)
    left_count: int = 0
    gone: int = 0
    fetched: int = 0
    until: float | None = None
    more: bool = False
    remarks: dict[str, None] = field(default_factory=dict)
    rows: dict[str, None] = field(default_factory=dict)
    sample: list[Row] = field(default_factory=list)

    def leave(self, letter: Letter, error: SourceError) -> None:
        """It stays where it is."""
        self.left_count += 1
        self.gone += isinstance(error, RangeGone)
        if len(self.left) < NAMED:
            self.left.append((letter.name, str(error)))

    def take(self, one: Understood) -> None:
        """It is a row by now, or would be."""
        self.taken += 1
        self.records += len(one.entry.records)
        if len(self.sample) < NAMED:
            self.sample.append(Row(one.entry, "kept"))

    def saw(self, one: Understood) -> None:
        """What it says besides."""
        if one.until is not None:
            self.fetched += 1
            self.until = one.until if self.until is None else min(self.until, one.until)
        if one.remark:
            self.remarks[one.remark] = None


async def take(
    letters: DeadLetters,
    regainer: Regainer,
    journal: Journal,
    context: RedriveContext,
    address: str,
    *,
    dry: bool = False,
    most: int = MOST,
) -> Taken:
    """All that is there, `most` at most. `dry`: nothing is changed anywhere.

    Raises NotConnected, SourceError, StoreUnavailable: what was taken until then is in the journal, for the next time."""
    taken = Taken(address, letters.stays)
    # What stays where it is, and was handled before, does not count: there may be more of it each time.
    while (room := most - taken.taken - taken.known) > 0:
        chunk = await letters.fetch(min(CHUNK, room))
        if not chunk:
            if letters.behind:
                taken.remarks[letters.behind] = None
            return taken
        taken.found += len(chunk)
        found = list[Understood]()
        for letter in chunk:
            try:
                found.append(await understood(letter, context, regainer, address))
            except SourceError as error:
                taken.leave(letter, error)
        if not found:
            continue
        await _keep(found, journal, taken, dry)
        if not dry:
            # Only now: they are durable.
            taken.removed += await letters.remove([each.letter for each in found])
    taken.more = True
    return taken


async def _keep(found: Sequence[Understood], journal: Journal, taken: Taken, dry: bool) -> None:
    ids = [*dict.fromkeys(name for each in found for name in each.known)]
    rows = {row.entry.id: row for row in await journal.select(Selection(ids=tuple(ids), states=()))}
    fresh = list[Understood]()
    for each in found:
        taken.saw(each)
        row = next((rows[name] for name in each.known if name in rows and _is_it(rows[name], each)), None)
        if row is None:
            fresh.append(each)
        elif row.state in OPEN:
            taken.known += 1
            taken.rows[row.entry.id] = None
        else:
            taken.handled += 1
    kept = [each.entry.id for each in fresh] if dry else await journal.append([each.entry for each in fresh])
    for each, name in zip(fresh, kept, strict=True):
        taken.take(each)
        # Another row may hold its first records, and one of its own the rest.
        taken.rows |= {name: None, each.entry.id: None}


def _is_it(row: Row, one: Understood) -> bool:
    """A copy ("queue-dlq") that was not replayed is no failure yet: appending makes it one, for then the message itself is removed."""
    return row.entry.mapping == one.entry.mapping and (row.entry.kept == "failure" or row.state == "replayed")
