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

from poller.errors import StoreError, StoreUnavailable
from poller.failures.protocols import Journal, Runs
from poller.failures.runs import Finished, Step

log = logging.getLogger("poller.replay")

CLAIM_SECONDS = 60.0
RENEW_SECONDS = 15.0
MARGIN_SECONDS = 5.0
"""How long before its end a claim counts as lost; how often the clock is looked at; how long a renewal may take."""
GROUP_ROWS = 200
"""So many rows are finished in one transaction at most."""


class Claims:
    """Of one run. `clock` is epoch seconds. Calls raise StoreUnavailable when the store does not answer; asking again is safe."""

    def __init__(self, journal: Journal, runs: Runs, *, run: str, who: str, owner: str, clock: Callable[[], float]) -> None:
        self._journal, self._runs, self._run, self._who, self._owner, self._clock = journal, runs, run, who, owner, clock
        self._until: dict[str, float] = {}
        self._finishing: list[tuple[Finished, asyncio.Future[Step | None]]] = []
        self._writing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Claims of {self._owner} [{len(self._until)} rows]>"

    def holds(self, row: str) -> bool:
        """Whether nobody else can have this row now."""
        return self._until.get(row, 0.0) - self._clock() > MARGIN_SECONDS

    async def claim(self, rows: Sequence[str]) -> Sequence[str]:
        """Those that are ours now; the others another run has, or they are not kept any more."""
        now = self._clock()
        # Before the journal is asked: if this is cancelled, or its answer lost, the rows may be claimed all the same.
        self._until.update(dict.fromkeys(rows, now + CLAIM_SECONDS))
        ours = await self._journal.mark(rows, "claimed", now, self._owner, now + CLAIM_SECONDS)
        for row in {*rows} - {*ours}:
            del self._until[row]
        return ours

    async def finish(self, done: Finished) -> Step | None:
        """The row has been run, and this is the line of the trail that says so. None if it was not ours any more, or finished already.

        Rows that come together share a transaction: a commit each would cost more than most functions."""
        # First out of what is renewed: a renewal that came after the mark would claim a row which is kept again.
        self._until.pop(done.row, None)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Step | None] = loop.create_future()
        self._finishing.append((done, answer))
        if self._writing is None:
            self._writing = loop.create_task(self._write(), name=f"finish rows of {self._run}")
        return await answer

    async def finished(self, rows: Sequence[str], since: int) -> dict[str, Step]:
        """What the trail says of these rows, behind number `since`."""
        return {step.row: step for step in await self._runs.trail(self._run, rows, since)} if rows else {}

    async def give_back(self, rows: Sequence[str] | None = None) -> None:
        """Rows (None: all that are held) are kept again as they were, for anyone to take. If the journal is away their claims run out."""
        if self._writing is not None:
            # What is being finished is finished first: given back, a row that was handled would be run again.
            await asyncio.wait((self._writing,))
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

    # --- a group of rows ----------------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        try:
            while self._finishing:
                group, self._finishing = self._finishing[:GROUP_ROWS], self._finishing[GROUP_ROWS:]
                await self._write_group(group)
        finally:
            self._writing = None
            for _, answer in self._finishing:
                answer.cancel()

    async def _write_group(self, group: Sequence[tuple[Finished, asyncio.Future[Step | None]]]) -> None:
        try:
            steps = await self._runs.finish(self._run, [done for done, _ in group], self._clock(), self._owner, self._who)
        except asyncio.CancelledError:
            for _, answer in group:
                answer.cancel()
            raise
        except Exception as error:  # each who waits is to hear of it
            if len(group) > 1 and not isinstance(error, StoreUnavailable):
                for one in group:  # a row that the store cannot take must not keep the others from being finished
                    await self._write_group([one])
                return
            for _, answer in group:
                if not answer.done():  # who waited may be cancelled
                    answer.set_exception(error)
        else:
            lines = {step.row: step for step in steps}
            for done, answer in group:
                if not answer.done():
                    answer.set_result(lines.get(done.row))

    # --- renewal ------------------------------------------------------------------------------------------------------------------

    async def _renew_all(self, lost: Callable[[str], None]) -> bool:
        rows, now = list(self._until), self._clock()
        try:
            async with asyncio.timeout(MARGIN_SECONDS):
                ours = {*await self._journal.mark(rows, "claimed", now, self._owner, now + CLAIM_SECONDS)} if rows else set[str]()
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
