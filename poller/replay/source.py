"""The rows of one run as a source: claimed some at a time, oldest first, each handed out once as a lane.

ids --claim some--> claimed --one by one, as fast as the rate allows, `concurrency` at once--> JournalLane --ran--> finished
 ^                                                                                                                   |
 '--what was parked behind it, at the end of what waits, as it is: edits are of what the plan selects ---------------'
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

from poller.errors import ConfigError, PollerError, StoreError, StoreUnavailable
from poller.failures.journal import Entry, Selection
from poller.failures.protocols import Journal, Runs
from poller.failures.runs import SOURCE, Run
from poller.policy import Block
from poller.protocols import Lane
from poller.replay.claims import Claims
from poller.replay.format import FORMAT
from poller.replay.lane import Ending, JournalLane, Terms
from poller.replay.pace import Pace, ahead

log = logging.getLogger("poller.replay")

UNWRITTEN = 100
"""So many rows may be run whose end is not written yet: of a run that is killed, those and what runs are run again."""


AHEAD_BYTES = 16 * 1024 * 1024
"""Of rows that are claimed and have not begun."""


@dataclass(frozen=True, slots=True)
class Part:
    """What one process does of a run, for one mapping. `owner` is this process's alone. `edit`: what is run instead of a row, None: the
    row itself; raises PollerError for a row that cannot be edited, or sent, as the run asks. `function`: the name of what runs.
    `released`: rows that the run had released before; they run as they are."""

    run: Run
    owner: str
    who: str
    clock: Callable[[], float]
    concurrency: int = 1
    function: str = ""
    edit: Callable[[Entry], Entry | None] = lambda _: None
    released: frozenset[str] = frozenset()


class ReplaySource:
    """`poller.protocols.Source` over these rows, each with its size in bytes, as far as it is known. `ended` hears what became of each,
    `released` which rows come to them: what was parked behind them is run too, until nothing is.

    A crashed run's claims are granted again to the same owner at once, to others when they have run out.
    """

    def __init__(
        self,
        journal: Journal,
        runs: Runs,
        rows: Mapping[str, int],
        policy: Block,
        part: Part,
        ended: Callable[[str, Ending], None],
        released: Callable[[Sequence[str]], None] = lambda _: None,
    ) -> None:
        self.policy, self.format, self.identity = policy, FORMAT, f"replay {part.run.name}"
        self._journal, self._part, self._ended, self._told = journal, part, ended, released
        self._released = {*part.released}
        self._claims = Claims(journal, runs, run=part.run.name, who=part.who, owner=part.owner, clock=part.clock)
        self._terms = Terms(part.run, part.function, self._claims, part.clock, self._on_ran, self._on_released, self._on_closed)
        self._pace = Pace(part.run.plan.rate)
        self._waiting = deque(rows.items())
        self._claimed: deque[tuple[Entry, Entry | None]] = deque()
        self._some, self._since = part.concurrency, -1.0
        self._lanes: dict[str, JournalLane] = {}
        self._running: set[str] = set()
        self._room = asyncio.Event()
        self._heart: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        left = len(self._waiting) + len(self._claimed)
        return f"<ReplaySource {self._part.run.name} [{left} rows wait, {len(self._running)} run]>"

    async def lanes(self) -> AsyncIterator[Lane]:
        """May be asked again after StoreUnavailable: it goes on with the row it was at."""
        loop = asyncio.get_running_loop()
        if self._heart is None:
            self._heart = loop.create_task(self._claims.renew(self._lost), name=f"claims of {self._part.run.name}")
        while self._waiting or self._claimed or self._lanes:
            if not self._waiting and not self._claimed:
                self._room.clear()
                await self._room.wait()  # what runs may release more
                continue
            if not self._claimed:
                await self._claim_some(loop.time())
                continue
            while len(self._running) >= self._part.concurrency or len(self._lanes) >= self._part.concurrency + UNWRITTEN:
                self._room.clear()
                await self._room.wait()
            delay = self._pace.wait(len(self._claimed[0][0].records), loop.time())
            if delay > 0:
                await asyncio.sleep(delay)
            entry, edited = self._claimed.popleft()
            if not self._claims.holds(entry.id):  # lost, after a sleep of the machine
                self._ended(entry.id, "skipped")
                continue
            self._running.add(entry.id)
            self._lanes[entry.id] = lane = JournalLane(entry, self._terms, edited)
            yield lane

    async def aclose(self) -> None:
        """Every claim that is left is given back. Tolerated twice."""
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.gather(self._heart, return_exceptions=True)
        await self._claims.give_back()

    # --- claiming -----------------------------------------------------------------------------------------------------------------

    async def _claim_some(self, now: float) -> None:
        if self._since >= 0.0:
            self._some = ahead(self._some, now - self._since)
        rows = self._next(max(self._some, self._part.concurrency))
        ours = await self._claims.claim(rows)
        done = await self._claims.finished(ours, self._part.run.since)
        entries = await self._read([row for row in ours if row not in done])
        for row in rows:
            self._waiting.popleft()
            if row in entries:
                self._take(entries[row])
            elif row in done:
                self._ended(row, done[row].outcome)
            elif row in ours:
                self._ended(row, "unfit")
            else:
                log.info("row %s is skipped: another run has it, or it is not kept any more", row[:12])
                self._ended(row, "skipped")
        await self._give_back([row for row in ours if row not in entries])
        self._since = now

    def _next(self, most: int) -> list[str]:
        """So many rows, or what of them is small enough to be held."""
        rows, held = list[str](), 0
        for row, size in self._waiting:
            held += size
            if rows and (len(rows) >= most or held > AHEAD_BYTES):
                break
            rows.append(row)
        return rows

    async def _read(self, rows: Sequence[str]) -> dict[str, Entry]:
        """What is there of these rows, and can be read; one that cannot does not keep the others from it."""
        if not rows:
            return {}
        try:
            found = await self._journal.select(Selection(ids=tuple(rows), states=()))
        except StoreUnavailable:
            raise
        except StoreError as error:
            if len(rows) > 1:
                return {name: entry for row in rows for name, entry in (await self._read((row,))).items()}
            log.error("row %s is left as it is, it cannot be read: %s", rows[0][:12], error)
            return {}
        return {row.entry.id: row.entry for row in found}

    def _take(self, entry: Entry) -> None:
        try:
            if self._part.run.plan.to == SOURCE and entry.holds:
                raise ConfigError("it holds keys, and what is put back would be parked behind what is parked behind it: run it")
            self._claimed.append((entry, None if entry.id in self._released else self._part.edit(entry)))
        except PollerError as error:
            log.error("row %s is left as it is: %s", entry.id[:12], error)
            self._ended(entry.id, "unfit")

    async def _give_back(self, rows: Sequence[str]) -> None:
        if rows:
            await self._claims.give_back(rows)

    def _lost(self, row: str) -> None:
        lane = self._lanes.get(row)
        if lane is not None:
            log.warning("the claim on row %s is lost", row[:12])
            lane.lose()

    def _on_ran(self, row: str) -> None:
        self._running.discard(row)
        self._room.set()

    def _on_released(self, rows: Sequence[str]) -> None:
        self._released.update(rows)
        self._waiting.extend((row, 0) for row in rows)
        if rows:
            self._told(rows)
            self._room.set()

    def _on_closed(self, row: str, ending: Ending) -> None:
        self._running.discard(row)
        self._lanes.pop(row, None)
        self._room.set()
        self._ended(row, ending)
