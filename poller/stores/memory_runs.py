"""Replays and their trail in memory, beside the journal in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from poller.failures.runs import Finished, Run, Step, over
from poller.stores.memory_journal import MemoryJournal
from poller.stores.memory_parking import Key


class MemoryRuns:
    """`poller.failures.protocols.Runs` over a journal that never waits: so what `finish` does is one step for everyone else."""

    def __init__(self, journal: MemoryJournal) -> None:
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

    async def finish(self, run: str, done: Sequence[Finished], now: float, owner: str, who: str) -> Sequence[Step]:
        journal, failures, closed = self._journal, dict[str, tuple[str, ...]](), dict[str, list[Key]]()
        for one in done:
            again = one.outcome == "failed_again"
            if journal.change(one.row, "kept" if again else "replayed", now, owner, fault=one.fault if again else None):
                failures[one.row] = (one.row,) if again else ()
        for one in done:
            if one.row in failures and one.outcome != "failed_again":
                places = journal.held.places(one.row)
                closed[one.row] = journal.held.close(one.row)
                failures[one.row] = tuple(journal.put(rest, places) for rest in one.rests)
        # When all rests are there: what failed again holds its key, and what is parked behind it stays.
        released = {row: tuple(journal.release(keys, now)) for row, keys in closed.items()}
        steps = [
            Step(run, one.row, one.outcome, now, who, failures[one.row], one.edited, self._number + number, released.get(one.row, ()))
            for number, one in enumerate((one for one in done if one.row in failures), 1)
        ]
        self._number += len(steps)
        if run in self._runs:
            self._steps.setdefault(run, []).extend(steps)
        return steps

    async def trail(self, run: str, rows: Sequence[str] = (), after: int = 0, limit: int | None = None) -> Sequence[Step]:
        wanted = frozenset(rows)
        steps = [step for step in self._steps.get(run, ()) if step.number > after and (not rows or step.row in wanted)]
        return steps[:limit]

    async def forget(self, before: float, limit: int) -> int:
        for run in sorted(self._runs.values(), key=lambda run: run.began):
            if over(run, before):
                steps = self._steps.get(run.name, [])
                gone = len(steps[:limit])
                del steps[:limit]
                if gone < limit:
                    del self._runs[run.name]
                    self._steps.pop(run.name, None)
                return gone + (gone < limit)
        return 0
