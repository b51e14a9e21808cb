"""What AWS did with Kinesis, done again on the local stream: the real connector, its database and the engine, in real time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from connectors.local import StreamOptions, stream_connector
from poller.feed import Item
from poller.mapping import MappingRunner
from poller.protocols import Source
from poller.settings import Context
from tests.fidelity.cases import WITHOUT_CASES, Case, recorded
from tests.fidelity.parameters import configured, mapping
from tests.fidelity.shapes import Likeness, events_in
from tests.fidelity.stage import HANDLERS, Recorder, Stage, data

pytestmark = [WITHOUT_CASES, pytest.mark.slow]  # in real time

SLEEP = 0.05
"""What five seconds of a recorded function are here."""


class Streamed:
    """Mappings over one local stream."""

    def __init__(self, folder: Path, *tables: str) -> None:
        self.stage = Stage(configured(folder, *tables), folder)

    async def put(self, *items: Item) -> None:
        options = self.stage.config.mappings["m"].options
        assert await stream_connector.put(options, self.stage.context("m"), items) == len(items)

    async def put_numbers(self, *numbers: int) -> None:
        await self.put(*(Item(json.dumps({"number": number}).encode(), key="k") for number in numbers))

    async def run(self, function: Recorder, name: str = "m") -> MappingRunner:
        """From when the source is open."""
        opened = asyncio.Event()

        async def open_source(options: StreamOptions, context: Context) -> Source:
            source = await stream_connector.open(options, context)
            opened.set()
            return source

        runner = self.stage.run(function, name, open_source)
        async with asyncio.timeout(30):
            await opened.wait()
        return runner


def source(case: Case) -> str:
    position = case["config"].get("StartingPosition", "TRIM_HORIZON")
    return f'{{ type = "local-stream", name = "orders", starting_position = "{position}" }}'


@asynccontextmanager
async def streamed(case: Case, folder: Path, *configs: dict[str, Any]) -> AsyncIterator[Streamed]:
    """One mapping `m` to the function `f`, or one for each of `configs`, `m` to `f` and `n` to `g`."""
    made = zip("mn", configs or (case["config"],), "fg", strict=False)
    world = Streamed(folder, *(mapping(config, source(case), name, function) for name, config, function in made))
    try:
        yield world
    finally:
        await world.stage.stop()


def succeeding(seconds: float = 0.0) -> Recorder:
    return Recorder(HANDLERS["succeeds"], seconds)


def numbers(function: Recorder) -> list[int]:
    return [data(element)["number"] for element in function.elements]


@recorded("records")
async def test_records_come_in_the_order_they_were_put(case: Case, tmp_path: Path) -> None:
    """And those from before a mapping that starts at LATEST do not."""
    given, expect = case["input"], case["expect"]
    async with streamed(case, tmp_path) as world:
        await world.put(Item(b"older", key="old"))
        function = succeeding()
        await world.run(function)
        await world.put(*(Item(given["data"].encode(), key=f"test_{number}") for number in range(given["records"])))
        await function.ended(1)
    (invocation,) = function.invocations
    assert len(invocation.elements) == expect["one_invocation_of"]
    (told,) = events_in(case["observed"])
    assert Likeness().differences(told, invocation.event) == []
    for element in invocation.elements:
        assert element["kinesis"]["data"] == expect["data_base64"]
        assert isinstance(element["kinesis"]["approximateArrivalTimestamp"], float)


@recorded("serial")
async def test_one_batch_after_the_other(case: Case, tmp_path: Path) -> None:
    given = case["input"]
    async with streamed(case, tmp_path) as world:
        function = succeeding(SLEEP)
        await world.run(function)
        for put in range(given["puts"]):
            await world.put_numbers(*range(put * 10, put * 10 + given["records_each"]))
        await function.ended(case["expect"]["invocations"])
    first, second = function.invocations
    assert first.ended is not None and second.began >= first.ended
    assert numbers(function) == list(range(20))


@recorded("from the start")
async def test_what_was_put_before_the_mapping_is_read(case: Case, tmp_path: Path) -> None:
    given, expect = case["input"], case["expect"]
    size, before = given["records_each"], given["puts_before_mapping"]
    async with streamed(case, tmp_path) as world:
        for put in range(before):
            await world.put_numbers(*range(put * size, (put + 1) * size))
        function = succeeding()
        await world.run(function)
        await function.ended(before)
        await world.put_numbers(*range(before * size, (before + given["puts_after_mapping"]) * size))
        await function.ended(expect["invocations"])
    assert len(function.invocations) == expect["invocations"]
    assert numbers(function) == list(range(expect["records_total"]))


@recorded("disabled")
async def test_a_disabled_mapping_invokes_nothing_and_goes_on_where_it_was(case: Case, tmp_path: Path) -> None:
    async with streamed(case, tmp_path) as world:
        function = succeeding()
        await world.run(function)
        await world.put_numbers(*range(10))
        await function.ended(1)
        await world.stage.stop()
        await world.put_numbers(*range(10, 20))
        assert len(function.invocations) == case["expect"]["invocations_total"]
        await world.run(function)
        await function.ended(2)
    assert numbers(function) == list(range(20))


@recorded("shared")
async def test_two_functions_of_one_stream_get_all(case: Case, tmp_path: Path) -> None:
    async with streamed(case, tmp_path, {}, {}) as world:
        await world.put(Item(b"hello", key="test_1"))
        functions = first, second = succeeding(), succeeding()
        await world.run(first, "m")
        await first.ended(1)
        await world.stage.stop()  # its progress is saved, and is its own
        await world.run(first, "m")
        await world.run(second, "n")
        await second.ended(1)
    for told, function in zip(events_in(case["observed"]), functions, strict=True):
        (invocation,) = function.invocations
        assert Likeness().differences(told, invocation.event) == []


@recorded("filtered records")
async def test_each_function_gets_what_its_filters_match(case: Case, tmp_path: Path) -> None:
    expect, given = case["expect"], case["input"]["records"]
    configs = [one | {"BatchSize": case["config"]["BatchSize"]} for one in case["config"]["mappings"]]
    async with streamed(case, tmp_path, *configs) as world:
        # All twice: when a function has its second one, whatever it should not have was read before.
        for record in [*given, *given]:
            await world.put(Item(json.dumps(record).encode(), key="k"))
        functions = [succeeding(), succeeding()]
        for name, function in zip("mn", functions, strict=True):
            await world.run(function, name)
            await function.ended(2)
    got: Sequence[Any] = [[data(element) for element in function.elements] for function in functions]
    assert got == [2 * expect["function_1_gets"], 2 * expect["function_2_gets"]]
