"""The scripted server of DynamoDB Streams answers as DynamoDB Local does, wherever both can; what it alone can do is what AWS documents."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import pytest

from connectors.dynamodb_streams import connect_to_aws
from connectors.dynamodb_streams.client import DIGITS, ChangeRecord, DynamoDBClient, StreamPage
from connectors.dynamodb_streams.format import ChangeFormat
from connectors.dynamodb_streams.options import DynamoDBOptions
from connectors.sharded.sequence import LATEST, TRIM_HORIZON, Start
from connectors.sharded.shards import REFUSED, Expired, Gone, Records, Shard, Throttled, Trimmed
from poller.errors import NotConnected, SourceError
from tests.servers.dynamodb.client import REGION, TablesClient
from tests.servers.dynamodb_streams import INTERNAL, THROTTLED, ScriptedStreams, forbidden, scripted_streams


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


class World(Protocol):
    """A table whose stream is read; what happens to it beside."""

    url: str

    async def create(self) -> str: ...
    async def put(self, table: str, *names: str) -> None: ...
    async def disable(self, table: str) -> None: ...
    async def enable(self, table: str) -> None: ...


class Local:
    def __init__(self, tables: TablesClient) -> None:
        self.url = tables.url
        self._tables = tables

    async def create(self) -> str:
        return await self._tables.create()

    async def put(self, table: str, *names: str) -> None:
        await self._tables.put(table, *({"id": {"S": name}, "n": {"N": "1"}} for name in names))

    async def disable(self, table: str) -> None:
        await self._tables.disable(table)

    async def enable(self, table: str) -> None:
        await self._tables.enable(table)


class Scripted:
    def __init__(self, streams: ScriptedStreams) -> None:
        self.url = streams.url
        self.streams = streams

    async def create(self) -> str:
        self.streams.create("orders")
        return "orders"

    async def put(self, table: str, *names: str) -> None:
        self.streams.put(table, *({"id": {"S": name}, "n": {"N": "1"}} for name in names))

    async def disable(self, table: str) -> None:
        self.streams.disable(table)

    async def enable(self, table: str) -> None:
        self.streams.create(table)


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedStreams]:
    async with scripted_streams() as streams:
        yield streams


@pytest.fixture(params=[pytest.param("local", marks=pytest.mark.servers), "scripted"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "local":
        async with TablesClient(request.getfixturevalue("dynamodb")) as tables:
            yield Local(tables)
    else:
        async with scripted_streams() as streams:
            yield Scripted(streams)


@asynccontextmanager
async def connected(url: str, table: str = "orders") -> AsyncIterator[DynamoDBClient]:
    client = await connect_to_aws(DynamoDBOptions(table=table, region=REGION, endpoint=url))
    try:
        yield client
    finally:
        await client.aclose()


async def page_of(client: DynamoDBClient, stream: str, more: str | None = None) -> StreamPage:
    page = await client.shards(stream, more)
    assert isinstance(page, StreamPage), page
    return page


async def streams_of(client: DynamoDBClient, table: str) -> Sequence[str]:
    found = await client.streams(table)
    assert not isinstance(found, REFUSED), found
    return found


async def read(client: DynamoDBClient, stream: str, shard: str, begin: Start, limit: int = 1000) -> Records[ChangeRecord]:
    iterator = await client.iterator(stream, shard, begin)
    assert isinstance(iterator, str), iterator
    return await go_on(client, iterator, shard, limit)


async def go_on(client: DynamoDBClient, iterator: str | None, shard: str, limit: int = 1000) -> Records[ChangeRecord]:
    assert iterator is not None
    records = await client.records(iterator, shard, limit)
    assert isinstance(records, Records), records
    return records


def names(stream: str, records: Records[ChangeRecord]) -> list[str]:
    event = ChangeFormat(stream).event(records.records).mapping()
    return [each["dynamodb"]["Keys"]["id"]["S"] for each in event["Records"]]


# --- as DynamoDB Local ----------------------------------------------------------------------------------------------------------------


async def test_a_stream_and_what_it_says_of_itself(world: World) -> None:
    table = await world.create()
    async with connected(world.url, table) as client:
        (stream,) = await streams_of(client, table)
        page = await page_of(client, stream)
        assert (page.status, page.view, page.keys, page.more) == ("ENABLED", "NEW_AND_OLD_IMAGES", ("id",), None)
        (shard,) = page.shards
        assert (shard.parents, shard.last) == ((), None)
        assert (await page_of(client, stream, shard.name)).shards == ()
        assert await streams_of(client, "nobody") == []


async def test_all_ways_to_begin(world: World) -> None:
    table = await world.create()
    await world.put(table, "a", "b", "c")
    async with connected(world.url, table) as client:
        (stream,) = await streams_of(client, table)
        shard = (await page_of(client, stream)).shards[0].name
        everything = await read(client, stream, shard, TRIM_HORIZON)
        assert names(stream, everything) == ["a", "b", "c"]
        assert everything.following is not None
        second = everything.records[1].change.sequence
        assert names(stream, await read(client, stream, shard, Start("AT_SEQUENCE_NUMBER", second))) == ["b", "c"]
        assert names(stream, await read(client, stream, shard, Start("AFTER_SEQUENCE_NUMBER", second))) == ["c"]
        latest = await read(client, stream, shard, LATEST)
        assert latest.records == []
        await world.put(table, "d")
        assert names(stream, await go_on(client, latest.following, shard)) == ["d"]
        assert names(stream, await go_on(client, everything.following, shard)) == ["d"]
        some = await read(client, stream, shard, TRIM_HORIZON, 2)
        assert names(stream, some) == ["a", "b"]
        assert names(stream, await go_on(client, some.following, shard, 2)) == ["c", "d"]


async def test_what_an_event_of_it_holds(world: World) -> None:
    table = await world.create()
    await world.put(table, "a")
    async with connected(world.url, table) as client:
        (stream,) = await streams_of(client, table)
        shard = (await page_of(client, stream)).shards[0].name
        (element,) = ChangeFormat(stream).event((await read(client, stream, shard, TRIM_HORIZON)).records).mapping()["Records"]
    change = element.pop("dynamodb")
    told = {"eventID", "eventName", "eventVersion", "eventSource", "awsRegion", "eventSourceARN"}
    assert (set(element), element["eventName"], element["eventVersion"]) == (told, "INSERT", "1.1")
    assert (change["Keys"], change["NewImage"]) == ({"id": {"S": "a"}}, {"id": {"S": "a"}, "n": {"N": "1"}})
    held = {"ApproximateCreationDateTime", "Keys", "NewImage", "SequenceNumber", "SizeBytes", "StreamViewType"}
    assert (set(change), change["SizeBytes"] > 0) == (held, True)


async def test_a_disabled_stream_has_an_end_and_the_next_another_name(world: World) -> None:
    table = await world.create()
    await world.put(table, "a")
    async with connected(world.url, table) as client:
        await world.disable(table)
        (first,) = await streams_of(client, table)
        page = await page_of(client, first)
        assert page.status == "DISABLED"
        assert page.shards[0].last is not None
        whole = await read(client, first, page.shards[0].name, TRIM_HORIZON)
        assert (names(first, whole), whole.following) == (["a"], None)
        end = await read(client, first, page.shards[0].name, LATEST)
        assert (end.records, end.following) == ([], None)
        await world.enable(table)
        both = await streams_of(client, table)
        assert (both[0], len(both)) == (first, 2)
        await world.put(table, "b")
        shard = (await page_of(client, both[1])).shards[0].name
        assert names(both[1], await read(client, both[1], shard, TRIM_HORIZON)) == ["b"]


async def test_what_is_not_there(world: World) -> None:
    table = await world.create()
    async with connected(world.url, table) as client:
        (stream,) = await streams_of(client, table)
        nobody = stream.replace(table, "nobody")
        assert isinstance(await client.shards(nobody), Gone)
        assert isinstance(await client.iterator(nobody, f"shardId-{1:020}-a", TRIM_HORIZON), Gone)
        gone = await client.iterator(stream, f"shardId-{1:020}-a", TRIM_HORIZON)
        assert isinstance(gone, Gone) and "Shard does not exist" in gone.text


@pytest.mark.parametrize(
    "begin", [Start("AT_SEQUENCE_NUMBER"), Start("TRIM_HORIZON", "1" * DIGITS), Start("AT_SEQUENCE_NUMBER", "0" * DIGITS)]
)
async def test_what_makes_no_sense(world: World, begin: Start) -> None:
    table = await world.create()
    async with connected(world.url, table) as client:
        (stream,) = await streams_of(client, table)
        shard = (await page_of(client, stream)).shards[0].name
        with pytest.raises(NotConnected, match="ValidationException") as raised:
            await client.iterator(stream, shard, begin)
        assert raised.value.permanent
        with pytest.raises(NotConnected, match="Invalid ShardIterator"):
            await client.records("nonsense", shard, 10)


# --- what DynamoDB Local cannot do ----------------------------------------------------------------------------------------------------


async def test_a_shard_that_rolls_over_ends_and_has_a_child(scripted: ScriptedStreams) -> None:
    stream = scripted.create("orders")
    (parent,) = scripted.open_shards(stream)
    scripted.put("orders", {"id": {"S": "a"}})
    child = scripted.roll(stream, parent)
    scripted.put("orders", {"id": {"S": "b"}})
    async with connected(scripted.url) as client:
        old, young = (await page_of(client, stream)).shards
        assert (old.name, old.last is None, young.name, young.parents, young.last) == (parent, False, child, (parent,), None)
        ended = await read(client, stream, parent, TRIM_HORIZON)
        assert (names(stream, ended), ended.following) == (["a"], None)
        assert names(stream, await read(client, stream, child, TRIM_HORIZON)) == ["b"]


async def test_what_is_trimmed(scripted: ScriptedStreams) -> None:
    stream = scripted.create("orders")
    (shard,) = scripted.open_shards(stream)
    first, second, third = scripted.put("orders", *({"id": {"S": name}} for name in "abc"))
    async with connected(scripted.url) as client:
        before = await client.iterator(stream, shard, TRIM_HORIZON)
        scripted.trim(stream, shard, 2)
        assert isinstance(before, str)
        assert isinstance(await client.records(before, shard, 10), Trimmed)
        for kind in ("AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER"):
            assert isinstance(await client.iterator(stream, shard, Start(kind, first)), Trimmed)
        assert isinstance(await client.iterator(stream, shard, Start("AFTER_SEQUENCE_NUMBER", second)), Trimmed)
        assert names(stream, await read(client, stream, shard, Start("AT_SEQUENCE_NUMBER", third))) == ["c"]
        assert names(stream, await read(client, stream, shard, TRIM_HORIZON)) == ["c"]
        iterator = await client.iterator(stream, shard, TRIM_HORIZON)
        assert isinstance(iterator, str)
        scripted.trim_shard(stream, shard)
        assert isinstance(await client.records(iterator, shard, 10), Gone)
        assert (await page_of(client, stream)).shards == ()


async def test_what_is_refused(scripted: ScriptedStreams) -> None:
    stream = scripted.create("orders")
    (shard,) = scripted.open_shards(stream)
    async with connected(scripted.url) as client:
        iterator = await client.iterator(stream, shard, TRIM_HORIZON)
        assert isinstance(iterator, str)
        scripted.expire()
        assert isinstance(await client.records(iterator, shard, 10), Expired)
        scripted.refuse("GetShardIterator", THROTTLED, times=2)  # botocore asks once more by itself
        assert isinstance(await client.iterator(stream, shard, TRIM_HORIZON), Throttled)
        following = await client.iterator(stream, shard, TRIM_HORIZON)
        assert isinstance(following, str)
        assert isinstance(await client.records(following, shard, 1001), Throttled), "as AWS, oddly, calls it"
        fault = scripted.refuse("GetRecords", forbidden("GetRecords"))
        with pytest.raises(NotConnected, match="not authorized to perform: dynamodb:GetRecords") as raised:
            await client.records(following, shard, 10)
        assert raised.value.permanent
        scripted.allow(fault)
        scripted.refuse("GetRecords", INTERNAL, times=1)
        with pytest.raises(NotConnected, match="InternalServerError") as raised:
            await client.records(following, shard, 10)
        assert not raised.value.permanent
        assert (await go_on(client, following, shard)).records == []
        with pytest.raises(SourceError, match="UnknownOperationException"):
            await client._aws.read("Nonsense", {})  # type: ignore[attr-defined]


async def test_pages_of_shards_and_one_that_fails(scripted: ScriptedStreams) -> None:
    stream = scripted.create("orders", shards=684)
    async with connected(scripted.url) as client:
        found, more = list[Shard](), None
        pages = list[Any]()
        while True:
            page = await page_of(client, stream, more)
            found += page.shards
            pages.append(more)
            more = page.more
            if more is None:
                break
        assert (len(pages), len(found), len({each.name for each in found})) == (7, 684, 684)
        fault = scripted.refuse("DescribeStream", INTERNAL, ExclusiveStartShardId=pages[3])
        assert len((await page_of(client, stream, pages[2])).shards) == 100
        with pytest.raises(NotConnected, match="DescribeStream"):
            await client.shards(stream, pages[3])
        scripted.allow(fault)
        assert len((await page_of(client, stream, pages[3])).shards) == 100
