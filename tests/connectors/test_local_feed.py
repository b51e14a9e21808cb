"""Putting: what is acknowledged is there, whatever happens to who put it."""

import asyncio
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from connectors.local import QueueOptions, StreamOptions, queue_connector, stream_connector
from connectors.local.database import Database
from connectors.local.feed import _chunks
from poller.errors import SourceError
from poller.feed import Feed, Item

ROOT = Path(__file__).parents[2]

QUEUE = QueueOptions(name="orders")
LINE = QueueOptions(name="line", fifo=True)
STREAM = StreamOptions(name="clicks", shards=2)


@pytest.fixture
def place(tmp_path):
    return SimpleNamespace(state=tmp_path, clock=time.time)


async def select(place, statement):
    async with Database.shared(place.state) as database:
        return await database.read(lambda connection: connection.execute(statement).fetchall())


async def test_many_are_put_in_order(place):
    items = [Item(str(n).encode()) for n in range(2500)]
    assert await queue_connector.put(QUEUE, place, items) == 2500
    assert await select(place, "SELECT body FROM messages ORDER BY id") == [(str(n),) for n in range(2500)]


async def test_a_stream_gets_records_by_key_and_spreads_those_without(place):
    assert await stream_connector.put(STREAM, place, [Item(b"\xff", "same")] * 10 + [Item(b"x")] * 90) == 100
    assert await select(place, "SELECT count(DISTINCT id >> 40) FROM records WHERE key='same'") == [(1,)]
    assert await select(place, "SELECT count(DISTINCT id >> 40), count(DISTINCT key) FROM records WHERE key<>'same'") == [(2, 90)]


async def test_repeats_are_not_counted(place):
    items = [Item(b"a", "g", deduplication="one"), Item(b"a", "g", deduplication="one"), Item(b"b", "g")]
    assert await queue_connector.put(LINE, place, items) == 2


async def test_nothing_is_written_of_items_with_a_bad_one(place):
    with pytest.raises(SourceError, match=r"item 1 is not UTF-8 \(byte 1\)"):
        await queue_connector.put(QUEUE, place, [Item(b"good"), Item(b"a\xff")])
    assert not Database.exists(place.state)


@pytest.mark.parametrize(
    ("connector", "options", "item", "text"),
    [
        (queue_connector, QUEUE, Item(b""), "item 0 is empty"),
        (queue_connector, QUEUE, Item(b"x" * 2**20, attributes={"a": "b"}), "a message has at most 1048576, attributes included"),
        (queue_connector, QUEUE, Item(b"x", attributes={"a": "\udcff"}), "its attribute is not valid Unicode"),
        (queue_connector, LINE, Item(b"x"), "item 0 has no key; a FIFO queue needs one"),
        (queue_connector, LINE, Item(b"x", "\udcff"), "its key is not valid Unicode"),
        (stream_connector, STREAM, Item(b"x" * (10 * 2**20 + 1)), "a record has at most 10485760"),
        (stream_connector, STREAM, Item(b"x", "k" * 257), "a partition key has 1 to 256"),
        (stream_connector, STREAM, Item(b"x", "\udcff"), "its key is not valid Unicode"),
    ],
)
async def test_what_a_source_cannot_take_is_refused_with_a_sentence(place, connector, options, item, text):
    with pytest.raises(SourceError, match=text):
        await connector.put(options, place, [item])


def test_a_chunk_is_small_in_number_and_in_bytes():
    assert [len(chunk) for chunk in _chunks(range(2001), [1] * 2001)] == [1000, 1000, 1]
    assert [list(chunk) for chunk in _chunks("abcd", [5 * 2**20, 5 * 2**20, 20 * 2**20, 1])] == [["a"], ["b"], ["c"], ["d"]]
    assert list(_chunks((), ())) == []


async def test_nobody_closes_what_another_uses(place):
    async with Database.shared(place.state) as first:
        async with Database.shared(place.state) as second:
            assert first is second
        assert await queue_connector.put(QUEUE, place, [Item(b"x")]) == 1
        assert await first.read(lambda connection: connection.execute("SELECT count(*) FROM messages").fetchone()) == (1,)
    async with Database.shared(place.state) as third:
        assert third is not first and third.identity == first.identity


async def test_puts_at_once_are_all_there(place):
    async def put(name):
        return await queue_connector.put(QUEUE, place, [Item(f"{name}-{n}".encode()) for n in range(50)])

    assert await asyncio.gather(*(put(name) for name in "abcdefgh")) == [50] * 8
    assert await select(place, "SELECT count(DISTINCT body) FROM messages") == [(400,)]


PUT_FOR_EVER = """
import asyncio, itertools, sys, time
from pathlib import Path
from types import SimpleNamespace
from connectors.local import QueueOptions, StreamOptions, queue_connector, stream_connector
from poller.feed import Item

async def main():
    place = SimpleNamespace(state=Path(sys.argv[1]), clock=time.time)
    for n in itertools.count():
        items = [Item(f"{n}-{m}".encode()) for m in range(20)]
        await queue_connector.put(QueueOptions(name="orders"), place, items)
        await stream_connector.put(StreamOptions(name="clicks", shards=2), place, items)
        sys.stdout.write(f"{n}\\n")
        sys.stdout.flush()

asyncio.run(main())
"""


async def test_after_kill_9_all_that_was_acknowledged_is_there(place):
    script = [sys.executable, "-c", textwrap.dedent(PUT_FOR_EVER), str(place.state)]
    process = subprocess.Popen(script, cwd=ROOT, text=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(15):
        await asyncio.to_thread(process.stdout.readline)
    process.kill()
    rest, _ = await asyncio.to_thread(process.communicate)
    acknowledged = 15 + sum(line.isdigit() for line in rest.splitlines())
    expected = {f"{n}-{m}" for n in range(acknowledged) for m in range(20)}
    queue = [body for (body,) in await select(place, "SELECT body FROM messages")]
    stream = [data.decode() for (data,) in await select(place, "SELECT data FROM records")]
    for found in (queue, stream):
        assert expected <= set(found)
        assert len(found) == len(set(found)) and len(found) % 20 == 0, "a put is there whole, or not at all"
    assert await select(place, "SELECT sum(next - first) FROM shards") == [(len(stream),)]


def test_both_connectors_are_feeds():
    assert isinstance(queue_connector, Feed) and isinstance(stream_connector, Feed)
