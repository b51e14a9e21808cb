"""What may happen to a stream, and to what daemons share about it, while it is read: it is told, nothing is lost, and work goes on."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import pytest

from connectors.sharded.sequence import token
from poller.config import load
from poller.daemon import open_configured_store
from poller.model import LaneKey
from poller.progress import Progress
from poller.protocols import Store
from poller.registry import Registry
from tests.acceptance.harness import DaemonProcess, Site
from tests.acceptance.shards import Stream
from tests.acceptance.standing import pause_between_writes
from tests.acceptance.supervised import supervised
from tests.servers.kinesis.client import REGION
from tests.servers.postgresql import PostgreSQL

pytestmark = [pytest.mark.slow, pytest.mark.servers]

T = TypeVar("T")

FAIL = json.dumps({"do": "fail"})
SOON = {"initial": "10ms", "maximum": "20ms"}
LEASE = 10.0
UNSAVED = 2.5
"""Seconds; of work that may not be saved yet, on a busy machine."""


def numbered(name: str, count: int) -> list[str]:
    return [f"{name} {n}" for n in range(count)]


def begun_by(site: Site, daemon: DaemonProcess, since: float = 0.0) -> list[str]:
    """What this daemon has begun after `since` (epoch seconds)."""
    return [body for each in site.testimony("begun") if each.daemon == daemon.pid and each.time > since for body in each.bodies]


def ask(site: Site, what: Callable[[Store], Awaitable[T]], file: str = "poller.toml") -> T:
    """The store that is configured, as any program may open it."""

    async def asked() -> T:
        store = await open_configured_store(load(site.folder / file, Registry(), os.environ))
        try:
            return await what(store)
        finally:
            await store.aclose()

    return asyncio.run(asked())


def done(site: Site, put: Sequence[tuple[str, str]], file: str) -> bool:
    """Whether it is saved that all of these are done: (shard, sequence number) of each, in order."""

    async def saved(store: Store) -> bool:
        (source,) = await store.checkpoints.sources("orders")  # type: ignore[attr-defined]  # each of ours has it
        found = {shard: await store.checkpoints.load(LaneKey("orders", source, shard)) for shard, _ in put}
        return all(
            each is not None and each.checkpoint > token(last) for (_, last), each in zip(dict(put).items(), found.values(), strict=True)
        )

    return ask(site, saved, file)


# --- attempts -------------------------------------------------------------------------------------------------------------------------


def test_a_record_that_fails_in_part_is_delivered_as_often_as_on_aws(site: Site, kinesis_local: str) -> None:
    """Records 3, 4, 5, of which 5 is named in the response, and three retries: 5 is delivered once with the others, then four times."""
    orders = Stream(kinesis_local)
    five = json.dumps({"do": "fail", "n": 5})
    orders.fill(["3", "4", five, "6"], ["one"] * 4)
    site.write(
        site.function(handler="app.py:report"),
        site.mapping(
            "orders",
            orders.source,
            batch_size=3,
            maximum_retry_attempts=3,
            function_response_types=["ReportBatchItemFailures"],
            retry_backoff=SOON,
        ),
    )
    with site.daemon() as daemon:
        daemon.until(lambda: site.handled("3", "4", "6"))
        daemon.stop()
    assert [each.bodies for each in site.testimony("begun")] == [["3", "4", five], *[[five]] * 4, ["6"]]
    (row,) = site.journal()
    assert (row.entry.reason, row.entry.attempts, len(row.entry.records)) == ("RetryAttemptsExhausted", 4, 1)


# --- the stream -----------------------------------------------------------------------------------------------------------------------


def test_a_stream_that_is_deleted_while_it_is_read_is_told_and_harms_no_other(site: Site, kinesis_local: str) -> None:
    """Nor is one that is made under its name taken for it: its shards have the same names, and the progress is not theirs."""
    orders, clicks = Stream(kinesis_local, 2), Stream(kinesis_local)
    site.write(site.function(concurrency=2), site.mapping("orders", orders.source), site.mapping("clicks", clicks.source))
    read, idle = orders.run(lambda client: client.open_shards(orders.name))

    with supervised(site) as daemon:

        def told(text: str) -> bool:
            """By both shards, the one that was read and the one where nothing ever came."""
            (mapping,) = [each for each in daemon.status().mappings if each.name == "orders"]
            return [text in lane.last_error for lane in mapping.lanes] == [True, True]

        orders.run(lambda client: client.put_to(orders.name, read, [b"o1"]))
        daemon.until(lambda: site.handled("o1"))
        orders.run(lambda client: client.delete(orders.name))
        daemon.until(lambda: told("the stream is gone"))
        clicks.fill(["c1"])
        daemon.until(lambda: site.handled("c1"))
        orders.run(lambda client: client.create(2, orders.name))
        orders.run(lambda client: client.put_to(orders.name, read, [b"o2"]))
        orders.run(lambda client: client.put_to(orders.name, idle, [b"o3"]))
        daemon.until(lambda: site.handled("o2", "o3"), what="it is opened anew by itself")
        assert "deleted and made again: its records are another stream's" in daemon.log
        clicks.fill(["c2"])
        daemon.until(lambda: site.handled("c2"))
        daemon.stop()
    assert site.bodies("begun") == dict.fromkeys(["o1", "o2", "o3", "c1", "c2"], 1)


def test_a_checkpoint_that_the_stream_keeps_no_more_is_told_and_counted_and_gone_on_from(site: Site, kinesis_local: str) -> None:
    """Kinesis itself says nothing about it: it goes on with the oldest record that it has, and so do we, loudly."""
    orders = Stream(kinesis_local)
    site.write(site.function(), site.mapping("orders", orders.source))
    with site.daemon() as daemon:
        orders.fill(numbered("before", 3))
        daemon.until(lambda: site.handled(*numbered("before", 3)))
        daemon.stop()
    (shard,) = orders.run(lambda client: client.shards(orders.name))
    name, first = shard["ShardId"], int(shard["SequenceNumberRange"]["StartingSequenceNumber"])

    async def older(store: Store) -> None:
        """The place after where the shard began: no record is there, as if the one that was had been removed."""
        (source,) = await store.checkpoints.sources("orders")  # type: ignore[attr-defined]  # each of ours has it
        lease = await store.leases.claim(LaneKey("orders", source, name), "someone", time.time(), LEASE)
        assert lease is not None
        await store.checkpoints.save(lease, Progress("TRIM_HORIZON", frontier=token(first) + 1, closed=True))
        await store.leases.drop(lease)

    ask(site, older)
    orders.fill(["after"])
    with site.daemon() as daemon:
        daemon.until(lambda: site.handled("after"))
        assert daemon.metric("poller_expired_event_total") == 1
        (line,) = [line for line in daemon.log.splitlines() if "ERROR" in line]
        assert name in line and str(first) in line and "older than what the stream keeps" in line
        daemon.stop()
    assert site.bodies("ended") == dict.fromkeys(numbered("before", 3), 2) | {"after": 1}


# --- what daemons share ---------------------------------------------------------------------------------------------------------------


def pair(site: Site, orders: Stream, **daemon: object) -> None:
    """Configurations of two daemons that share a mapping: one.toml, two.toml."""
    for file in ("one.toml", "two.toml"):
        site.write(
            site.function(concurrency=4, environment={"SLOW": "0.1"}),
            site.mapping("orders", orders.source, batch_size=5, maximum_retry_attempts=1, retry_backoff=SOON),
            file=file,
            **daemon,
        )


def shared(site: Site, orders: Stream, one: DaemonProcess, two: DaemonProcess) -> list[str]:
    """Records, a few at a time, until both daemons have had some: each has lanes of its own then. Returns the records."""
    first = list[str]()
    while not (begun_by(site, one) and begun_by(site, two)):
        assert len(first) < 400, "they do not share"
        some = numbered(f"first {len(first)}", 4)
        orders.fill(some)
        two.until(lambda some=some: site.handled(*some))  # type: ignore[misc]
        first += some
    return first


def test_lease_rows_that_someone_deletes_are_made_anew_and_nothing_is_lost(site: Site, kinesis_local: str) -> None:
    """Who had a lane and who takes it may both run it until the first of them saves: his save is refused."""
    orders = Stream(kinesis_local, 4)
    pair(site, orders)
    before, after = numbered("before", 400), numbered("after", 100)
    with site.daemon("one.toml") as one, site.daemon("two.toml") as two:
        two.until(lambda: one.readyz()[0] and two.readyz()[0])
        store = sqlite3.connect(site.store, timeout=10)
        shares = "SELECT count(*) FROM leases WHERE lane LIKE 'shardId-%' AND owner <> '' GROUP BY owner"
        # A lane on its way from one to the other is given up, not lost.
        two.until(lambda: store.execute(shares).fetchall() == [(2,), (2,)], what="each has half of the lanes")
        orders.fill(before)
        two.until(lambda: begun_by(site, one) and begun_by(site, two))
        deleted = time.time()
        assert store.execute("DELETE FROM leases WHERE lane LIKE 'shardId-%'").rowcount == 4
        store.commit()
        two.until(lambda: (one.log + two.log).count("lane lost: its lease") >= 4, what="nobody believes in what was deleted")
        assert "stood still" not in one.log + two.log, "a save or a renewal told it, not a lease that would have run out anyway"
        owned = time.time()
        rows = "SELECT count(*) FROM leases WHERE lane LIKE 'shardId-%' AND owner <> ''"
        two.until(lambda: store.execute(rows).fetchone() == (4,), what="the lanes have owners again")
        store.close()
        two.until(lambda: site.handled(*before))
        orders.fill(after)
        two.until(lambda: site.handled(*after))
        one.stop()
        two.stop()
    ended = site.bodies("ended")
    assert ended.keys() == {*before, *after}
    at_stake = {body for each in site.testimony("ended") if deleted - UNSAVED < each.time < owned + UNSAVED for body in each.bodies}
    assert {body for body, times in ended.items() if times > 1} <= at_stake
    assert max(site.bodies("begun").values()) <= 3
    assert not site.journal()


def test_a_daemon_that_stood_still_past_its_lease_neither_begins_nor_saves_anything(site: Site, kinesis_local: str) -> None:
    """It holds records that it has not begun, and results that came while it stood; all of it is another's by then."""
    orders = Stream(kinesis_local)
    pair(site, orders)
    bodies = numbered("order", 150)
    with site.daemon("one.toml") as one:
        put = orders.fill(bodies, ["one key"] * len(bodies))
        one.until(lambda: len(begun_by(site, one)) > 20)
        pause_between_writes(one, site.store)
        with site.daemon("two.toml") as two:
            two.until(lambda: begun_by(site, two), what="its lease has run out")
            two.until(lambda: site.handled(*bodies))
            two.until(lambda: done(site, put, "two.toml"), what="that is saved")
            since = time.time()
            one.resume()
            one.until(lambda: "lane lost: its lease ran out" in one.log)
            one.until(lambda: one.readyz()[0])
            assert done(site, put, "two.toml")
            assert not begun_by(site, one, since)
            orders.fill(["late"])
            two.until(lambda: site.handled("late"))
            assert begun_by(site, two, since) == ["late"]
            one.stop()
            two.stop()
    ended = site.bodies("ended")
    assert ended.keys() == {*bodies, "late"}
    assert {body for body, times in ended.items() if times > 1} <= {*begun_by(site, one)}
    assert max(site.bodies("begun").values()) == 2


