"""Every store keeps the contract of its replays; broken ones are found out; a row of an earlier version is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from poller.errors import StoreError
from poller.failures.runs import Finished, Plan, Run, Step, decode, encode
from poller.protocols import Store
from poller.stores.memory import MemoryStore
from poller.stores.memory_runs import MemoryRuns
from poller.stores.sqlite import open_store
from poller.testing.runs import RunsContract, make_run


class TestRuns(RunsContract):
    @pytest.fixture
    def store(self, each_store: Store) -> Store:
        return each_store


# --- counter-tests: each broken store is rejected by the property it breaks -------------------------------------------------------------


class Overwriting(MemoryRuns):
    """Takes every change, whatever it was made from."""

    async def put(self, run: Run) -> bool:
        there = self._runs.get(run.name)
        return await super().put(replace(run, version=0 if there is None else there.version))


class Trusting(MemoryRuns):
    """Believes that who finishes a row has claimed it."""

    async def finish(self, run: str, done: Sequence[Finished], now: float, owner: str, who: str) -> Sequence[Step]:
        for one in done:
            await self._journal.mark((one.row,), "claimed", 1e12, owner, 2e12)
        return await super().finish(run, done, now, owner, who)


class Silent(MemoryRuns):
    """Marks rows and says nothing."""

    async def finish(self, run: str, done: Sequence[Finished], now: float, owner: str, who: str) -> Sequence[Step]:
        finished = await super().finish(run, done, now, owner, who)
        self._steps.clear()
        return finished


class Oblivious(MemoryRuns):
    """Forgets whatever nobody runs."""

    async def forget(self, before: float, limit: int) -> int:
        runs, self._runs = self._runs, {name: replace(run, state="done") for name, run in self._runs.items()}
        gone = await super().forget(before, limit)
        self._runs = {name: run for name, run in runs.items() if name in self._runs}
        return gone


class Renumbering(MemoryRuns):
    """Gives the numbers of lines that are gone to others."""

    async def forget(self, before: float, limit: int) -> int:
        gone = await super().forget(before, limit)
        self._number = 0
        return gone


class Hasty(MemoryRuns):
    """Forgets a run at once, with all its lines."""

    async def forget(self, before: float, limit: int) -> int:
        return await super().forget(before, 10**9 * limit)


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (Oblivious, "test_runs_that_ended_are_forgotten_a_few_lines_at_a_time"),
        (Renumbering, "test_a_run_that_is_started_again_while_it_is_forgotten_stays"),
        (Hasty, "test_runs_that_ended_are_forgotten_a_few_lines_at_a_time"),
        (Overwriting, "test_of_two_changes_at_once_one_is_refused"),
        (Overwriting, "test_a_name_is_given_once"),
        (Trusting, "test_who_has_not_claimed_a_row_finishes_nothing"),
        (Silent, "test_what_is_finished_is_marked_and_told"),
    ],
)
async def test_a_broken_store_is_rejected(broken: type[MemoryRuns], law: str) -> None:
    store = MemoryStore()
    store.runs = broken(store.journal)
    with pytest.raises(AssertionError):
        await getattr(RunsContract(), law)(store)


# --- what is written down ---------------------------------------------------------------------------------------------------------------


def test_a_run_of_an_earlier_version_has_defaults_for_what_it_did_not_know() -> None:
    run = decode(b'{"name":"r1","who":"ada","began":1.0,"plan":{"selection":{"mapping":"m"}},"more":1}', 3, {"sent": 2})
    assert run == Run("r1", "ada", 1.0, Plan(replace(Plan().selection, mapping="m")), version=3, counts={"sent": 2})


def test_a_damaged_run_is_said() -> None:
    with pytest.raises(StoreError, match="restore a backup"):
        decode(encode(make_run())[:-5], 1, {})


async def test_what_a_store_was_told_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "poller.db")
    await store.runs.put(make_run())
    await store.aclose()
    store = await open_store(tmp_path / "poller.db")
    assert [run.name for run in await store.runs.select()] == ["r1"]
    await store.aclose()
