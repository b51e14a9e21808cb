"""Sources of shards where this machine's clock is not the service's: nothing that comes after the beginning is passed over, or refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from connectors import dynamodb_streams, kinesis
from connectors.dynamodb_streams.options import DynamoDBOptions
from connectors.kinesis.options import KinesisOptions
from poller.progress import ORIGIN
from poller.protocols import Source
from poller.settings import Batching, Context, FailureSettings, MappingSettings
from poller.stores.memory import MemoryStore
from tests.servers.dynamodb.client import TablesClient
from tests.servers.kinesis.client import REGION, StreamsClient

pytestmark = pytest.mark.servers

AHEAD = 120.0
"""Seconds: signatures are good for five minutes."""


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


def context(ahead: float) -> Context:
    settings = MappingSettings("m", "m", "f", Batching(100), FailureSettings(), 1)
    return Context(settings, MemoryStore(), "w", lambda: time.time() + ahead, Path(), Path())


async def first_lane(source: Source) -> Any:
    async with aclosing(source.lanes()) as lanes:  # type: ignore[type-var]
        return await anext(lanes)


async def fetched(lane: Any) -> Sequence[Any]:
    async with asyncio.timeout(10):
        while not (found := (await lane.fetch(10)).records):
            pass
    records: Sequence[Any] = found
    return records


@pytest.mark.parametrize("ahead", [AHEAD, -AHEAD])
async def test_latest_of_kinesis_is_when_it_was_opened_by_its_own_clock(streams: StreamsClient, ahead: float) -> None:
    name = await streams.create()
    await streams.put(name, [("k", b"before")])
    await asyncio.sleep(1.0)  # it tells whole seconds
    options = KinesisOptions(stream=name, region=REGION, endpoint=streams.url, starting_position="LATEST")
    source = await kinesis.connector.open(options, context(ahead))
    lane = await first_lane(source)
    await streams.put(name, [("after", b"x")])
    assert [record.key for record in await fetched(lane)] == ["after"]
    await source.aclose()


async def test_latest_of_dynamodb_is_when_it_was_opened_by_its_own_clock(tables: TablesClient) -> None:
    name = await tables.create()
    for table, region in ((name, REGION), (await tables.stream(name), None)):
        options = DynamoDBOptions(table=table, region=region, endpoint=tables.url, starting_position="LATEST")
        source = await dynamodb_streams.connector.open(options, context(AHEAD))
        lane = await first_lane(source)
        await tables.put(name, {"id": {"S": table}})
        assert any(table.encode() in bytes(record.change.keys) for record in await fetched(lane))
        await source.aclose()


async def test_a_time_that_is_still_to_come_for_kinesis_begins_now(streams: StreamsClient) -> None:
    """Whoever wrote it (a rewind to LATEST) had a clock that is ahead."""
    name = await streams.create()
    await streams.put(name, [("before", b"x")])
    source: Any = await kinesis.connector.open(KinesisOptions(stream=name, region=REGION, endpoint=streams.url), context(0.0))
    reader, origin = source.shards.reader("shardId-000000000000"), f"AT_TIMESTAMP {time.time() + AHEAD!r}"
    assert (await reader.read(ORIGIN, origin, 10))[0] == ()
    await streams.put(name, [("after", b"x")])
    async with asyncio.timeout(10):
        while not (found := (await reader.read(ORIGIN, origin, 10))[0]):
            pass
    assert [record.key for record in found] == ["after"]
    await source.aclose()
