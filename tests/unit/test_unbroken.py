"""Work that is done to its end (poller/unbroken.py)."""

from __future__ import annotations

import asyncio

import pytest

from poller.errors import StoreUnavailable
from poller.testing.clock import run_virtually
from poller.unbroken import unbroken


def test_what_is_cancelled_is_done_first() -> None:
    done: list[float] = []

    async def work() -> str:
        await asyncio.sleep(5)
        done.append(asyncio.get_running_loop().time())
        return "done"

    async def run() -> None:
        assert await unbroken(work()) == "done"
        task = asyncio.create_task(unbroken(work()))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(done) == 2

    run_virtually(run())


def test_a_failure_that_nobody_waits_for_any_more_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        await asyncio.sleep(5)
        raise StoreUnavailable("the disk is full")

    async def run() -> None:
        with pytest.raises(StoreUnavailable):
            await unbroken(work())
        task = asyncio.create_task(unbroken(work()))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_virtually(run())
    assert [record.getMessage() for record in caplog.records] == ["failed after who had asked for it was gone: the disk is full"]
