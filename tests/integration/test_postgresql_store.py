"""What only a store on a server promises: it is killed, it hangs, workers of several hosts meet in it, and its clock counts."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from connectors.postgresql.groups import GROUP_ITEMS
from connectors.postgresql.schema import MIGRATIONS
from connectors.postgresql.store import PostgresStore, open_store
from poller.errors import LaneLost, StoreError, StoreUnavailable
from poller.failures.journal import KeptRecord, Selection
from poller.failures.runs import Finished, Plan, planned
from poller.model import Fault
from poller.testing.journals import ANY, held, make_entry, row_of
from poller.testing.states import LARGE
from poller.testing.stores import KEY, at, claimed, holding, holdings
from tests.contract.test_postgresql_store import emptied
from tests.servers.postgresql import PostgreSQL

pytestmark = pytest.mark.servers

SECONDS = 2.0
"""What a call may take here: long for a server on this host, short for a test."""


@pytest.fixture(scope="module")
def database(postgresql: PostgreSQL) -> str:
    return postgresql.database()


@pytest.fixture
async def store(database: str) -> AsyncIterator[PostgresStore]:
    store = await emptied(await open_store(database))
    yield store
    await store.aclose()


@pytest.fixture
async def own(postgresql_own: PostgreSQL) -> AsyncIterator[PostgresStore]:
    """On a server that the test may kill or pause."""
    store = await emptied(await open_store(postgresql_own.url(), seconds=SECONDS))
    yield store
    await asyncio.to_thread(postgresql_own.heal)
    await store.aclose()


async def insisted(ask: Callable[[], Awaitable[Any]]) -> Any:
    """The answer, once there is one: as the engine does, ask again while the store is unavailable."""
    while True:
        try:
            return await ask()
        except StoreUnavailable:
            await asyncio.sleep(0.05)


# --- time -------------------------------------------------------------------------------------------------------------------------------


async def test_a_lease_runs_out_by_the_servers_clock_whatever_the_hosts_say(store: PostgresStore) -> None:
    slow, fast = time.time() - 86_400.0, time.time() + 86_400.0
    lease = await claimed(store, KEY, "slow", slow, 100.0)
    assert await store.leases.claim(KEY, "fast", fast, 10.0) is None
    assert await holding(store, KEY, fast) == replace(await holding(store, KEY, slow), owner="slow")
    began = time.monotonic()
    assert await store.leases.renew([lease], fast, 0.4) == [lease]
    while await store.leases.claim(KEY, "fast", slow, 10.0) is None:
        await asyncio.sleep(0.02)
    assert time.monotonic() - began > 0.3
    assert await store.leases.renew([lease], slow, 0.4) == []


async def test_a_claim_on_a_failure_lasts_by_the_servers_clock_too(store: PostgresStore) -> None:
    await store.journal.append([make_entry("f1", "m1")])
    assert await store.journal.mark(["f1"], "claimed", 1000.0, "slow", 1003.0) == ["f1"]
    assert await store.journal.mark(["f1"], "claimed", 9e9, "fast", 9e9 + 10.0) == []
    while not await store.journal.mark(["f1"], "claimed", 5.0, "fast", 15.0):
        await asyncio.sleep(0.02)
    assert (await row_of(store.journal, "f1")).changed == 5.0  # for a person, who reads it on the host


async def test_what_an_append_has_found_is_not_removed_behind_its_back(store: PostgresStore, database: str) -> None:
    await store.journal.append([make_entry("f1", "m1")])
    await store.upkeep.size()  # its fingerprint is there
    other = await asyncpg.connect(database)
    try:
        async with other.transaction():
            await other.execute("SELECT FROM poller_origins FOR NO KEY UPDATE")  # as an append does, before it looks at rows
            removing = asyncio.create_task(store.upkeep.remove(("kept",), 1e9, 9))
            while not removing.done() and not await other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                await asyncio.sleep(0.01)
            await other.execute("UPDATE poller_failures SET time = 2e9, changed = 2e9")  # it has failed once more
        assert await removing == []
    finally:
        await other.close()
    assert (await row_of(store.journal, "f1")).changed == 2e9


async def test_an_append_waits_for_no_row_that_somebody_is_changing(store: PostgresStore, database: str) -> None:
    """Who finishes a row has it locked before the origins that its rests come from: each would wait for the other."""
    await store.journal.append([make_entry("f1", "m1", time=1.0)])
    other = await asyncpg.connect(database)
    try:
        async with other.transaction(), asyncio.timeout(5.0):
            await other.execute("SELECT FROM poller_failures FOR UPDATE")
            assert list(await store.journal.append([make_entry("f1", "m1", time=5.0), make_entry("f2", "m2")])) == ["f1", "f2"]
    finally:
        await other.close()
    assert (await row_of(store.journal, "f1")).changed == 1.0  # it changes by the other's hand
    await store.journal.append([make_entry("f1", "m1", time=6.0)])
    assert (await row_of(store.journal, "f1")).changed == 6.0


# --- a server that is killed, or hangs ------------------------------------------------------------------------------------------------


async def test_a_run_that_finishes_rows_meets_who_renews_their_claims_in_one_order(store: PostgresStore, database: str) -> None:
    """Rows whose ids are in another order than their numbers; what renews claims locks rows by number."""
    fault = Fault("error", "ValueError", "no")
    await store.journal.append([make_entry(name, name) for name in ("z", "m", "a")])
    await store.journal.mark(["z", "m", "a"], "claimed", 1.0, "run", 60.0)
    await store.runs.put(planned("r", "ada", Plan(), 1.0))
    other = await asyncpg.connect(database)
    try:
        lock = "SELECT FROM poller_failures WHERE id = $1 FOR NO KEY UPDATE"
        async with other.transaction():
            await other.execute(lock, "z")
            done = [Finished(name, "failed_again", fault) for name in ("a", "z")]
            finishing = asyncio.ensure_future(store.runs.finish("r", [Finished("m", "replayed"), *done], 2.0, "run", "ada"))
            while not await other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                assert not finishing.done()
            await other.execute(lock, "m")
            await other.execute(lock, "a")
        assert [step.row for step in await finishing] == ["m", "a", "z"]
    finally:
        await other.close()


async def test_what_was_answered_is_there_after_kill_9_and_work_goes_on(own: PostgresStore, postgresql_own: PostgreSQL) -> None:
    saved, kept, refused = dict[int, int](), list[str](), 0
    stop = asyncio.Event()

    async def work(task: int) -> None:
        nonlocal refused
        lease = await insisted(lambda: own.leases.claim(replace(KEY, lane=str(task)), "a", 0.0, 100.0))
        n = 0
        while not stop.is_set():
            n += 1
            try:
                await own.checkpoints.save(lease, at(n))
                saved[task] = n
                kept.extend(await own.journal.append([make_entry(f"{task}-{n}", f"{task}-{n}")]))
            except StoreUnavailable:
                refused += 1
                await asyncio.sleep(0.02)

    async def reached(count: int) -> None:
        while len(kept) < count:
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(work(task)) for task in range(5)]
    await reached(50)
    await asyncio.to_thread(postgresql_own.kill)
    while not refused:
        await asyncio.sleep(0.01)
    await asyncio.to_thread(postgresql_own.start)
    await reached(len(kept) + 50)
    stop.set()
    await asyncio.gather(*tasks)
    assert refused
    assert set(kept) <= (await held(own.journal)).keys()
    for task, number in saved.items():
        assert await own.checkpoints.load(replace(KEY, lane=str(task))) == at(number)


async def test_a_server_that_hangs_is_unavailable_in_time_and_then_works_again(own: PostgresStore, postgresql_own: PostgreSQL) -> None:
    lease = await claimed(own, KEY, "a", duration=100.0)
    await own.checkpoints.save(lease, at(1))
    postgresql_own.pause()
    for ask in (
        lambda: own.checkpoints.save(lease, at(2)),
        lambda: own.checkpoints.load(KEY),
        lambda: own.leases.renew([lease], 0.0, 100.0),
        lambda: own.states.get(KEY, 1),
    ):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"PostgreSQL 127\.0\.0\.1"):
            await ask()
        assert time.monotonic() - began < 2 * SECONDS
    postgresql_own.resume()
    await insisted(lambda: own.checkpoints.save(lease, at(3)))
    assert await own.checkpoints.load(KEY) == at(3)


@contextmanager
def stopped(session: int) -> Iterator[None]:
    """A session of the server stands still, as if its packets were long on their way."""
    os.kill(session, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(session, signal.SIGCONT)


async def test_what_is_long_on_its_way_does_not_overtake_what_came_later(own: PostgresStore, postgresql_own: PostgreSQL) -> None:
    """The server reads it once nobody waits for it any more, and after what was sent instead."""
    lease = await claimed(own, KEY, "a", duration=100.0)
    for late, instead in (
        (lambda: own.checkpoints.save(lease, at(1)), lambda: own.checkpoints.save(lease, at(2))),
        (lambda: own.states.put(lease, 1, b"late"), lambda: own.states.put(lease, 1, b"instead")),
        (lambda: own.states.prune(lease, ()), lambda: own.states.put(lease, 2, b"kept")),
    ):
        await late()  # its statement is known to the session: the next time it is sent at once
        (connection,) = own._connections._idle
        session = connection.get_server_pid()
        with stopped(session):
            with pytest.raises(StoreUnavailable):
                await late()
            await instead()
        there = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {session}"
        while await asyncio.to_thread(postgresql_own.execute, there) != "0":
            await asyncio.sleep(0.02)
        await own.states.put(lease, 1, b"instead")
    assert await own.checkpoints.load(KEY) == at(2)
    assert (await own.states.get(KEY, 1), await own.states.get(KEY, 2)) == (b"instead", b"kept")


async def test_a_statement_that_waits_for_a_lock_too_long_is_unavailable(own: PostgresStore, postgresql_own: PostgreSQL) -> None:
    lease = await claimed(own, KEY, "a", duration=100.0)
    other = await asyncpg.connect(own._connections._url)
    try:
        await other.execute("BEGIN")
        await other.execute("LOCK TABLE poller_lanes IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StoreUnavailable):
            await own.checkpoints.save(lease, at(1))
        await other.execute("ROLLBACK")
        await own.checkpoints.save(lease, at(2))
        assert await own.checkpoints.load(KEY) == at(2)
    finally:
        await other.close()


async def test_nobody_dials_a_server_that_is_away_again_and_again(own: PostgresStore, postgresql_own: PostgreSQL) -> None:
    await asyncio.to_thread(postgresql_own.kill)
    failures = 0
    began = time.monotonic()
    while time.monotonic() - began < 0.5:
        with suppress(StoreUnavailable):
            await own.checkpoints.load(KEY)
        failures += 1
        await asyncio.sleep(0)
    assert failures > 50 and own._connections._failures < 6
    await asyncio.to_thread(postgresql_own.start)
    assert await insisted(lambda: own.checkpoints.load(KEY)) is None


# --- many lanes, many workers -----------------------------------------------------------------------------------------------------------


async def test_a_thousand_lanes_share_a_few_round_trips(store: PostgresStore, tell: Callable[[str], None]) -> None:
    keys = [replace(KEY, lane=f"shard-{n}") for n in range(1000)]
    connections = store._connections

    async def trips(what: Awaitable[Any]) -> Any:
        before, began = connections.trips, time.monotonic()
        answer = await what
        told.append(f"{connections.trips - before} trips, {(time.monotonic() - began) * 1000:.0f} ms")
        assert connections.trips - before <= 2 + len(keys) // GROUP_ITEMS
        return answer

    told: list[str] = []
    leases = await trips(asyncio.gather(*(store.leases.claim(key, "a", 0.0, 100.0) for key in keys)))
    await trips(asyncio.gather(*(store.checkpoints.save(lease, at(n)) for n, lease in enumerate(leases))))
    assert await trips(asyncio.gather(*(store.checkpoints.load(key) for key in keys))) == [at(n) for n in range(1000)]
    assert await trips(store.leases.renew(leases, 0.0, 100.0)) == leases
    await trips(asyncio.gather(*(store.states.put(lease, 1, b"x" * 100) for lease in leases)))
    await trips(asyncio.gather(*(store.leases.drop(lease) for lease in leases)))
    tell(f"1,000 lanes on PostgreSQL: claim, save, load, renew, put, drop: {'; '.join(told)}")
    assert set((await holdings(store, 0.0)).values()) == {("", "")}


async def test_appends_that_come_together_share_a_transaction(store: PostgresStore) -> None:
    await store.journal.append([make_entry("f", "m")])
    before = store._connections.trips
    await asyncio.gather(*(store.journal.append([make_entry(f"f{n}", f"m{n}")]) for n in range(500)))
    assert store._connections.trips - before <= 3
    assert await store.journal.count(ANY) == 501


async def test_workers_that_race_for_lanes_each_get_their_own(store: PostgresStore) -> None:
    """Two stores are two hosts: each claims all lanes in an order of its own, saves, and drops; and nobody is ever in another's way."""
    others = [await open_store(store._connections._url) for _ in range(3)]
    keys = [replace(KEY, lane=f"shard-{n}") for n in range(40)]
    owners: dict[str, str] = {}
    counters: dict[str, list[int]] = {key.lane: [] for key in keys}

    async def work(which: int, each: PostgresStore) -> None:
        name = f"worker-{which}"
        for turn in range(6):
            turned = keys[turn * 7 :] + keys[: turn * 7]
            claims = await asyncio.gather(*(each.leases.claim(key, name, 0.0, 100.0) for key in (turned, turned[::-1])[which % 2]))
            leases = [lease for lease in claims if lease is not None]
            for lease in leases:
                assert owners.setdefault(lease.key.lane, name) == name, "two have a lane"
                counters[lease.key.lane].append(lease.counter)
            await asyncio.gather(*(each.checkpoints.save(lease, at(turn)) for lease in leases), each.leases.renew(leases, 0.0, 100.0))
            for lease in leases:
                del owners[lease.key.lane]
            await asyncio.gather(*(each.leases.drop(lease) for lease in leases))

    await asyncio.gather(*(work(which, each) for which, each in enumerate((store, *others))))
    assert all(numbers == sorted(set(numbers)) and numbers for numbers in counters.values())
    for each in others:
        await each.aclose()


