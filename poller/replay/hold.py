"""Who runs a run: one process at a time, which renews itself in the store, and looks there whether it is to leave.

So pausing or aborting a run is a change of its row by anyone, heard within LOOK_SECONDS; and a run whose process was killed is free when it
has not been renewed for RUN_SECONDS.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

from poller.errors import StoreError, StoreUnavailable
from poller.failures.protocols import Runs
from poller.failures.runs import Run, Step, left, renewed, started

log = logging.getLogger("poller.replay")

LOOK_SECONDS = 1.0
RENEW_SECONDS = 5.0
TRAIL_LINES = 1000


async def run_named(runs: Runs, name: str) -> Run:
    """Raises StoreError for a name that no run has."""
    for run in await runs.select((name,)):
        return run
    raise StoreError(f"there is no replay {name!r}; `poller replay list` names them")


async def change(runs: Runs, name: str, made: Callable[[Run], Run]) -> Run:
    """The run as `made` changes it: asked again while others change it too. Raises what it raises, and StoreError for an unknown name."""
    while True:
        was = await run_named(runs, name)
        run = made(was)
        if run == was or await runs.put(run):
            return run


async def take(runs: Runs, name: str, owner: str, clock: Callable[[], float], again: bool = False) -> Run:
    """The run, which is this owner's from now on.

    Where another has it, and does not renew it, this waits until it is free; raises StoreError when he does, or for a run that has ended.
    """
    run = await run_named(runs, name)
    version = run.version
    while run.owner != owner and run.alive(clock()) and run.version == version:
        await asyncio.sleep(min(LOOK_SECONDS, max(0.0, run.until - clock()) + 0.01))
        run = await run_named(runs, name)
    since = await _last(runs, name) if again else None
    return await change(runs, name, lambda run: started(run, owner, clock(), since))


async def trail(runs: Runs, name: str, after: int = 0) -> AsyncIterator[Step]:
    """All of it, some lines at a time."""
    while steps := await runs.trail(name, after=after, limit=TRAIL_LINES):
        for step in steps:
            yield step
        after = steps[-1].number


async def _last(runs: Runs, name: str) -> int:
    number = 0
    async for step in trail(runs, name):
        number = step.number
    return number


class Hold:
    """This process's hold on a run that it has taken. `leaving` is set when it has to leave: the run is paused, aborted, or another's."""

    def __init__(self, runs: Runs, run: Run, clock: Callable[[], float]) -> None:
        self.leaving = asyncio.Event()
        self._runs, self._run, self._clock = runs, run, clock
        self._renewed = clock()
        self._task = asyncio.get_running_loop().create_task(self._watch(), name=f"hold on {run.name}")

    def __repr__(self) -> str:
        return f"<Hold on {self._run.name} [{'leaving' if self.leaving.is_set() else 'held'}]>"

    async def aclose(self, done: bool) -> None:
        """Nobody runs it any more. `done`: every row has ended. Rows must be given back before."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        try:
            await change(self._runs, self._run.name, lambda run: left(run, self._clock(), done) if self._ours(run) else run)
        except StoreUnavailable as error:
            log.warning("replay %s counts as running for up to a minute, its end cannot be written: %s", self._run.name, error)

    def _ours(self, run: Run) -> bool:
        return run.owner == self._run.owner

    async def _watch(self) -> None:
        while not self.leaving.is_set():
            await asyncio.sleep(LOOK_SECONDS)
            try:
                run = await run_named(self._runs, self._run.name)
                if not self._ours(run) or run.state != "running":
                    log.info("replay %s is %s", run.name, run.state if self._ours(run) else "another process's")
                    self.leaving.set()
                elif self._clock() - self._renewed >= RENEW_SECONDS and await self._runs.put(renewed(run, self._clock())):
                    self._renewed = self._clock()
            except StoreError as error:  # the rows' own claims say when it must not go on
                log.warning("cannot look after replay %s: %s", self._run.name, error)
