"""Replays: a named run over rows of the journal, through the same engine. The journal is the source, and a row is a lane.

    plan -> rows -> ReplaySource --claims some--> JournalLane -> LaneRunner -> function
                                   (at most `concurrency` at once, oldest first)

Policy: Block, with the limits of the mapping's own policy. Nothing is too old for a replay, and attempts count from 1. A row runs as the
batch it was; if it fails again it blocks only itself, and what is parked behind it. What becomes of it: lane.py. Who may run it: claims.py,
and who the run: hold.py. What would run: listing.py, counting.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from dataclasses import replace as changed
from random import Random
from typing import Literal

from poller.error_rules import replayed
from poller.functions import Function
from poller.mapping import MappingRunner
from poller.metrics import MappingCounters
from poller.policy import Block, Redeliver
from poller.protocols import Policy, Source, Store
from poller.replay.guard import RowGuard
from poller.replay.lane import Ending, Withheld
from poller.replay.source import Part, ReplaySource
from poller.settings import FailureSettings, MappingSettings
from poller.turn import Turn
from poller.work import Work

__all__ = ["Replay", "Tally", "block", "replay"]

RETRIES = 10
"""How often a row is tried again where the mapping sets no limit: a replay must end. (What `defaults = "safe"` has.)"""


def block(policy: Policy, failure: FailureSettings, only_failing: bool = False) -> Block:
    """The policy of a replay, from the one of the mapping's source: a partial failure means what it means there, and of a queue's limit of
    receives the first is no retry. Where a policy does not tell, "cut" loses no record, whatever the function means by naming some.

    `only_failing`: what fails as a whole is halved down to single records, whatever the policy says."""
    if only_failing:
        made = block(policy, failure)
        return changed(made, bisect=made.bisect or True, errors=replayed(made.errors, RETRIES, bisected=True))
    if isinstance(policy, Block):
        limit, errors = policy.maximum_retry_attempts, replayed(policy.errors, RETRIES)
        limit = RETRIES if limit is None else limit
        return changed(policy, maximum_retry_attempts=limit, maximum_record_age=None, retention=None, errors=errors)
    if not isinstance(policy, Redeliver):
        return Block(RETRIES, None, failure.bisect, failure.backoff, "cut")
    receives = policy.redrive_count if policy.limit is None else policy.limit
    # A queue deletes what is not named, unless later records of a failed group are given back with it.
    partial: Literal["cut", "listed"] = "cut" if policy.groups else "listed"
    retries, errors = RETRIES if receives is None else receives - 1, replayed(policy.errors, RETRIES)
    return Block(retries, None, failure.bisect, failure.backoff, partial, errors=errors)


@dataclass(slots=True)
class Tally:
    """Where a run stands, in rows. `done_rows` is the sum of the endings: `split` rows failed again in part, `skipped` ones are another
    run's, or not kept any more, `unfit` ones cannot be read, or changed as the run asks. `given_back` rows were begun and not finished
    (a stop, a lost claim), and are not done."""

    total_rows: int = 0
    done_rows: int = 0
    replayed: int = 0
    sent: int = 0
    failed_again: int = 0
    split: int = 0
    skipped: int = 0
    unfit: int = 0
    given_back: int = 0

    def add(self, ending: Ending) -> None:
        setattr(self, ending, getattr(self, ending) + 1)
        self.done_rows += ending != "given_back"


class Replay:
    """What this process does of a run, for one mapping, in a running loop. `report` is called whenever the `tally` has changed.

    `rows` is asked once, when it runs: the rows, each with its size (listing.py). `policy` is that of the mapping's source
    (`Connector.policy`).
    """

    def __init__(
        self,
        store: Store,
        part: Part,
        rows: Callable[[], Awaitable[Mapping[str, int]]],
        function: Function,
        settings: MappingSettings,
        *,
        policy: Policy,
        random: Random,
        counters: MappingCounters | None = None,
        turn: Turn | None = None,
        report: Callable[[], None] = lambda: None,
    ) -> None:
        self.tally = Tally()
        self._store, self._rows, self._report = store, rows, report
        self._part = changed(part, function=part.function or function.name)
        self._policy = block(policy, settings.failure, part.run.plan.only_failing)
        self._work = Work(
            settings=settings,
            function=function,
            policy=self._policy,
            source=f"replay {part.run.name}",
            journal=Withheld(store.journal),
            counters=counters or MappingCounters(),
            clock=part.clock,
            random=random,
            turn=turn or Turn(),
            replaying=part.run.name,
            guards=lambda _lane: (RowGuard(),),
        )
        self._runner = MappingRunner(self._work, self._open)
        self._left: dict[str, int] = {}
        self._freed = {*part.released}

    def __repr__(self) -> str:
        return f"<Replay {self._part.run.name} [{self.tally}]>"

    async def run(self) -> Tally:
        """Until every row is done, or the run is stopped. Cancelling ends what runs, and gives the rows back.

        Raises StoreUnavailable (only before anything has begun), HandlerError, and ConfigError for an id that may be several.
        """
        self._left = {**await self._rows()}
        self.tally.total_rows = len(self._left)
        self._report()
        await self._runner.run()
        return self.tally

    def stop(self, deadline: float) -> None:
        """Start no other row; end what still runs at `deadline` (loop time), and give back what is not done. Tolerated twice, and early."""
        self._runner.stop(deadline)

    async def _open(self) -> Source:
        # After a lane was lost or failed the runner opens the source anew: it goes on with the rows that were never begun.
        part = changed(self._part, released=frozenset(self._freed))
        return ReplaySource(self._store.journal, self._store.runs, self._left, self._policy, part, self._ended, self._released)

    def _released(self, rows: Sequence[str]) -> None:
        self._left.update(dict.fromkeys(rows, 0))
        self._freed.update(rows)
        self.tally.total_rows += len(rows)
        self._report()

    def _ended(self, row: str, ending: Ending) -> None:
        self._left.pop(row, None)
        self.tally.add(ending)
        self._report()


async def replay(
    whole: Callable[[Callable[[], None]], Replay], stopping: asyncio.Event, grace: float = 0.0
) -> AsyncGenerator[dict[str, int]]:
    """The same as an iterator of tallies, the last one final; `whole` makes the replay, given what it reports to.

    Closing it, cancelling, or setting `stopping`, stops the run: what runs has `grace` seconds."""
    news, loop = asyncio.Event(), asyncio.get_running_loop()
    run = whole(news.set)
    task = loop.create_task(run.run(), name=repr(run))
    task.add_done_callback(lambda _: news.set())
    stop = loop.create_task(_stop(run, stopping, grace))
    try:
        while not task.done():
            await news.wait()
            news.clear()
            yield asdict(run.tally)
        task.result()
    finally:
        stop.cancel()
        run.stop(loop.time() + grace)
        await asyncio.gather(task, stop, return_exceptions=True)


async def _stop(run: Replay, stopping: asyncio.Event, grace: float) -> None:
    await stopping.wait()
    run.stop(asyncio.get_running_loop().time() + grace)
