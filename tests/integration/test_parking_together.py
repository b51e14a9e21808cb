"""Workers and replays that park, release, drop and remove on one store at the same time, each over connections of its own."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

import pytest

from connectors.postgresql.store import open_store as open_postgresql
from poller.failures.journal import OPEN, Selection
from poller.failures.runs import Finished
from poller.model import Fault
from poller.protocols import Store
from poller.stores.sqlite import open_store
from poller.testing.journals import ANY
from poller.testing.parkings import failed, held, parked
from poller.testing.runs import make_run
from tests.servers.postgresql import PostgreSQL

KEYS = "abc"
WORKERS, TURNS = 4, 25
AGAIN = Fault("error", "KeyError", "'again'")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[Store]]:
    """One a worker, all of the same place."""
    async with AsyncExitStack() as stack:
        opened = list[Store]()
        server: PostgreSQL | None = request.getfixturevalue("postgresql") if request.param == "postgresql" else None
        url = "" if server is None else server.database()
        for _ in range(WORKERS):
            store = await open_store(tmp_path / "poller.db") if server is None else await open_postgresql(url)
            stack.push_async_callback(store.aclose)
            opened.append(store)
        yield opened


async def work(store: Store, me: str, random: Random, done: Counter[str]) -> None:
    for turn in range(TURNS):
        name, keys = f"{me}-{turn}", random.sample(KEYS, random.randint(1, 2))
        lane = random.choice(("shard-1", "shard-2"))
        entries = [parked(f"{name}{key}", key, lane=lane) for key in keys]
        ids = await store.parking.park(entries)
        left = [record for entry, id_ in zip(entries, ids, strict=True) if not id_ for record in entry.records]
        done["parked"] += len(keys) - len(left)
        if left:
            await store.journal.append([failed(name, records=tuple(left), lane=lane)])
        rows = await store.journal.select(Selection(states=("kept", "parked"), limit=20))
        some = [row.entry.id for row in random.sample(rows, min(len(rows), 3))]
        what = (turn + 3 * int(me[1:])) % 10  # not by chance, which depends on who came first; nor all the same at once
        if what < 2:
            done["dropped"] += len(await store.journal.mark(some[:1], "dropped", 20.0))
        elif what == 2:
            done["removed"] += len(await store.upkeep.remove(("kept", "replayed", "dropped"), 1e12, 1))
        else:
            ours = await store.journal.mark(some, "claimed", 10.0, me, 1e9)
            steps = await store.runs.finish(me, [finished(random, row) for row in ours], 20.0, me, me)
            assert [step.row for step in steps] == list(ours)
            done["released"] += sum(len(step.released) for step in steps)


def finished(random: Random, row: str) -> Finished:
    return Finished(row, "failed_again", AGAIN) if random.random() < 0.3 else Finished(row, "replayed")


async def test_whoever_does_what_at_the_same_time_nothing_is_parked_behind_nothing(stores: list[Store]) -> None:
    done = Counter[str]()
    for number, store in enumerate(stores):
        await store.runs.put(make_run(f"w{number}"))
    await asyncio.gather(*(work(store, f"w{number}", Random(number), done) for number, store in enumerate(stores)))
    assert all(done[what] > 1 for what in ("parked", "released", "dropped", "removed")), done
    states = defaultdict[str, list[str]](list)
    for row in await stores[0].journal.select(ANY):
        for key in {record.key for record in row.entry.records if record.key is not None and row.state in OPEN}:
            states[key].append(row.state)
    assert await held(stores[0]) == {*states}
    assert all(line.count("parked") < len(line) for line in states.values()), states
    # All of it can be drained, row by row.
    store = stores[0]
    while rows := await store.journal.select(Selection()):
        ours = await store.journal.mark([row.entry.id for row in rows], "claimed", 10.0, "w0", 1e9)
        await store.runs.finish("w0", [Finished(row, "replayed") for row in ours], 20.0, "w0", "w0")
    assert await store.journal.count(Selection(states=OPEN)) == 0
    assert await held(store) == set()
