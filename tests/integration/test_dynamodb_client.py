"""The client of DynamoDB Streams against DynamoDB Local."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from connectors.dynamodb_streams import DynamoDBConnector, connect_to_aws
from connectors.dynamodb_streams.client import DIGITS, ChangeRecord, DynamoDBClient, StreamPage
from connectors.dynamodb_streams.format import ChangeFormat
from connectors.dynamodb_streams.options import DynamoDBOptions
from connectors.sharded.sequence import TRIM_HORIZON, Start, start
from connectors.sharded.shards import Gone, Records
from poller.settings import Batching, Context, FailureSettings, MappingSettings
from poller.stores.memory import MemoryStore
from tests.servers.dynamodb.client import REGION, TablesClient

pytestmark = pytest.mark.servers

ITEM: dict[str, Any] = {
    "id": {"S": 'a "b" \u00e9\n'},
    "at": {"N": "1.0"},
    "b": {"B": b"\x00\xff"},
    "bs": {"BS": [b"x"]},
    "ss": {"SS": ["a"]},
    "ns": {"NS": ["-1.5"]},
    "l": {"L": [{"NULL": True}, {"BOOL": False}]},
    "m": {"M": {"e": {"S": ""}}},
}
SEEN = ITEM | {"at": {"N": "1"}, "b": {"B": "AP8="}, "bs": {"BS": ["eA=="]}}
"""As the stream shows it: binary in base64, numbers in one form."""


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


@asynccontextmanager
async def connected(tables: TablesClient, table: str) -> AsyncIterator[DynamoDBClient]:
    client = await connect_to_aws(DynamoDBOptions(table=table, region=REGION, endpoint=tables.url))
    try:
        yield client
    finally:
        await client.aclose()


async def page_of(client: DynamoDBClient, stream: str) -> StreamPage:
    page = await client.shards(stream)
    assert isinstance(page, StreamPage)
    return page


async def drained(client: DynamoDBClient, stream: str, begin: Start, wanted: int) -> list[ChangeRecord]:
    """So many records, or all of a closed shard, of the stream's only one."""
    (shard,) = (await page_of(client, stream)).shards
    iterator = await client.iterator(stream, shard.name, begin)
    found = list[ChangeRecord]()
    async with asyncio.timeout(30):
        while isinstance(iterator, str) and len(found) < wanted:
            answer = await client.records(iterator, shard.name, 1000)
            assert isinstance(answer, Records), answer
            found += answer.records
            iterator = answer.following  # type: ignore[assignment]
    return found


async def test_changes_of_an_item(tables: TablesClient) -> None:
    table = await tables.create(sort="at:N")
    key = {"id": ITEM["id"], "at": {"N": "1.00"}}
    await tables.put(table, ITEM, ITEM)  # the second changes nothing, and is no record
    await tables.update(table, key, "x", {"S": "new"})
    await tables.delete(table, key)
    async with connected(tables, table) as client:
        (stream,) = await client.streams(table)  # type: ignore[misc]
        assert stream == await tables.stream(table)
        page = await page_of(client, stream)
        assert (page.status, page.view, page.keys, page.more) == ("ENABLED", "NEW_AND_OLD_IMAGES", ("id", "at"), None)
        records = await drained(client, stream, TRIM_HORIZON, 3)
        shaped = ChangeFormat(stream)
        event = shaped.event(records).mapping()["Records"]
        assert [each["eventName"] for each in event] == ["INSERT", "MODIFY", "REMOVE"]
        updated = SEEN | {"x": {"S": "new"}}
        assert [(each["dynamodb"].get("OldImage"), each["dynamodb"].get("NewImage")) for each in event] == [
            (None, SEEN),
            (SEEN, updated),
            (updated, None),
        ]
        facts = shaped.facts(records)
        assert len(set(facts.keys())) == 1
        tokens = list(facts.tokens())
        assert sorted(set(tokens)) == tokens
        for position, first in ((tokens[1], 1), (tokens[1] + 1, 2)):
            rest = await drained(client, stream, start(position, "TRIM_HORIZON", DIGITS), 3 - first)
            assert [each.id for each in rest] == [each.id for each in records[first:]]


async def test_a_stream_that_is_turned_off_has_an_end_and_the_next_one_another_name(tables: TablesClient) -> None:
    table = await tables.create()
    await tables.put(table, {"id": {"S": "1"}})
    async with connected(tables, table) as client:
        await tables.disable(table)
        (first,) = await client.streams(table)  # type: ignore[misc]
        page = await page_of(client, first)
        assert page.status == "DISABLED"
        assert page.shards[0].last is not None
        assert len(await drained(client, first, TRIM_HORIZON, 100)) == 1
        second = await tables.enable(table, "KEYS_ONLY")
        assert await client.streams(table) == [first, second]
        await tables.put(table, {"id": {"S": "2"}})
        (record,) = await drained(client, second, TRIM_HORIZON, 1)
        assert set(ChangeFormat(second).event([record]).mapping()["Records"][0]["dynamodb"]) == {
            "ApproximateCreationDateTime",
            "Keys",
            "SequenceNumber",
            "SizeBytes",
            "StreamViewType",
        }
        assert isinstance(await client.shards(second.replace(table, "nobody")), Gone)
        assert await client.streams("nobody") == []


async def findings(tables: TablesClient, folder: Path, table: str) -> list[tuple[str, str]]:
    mapping = MappingSettings("m", "m", "f", Batching(100), FailureSettings(maximum_record_age=172800.0), 1)
    context = Context(mapping, MemoryStore(), "w", lambda: 0.0, folder, folder)
    options = DynamoDBOptions(table=table, region=None if table.startswith("arn:") else REGION, endpoint=tables.url)
    return [(each.level, each.text) for each in await DynamoDBConnector().probe(options, context, 3.0)]


async def test_what_check_finds(tables: TablesClient, tmp_path: Path) -> None:
    table = await tables.create()
    for named in (table, await tables.stream(table)):
        (level, text), (warned, age) = await findings(tables, tmp_path, named)
        assert level == "ok" and "1 shard," in text and "NEW_AND_OLD_IMAGES" in text
        assert warned == "warning" and "for 1d" in age
    await tables.disable(table)
    assert [level for level, _ in await findings(tables, tmp_path, table)] == ["warning", "ok", "warning"]
    ((level, text),) = await findings(tables, tmp_path, await tables.create(view=None))
    assert level == "error" and "no stream" in text
