"""Functions on the loop one after the other, without their caller: `poller.protocols.Successive`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from handlers import inline
from poller.model import Call, Fault, Response, Returned
from poller.protocols import Next, Successive
from poller.testing.events import DocumentEvent
from poller.testing.handlers import Features, HandlerContract, until


class OnTheLoop(HandlerContract):
    features = Features(inline.connect, inline="loop")


class Row:
    """What follows: these events, each with a time limit; and what was answered on the way."""

    def __init__(self, *events: tuple[str, float], pause: bool = False) -> None:
        self.answers: list[Response] = []
        self._events = list(events)
        self._pause = pause
        self._number = 0

    def __call__(self, response: Response) -> Next | None:
        self.answers.append(response)
        if not self._events:
            return None
        kind, timeout = self._events.pop(0)
        self._number += 1
        return Next(DocumentEvent({"kind": kind}), Call(f"r-{self._number}", time.time() + timeout, timeout), self._pause)


IN_A_ROW = """
    import asyncio
    ran = []
    async def handle(event, context):
        ran.append(context.aws_request_id)
        match event["kind"]:
            case "short": await asyncio.sleep(0.001)
            case "long": await asyncio.sleep(20)
            case "poison": raise ValueError("poison")
            case "deaf":
                try:
                    await asyncio.sleep(20)
                except asyncio.CancelledError:
                    await asyncio.sleep(0.01)
        return ran
"""


@asynccontextmanager
async def in_a_row(tmp_path: Path) -> AsyncIterator[Successive]:
    async with OnTheLoop().bench(tmp_path, IN_A_ROW) as bench:
        assert isinstance(bench.handler, Successive)
        assert await bench.handler.invoke(DocumentEvent({"kind": ""}), FIRST) == Returned(b'["r-0"]')
        assert bench.handler.suspends
        yield bench.handler


FIRST = Call("r-0", time.time() + 3600.0, 3600.0)
AGAIN = DocumentEvent({"kind": "short"})


async def test_coroutines_run_one_after_the_other_without_their_caller(tmp_path: Path) -> None:
    async with in_a_row(tmp_path) as handler:
        row = Row(("short", 9.0), ("poison", 9.0), ("", 9.0))
        last = await handler.run(AGAIN, FIRST, row)
        assert last == row.answers[-1] == Returned(b'["r-0","r-0","r-1","r-2","r-3"]')
        assert [answer.type if isinstance(answer, Fault) else "" for answer in row.answers] == ["", "", "ValueError", ""]


async def test_each_in_a_row_has_a_deadline_of_its_own_and_a_late_one_is_the_last(tmp_path: Path) -> None:
    for kind in ("long", "deaf"):
        async with in_a_row(tmp_path) as handler:
            row = Row(("short", 9.0), (kind, 0.05), ("short", 9.0))
            fault = await handler.run(AGAIN, Call("r-0", time.time() + 3600.0, 3600.0), row)
            assert isinstance(fault, Fault) and fault.kind == "timeout" and "r-2" in fault.message and "0.05" in fault.message
            assert len(row.answers) == 2, "what is late has no answer, and asks for nothing more"


async def test_a_row_that_is_cancelled_asks_for_nothing_more(tmp_path: Path) -> None:
    for kind in ("long", "deaf"):
        async with in_a_row(tmp_path) as handler:
            row = Row((kind, 9.0), ("short", 9.0))
            running = asyncio.create_task(handler.run(AGAIN, FIRST, row))
            await until(lambda row=row: len(row.answers) == 1)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert len(row.answers) == 1


async def test_others_run_before_what_is_to_wait_for_them(tmp_path: Path) -> None:
    async with in_a_row(tmp_path) as handler:
        for pause in (True, False):
            turns, row = 0, Row(*[("", 9.0)] * 5, pause=pause)
            running = asyncio.create_task(handler.run(DocumentEvent({"kind": ""}), FIRST, row))
            while len(row.answers) < 6:
                await asyncio.sleep(0)
                turns += 1
            await running
            assert (turns > 5) == pause, turns


async def test_sync_functions_on_the_loop_too(tmp_path: Path) -> None:
    source = """
        ran = []
        def handle(event, context):
            ran.append(context.aws_request_id)
            if event["kind"] == "poison":
                raise ValueError("poison")
            return ran
    """
    async with OnTheLoop().bench(tmp_path, source) as bench:
        assert isinstance(bench.handler, Successive)
        row = Row(("poison", 9.0), ("", 9.0), pause=True)
        last = await bench.handler.run(AGAIN, FIRST, row)
        assert last == row.answers[-1] == Returned(b'["r-0","r-1","r-2"]')
        assert [answer.type if isinstance(answer, Fault) else "" for answer in row.answers] == ["", "ValueError", ""]
        assert not bench.handler.suspends
