"""A row of the journal as a lane: so no row waits for another, rows are never mixed, and a lost claim ends this row only.

given -> every record settled -> none failed: replayed | all failed: kept with the new fault | some: what failed becomes a row of its own,
  '-> left or broken: given back                                                              and the old row is replayed

Nothing of a row is decided before all of it is. Until then the row itself, claimed, holds every record, and what a crash leaves runs
again from the start when the claim has run out. Marking a row, keeping what failed again of a *split* one, and saying so in the trail are
one transaction (`Runs.finish`): no crash comes between them.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, TypeVar, assert_never

from poller.errors import LaneEnded, LaneLost, StoreUnavailable
from poller.failures.fingerprint import fingerprint
from poller.failures.journal import Entry
from poller.failures.protocols import Journal
from poller.failures.runs import Finished, Outcome, Run
from poller.model import Ack, Action, Batch, Discard, Failure, Fetched, Release, Retry, Span
from poller.replay.claims import Claims
from poller.replay.format import FORMAT, records_of
from poller.strands import Strands
from poller.waits import STORE_RETRY

log = logging.getLogger("poller.replay")

T = TypeVar("T")

Ending: TypeAlias = Outcome | Literal["skipped", "unfit", "given_back"]
"""What became of a row in this run; `skipped`: another run has it, or it is not kept any more; `unfit`: it cannot be read, or changed as
the run asks, and stays as it is."""


def rest_of(row: str, record: str = "") -> str:
    """The id of the row that holds what failed again of this one, should only some of it fail; or this record of it, alone."""
    return hashlib.blake2b(f"rest of {row} {record}".rstrip().encode(), digest_size=16).hexdigest()


class Withheld:
    """The `Journal` that a replay's runner is given: a failure is not put down when it happens, but when its row is decided.

    The row holds the records until then, so law 12 stands.
    """

    def __init__(self, journal: Journal) -> None:
        self.select, self.count, self.mark = journal.select, journal.count, journal.mark

    async def append(self, entries: Sequence[Entry]) -> Sequence[str]:
        return [entry.lane for entry in entries]  # a lane of a replay is named for its row, which holds the records


@dataclass(frozen=True, slots=True)
class Terms:
    """What all lanes of a run share. `function`: the name of what runs. `ran` is told that a row needs no function any more, before that
    is durable; `released` which rows were parked behind it, and are kept now; `closed` what became of it, last."""

    run: Run
    function: str
    claims: Claims
    clock: Callable[[], float]
    ran: Callable[[str], None]
    released: Callable[[Sequence[str]], None]
    closed: Callable[[str, Ending], None]


class JournalLane:
    """`poller.protocols.Lane` of one claimed row: one strand, and the row as the one batch it was. `edited`: what is run instead of it."""

    def __init__(self, entry: Entry, terms: Terms, edited: Entry | None = None) -> None:
        self.name, self.format = entry.id, FORMAT
        self.strands = Strands(1, "hash")
        self.leaving: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._entry, self._terms, self._claims = entry, terms, terms.claims
        self._edited = edited is not None
        self._records = records_of(entry if edited is None else edited)
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
            self._terms.ran(self.name)
            self._ending = await self._finish(self._decision())
            self._decided.set()

    async def aclose(self, broken: bool = False) -> None:  # noqa: ARG002 (nothing of a row is decided before all of it is)
        if self._is_closed:
            return
        self._is_closed = True
        try:
            if self._ending is None and not self._lost:
                await self._claims.give_back((self.name,))
        finally:
            self._terms.closed(self.name, self._ending or "given_back")

    # --- every record is settled --------------------------------------------------------------------------------------------------

    def _decision(self) -> Finished:
        plan = self._terms.run.plan
        if not self._failures:
            return Finished(self.name, "sent" if plan.to else "replayed", edited=self._edited)
        places = sorted(self._failures)
        alone = plan.only_failing and len(self._records) > 1
        if not self._acked and not alone:
            return Finished(self.name, "failed_again", self._why(places).fault, edited=self._edited)
        rests = tuple(self._rest((place,)) for place in places) if alone else (self._rest(places),)
        much = f"{len(places)} of {len(self._records)} records failed again"
        log.warning("row %s: %s: row%s", self.name[:12], much, "".join(f" {rest.id[:12]}" for rest in rests[:10]))
        return Finished(self.name, "split", rests=rests, edited=self._edited)

    def _why(self, places: Sequence[int]) -> Failure:
        """The first error: what only came behind it has none of its own."""
        failures = [self._failures[place] for place in places]
        return next((each for each in failures if each.reason != "Parked"), failures[0])

    def _rest(self, places: Sequence[int]) -> Entry:
        """What failed again, with the first record's error: still one row, for its records go on being one batch in their order.

        As the journal had it: what was edited for this run was so for this run. No destination hears of it once more.
        """
        entry, terms, failure = self._entry, self._terms, self._why(places)
        records = tuple(entry.records[place] for place in places)
        return replace(
            entry,
            id=rest_of(entry.id, records[0].id if terms.run.plan.only_failing else ""),
            function=terms.function,
            reason=failure.reason,
            attempts=failure.attempts,
            fault=failure.fault,
            first=records[0].id,
            last=records[-1].id,
            time=terms.clock(),
            records=records,
            identifiers=tuple(entry.identifiers[place] for place in places) if entry.identifiers else (),
            run=terms.run.name,
            group=fingerprint(failure.fault, failure.reason),
            destinations=(),
        )

    async def _finish(self, done: Finished) -> Outcome:
        step = await self._insist(lambda: self._claims.finish(done))
        if step is None:
            # Refused: it was done, and its answer lost; or another has taken the row over, and decides.
            steps = await self._insist(lambda: self._claims.finished((self.name,), self._terms.run.since))
            if self.name not in steps:
                self._lost = True
                raise LaneLost(f"row {self.name} was taken over by another run, what it came to here is dropped")
            step = steps[self.name]
        self._terms.released(step.released)
        return step.outcome

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
