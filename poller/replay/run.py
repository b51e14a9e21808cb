"""Replays: a named run over rows of the journal, through the same engine. The journal is the source, and a row is a lane.

    selection -> ids -> ReplaySource --claims a row--> JournalLane -> LaneRunner -> function
                                       (at most `concurrency` at once, oldest first)

Policy: Block, with the limits of the mapping's own policy. Nothing is too old for a replay, and attempts count from 1. A row runs as the
batch it was; if it fails again it blocks only itself. What becomes of it: lane.py. Who may run it: claims.py. What would run: counting.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from dataclasses import asdict, dataclass
from dataclasses import replace as changed
from random import Random
from typing import Literal

from poller.errors import StoreError, StoreUnavailable
from poller.functions import Function
from poller.mapping import MappingRunner
from poller.metrics import MappingCounters
from poller.model import Entry, Selection
from poller.policy import Block, Redeliver
from poller.protocols import Journal, Lane, Policy, Source
from poller.replay.claims import Claims
from poller.replay.counting import pages
from poller.replay.format import FORMAT
from poller.replay.lane import Ending, JournalLane, Withheld, rest_of
from poller.settings import FailureSettings, MappingSettings
from poller.turn import Turn
from poller.work import Work

__all__ = ["Replay", "ReplaySource", "Tally", "block", "replay"]

log = logging.getLogger("poller.replay")

RETRIES = 10
"""How often a row is tried again where the mapping sets no limit: a replay must end. (What `defaults = "safe"` has.)"""


def block(policy: Policy, failure: FailureSettings) -> Block:
    """The policy of a replay, from the one of the mapping's source: a partial failure means what it means there, and of a queue's limit of
    receives the first is no retry. Where a policy does not tell, "cut" loses no record, whatever the function means by naming some."""
    if isinstance(policy, Block):
        retries = policy.maximum_retry_attempts
        return changed(policy, maximum_retry_attempts=RETRIES if retries is None else retries, maximum_record_age=None, retention=None)
    if not isinstance(policy, Redeliver):
        return Block(RETRIES, None, failure.bisect, failure.backoff, "cut")
    receives = policy.redrive_count if policy.limit is None else policy.limit
    # A queue deletes what is not named, unless later records of a failed group are given back with it.
    partial: Literal["cut", "listed"] = "cut" if policy.groups else "listed"
    return Block(RETRIES if receives is None else receives - 1, None, failure.bisect, failure.backoff, partial)


@dataclass(slots=True)
class Tally:
    """Where a run stands, in rows. `done_rows` is the sum of the endings: `split` rows failed again in part, `skipped` ones are another
    run's, or not kept any more. `given_back` rows were begun and not finished (a stop, a lost claim), and are not done."""

    total_rows: int = 0
    done_rows: int = 0
    replayed: int = 0
    failed_again: int = 0
    split: int = 0
    skipped: int = 0
    given_back: int = 0

    def add(self, ending: Ending) -> None:
        setattr(self, ending, getattr(self, ending) + 1)
        self.done_rows += ending != "given_back"


class ReplaySource:
    """`poller.protocols.Source` over these rows, each handed out once. `ended` hears what became of each.

    `owner` is this run's alone; a crashed one's claims are granted again to the same owner at once, to others when they have run out.
    """

    def __init__(
        self,
        journal: Journal,
        ids: Iterable[str],
        policy: Block,
        *,
        run: str,
        owner: str,
        clock: Callable[[], float],
        concurrency: int = 1,
        function: str = "",
        ended: Callable[[str, Ending], None] = lambda _row, _ending: None,
    ) -> None:
        self.policy, self.format, self.identity = policy, FORMAT, f"replay {run}"
        self._journal, self._run, self._clock, self._concurrency, self._function = journal, run, clock, concurrency, function
        self._ended = ended
        self._claims = Claims(journal, owner, clock)
        self._waiting = deque(ids)
        self._lanes: dict[str, JournalLane] = {}
        self._closed = asyncio.Event()
        self._heart: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<ReplaySource {self._run} [{len(self._waiting)} rows wait, {len(self._lanes)} run]>"

    async def lanes(self) -> AsyncIterator[Lane]:
        """May be asked again after StoreUnavailable: it goes on with the row it was at."""
        if self._heart is None:
            self._heart = asyncio.get_running_loop().create_task(self._claims.renew(self._lost), name=f"claims of {self._run}")
        while self._waiting:
            while len(self._lanes) >= self._concurrency:
                self._closed.clear()
                await self._closed.wait()
            row = self._waiting[0]
            entry = await self._claim(row)
            self._waiting.popleft()
            if entry is not None:
                self._lanes[row] = lane = JournalLane(
                    entry,
                    journal=self._journal,
                    claims=self._claims,
                    run=self._run,
                    function=self._function or entry.function,
                    clock=self._clock,
                    closed=self._on_closed,
                )
                yield lane

    async def aclose(self) -> None:
        """Every claim that is left is given back. Tolerated twice."""
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.gather(self._heart, return_exceptions=True)
        await self._claims.give_back()

    async def _claim(self, row: str) -> Entry | None:
        """The row, if it is ours to run; else its ending is told."""
        if not await self._claims.claim(row):
            log.info("row %s is skipped: another run has it, or it is not kept any more", row[:12])
            self._ended(row, "skipped")
            return None
        try:
            found = await self._journal.select(Selection(ids=(row, rest_of(row)), states=()))
            entries = {each.entry.id: each.entry for each in found}
            if rest_of(row) not in entries:
                return entries[row]
        except StoreUnavailable:
            raise
        except (StoreError, KeyError) as error:
            log.error("row %s is skipped, it cannot be read: %r", row[:12], error)
            await self._claims.give_back((row,))
            self._ended(row, "skipped")
            return None
        # An earlier run put down what failed again, and ended before it could mark this row: nothing of it is left to run.
        await self._claims.finish(row, "replayed")
        self._ended(row, "split")
        return None

    def _lost(self, row: str) -> None:
        lane = self._lanes.get(row)
        if lane is not None:
            log.warning("the claim on row %s is lost", row[:12])
            lane.lose()

    def _on_closed(self, row: str, ending: Ending) -> None:
        self._lanes.pop(row, None)
        self._closed.set()
        self._ended(row, ending)