async def test_appends_from_several_hosts_share_no_record(store: PostgresStore) -> None:
    """They give the same records up, at the same time: each record is in one row."""
    hosts = [store, *[await open_store(store._connections._url) for _ in range(3)]]

    async def give_up(host: int) -> None:
        for n in range(50):
            (name,) = await hosts[host].journal.append([make_entry(f"{host}-{n}", f"m{n}", f"m{n + 1}", lane=f"lane-{n % 2}")])
            assert f"m{n}" in (await held(hosts[host].journal, Selection(ids=(name,))))[name]

    await asyncio.gather(*map(give_up, range(4)))
    rows = [(row.entry.lane, record.id) for row in await store.journal.select(ANY) for record in row.entry.records]
    assert len(rows) == len(set(rows))
    assert set(rows) == {(f"lane-{n % 2}", f"m{m}") for n in range(50) for m in (n, n + 1)}
    for each in hosts[1:]:
        await each.aclose()


async def test_who_lost_a_lane_while_its_save_was_under_way_saves_nothing(store: PostgresStore) -> None:
    """The claim holds the lane's row when the save comes: the save waits, and then sees that it came too late."""
    lease = await claimed(store, KEY, "a", duration=100.0)
    await store.checkpoints.save(lease, at(1))
    other = await asyncpg.connect(store._connections._url)
    await other.execute("BEGIN")
    await other.execute("UPDATE poller_lanes SET owner = 'b', counter = counter + 1")
    saving = asyncio.create_task(store.checkpoints.save(lease, at(2)))
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'poller'"
    while not await other.fetchval(waiting):
        await asyncio.sleep(0.01)
    await other.execute("COMMIT")
    await other.close()
    with pytest.raises(LaneLost):
        await saving
    assert await store.checkpoints.load(KEY) == at(1)


