"""Streams that go away, come again, or reshard under a source of Kinesis, on a real server; the engine around it is real, too."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from connectors import kinesis
from connectors.kinesis.options import KinesisOptions
from connectors.sharded.listing import StreamShards
from poller.config import load
from poller.errors import LaneEnded, NotConnected
from poller.policy import Block
from poller.progress import ORIGIN
from poller.registry import Registry
from poller.settings import Batching, Context, FailureSettings, MappingSettings
from poller.stores.memory import MemoryStore
from tests.connectors.test_kinesis_aggregation import Put, aggregate, message
from tests.fidelity.stage import NULL, Recorder, Stage, data
from tests.servers.kinesis.client import REGION, StreamsClient

pytestmark = pytest.mark.servers

FIRST = "shardId-000000000000"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


@asynccontextmanager
async def opened(streams: StreamsClient, name: str, **options: Any) -> AsyncIterator[Any]:
    """The source, not run by anyone."""
    settings = MappingSettings("m", "m", "f", Batching(100), FailureSettings(), 1)
    context = Context(settings, MemoryStore(), "w", lambda: 0.0, Path(), Path())
    source = await kinesis.connector.open(KinesisOptions(stream=name, region=REGION, endpoint=streams.url, **options), context)
    try:
        yield source
    finally:
        await source.aclose()


def shards_of(source: Any) -> StreamShards[Any]:
    shards: StreamShards[Any] = source._shards
    return shards


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.01)


async def test_a_source_is_the_stream_that_it_was_opened_for(streams: StreamsClient) -> None:
    """One that was deleted and made again under its name is another one; the shards of neither have ended."""
    name = await streams.create()
    await streams.put(name, [("k", b"x")])
    async with opened(streams, name) as source:
        assert source.identity.rpartition("@")[0].endswith(f":stream/{name}")
        assert isinstance(source.policy, Block) and source.policy.retention == 86400.0
        reader = shards_of(source).reader(FIRST)
        _, position = await reader.read(ORIGIN, "TRIM_HORIZON", 10)
        await streams.delete(name)
        for ask in (shards_of(source).listed(FIRST), reader.read(position, "TRIM_HORIZON", 10)):
            with pytest.raises(NotConnected, match="the stream is gone") as raised:
                await ask
            assert raised.value.permanent
        await asyncio.sleep(1.0)  # it is told in seconds when a stream was made
        await streams.create(name=name)
        with pytest.raises(NotConnected, match="deleted and made again"):
            await shards_of(source).listed(FIRST)
        async with opened(streams, name) as again:
            assert again.identity != source.identity


async def test_a_shard_that_is_split_says_where_it_ends_and_its_children_are_listed_at_once(streams: StreamsClient) -> None:
    name = await streams.create()
    async with opened(streams, name) as source:
        shards = shards_of(source)
        assert [each.name for each in await shards.shards()] == [FIRST]
        await streams.put(name, [("k", b"x")])
        reader = shards.reader(FIRST)
        found, position = await reader.read(ORIGIN, "TRIM_HORIZON", 10)
        assert len(found) == 1
        children = await streams.split(name, FIRST)
        with suppress(LaneEnded):
            for _ in range(10):
                assert await reader.read(position, "TRIM_HORIZON", 10) == ((), position)
            raise AssertionError("it has not ended")
        assert {each.name: each.parents for each in await shards.shards()} == {FIRST: ()} | dict.fromkeys(children, (FIRST,))
        with pytest.raises(LaneEnded):  # who opens it anew comes to the same end
            await shards.reader(FIRST).read(position, "TRIM_HORIZON", 10)


async def test_a_shard_that_never_was_is_gone_and_its_stream_is_not(streams: StreamsClient) -> None:
    async with opened(streams, await streams.create()) as source:
        with pytest.raises(LaneEnded):
            await shards_of(source).reader("shardId-000000000099").read(ORIGIN, "TRIM_HORIZON", 10)
        assert source._context.tally.expired == 1


@pytest.mark.slow
async def test_aggregates_are_taken_apart_on_request(load_streams: StreamsClient, tmp_path: Path) -> None:
    """Through the engine; the option changes from one life to the next."""
    name = await load_streams.create()
    made = aggregate(message([Put("k", json.dumps({"number": n}).encode()) for n in range(3)]))
    toml = f'{{ type = "kinesis", stream = "{name}", region = "{REGION}", endpoint = "{load_streams.url}", deaggregate = %s }}'
    store = MemoryStore()
    seen = list[list[str]]()
    for wanted in ("true", "false", "true"):
        await load_streams.put(name, [("k", made), ("k", b'{"number": 3}')])
        table = f'[mappings.m]\nfunction = "f"\nsource = {toml % wanted}\n'
        stage = Stage(configured_ours(tmp_path, table))
        stage.store = store
        function = Recorder(lambda _: NULL)
        stage.run(function)
        count = 4 if wanted == "true" else 2
        await until(lambda: len(function.elements) >= count)  # noqa: B023
        await stage.stop()
        seen.append([element["kinesis"]["sequenceNumber"].partition(":")[2] for element in function.elements])
        if wanted == "true":
            assert [data(element)["number"] for element in function.elements] == [0, 1, 2, 3]
    assert seen == [["0", "1", "2", ""], ["", ""], ["0", "1", "2", ""]]


def configured_ours(folder: Path, table: str) -> Any:
    """With our own defaults: AWS takes nothing apart."""
    (folder / "app.py").write_text("def handle(event, context): ...\n")
    (folder / "poller.toml").write_text(f'[functions.f]\nhandler = "app.py:handle"\n{table}')
    return load(folder / "poller.toml", Registry(), {"PATH": "/bin"})
