"""Which rows a run is to do: listed once, when it is started, so that what it adds, or keeps again, is not for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from poller.failures.journal import Entry, Selection
from poller.failures.protocols import Journal, Runs
from poller.failures.runs import Run, Step
from poller.replay.counting import every, pages
from poller.replay.hold import trail

Rows = dict[str, int]
"""A row and the bytes of its records, oldest first. What they hold is not kept: there may be millions."""


LOOKED_UP = 200
"""So many rows are looked for at once by their ids."""


async def listed(journal: Journal, runs: Runs, run: Run, matches: Callable[[Entry], bool] = every) -> dict[str, Rows]:
    """By mapping: the rows that the run's plan selects, of which it has not finished one yet; those that failed in it before, if it runs
    them once more; and last those that it has released. `matches`: which of the selected rows are meant.

    Raises StoreUnavailable, and ConfigError for an id that may be several."""
    found: dict[str, Rows] = {}
    async for page in pages(journal, run.plan.selection):
        await _add(found, runs, run, [row.entry for row in page if row.entry.run != run.name and matches(row.entry)])
    names, freed = dict[str, None](), dict[str, None]()
    async for step in _steps(runs, run):
        if step.number <= run.since:
            names.update(dict.fromkeys(step.failures))
        freed.update(dict.fromkeys(step.released))
    for some in ([*names], [*freed]):
        for start in range(0, len(some), LOOKED_UP):
            async for page in pages(journal, Selection(ids=tuple(some[start : start + LOOKED_UP]))):
                await _add(found, runs, run, [row.entry for row in page])
    return found


async def released(runs: Runs, run: Run) -> frozenset[str]:
    """Every row that the run has released. Raises StoreUnavailable."""
    return frozenset([row async for step in _steps(runs, run) for row in step.released])


async def _steps(runs: Runs, run: Run) -> AsyncIterator[Step]:
    # A run that nobody has started before has no trail.
    if run.counts:
        async for step in trail(runs, run.name):
            yield step


async def _add(found: dict[str, Rows], runs: Runs, run: Run, entries: Sequence[Entry]) -> None:
    steps = await runs.trail(run.name, [each.id for each in entries], run.since) if entries and run.counts else ()
    done = {step.row for step in steps}
    for each in entries:
        if each.id not in done:
            found.setdefault(each.mapping, {})[each.id] = sum(len(record.json) for record in each.records)