# --- opening ----------------------------------------------------------------------------------------------------------------------------


async def test_many_workers_may_make_the_tables_at_once(postgresql: PostgreSQL) -> None:
    url = await asyncio.to_thread(postgresql.database)
    stores = await asyncio.gather(*(open_store(url) for _ in range(8)))
    await claimed(stores[0], KEY, "a")
    assert await holding(stores[7], KEY, 0.0)
    await asyncio.gather(*(each.aclose() for each in stores))


async def test_everything_is_there_after_reopening(store: PostgresStore) -> None:
    lease = await claimed(store, KEY, "a", duration=100.0)
    await store.checkpoints.save(lease, at(7))
    await store.states.put(lease, 1, b"x" * LARGE)
    entry = make_entry("f1", "m1", "m2")
    await store.journal.append([entry])
    again = await open_store(store._connections._url)
    assert await again.checkpoints.load(KEY) == at(7)
    assert await again.states.get(KEY, 1) == b"x" * LARGE
    assert await again.leases.claim(KEY, "b", 0.0, 1.0) is None
    assert (await row_of(again.journal, "f1")).entry == entry
    await again.aclose()
    await again.aclose()
    with pytest.raises(StoreError, match="closed"):
        await again.checkpoints.load(KEY)


async def test_tables_of_a_newer_program_are_left_alone(store: PostgresStore) -> None:
    async def become(version: int) -> None:
        await store._connections.run(lambda connection: connection.execute("UPDATE poller_version SET version = $1", version))

    await become(len(MIGRATIONS) + 1)
    try:
        with pytest.raises(StoreError, match=f"newer version of this program .schema {len(MIGRATIONS) + 1}"):
            await open_store(store._connections._url)
    finally:
        await become(len(MIGRATIONS))


