"""The rows of the journal that one replay holds, so that no other runs them: claimed by lease, renewed while they run, given back.

kept --claim--> claimed --finish--> replayed, or kept with a new fault
  ^                |  '--give_back--> kept, as it was
  '---- (a crash: the claim runs out, and the next replay takes the row over)

A claim holds until CLAIM_SECONDS after its last renewal. Who cannot renew in time steps down before it runs out (`lost` is called), so
that a row is never run by two. Tell `owner` apart from every other run that lives: an owner's own claims are granted again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Literal

from poller.errors import StoreError, StoreUnavailable
from poller.model import Fault
from poller.protocols import Journal

log = logging.getLogger("poller.replay")

CLAIM_SECONDS = 60.0
RENEW_SECONDS = 15.0
MARGIN_SECONDS = 5.0
"""How long before its end a claim counts as lost; how often the clock is looked at; how long a renewal may take."""


class Claims:
    """`clock` is epoch seconds. Calls raise StoreUnavailable when the journal does not answer; asking again is safe."""

    def __init__(self, journal: Journal, owner: str, clock: Callable[[], float]) -> None:
        self._journal, self._owner, self._clock = journal, owner, clock
        self._until: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Claims of {self._owner} [{len(self._until)} rows]>"

    def holds(self, row: str) -> bool:
        """Whether nobody else can have this row now."""
        return self._until.get(row, 0.0) - self._clock() > MARGIN_SECONDS

    async def claim(self, row: str) -> bool:
        """Whether the row is ours now; else another run has it, or it is not kept any more."""
        now = self._clock()
        # Before the journal is asked: if this is cancelled, or its answer lost, the row may be claimed all the same.
        self._until[row] = now + CLAIM_SECONDS
        if await self._journal.mark((row,), "claimed", now, self._owner, now + CLAIM_SECONDS):
            return True
        del self._until[row]
        return False

    async def finish(self, row: str, state: Literal["kept", "replayed"], fault: Fault | None = None) -> bool:
        """The row has been run: `replayed`, or `kept` with a new fault. False if it was not ours any more, or finished already."""
        # First out of what is renewed: a renewal that came after the mark would claim a row which is kept again.
        self._until.pop(row, None)
        return bool(await self._journal.mark((row,), state, self._clock(), self._owner, fault=fault))

    async def give_back(self, rows: Sequence[str] | None = None) -> None:
        """Rows (None: all that are held) are kept again as they were, for anyone to take. If the journal is away their claims run out."""
        rows = list(self._until) if rows is None else rows
        for row in rows:
            self._until.pop(row, None)
        if not rows:
            return
        try:
            await self._journal.mark(rows, "kept", self._clock(), self._owner)
        except StoreError as error:
            log.warning("%d rows could not be given back, and are claimed for up to %.0f s: %s", len(rows), CLAIM_SECONDS, error)

    async def renew(self, lost: Callable[[str], None]) -> None:
        """For ever: renew what is held, and call `lost` for each row that is not ours any more, or soon may not be."""
        renewed = self._clock()
        while True:
            await asyncio.sleep(MARGIN_SECONDS)
            if self._clock() - renewed >= RENEW_SECONDS and await self._renew_all(lost):
                renewed = self._clock()
            for row in [row for row in self._until if not self.holds(row)]:
                del self._until[row]
                lost(row)

    async def _renew_all(self, lost: Callable[[str], None]) -> bool:
        rows, now = list(self._until), self._clock()
        try:
            async with asyncio.timeout(MARGIN_SECONDS):
                ours = await self._journal.mark(rows, "claimed", now, self._owner, now + CLAIM_SECONDS) if rows else ()
        except (StoreUnavailable, TimeoutError) as error:
            log.warning("cannot renew the claims of %d rows: %s", len(rows), str(error) or "the store does not answer in time")
            return False
        for row in rows:
            if row not in self._until:
                continue  # finished or given back while we asked
            if row in ours:
                self._until[row] = now + CLAIM_SECONDS
            else:
                del self._until[row]
                lost(row)
        # Of those that were finished meanwhile, one that was kept again before the journal heard of us is claimed by nobody now.
        strays = [row for row in ours if row not in self._until]
        if strays:
            await self.give_back(strays)
        return True
