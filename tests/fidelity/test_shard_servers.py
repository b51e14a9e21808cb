"""What AWS did with Kinesis and DynamoDB Streams, done again by the real connectors and engine, over real servers."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from poller.errors import ConfigError
from tests.fidelity.cases import WITHOUT_CASES, Case, recorded
from tests.fidelity.parameters import configured, of
from tests.fidelity.shapes import Likeness, events_in
from tests.fidelity.stage import Recorder, Stage, answer_of, data
from tests.servers.dynamodb.client import TablesClient
from tests.servers.kinesis.client import REGION, StreamsClient

pytestmark = WITHOUT_CASES


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


def source(**keys: str) -> str:
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in keys.items()) + " }"


def position(case: Case) -> str:
    return str(case["config"].get("StartingPosition", "TRIM_HORIZON"))


@asynccontextmanager
async def staged(case: Case, folder: Path, **keys: str) -> AsyncIterator[Stage]:
    """The case's mapping over this source; stopped at the end."""
    stage = Stage(configured(folder, of(case, source(region=REGION, starting_position=position(case), **keys))))
    try:
        yield stage
    finally:
        await stage.stop()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.01)


def payloads(elements: Sequence[dict[str, Any]]) -> list[Any]:
    return [data(element) for element in elements]


# --- Kinesis ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.servers
@recorded("records")
async def test_records_of_a_stream_are_as_on_aws(case: Case, tmp_path: Path, streams: StreamsClient) -> None:
    """And those from before a mapping that starts at LATEST do not come."""
    given, expect, function = case["input"], case["expect"], Recorder(answer_of(case))
    name = await streams.create()
    await streams.put(name, [("old", b"older")])
    async with staged(case, tmp_path, type="kinesis", stream=name, endpoint=streams.url) as stage:
        mapping = stage.run(function)
        await until(lambda: bool(mapping.runners))
        await streams.put(name, [(f"test_{number}", given["data"].encode()) for number in range(given["records"])])
        await function.ended(1)
    (invocation,) = function.invocations
    assert len(invocation.elements) == expect["one_invocation_of"]
    (told,) = events_in(case["observed"])
    assert Likeness().differences(told, invocation.event) == []
    for element in invocation.elements:
        assert element["kinesis"]["data"] == expect["data_base64"]
        assert isinstance(element["kinesis"]["approximateArrivalTimestamp"], float)


@pytest.mark.slow
@pytest.mark.servers
@recorded("from the start")
async def test_what_was_put_before_the_mapping_of_a_stream_is_read(case: Case, tmp_path: Path, load_streams: StreamsClient) -> None:
    given, expect, function = case["input"], case["expect"], Recorder(answer_of(case))
    name, size, before = await load_streams.create(), given["records_each"], given["puts_before_mapping"]

    async def put(number: int) -> None:
        await load_streams.put(name, [("k", json.dumps(number * size + n).encode()) for n in range(size)])

    for number in range(before):
        await put(number)
    async with staged(case, tmp_path, type="kinesis", stream=name, endpoint=load_streams.url) as stage:
        stage.run(function)
        await function.ended(before)
        await put(before)
        await function.ended(expect["invocations"])
    assert len(function.invocations) == expect["invocations"]
    assert payloads(function.elements) == list(range(expect["records_total"]))


@pytest.mark.slow
@pytest.mark.servers
@recorded("no stream")
async def test_a_stream_that_is_missing_is_said_and_looked_for(
    case: Case, tmp_path: Path, load_streams: StreamsClient, tables: TablesClient
) -> None:
    """AWS makes no such mapping. Here the file may be there before the stream is."""
    assert "Stream not found" in case["expect"]["message"]
    of_table = case["source_kind"] == "dynamodb"
    kind = {"type": "dynamodb-streams", "table": "later"} if of_table else {"type": "kinesis", "stream": "later"}
    async with staged(case, tmp_path, endpoint=tables.url if of_table else load_streams.url, **kind) as stage:
        mapping = stage.run(Recorder(answer_of(case)))
        await until(lambda: mapping.state == "reconnecting")
        assert "later" in mapping.last_error


# --- DynamoDB Streams -------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.servers
@recorded("changes")
async def test_changes_of_a_table_are_as_on_aws(case: Case, tmp_path: Path, tables: TablesClient) -> None:
    expect, function = case["expect"], Recorder(answer_of(case | {"input": {}}))
    item = case["input"]["put_item"] | {"binary_key": {"B": b64decode(expect["B_is_base64"])}}
    config = {key: value for key, value in case["config"].items() if key != "StreamViewType"}  # the table's
    name = await tables.create(key="my_partition_key:S", view=case["config"]["StreamViewType"])
    await tables.put(name, item)
    async with staged(case | {"config": config}, tmp_path, type="dynamodb-streams", table=name, endpoint=tables.url) as stage:
        stage.run(function)
        await function.ended(1)
    (told,) = events_in(case["observed"])
    (element,) = function.elements
    like = Likeness().differences(told["Records"], [element | {"dynamodb": element["dynamodb"] | {"SizeBytes": expect["SizeBytes"]}}])
    assert like == [], "but for the size, of which DynamoDB Local has its own opinion"
    assert element["dynamodb"]["NewImage"]["binary_key"]["B"] == expect["B_is_base64"]
    assert isinstance(element["dynamodb"]["ApproximateCreationDateTime"], float)
    assert not element.keys() & set(expect["absent_keys"])


@recorded("no changes at a time")
def test_changes_of_a_table_have_no_starting_time(case: Case, tmp_path: Path) -> None:
    assert "Unsupported starting position" in case["expect"]["message"]
    with pytest.raises(ConfigError, match="starting_position") as caught:
        configured(tmp_path, of(case, source(type="dynamodb-streams", table="orders", starting_position="AT_TIMESTAMP")))
    assert "TRIM_HORIZON" in str(caught.value)