async def test_what_stands_in_the_way_is_told_with_what_to_do(postgresql: PostgreSQL) -> None:
    url = await asyncio.to_thread(postgresql.database)
    database = url.rpartition("/")[2]
    await asyncio.to_thread(postgresql.execute, "CREATE ROLE guest LOGIN PASSWORD 'hunter2'", url)
    await asyncio.to_thread(postgresql.execute, "REVOKE CREATE ON SCHEMA public FROM PUBLIC", url)
    guest = url.replace("poller@", "guest:hunter2@")
    for bad, kind, text in (
        (url.replace(database, "nowhere"), StoreError, "no such database"),
        (f"{url}?search_path=nowhere", StoreError, "no such schema"),
        (guest, StoreError, "grant it CREATE"),
        (url.replace(str(postgresql.port), "1"), StoreUnavailable, "cannot be reached"),
    ):
        with pytest.raises(kind, match=text) as caught:
            await open_store(bad)
        assert caught.type is kind and "hunter2" not in str(caught.value)


# --- what is kept -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [b"", b"{", b'{"origin": 7}', b"\xff\xfe", b"null"])
async def test_damaged_progress_is_an_error_that_names_the_lane(store: PostgresStore, damage: bytes) -> None:
    await store.checkpoints.save(await claimed(store, KEY, "a"), at(1))
    await store._connections.run(lambda connection: connection.execute("UPDATE poller_lanes SET progress = $1", damage))
    with pytest.raises(StoreError) as caught:
        await store.checkpoints.load(KEY)
    assert all(part in str(caught.value) for part in (KEY.mapping, KEY.source, KEY.lane, "poller_lanes"))


