"""The stream's reader and shards, and the whole source over the shared ordered lane."""

import asyncio
import logging
import time
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from connectors.local import StreamOptions, stream_connector
from connectors.local.bells import LOOK_SECONDS
from connectors.local.database import Database
from connectors.local.stream import StreamShards, ensure, starting_point
from poller.errors import ConfigError, NotConnected, SourceError
from poller.feed import Item
from poller.lineage import Shard
from poller.model import Ack
from poller.progress import ORIGIN
from poller.settings import Backoff, Batching, Context, FailureSettings, MappingSettings
from poller.stores.memory import MemoryStore

NOW = 1_700_000_000.0
CLICKS = StreamOptions(name="clicks")


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def put(tmp_path, clock):
    async def put(*datas, options=CLICKS, key="k"):
        return await stream_connector.put(
            options, SimpleNamespace(state=tmp_path, clock=clock), [Item(data.encode(), key) for data in datas]
        )

    return put


@asynccontextmanager
async def shards_of(state, clock, options=CLICKS):
    database = await Database.acquire(state)
    shards = StreamShards(database, await ensure(database, options), clock)
    try:
        yield shards
    finally:
        await shards.aclose()
        await shards.aclose()


async def read(reader, position=ORIGIN, origin="TRIM_HORIZON", limit=100):
    async with asyncio.timeout(10):
        records, following = await reader.read(position, origin, limit)
    return [record.data.decode() for record in records], following


