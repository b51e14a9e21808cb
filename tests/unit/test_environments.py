"""The parts of an environment, each alone: its output, its two pipes, its process, its weight; and the pool's waiting."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers import memory, output
from handlers.channel import MAXIMUM_ANSWER_BYTES, Channel
from handlers.output import MAXIMUM_LINE_BYTES, Output
from handlers.pool import Pool
from handlers.process import Process
from handlers.task import task_of
from poller.errors import HandlerError
from poller.model import Call, Fault, Returned
from poller.settings import FunctionSettings
from poller.testing.events import DocumentEvent
from poller.testing.handlers import write

pytestmark = pytest.mark.slow

LIMIT = 20.0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


# --- output -----------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=40).map(lambda data: data.replace(b"\r", b""))))
def test_lines_do_not_depend_on_how_they_arrive(chunks: list[bytes]) -> None:
    """However the bytes are cut, the lines are those of the whole, and an unfinished one comes at the end."""

    async def run() -> list[str]:
        lines: list[str] = []
        reading, writing = os.pipe()
        pipe = Output(reading, lines.append)
        for chunk in chunks:
            os.write(writing, chunk)
            pipe._readable()
        pipe.drain()
        pipe.close()
        os.close(reading)
        os.close(writing)
        return lines

    whole = b"".join(chunks).split(b"\n")
    expected = whole if whole[-1] else whole[:-1]
    assert asyncio.run(run()) == [line.decode("utf-8", "replace") for line in expected]


async def test_a_long_line_is_cut_between_characters(pipe: tuple[int, int]) -> None:
    lines: list[str] = []
    reader = Output(pipe[0], lines.append)
    text = "x" + "\u20ac" * MAXIMUM_LINE_BYTES  # three bytes each: the limit falls inside one
    data = memoryview((text + "\n").encode())
    while data:
        data = data[os.write(pipe[1], data[:4096]) :]
        reader._readable()
    reader.close()
    assert "".join(lines) == text
    assert max(len(line.encode()) for line in lines) <= MAXIMUM_LINE_BYTES


async def test_a_line_without_end_is_not_held_whole(pipe: tuple[int, int]) -> None:
    reader = Output(pipe[0], lambda _: None)
    for _ in range(1000):
        os.write(pipe[1], b"x" * 4096)
        reader._readable()
        assert len(reader._rest) <= MAXIMUM_LINE_BYTES + output._READ_BYTES
    reader.close()


# --- channel ----------------------------------------------------------------------------------------------------------------------


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


@given(st.lists(st.binary(min_size=1, max_size=30), min_size=1), st.lists(st.integers(1, 12), min_size=1))
def test_answers_do_not_depend_on_how_they_arrive(answers: list[bytes], cuts: list[int]) -> None:
    async def run() -> list[bytes | None]:
        got: list[bytes | None] = []
        requests, replies = os.pipe(), os.pipe()
        channel = Channel(requests[1], replies[0], got.append)
        data, at, turn = b"".join(map(framed, answers)), 0, 0
        while at < len(data):
            at += os.write(replies[1], data[at : at + cuts[turn % len(cuts)]])
            turn += 1
            channel._readable()
        channel.close()
        for end in (*requests, *replies):
            os.close(end)
        return got

    assert asyncio.run(run()) == answers


async def test_a_length_beyond_belief_is_no_frame() -> None:
    got: list[bytes | None] = []
    requests, replies = os.pipe(), os.pipe()
    channel = Channel(requests[1], replies[0], got.append)
    os.write(replies[1], (MAXIMUM_ANSWER_BYTES + 1).to_bytes(4, "big") + b"rest")
    channel.drain()
    assert got == [None]
    channel.close()
    for end in (*requests, *replies):
        os.close(end)


async def test_tells_whether_a_request_was_touched_or_can_be() -> None:
    requests, replies = os.pipe(), os.pipe()
    channel = Channel(requests[1], replies[0], lambda _: None)
    assert not channel.untouched()
    assert channel.send(b"one request")
    assert channel.untouched()
    os.read(requests[0], 1)
    assert not channel.untouched()
    os.close(requests[0])
    assert not channel.send(b"another")
    channel.close()
    assert not channel.send(b"closed")
    for end in (requests[1], *replies):
        os.close(end)


# --- process ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_pidfd", [True, False], ids=["pidfd", "thread"])
async def test_an_end_is_told_once_and_leaves_no_zombie(monkeypatch: pytest.MonkeyPatch, with_pidfd: bool) -> None:
    if not with_pidfd:
        monkeypatch.delattr(os, "pidfd_open")
    statuses: list[int] = []
    null = os.open(os.devnull, os.O_RDWR)
    try:
        process = Process(
            [sys.executable, "-c", "raise SystemExit(5)"], cwd="/", variables={}, output=null, pipes=(), on_end=statuses.append
        )
        assert await asyncio.wait_for(asyncio.shield(process.ended), LIMIT) == 5
        assert statuses == [5]
        assert repr(process) == f"<Process {process.pid} ended 5>"
        process.kill()  # tolerated: and never sent to whoever has the number now
        with pytest.raises(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)
    finally:
        os.close(null)


# --- memory -----------------------------------------------------------------------------------------------------------------------


class Weight:
    """This test's own session, as something that is watched."""

    def __init__(self) -> None:
        self.pid = os.getsid(0)
        self.found = asyncio.Event()

    def overweight(self) -> None:
        self.found.set()