class Replay:
    """One run of a selection, in a running loop. `report` is called whenever the `tally` has changed.

    Rows of the mapping `settings.id` are meant, unless the selection names another: then those run with this function. `policy` is that of
    the mapping's source (`Connector.policy`). Copies of what is in a queue's dead-letter queue run only if `selection.copies`. `run` and
    `owner` belong to this run alone.
    """

    def __init__(
        self,
        journal: Journal,
        selection: Selection,
        function: Function,
        settings: MappingSettings,
        *,
        policy: Policy,
        run: str,
        owner: str,
        clock: Callable[[], float],
        random: Random,
        concurrency: int = 1,
        counters: MappingCounters | None = None,
        turn: Turn | None = None,
        report: Callable[[], None] = lambda: None,
    ) -> None:
        self.tally = Tally()
        self._policy = block(policy, settings.failure)
        self._journal, self._selection, self._owner, self._concurrency, self._report = journal, selection, owner, concurrency, report
        self._work = Work(
            settings=settings,
            function=function,
            policy=self._policy,
            source=f"replay {run}",
            journal=Withheld(journal),
            counters=counters or MappingCounters(),
            clock=clock,
            random=random,
            turn=turn or Turn(),
            replaying=run,
        )
        self._runner = MappingRunner(self._work, self._open)
        self._left: dict[str, None] = {}

    def __repr__(self) -> str:
        return f"<Replay {self._work.replaying} [{self.tally}]>"

    async def run(self) -> Tally:
        """Until every row is done, or the run is stopped. Cancelling ends what runs, and gives the rows back.

        Raises StoreUnavailable (only before anything has begun), HandlerError, and ConfigError for an id that may be several.
        """
        selection = changed(self._selection, mapping=self._selection.mapping or self._work.settings.id)
        async for page in pages(self._journal, selection):
            # The list is made once: what this run adds, or keeps again, is not for this run.
            self._left.update((row.entry.id, None) for row in page)
        self.tally.total_rows = len(self._left)
        self._report()
        await self._runner.run()
        return self.tally

    def stop(self, deadline: float) -> None:
        """Start no other row; end what still runs at `deadline` (loop time), and give back what is not done. Tolerated twice, and early."""
        self._runner.stop(deadline)

    async def _open(self) -> Source:
        # After a lane was lost or failed the runner opens the source anew: it goes on with the rows that were never begun.
        return ReplaySource(
            self._journal,
            tuple(self._left),
            self._policy,
            run=self._work.replaying,
            owner=self._owner,
            clock=self._work.clock,
            concurrency=self._concurrency,
            function=self._work.function.name,
            ended=self._ended,
        )

    def _ended(self, row: str, ending: Ending) -> None:
        self._left.pop(row, None)
        self.tally.add(ending)
        self._report()


async def replay(
    journal: Journal,
    selection: Selection,
    function: Function,
    settings: MappingSettings,
    *,
    policy: Policy,
    run: str,
    owner: str,
    clock: Callable[[], float],
    random: Random,
    concurrency: int = 1,
    grace: float = 0.0,
) -> AsyncGenerator[dict[str, int]]:
    """The same as an iterator of tallies, the last one final. Closing it, or cancelling, stops the run: what runs has `grace` seconds."""
    news = asyncio.Event()
    whole = Replay(
        journal,
        selection,
        function,
        settings,
        policy=policy,
        run=run,
        owner=owner,
        clock=clock,
        random=random,
        concurrency=concurrency,
        report=news.set,
    )
    loop = asyncio.get_running_loop()
    task = loop.create_task(whole.run(), name=f"replay {run}")
    task.add_done_callback(lambda _: news.set())
    try:
        while not task.done():
            await news.wait()
            news.clear()
            yield asdict(whole.tally)
        task.result()
    finally:
        whole.stop(loop.time() + grace)
        await asyncio.gather(task, return_exceptions=True)