def test_a_store_that_is_away_for_longer_than_a_lease_ends_all_work_and_begins_it_again(
    site: Site, kinesis_local: str, postgresql_own: PostgreSQL
) -> None:
    """A moment without it costs no lane. For longer nobody may believe in a lease: another daemon may have a line to the store."""
    orders, url = Stream(kinesis_local, 2), postgresql_own.database()
    pair(site, orders, store=url)
    bodies, more = numbered("order", 200), numbered("more", 400)
    with site.daemon("one.toml") as one, site.daemon("two.toml") as two:
        first = shared(site, orders, one, two)
        put = orders.fill(bodies)
        two.until(lambda: {*begun_by(site, one)} & {*bodies} and {*begun_by(site, two)} & {*bodies})
        killed = time.monotonic()
        postgresql_own.kill()
        one.complaint("the store cannot be used")
        postgresql_own.start()
        moment = time.monotonic() - killed < 4.0  # on a busy machine it may take longer than leases hold
        two.until(lambda: site.handled(*bodies) and done(site, put, "two.toml"))
        assert not moment or "lane lost" not in one.log + two.log
        orders.fill(more)
        two.until(lambda: len(site.bodies("begun")) > len(bodies))
        away = time.time()
        postgresql_own.pause()
        one.until(lambda: "lane lost" in one.log and "lane lost" in two.log)
        stopped = time.time()
        one.complaint("orders: reconnecting")
        two.complaint("orders: reconnecting")
        back = time.time()
        postgresql_own.resume()
        two.until(lambda: site.handled(*more), 60)
        one.until(lambda: one.readyz()[0] and two.readyz()[0])
        one.stop()
        two.stop()
    begun = site.bodies("begun")
    assert begun.keys() == {*first, *bodies, *more}
    assert not moment or {begun[body] for body in bodies} == {1}
    assert not [each for each in site.testimony("begun") if stopped < each.time < back]
    at_stake = {body for each in site.testimony("begun") if away - UNSAVED < each.time < back for body in each.bodies}
    assert {body for body in more if begun[body] > 1} <= at_stake
    assert max(begun.values()) <= 2


def test_two_fleets_that_share_a_lease_table_by_mistake_are_kept_apart(site: Site, kinesis_local: str, dynamodb: str) -> None:
    """The second one reads nothing, and says why and what to do; the first one goes on."""
    orders, clicks, table = Stream(kinesis_local), Stream(kinesis_local), f"leases-{time.time_ns()}"
    leases = f"dynamodb://{table}?region={REGION}&endpoint={dynamodb}"
    for file, stream in (("one.toml", orders), ("two.toml", clicks)):
        mapping = site.mapping(stream.name, stream.source)
        site.write(site.function(), mapping, file=file, leases=leases, store=f"sqlite:{site.folder / file}.db")
    orders.fill(["o1"])
    clicks.fill(["c1"])
    with site.daemon("one.toml") as one:
        one.until(lambda: site.handled("o1"))
        with site.daemon("two.toml") as two:
            told = two.complaint(table)
            assert orders.name in told
            orders.fill(["o2"])
            one.until(lambda: site.handled("o2"))
            two.stop()
        one.stop()
    assert site.bodies("begun") == {"o1": 1, "o2": 1}