async def test_only_what_is_over_the_limit_is_told() -> None:
    heavy, light = Weight(), Weight()
    narrow, wide = memory.Watch(1024 * 1024), memory.Watch(2**50)
    narrow.add(heavy)
    wide.add(light)
    await asyncio.wait_for(heavy.found.wait(), LIMIT)
    assert not light.found.is_set()
    assert repr(narrow) == "<Watch [0 running, 1048576 bytes each]>"
    narrow.close()
    wide.close()
    wide.close()


# --- pool -------------------------------------------------------------------------------------------------------------------------


def call(timeout: float = LIMIT) -> Call:
    return Call("r-1", time.time() + timeout, timeout)


async def test_loading_that_takes_too_long_is_ended_and_done_again_in_the_invocation_s_time(tmp_path: Path) -> None:
    source = """
        import pathlib, time
        tries = len(list(pathlib.Path().glob("try.*")))
        pathlib.Path(f"try.{tries}").touch()
        if tries in (0, 2, 3):
            time.sleep(600)
        def handle(event, context): return tries
    """
    write(tmp_path, {"app.py": source})
    pool = Pool(task_of(FunctionSettings("orders", "app.py:handle", tmp_path)), lambda *_: None, init_limit=0.4)
    try:
        assert await pool.invoke(DocumentEvent({}), call()) == Returned(b"1")
        [environment] = pool._environments
        environment.kill()
        await environment.ended
        message = "RequestId: r-1 Error: Task timed out after 0.40 seconds"
        assert await pool.invoke(DocumentEvent({}), call(0.4)) == Fault("timeout", "Sandbox.Timedout", message)
    finally:
        await pool.aclose()


async def test_one_that_dies_as_soon_as_it_is_loaded_is_not_tried_for_ever(tmp_path: Path) -> None:
    # What the child does between "loaded" and its first read.
    source = """
        import os
        os.fdopen = lambda *_, **__: os.kill(os.getpid(), 9)
        def handle(event, context): pass
    """
    write(tmp_path, {"app.py": source})
    pool = Pool(task_of(FunctionSettings("orders", "app.py:handle", tmp_path)), lambda *_: None)
    try:
        response = await asyncio.wait_for(pool.invoke(DocumentEvent({}), call()), LIMIT)
        assert isinstance(response, Fault)
        assert response.message.endswith("signal: killed")
    finally:
        await pool.aclose()


async def test_the_time_of_an_invocation_begins_with_it_whatever_ran_before(tmp_path: Path) -> None:
    """One timer serves them all: it neither ends a later invocation early, nor lets it run on when it was set for a longer one."""
    source = """
        import time
        def handle(event, context): time.sleep(event["seconds"])
    """
    write(tmp_path, {"app.py": source})
    pool = Pool(task_of(FunctionSettings("orders", "app.py:handle", tmp_path)), lambda *_: None)
    try:
        for timeout, seconds in ((1.0, 0.0), (1.0, 0.7), (1.0, 0.7), (LIMIT, 1.2)):
            assert await pool.invoke(DocumentEvent({"seconds": seconds}), call(timeout)) == Returned(b"null")
        for timeout in (0.5, 1.0):
            began = time.monotonic()
            response = await pool.invoke(DocumentEvent({"seconds": 600}), call(timeout))
            assert isinstance(response, Fault)
            assert response.kind == "timeout"
            assert timeout - 0.1 < time.monotonic() - began < LIMIT / 2
    finally:
        await pool.aclose()


async def test_lines_belong_to_their_invocation_wherever_the_function_has_put_its_stdout(tmp_path: Path) -> None:
    source = """
        import os
        os.dup2(os.open("elsewhere", os.O_RDWR | os.O_CREAT), 1)
        def handle(event, context):
            for n in range(2_000):
                os.write(2, b"%099d\\n" % n)
            os.write(2, b"rest")
    """
    write(tmp_path, {"app.py": source})
    lines: list[tuple[str, str]] = []
    pool = Pool(task_of(FunctionSettings("orders", "app.py:handle", tmp_path)), lambda _, *line: lines.append(line))
    try:
        for _ in range(3):
            assert await pool.invoke(DocumentEvent({}), call()) == Returned(b"null")
    finally:
        await pool.aclose()
    assert lines == [("r-1", line) for line in (*(f"{n:099}" for n in range(2_000)), "rest")] * 3


def test_a_variable_that_no_process_can_have_is_refused(tmp_path: Path) -> None:
    for name, value in (("", "x"), ("A=B", "x"), ("A", "x\0y")):
        with pytest.raises(HandlerError, match="environment variable"):
            task_of(FunctionSettings("orders", "app.handle", tmp_path, environment=((name, value),)))
