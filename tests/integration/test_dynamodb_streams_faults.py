"""What may happen to a table's stream, with the engine over the scripted server: shards roll over, are trimmed, calls are refused. None of
it ends a mapping, and nothing is lost that DynamoDB still has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import pytest

from connectors.dynamodb_streams import connector
from connectors.dynamodb_streams.options import DynamoDBOptions
from poller.model import Response
from tests.integration.stream_workers import DONE, Element, Mapping, Script, Worker
from tests.servers.dynamodb_streams import EXPIRED, INTERNAL, REGION, THROTTLED, ScriptedStreams, forbidden, scripted_streams

TABLE = "orders"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


@pytest.fixture
async def streams() -> AsyncIterator[ScriptedStreams]:
    async with scripted_streams() as world:
        yield world


def mapping(streams: ScriptedStreams, **options: Any) -> Mapping:
    return Mapping(connector, DynamoDBOptions(**{"table": TABLE, "region": REGION, "endpoint": streams.url, **options}))


def name(element: Element) -> str:
    called: str = element["dynamodb"]["Keys"]["id"]["S"]
    return called


class Items:
    """Puts items, named by numbers that grow."""

    def __init__(self, streams: ScriptedStreams) -> None:
        self._streams, self._numbers = streams, count()
        self.put: list[str] = []

    def __call__(self, number: int, shard: str | None = None) -> list[str]:
        names = [str(next(self._numbers)) for _ in range(number)]
        self._streams.put(TABLE, *({"id": {"S": each}} for each in names), shard=shard)
        self.put += names
        return names


@pytest.fixture
def items(streams: ScriptedStreams) -> Items:
    return Items(streams)


# --- shards come and go ---------------------------------------------------------------------------------------------------------------


async def test_a_shard_that_rolls_over_while_it_is_read(streams: ScriptedStreams, items: Items) -> None:
    """Three times, with records before, between and behind: all of them once, in order."""
    stream, script = streams.create(TABLE), Script(name)
    (shard,) = streams.open_shards(stream)
    items(10)
    async with Worker(mapping(streams), script) as worker:
        for _ in range(3):
            await worker.handled(len(items.put))
            shard = streams.roll(stream, shard)
            items(10)
        await worker.handled(40)
        await worker.until(lambda: worker.lanes == {shard})
        assert worker.counters.reconnects == 0
    assert script.seen == items.put


async def test_children_wait_for_their_parent_however_long_it_takes(streams: ScriptedStreams, items: Items) -> None:
    released = asyncio.Event()

    async def answer(names: list[str]) -> Response:
        if "0" in names:
            await released.wait()
        return DONE

    stream, script = streams.create(TABLE, shards=2), Script(name, answer)
    parent, other = streams.open_shards(stream)
    items(5, parent)
    child = streams.roll(stream, parent)
    items(5, child)
    async with Worker(mapping(streams), script) as worker:
        await worker.until(lambda: script.seen)
        cousin = streams.roll(stream, other)
        await worker.until(lambda: worker.lanes == {parent, cousin})  # so shards were looked at, and the other child was not opened
        assert script.seen == items.put[:5]
        released.set()
        await worker.handled(10)
        await worker.until(lambda: worker.lanes == {child, cousin})
    assert script.seen == items.put


async def test_a_worker_that_comes_later_does_not_read_what_has_ended(streams: ScriptedStreams, items: Items) -> None:
    stream, script = streams.create(TABLE), Script(name)
    (parent,) = streams.open_shards(stream)
    items(5)
    child = streams.roll(stream, parent)
    kept = mapping(streams)
    async with Worker(kept, script) as worker:
        await worker.until(lambda: worker.lanes == {child})
    items(5)
    async with Worker(kept, script, "b") as worker:
        await worker.handled(5)
        assert worker.lanes == {child}
    assert script.seen == items.put


async def test_a_checkpoint_that_was_trimmed_is_said_and_counted_and_gone_on_from(
    streams: ScriptedStreams, items: Items, caplog: pytest.LogCaptureFixture
) -> None:
    stream, script, kept = streams.create(TABLE), Script(name), mapping(streams)
    (shard,) = streams.open_shards(stream)
    items(3)
    async with Worker(kept, script) as worker:
        await worker.handled(3)
    items(3)
    streams.trim(stream, shard, 5)
    async with Worker(kept, script) as worker:
        await worker.handled(1)
        items(1)
        await worker.handled(2)
        assert worker.counters.tally.expired == 1
    assert script.seen == ["0", "1", "2", "5", "6"]
    (line,) = (each.getMessage() for each in caplog.records if each.levelname == "ERROR")
    assert shard in line and "older than what the stream keeps" in line


async def test_a_shard_that_was_trimmed_as_a_whole_lets_its_children_be_read(
    streams: ScriptedStreams, items: Items, caplog: pytest.LogCaptureFixture
) -> None:
    stream, script, kept = streams.create(TABLE), Script(name), mapping(streams)
    (parent,) = streams.open_shards(stream)
    items(3)
    async with Worker(kept, script) as worker:
        await worker.handled(3)
    items(3)
    child = streams.roll(stream, parent)
    items(3)
    streams.trim_shard(stream, parent)
    async with Worker(kept, script) as worker:
        await worker.handled(3)
        await worker.until(lambda: worker.lanes == {child})
        assert worker.counters.tally.expired == 1
    assert script.seen == ["0", "1", "2", "6", "7", "8"]
    (line,) = (each.getMessage() for each in caplog.records if each.levelname == "ERROR")
    assert parent in line


async def test_a_stream_that_is_turned_off_and_on_is_read_to_its_end_and_the_next_one_from_its_beginning(
    streams: ScriptedStreams, items: Items, caplog: pytest.LogCaptureFixture
) -> None:
    first, script = streams.create(TABLE), Script(name)
    items(5)
    async with Worker(mapping(streams), script) as worker:
        await worker.handled(5)
        items(5)
        streams.disable(TABLE)
        await worker.handled(10)
        second = streams.create(TABLE)
        items(5)
        await worker.handled(15)
        await worker.until(lambda: worker.lanes == set(streams.open_shards(second)))
    assert script.seen == items.put
    assert [each["eventSourceARN"] for each in script.elements] == [first] * 10 + [second] * 5
    assert any(second in each.getMessage() for each in caplog.records if each.levelname == "WARNING")


# --- calls are refused ----------------------------------------------------------------------------------------------------------------


async def test_one_shard_that_is_forbidden_keeps_no_other_from_being_read(streams: ScriptedStreams, items: Items) -> None:
    stream, script = streams.create(TABLE, shards=2), Script(name)
    good, bad = streams.open_shards(stream)
    fault = streams.refuse("GetShardIterator", forbidden("GetShardIterator"), ShardId=bad)
    items(5, good)
    items(5, bad)
    async with Worker(mapping(streams), script) as worker:
        await worker.handled(5)
        await worker.until(lambda: "dynamodb:GetShardIterator" in worker.errors())
        items(5, good)
        await worker.handled(10)
        assert "check the credentials" in worker.errors()
        streams.allow(fault)
        await worker.handled(15)
    assert sorted(script.seen, key=int) == items.put


async def test_listing_that_is_forbidden_lets_what_is_known_be_read(streams: ScriptedStreams, items: Items) -> None:
    """As does a policy that someone changed while it ran: a roll-over makes the source ask."""
    stream, script = streams.create(TABLE, shards=2), Script(name)
    one, other = streams.open_shards(stream)
    items(5, one)
    async with Worker(mapping(streams), script) as worker:
        await worker.handled(5)
        fault = streams.refuse("DescribeStream", forbidden("DescribeStream"))
        child = streams.roll(stream, other)
        await worker.until(lambda: "dynamodb:DescribeStream" in worker.errors())
        items(5, one)
        await worker.handled(10)
        items(5, child)
        streams.allow(fault)
        await worker.handled(15)
    assert sorted(script.seen, key=int) == items.put


async def test_a_page_of_shards_that_fails_is_no_shorter_list(streams: ScriptedStreams, items: Items) -> None:
    """Children on the page that fails must not be taken for absent, nor their parents for gone."""
    streams.page = 2
    stream, script = streams.create(TABLE, shards=4), Script(name)
    roots = streams.open_shards(stream)
    for root in roots:
        items(2, root)
    async with Worker(mapping(streams), script) as worker:
        await worker.handled(8)
        fault = streams.refuse("DescribeStream", INTERNAL, ExclusiveStartShardId=roots[3])
        children = [streams.roll(stream, root) for root in roots]
        for child in children:
            items(2, child)
        await worker.until(lambda: "DescribeStream" in worker.errors())
        assert worker.counters.tally.expired == 0
        streams.allow(fault)
        await worker.handled(16)
        await worker.until(lambda: worker.lanes == set(children))
        assert worker.counters.tally.expired == 0
    assert sorted(script.seen, key=int) == items.put


async def test_iterators_that_expire_are_made_anew(streams: ScriptedStreams, items: Items) -> None:
    streams.create(TABLE)
    script = Script(name)
    items(5)
    async with Worker(mapping(streams), script) as worker:
        for _ in range(3):
            await worker.handled(len(items.put))
            streams.expire()
            items(5)
        await worker.handled(20)
        assert worker.counters.polling_errors == 0
    assert script.seen == items.put


async def test_throttling_and_failures_of_the_service_lose_nothing(streams: ScriptedStreams, items: Items) -> None:
    streams.create(TABLE)
    script = Script(name)
    streams.refuse("GetShardIterator", THROTTLED, times=2)  # botocore asks once more by itself
    streams.refuse("GetRecords", THROTTLED, times=1)
    streams.refuse("GetRecords", INTERNAL, times=1)
    streams.refuse("GetRecords", EXPIRED, times=2)
    items(5)
    async with Worker(mapping(streams), script) as worker:
        await worker.handled(5)
    assert script.seen == items.put
    assert [fault.times for fault in streams.faults] == [0] * 4


async def test_684_shards_of_which_one_is_bad(streams: ScriptedStreams, items: Items) -> None:
    stream, script = streams.create(TABLE, shards=684), Script(name)
    shards = streams.open_shards(stream)
    streams.refuse("GetShardIterator", forbidden("GetShardIterator"), ShardId=shards[300])
    for shard in shards:
        items(1, shard)
    async with Worker(mapping(streams), script) as worker:
        await worker.handled(683)
        assert set(items.put) - set(script.seen) == {"300"}
        await worker.until(lambda: "GetShardIterator" in worker.errors())
    assert len(script.seen) == 683