async def test_texts_that_postgresql_cannot_hold_do_not_keep_a_failure_out(store: PostgresStore) -> None:
    odd = "half \ud83d of a pair, and \x00"
    entry = make_entry("f1", records=(KeptRecord(odd, odd, 1.0, b"\x00"),), identifiers=(odd,), fault=Fault("error", odd, odd, (odd,)))
    assert list(await store.journal.append([entry])) == ["f1"]
    half, shown = "half \\ud83d of a pair, and \x00", "half \\ud83d of a pair, and \\x00"
    assert (await row_of(store.journal, "f1")).entry == replace(
        entry, records=(KeptRecord(shown, shown, 1.0, b"\x00"),), identifiers=(shown,), fault=Fault("error", half, half, (half,))
    )
    assert list(await store.journal.append([replace(entry, id="f2")])) == ["f1"]


async def test_a_state_is_never_seen_in_part(store: PostgresStore) -> None:
    """It is replaced by longer and shorter ones while somebody reads."""
    lease = await claimed(store, KEY, "a", duration=100.0)
    values = [bytes([n]) * size for n, size in enumerate((LARGE, 10, 400_000, 800_000))]
    await store.states.put(lease, 1, values[0])
    writing = asyncio.create_task(_replaced(store, lease, values * 5))
    while not writing.done():
        assert await store.states.get(KEY, 1) in values
    await writing


async def _replaced(store: PostgresStore, lease: Any, values: list[bytes]) -> None:
    for value in values:
        await store.states.put(lease, 1, value)


async def test_a_selection_sees_one_moment(store: PostgresStore) -> None:
    await store.journal.append([make_entry(f"f{n}", *(f"m{n}-{m}" for m in range(20))) for n in range(50)])
    rows = await store.journal.select(Selection(limit=7))
    assert [len(row.entry.records) for row in rows] == [20] * 7
