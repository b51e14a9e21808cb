"""A row of the journal as a lane: so no row waits for another, rows are never mixed, and a lost claim ends this row only.

given -> every record settled -> none failed: replayed | all failed: kept with the new fault | some: what failed becomes a row of its own,
  '-> left or broken: given back                                                              then the old row is replayed

Nothing of a row is decided before all of it is. Until then the row itself, claimed, holds every record, and what a crash leaves runs
again from the start when the claim has run out. What failed again of a *split* row is one new row, `rest_of(row)`, appended before the
old row is marked replayed. A rest that is there already says that this row was decided, so all else of it was handled: the first decision
stands, and the old row only has to be marked. So neither a crash between the two, nor a run that was thought dead, loses a record.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias, TypeVar, assert_never

from poller.errors import LaneEnded, LaneLost, StoreUnavailable
from poller.model import Ack, Action, Batch, Discard, Entry, Failure, Fault, Fetched, Release, Retry, Selection, Span
from poller.protocols import Journal
from poller.replay.claims import Claims
from poller.replay.format import FORMAT, records_of
from poller.strand_runner import STORE_RETRY
from poller.strands import Strands

log = logging.getLogger("poller.replay")

T = TypeVar("T")

Ending: TypeAlias = Literal["replayed", "failed_again", "split", "skipped", "given_back"]
"""What became of a row in this run; `skipped`: another run has it, or it is not kept any more."""


def rest_of(row: str) -> str:
    """The id of the row that holds what failed again of this one, should only some of it fail."""
    return hashlib.blake2b(f"rest of {row}".encode(), digest_size=16).hexdigest()


class Withheld:
    """The `Journal` that a replay's runner is given: a failure is not put down when it happens, but when its row is decided.

    The row holds the records until then, so law 12 stands.
    """

    def __init__(self, journal: Journal) -> None:
        self.select, self.count, self.mark = journal.select, journal.count, journal.mark

    async def append(self, entries: Sequence[Entry]) -> Sequence[str]:
        return [entry.lane for entry in entries]  # a lane of a replay is named for its row, which holds the records


class JournalLane:
    """`poller.protocols.Lane` of one claimed row: one strand, and the row as the one batch it was. `closed` is told its ending, once."""

    def __init__(
        self,
        entry: Entry,
        *,
        journal: Journal,
        claims: Claims,
        run: str,
        function: str,
        clock: Callable[[], float],
        closed: Callable[[str, Ending], None],
    ) -> None:
        self.name, self.format = entry.id, FORMAT
        self.strands = Strands(1, "hash")
        self.leaving: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._entry, self._journal, self._claims = entry, journal, claims
        self._run, self._function, self._clock, self._closed = run, function, clock, closed
        self._records = records_of(entry)
        self._given = self._lost = self._is_closed = False
        self._acked: set[int] = set()
        self._failures: dict[int, Failure] = {}
        self._ending: Ending | None = None
        self._decided = asyncio.Event()

    def __repr__(self) -> str:
        left = len(self._records) - len(self._acked) - len(self._failures)
        return f"<JournalLane {self.name[:12]} [{left} records left, {self._ending or 'open'}]>"

    def lose(self) -> None:
        """The claim is another's, or may soon be: what runs is ended at once, and nothing more is written."""
        if self._ending is None:
            self._lost = True
            if not self.leaving.done():
                self.leaving.set_result(0.0)

    async def fetch(self, limit: int) -> Fetched:  # noqa: ARG002 (the row is run as the batch it was)
        if not self._given:
            self._given = True
            last = len(self._records) - 1
            return Fetched((), ((Span(0, 0, last, last + 1, attempts=0), self._records),))
        decided = asyncio.ensure_future(self._decided.wait())
        try:
            await asyncio.wait((decided, self.leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            decided.cancel()
        if self._ending is not None:
            raise LaneEnded(self.name)
        return Fetched(())

    async def begin(self, batch: Batch) -> None:  # noqa: ARG002 (attempts of a replay are counted in this run only)
        self._lost = self._lost or not self._claims.holds(self.name)
        if self._lost:
            raise LaneLost(f"the claim on row {self.name} ran out, another run may have it")

    async def settle(self, batch: Batch, actions: Sequence[Action]) -> None:  # noqa: ARG002
        if self._lost:
            raise LaneLost(f"the claim on row {self.name} was lost, what it came to is dropped")
        for action in actions:
            match action:
                case Ack(records):
                    self._acked.update(record.place for record in records)
                case Discard(failure):
                    self._failures.update((record.place, failure) for record in failure.records)
                case Retry():
                    pass
                case Release():
                    raise AssertionError("Block never releases (law 5)")
                case _ as never:
                    assert_never(never)
        if self._ending is None and len(self._acked) + len(self._failures) == len(self._records):
            self._ending = await self._decide()
            self._decided.set()

    async def aclose(self, broken: bool = False) -> None:  # noqa: ARG002 (nothing of a row is decided before all of it is)
        if self._is_closed:
            return
        self._is_closed = True
        try:
            if self._ending is None and not self._lost:
                await self._claims.give_back((self.name,))
        finally:
            self._closed(self.name, self._ending or "given_back")

    # --- every record is settled --------------------------------------------------------------------------------------------------

    async def _decide(self) -> Ending:
        if not self._failures:
            await self._finish("replayed")
            return "replayed"
        places = sorted(self._failures)
        first = self._failures[places[0]]
        if not self._acked:
            await self._finish("kept", first.fault)
            return "failed_again"
        # Appending asks nobody whose row it is, so this does: a run that slept past its claim must not write beside the new owner.
        if not await self._insist(lambda: self._claims.claim(self.name)):
            raise self._taken_over()
        rest = self._rest(places, first)
        await self._insist(lambda: self._journal.append((rest,)))
        # Here a crash leaves both rows: whoever claims the old one finds its rest, and marks it (ReplaySource).
        await self._finish("replayed")
        log.warning("row %s: %d of %d records failed again: row %s", self.name[:12], len(places), len(self._records), rest.id[:12])
        return "split"

    def _rest(self, places: Sequence[int], failure: Failure) -> Entry:
        """What failed again, with the first record's error: still one row, for its records go on being one batch in their order."""
        entry = self._entry
        records = tuple(entry.records[place] for place in places)
        return replace(
            entry,
            id=rest_of(entry.id),
            function=self._function,
            reason=failure.reason,
            attempts=failure.attempts,
            fault=failure.fault,
            first=records[0].id,
            last=records[-1].id,
            time=self._clock(),
            records=records,
            identifiers=tuple(entry.identifiers[place] for place in places) if entry.identifiers else (),
            run=self._run,
        )

    async def _finish(self, state: Literal["kept", "replayed"], fault: Fault | None = None) -> None:
        if await self._insist(lambda: self._claims.finish(self.name, state, fault)):
            return
        # Refused: it was done, and its answer lost; or another run has taken the row over, and decides.
        rows = await self._insist(lambda: self._journal.select(Selection(ids=(self.name,), states=(state,))))
        if not rows:
            raise self._taken_over()

    def _taken_over(self) -> LaneLost:
        self._lost = True
        return LaneLost(f"row {self.name} was taken over by another run, what it came to here is dropped")

    async def _insist(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Until the journal answers. A lane that is left tries once more only: then the claim runs out, and the row runs again."""
        tries = 0
        while True:
            last = self.leaving.done()
            try:
                return await operation()
            except StoreUnavailable as error:
                if last:
                    self._lost = True
                    raise LaneLost(f"row {self.name} stays claimed until its claim runs out: {error}") from error
                tries += 1
                delay = STORE_RETRY.delay(tries, 1.0)
                log.warning("row %s: the store does not answer, trying again in %.1f s: %s", self.name[:12], delay, error)
                await asyncio.wait((self.leaving,), timeout=delay)