async def eventually(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_reader_goes_on_from_its_position(tmp_path, clock, put):
    await put("a", "b", "c")
    async with shards_of(tmp_path, clock) as shards:
        assert list(await shards.shards()) == [Shard("shardId-000000000000")]
        reader = shards.reader("shardId-000000000000")
        assert await read(reader, limit=2) == (["a", "b"], 3)
        assert await read(reader, 3) == (["c"], 4)
        assert await reader.head() == (4, NOW)
        await reader.aclose()


async def test_a_time_is_a_starting_point(tmp_path, clock, put):
    await put("a")
    clock.now += 10
    await put("b")
    async with shards_of(tmp_path, clock) as shards:
        reader = shards.reader("shardId-000000000000")
        assert await read(reader, origin=f"AT_TIMESTAMP {NOW + 5!r}") == (["b"], 3)
        assert await read(reader, origin=f"AT_TIMESTAMP {NOW!r}") == (["a", "b"], 3)
        assert await reader._start(f"AT_TIMESTAMP {NOW + 11!r}") == 3, "after the newest: the next one to be written"


async def test_an_empty_read_waits_and_is_woken_by_a_put(tmp_path, clock, put):
    async with shards_of(tmp_path, clock) as shards:
        reader = shards.reader("shardId-000000000000")
        started = time.monotonic()
        waiting = asyncio.create_task(read(reader))
        await eventually(lambda: shards._database.bells._waiters == 1)
        await put("a")
        assert await waiting == (["a"], 2)
        assert time.monotonic() - started < 0.9


async def test_a_busy_neighbour_does_not_end_the_wait(tmp_path, clock, put):
    async with shards_of(tmp_path, clock) as shards:
        reader = shards.reader("shardId-000000000000")
        waiting = asyncio.create_task(read(reader))
        await eventually(lambda: shards._database.bells._waiters == 1)
        for _ in range(5):
            await put("other", options=StreamOptions(name="other"))
            await asyncio.sleep(LOOK_SECONDS)
        assert not waiting.done()
        await put("a")
        assert await waiting == (["a"], 2)


async def test_all_readers_of_a_database_look_together(tmp_path, clock, put):
    options = StreamOptions(name="wide", shards=8)
    async with shards_of(tmp_path, clock, options) as shards:
        readers = [shards.reader(shard.name) for shard in await shards.shards()]
        waiting = [asyncio.create_task(read(reader)) for reader in readers]
        await eventually(lambda: shards._database.bells._waiters == 8)
        looking = [task for task in asyncio.all_tasks() if task.get_name().startswith("look for")]
        assert len(looking) == 1
        await asyncio.gather(*waiting)
        await eventually(looking[0].done)


async def test_a_trimmed_position_goes_on_at_the_trim_horizon_and_says_so(tmp_path, clock, put, caplog):
    options = StreamOptions(name="clicks", retention="60s")
    await put("a", "b", "c", options=options)
    clock.now += 50
    await put("d", options=options)
    clock.now += 20
    async with shards_of(tmp_path, clock, options) as shards:
        reader = shards.reader("shardId-000000000000")

        async def trimmed():
            return await shards._database.read(lambda connection: connection.execute("SELECT first FROM shards").fetchone()) == (4,)

        async with asyncio.timeout(10):
            while not await trimmed():
                await asyncio.sleep(0.01)
        with caplog.at_level(logging.WARNING, "poller.local"):
            assert await read(reader, origin="TRIM_HORIZON") == (["d"], 5)
            assert caplog.records == [], "a reader that starts at the trim horizon missed nothing"
            assert await read(reader, 2) == (["d"], 5)
    assert "2 records were older than the retention (1m) and are gone unread" in caplog.text


async def test_putting_trims_too(tmp_path, clock, put):
    options = StreamOptions(name="clicks", retention="60s")
    await put("a", options=options)
    clock.now += 100
    await put("b", options=options)
    async with Database.shared(tmp_path) as database:
        assert await database.read(lambda connection: connection.execute("SELECT data FROM records").fetchall()) == [(b"b",)]


async def test_progress_from_the_future_is_an_error_not_a_silent_wait(tmp_path, clock, put):
    await put("a")
    async with shards_of(tmp_path, clock) as shards:
        with pytest.raises(NotConnected, match="progress is at 9, but the stream only at 2") as raised:
            await read(shards.reader("shardId-000000000000"), 9)
        assert raised.value.permanent


def test_starting_points():
    assert starting_point(CLICKS, NOW) == "TRIM_HORIZON"
    assert starting_point(StreamOptions(name="s", starting_position="LATEST"), NOW) == f"LATEST {NOW!r}"

    def at(timestamp):
        options = StreamOptions(name="s", starting_position="AT_TIMESTAMP", starting_position_timestamp=timestamp)
        return starting_point(options, NOW)

    assert at(1.5) == at("1.5") == "AT_TIMESTAMP 1.5"
    assert at("2023-11-14T22:13:19Z") == f"AT_TIMESTAMP {NOW - 1!r}"
    with pytest.raises(SourceError, match="is in the future"):
        at(NOW + 1)


def test_options_that_cannot_be():
    with pytest.raises(ConfigError) as raised:
        stream_connector.traits(StreamOptions(name="", shards=0, retention="1s", starting_position="AT_TIMESTAMP"))
    assert len(raised.value.problems) == 4
    with pytest.raises(ConfigError, match="is no time; write ISO 8601"):
        stream_connector.traits(StreamOptions(name="s", starting_position="AT_TIMESTAMP", starting_position_timestamp="yesterday"))
    with pytest.raises(ConfigError, match="give both, or neither"):
        stream_connector.traits(StreamOptions(name="s", starting_position_timestamp=1.0))
    assert stream_connector.traits(CLICKS).kind == "stream"


def test_the_policy_knows_the_retention():
    failure = FailureSettings(maximum_retry_attempts=3, backoff=Backoff(2.0))
    settings = MappingSettings("m", "m", "f", Batching(100), failure, width=1)
    policy = stream_connector.policy(StreamOptions(name="clicks", retention="1h"), settings)
    assert (policy.maximum_retry_attempts, policy.backoff, policy.partial, policy.age_limit) == (3, Backoff(2.0), "cut", 3240.0)


async def test_probe_makes_nothing_and_says_what_is_there(tmp_path, clock, put):
    where = context(tmp_path, clock, None)
    assert [finding.text for finding in await stream_connector.probe(CLICKS, where, 3.0)] == ["local stream 'clicks' will be made"]
    assert list(tmp_path.iterdir()) == []
    await put("a")
    assert [finding.text for finding in await stream_connector.probe(CLICKS, where, 3.0)] == ["local stream 'clicks' holds 1 records"]
    findings = await stream_connector.probe(StreamOptions(name="clicks", shards=2), where, 3.0)
    assert [finding.level for finding in findings] == ["error"]


def context(state, clock, store):
    mapping = MappingSettings("m", "m", "f", Batching(100), FailureSettings(), width=1)
    return Context(mapping, store, "worker", clock, state, state)


async def test_the_source_is_an_ordered_one_with_a_lane_for_each_shard(tmp_path, clock, put):
    options = StreamOptions(name="wide", shards=3)
    await put("a", options=options)
    source = await stream_connector.open(options, context(tmp_path, clock, None))
    assert source.identity.startswith("local-stream:") and source.identity.endswith(":wide")
    await source.aclose()
    with pytest.raises(SourceError, match="has 3 shards and the configuration says 4"):
        await stream_connector.open(StreamOptions(name="wide", shards=4), context(tmp_path, clock, None))
    async with Database.shared(tmp_path) as database:
        assert (await database.read(lambda connection: connection.execute("SELECT count(*) FROM shards").fetchone())) == (3,)


async def test_lanes_read_on_where_they_were_closed(tmp_path, clock, put):
    store = MemoryStore()
    latest = StreamOptions(name="clicks", starting_position="LATEST")
    await put("before")
    clock.now += 1

    opened = asyncio.Event()

    async def life(count, ack=True):
        source = await stream_connector.open(latest, context(tmp_path, clock, store))
        opened.set()
        lane = await anext(source.lanes())
        seen: list[str] = []
        async with asyncio.timeout(10):
            while len(seen) < count:
                records = (await lane.fetch(100)).records
                if not records:
                    continue
                seen += [record.data.decode() for record in records]
                lane.strands.add(records, lane.format.facts(records), 0.0)
                (strand,) = lane.strands.ready(Batching(100), 0.0)
                taken = lane.strands.take(strand, Batching(100), lane.format, 0.0)
                assert taken is not None
                batch, _ = taken
                if ack:
                    await lane.settle(batch, [Ack(batch.records)])
                    lane.strands.finish(strand)
        await source.aclose()
        return seen

    waiting = asyncio.create_task(life(1))
    await opened.wait()
    await put("a")
    assert await waiting == ["a"], "LATEST: what came before the mapping is not seen"
    clock.now += 60
    await put("b", "c")
    assert await life(2, ack=False) == ["b", "c"], "LATEST the second time: its own progress, not the time it is opened anew"
    assert await life(2) == ["b", "c"], "not acked, so again"
