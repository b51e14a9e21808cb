"""Replays and their trail in memory, beside the journal in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from poller.failures.protocols import Journal
from poller.failures.runs import Finished, Run, Step


class MemoryRuns:
    """`poller.failures.protocols.Runs` over a journal that never waits: so what `finish` does is one step for everyone else."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._runs: dict[str, Run] = {}
        self._steps: dict[str, list[Step]] = {}
        self._number = 0

    async def put(self, run: Run) -> bool:
        there = self._runs.get(run.name)
        if run.version != (0 if there is None else there.version):
            return False
        self._runs[run.name] = replace(run, version=run.version + 1, counts={})
        return True

    async def select(self, names: Sequence[str] = (), limit: int | None = None) -> Sequence[Run]:
        runs = [run for run in self._runs.values() if not names or run.name in names]
        # Of one time the one that was made last is the newer one.
        newest = sorted(runs, key=lambda run: run.began)[::-1][:limit]
        return [replace(run, counts=Counter(step.outcome for step in self._steps.get(run.name, ()))) for run in newest]

    async def finish(self, run: str, done: Sequence[Finished], now: float, owner: str, who: str) -> Sequence[str]:
        finished = []
        for one in done:
            again = one.outcome == "failed_again"
            if not await self._journal.mark((one.row,), "kept" if again else "replayed", now, owner, fault=one.fault if again else None):
                continue
            failures = tuple(await self._journal.append(one.rests))
            self._number += 1
            step = Step(run, one.row, one.outcome, now, who, (one.row,) if again else failures, one.edited, self._number)
            self._steps.setdefault(run, []).append(step)
            finished.append(one.row)
        return finished

    async def trail(self, run: str, rows: Sequence[str] = (), after: int = 0, limit: int | None = None) -> Sequence[Step]:
        wanted = frozenset(rows)
        steps = [step for step in self._steps.get(run, ()) if step.number > after and (not rows or step.row in wanted)]
        return steps[:limit]
