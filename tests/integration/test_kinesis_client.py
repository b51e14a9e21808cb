"""The client of Kinesis against real servers: one that reshards and pushes, and one that is fast."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiobotocore.session import get_session

from connectors.kinesis import KinesisConnector, connect_to_aws
from connectors.kinesis.client import Consumer, KinesisClient, KinesisRecord, Pushed, Stream
from connectors.kinesis.format import KinesisFormat
from connectors.kinesis.options import KinesisOptions
from connectors.sharded.sequence import LATEST, TRIM_HORIZON, Start, start
from connectors.sharded.shards import Gone, Page, Records, Shard, Throttled
from poller.settings import Batching, Context, FailureSettings, MappingSettings
from poller.stores.memory import MemoryStore
from tests.servers.kinesis.client import REGION, StreamsClient

pytestmark = pytest.mark.servers

FIRST = "shardId-000000000000"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


@pytest.fixture(params=["kinesis_local", "kinesalite"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[StreamsClient]:
    async with StreamsClient(request.getfixturevalue(request.param)) as streams:
        yield streams


@asynccontextmanager
async def connected(streams: StreamsClient, stream: str) -> AsyncIterator[KinesisClient]:
    client = await connect_to_aws(KinesisOptions(stream=stream, region=REGION, endpoint=streams.url))
    try:
        yield client
    finally:
        await client.aclose()


async def shards(client: KinesisClient, stream: str) -> list[Shard]:
    page = await client.shards(stream)
    assert isinstance(page, Page)
    return list(page.shards)


async def drained(client: KinesisClient, stream: str, shard: str, begin: Start, wanted: int) -> list[KinesisRecord]:
    """So many records, or all of a closed shard, from there on."""
    iterator = await client.iterator(stream, shard, begin)
    found = list[KinesisRecord]()
    async with asyncio.timeout(30):
        while isinstance(iterator, str) and len(found) < wanted:
            answer = await client.records(iterator, shard, 1000)
            assert isinstance(answer, Records), answer
            found += answer.records
            iterator = answer.following  # type: ignore[assignment]
    return found


async def test_a_stream_and_its_shards(world: StreamsClient) -> None:
    name = await world.create(3)
    async with connected(world, name) as client:
        stream = await client.stream(name)
        assert isinstance(stream, Stream)
        assert (stream.name, stream.region, stream.status, stream.retention) == (name, REGION, "ACTIVE", 86400.0)
        assert stream.identity.startswith(stream.arn + "@")
        found = await shards(client, name)
        assert [each.name for each in found] == [f"shardId-{number:012d}" for number in range(3)]
        assert {each.last for each in found} == {None}
        assert isinstance(await client.stream("nobody"), Gone)
        assert isinstance(await client.shards("nobody"), Gone)
        assert isinstance(await client.iterator(name, "shardId-000000000099", TRIM_HORIZON), Gone)


async def test_records_come_in_order_and_a_position_goes_on_where_it_was(world: StreamsClient) -> None:
    name = await world.create()
    async with connected(world, name) as client:
        numbers = [sequence for _, sequence in await world.put(name, [(f"k{n}", b"%d" % n) for n in range(20)])]
        found = await drained(client, name, FIRST, TRIM_HORIZON, 20)
        assert [each.sequence for each in found] == numbers
        assert [(each.key, b64decode(each.data), each.shard) for each in found] == [(f"k{n}", b"%d" % n, FIRST) for n in range(20)]
        tokens = KinesisFormat("arn:aws:kinesis:r:1:stream/s", "r").facts(found).tokens()
        assert sorted(set(tokens)) == list(tokens)
        for position, first in ((tokens[7], 7), (tokens[7] + 1, 8)):
            rest = await drained(client, name, FIRST, start(position, "TRIM_HORIZON"), 20 - first)
            assert [each.sequence for each in rest] == numbers[first:]
        rest = await drained(client, name, FIRST, Start("AT_TIMESTAMP", time=found[0].arrival - 1), 20)
        assert [each.sequence for each in rest] == numbers


async def test_what_is_signed_by_hand_is_what_botocore_gets(world: StreamsClient) -> None:
    name = await world.create()
    await world.put(name, [("a", b"\x00\xff"), ("\u00e9", b"{}"), ("b", b"x" * 50_000)])
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    async with (
        connected(world, name) as client,
        get_session().create_client("kinesis", region_name=REGION, endpoint_url=world.url, **keys) as boto,
    ):
        iterator = await client.iterator(name, FIRST, TRIM_HORIZON)
        assert isinstance(iterator, str)
        ours = await client.records(iterator, FIRST, 100)
        theirs = await boto.get_records(ShardIterator=iterator, Limit=100)
        assert isinstance(ours, Records)
        assert [(each.sequence, each.key, b64decode(each.data), each.arrival) for each in ours.records] == [
            (each["SequenceNumber"], each["PartitionKey"], each["Data"], each["ApproximateArrivalTimestamp"].timestamp())
            for each in theirs["Records"]
        ]
        assert len(ours.records) == 3


async def test_a_closed_shard_has_an_end_and_children(world: StreamsClient) -> None:
    name = await world.create(2)
    async with connected(world, name) as client:
        await world.put_to(name, FIRST, [b"1", b"2"])
        left, right = await world.split(name, FIRST)
        found = {each.name: each for each in await shards(client, name)}
        assert found[FIRST].last is not None
        assert found[left].parents == found[right].parents == (FIRST,)
        assert found[left].last is None
        assert [b64decode(each.data) for each in await drained(client, name, FIRST, TRIM_HORIZON, 100)] == [b"1", b"2"]
        child = await world.merge(name, left, right)
        merged = {each.name: each for each in await shards(client, name)}[child]
        assert set(merged.parents) == {left, right}


async def test_an_update_of_the_shard_count(streams: StreamsClient) -> None:
    name = await streams.create(1)
    async with connected(streams, name) as client:
        made = await streams.update_shard_count(name, 2)
        await drained(client, name, FIRST, TRIM_HORIZON, 100)  # it ends
        open_ = {each.name for each in await shards(client, name) if each.last is None}
        assert len(open_) == 2 and open_ <= set(made)


async def test_a_stream_by_its_arn(streams: StreamsClient) -> None:
    name = await streams.create()
    arn = (await streams.summary(name))["StreamARN"]
    await streams.put(name, [("k", b"x")])
    async with connected(streams, arn) as client:
        assert [each.name for each in await shards(client, arn)] == [FIRST]
        assert len(await drained(client, arn, FIRST, TRIM_HORIZON, 1)) == 1


async def pushed(client: KinesisClient, consumer: str, begin: Start, wanted: int) -> tuple[list[KinesisRecord], str | None]:
    """So many records, and where to go on."""
    found, continuation = list[KinesisRecord](), None
    async with asyncio.timeout(30):
        while len(found) < wanted:
            async with aclosing(client.subscribe(consumer, FIRST, begin)) as events:
                async for event in events:
                    if isinstance(event, Throttled):
                        await asyncio.sleep(0.2)  # a subscription outlives its end by a while
                        break
                    assert isinstance(event, Pushed), event
                    found += event.records
                    continuation = event.continuation
                    if len(found) >= wanted:
                        break
    return found, continuation


async def test_a_consumer_is_pushed_its_records(streams: StreamsClient) -> None:
    name = await streams.create()
    consumer = await streams.register(name)
    async with connected(streams, name) as client:
        described = await client.describe_consumer(consumer)
        assert described == Consumer(consumer, "ACTIVE")
        numbers = [sequence for _, sequence in await streams.put(name, [("k", b"%d" % n) for n in range(5)])]
        found, continuation = await pushed(client, consumer, TRIM_HORIZON, 5)
        assert [each.sequence for each in found] == numbers
        polled = await drained(client, name, FIRST, TRIM_HORIZON, 5)
        assert found == polled, "the same record, whichever way it came"
        assert continuation is not None
        numbers += [sequence for _, sequence in await streams.put(name, [("k", b"later")])]
        later, _ = await pushed(client, consumer, Start("AFTER_SEQUENCE_NUMBER", continuation), 1)
        assert [each.sequence for each in later] == numbers[5:]
        gone = [each async for each in client.subscribe(consumer.replace("fan-out", "nobody"), FIRST, LATEST)]
        assert [type(each) for each in gone] == [Gone]


def context(folder: Path, failure: FailureSettings | None = None) -> Context:
    mapping = MappingSettings("m", "m", "f", Batching(100), failure or FailureSettings(), 1)
    return Context(mapping, MemoryStore(), "w", lambda: 0.0, folder, folder)


async def findings(streams: StreamsClient, folder: Path, failure: FailureSettings | None = None, **options: Any) -> list[tuple[str, str]]:
    given = KinesisOptions(**{"region": REGION, "endpoint": streams.url, **options})
    return [(each.level, each.text) for each in await KinesisConnector().probe(given, context(folder, failure), 3.0)]


async def test_what_check_finds(streams: StreamsClient, tmp_path: Path) -> None:
    name = await streams.create(2)
    consumer = await streams.register(name)
    found = await findings(streams, tmp_path, stream=name, consumer_arn=consumer)
    assert [level for level, _ in found] == ["ok", "ok", "ok"]
    assert "2 shards" in found[0][1] and "for 1d" in found[1][1] and "ACTIVE" in found[2][1]
    aged = await findings(streams, tmp_path, FailureSettings(maximum_record_age=172800.0), stream=name)
    assert [level for level, _ in aged] == ["ok", "warning"]
    ((level, text),) = await findings(streams, tmp_path, stream="nobody")
    assert level == "error" and "nobody" in text
    ((level, text),) = await findings(streams, tmp_path, stream=name, endpoint="http://127.0.0.1:1")
    assert level == "error" and "127.0.0.1:1" in text
