"""The keeper and the supervisor of workers that are not well."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from poller.config import Config, load
from poller.errors import PollerError, StopError
from poller.registry import Registry
from poller.workers.keeper import Keeper
from poller.workers.supervisor import Supervisor

UNWELL = (sys.executable, "-P", str(Path(__file__).with_name("unwell_worker.py")))

FILE = """
[poller]
workers = 2
listen = "127.0.0.1:0"
shutdown_grace = "0s"
[functions.f]
handler = "app.py:handle"
[mappings.a]
function = "f"
source = { type = "local-queue", name = "a" }
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "app.py").write_text("def handle(event, context):\n    pass\n")
    (tmp_path / "poller.toml").write_text(FILE)
    return load(tmp_path / "poller.toml", Registry(), {})


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def kept(config: Config) -> AsyncIterator[Keeper]:
    """From when it is up; killed afterwards."""
    keeper = Keeper(1, "w", lambda: config, os.environ, lambda: 0.0, UNWELL)
    task = asyncio.create_task(keeper.run())
    try:
        async with asyncio.timeout(20):
            await keeper.came_up.wait()
        yield keeper
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_worker_that_waits_for_its_store_is_not_taken_for_one_that_hangs(config: Config) -> None:
    loop = asyncio.get_running_loop()
    async with kept(config) as keeper:
        for _ in range(2):
            heard = loop.time() - keeper.silence
            keeper.inquire()
            await until(lambda: loop.time() - keeper.silence > heard + 1e-4)  # noqa: B023


async def test_a_keeper_that_fails_ends_the_supervisor_and_every_worker(config: Config) -> None:
    times = [0.0, 1.0]  # of the supervisor, and of one keeper; the other one has none
    supervisor = Supervisor(config, Registry(), os.environ, clock=times.pop, program=UNWELL)
    with pytest.raises(IndexError):
        async with asyncio.timeout(20):
            await supervisor.run()


async def test_a_reload_does_not_wait_for_ever_for_a_worker_that_does_not_answer(config: Config) -> None:
    supervisor = Supervisor(config, Registry(), {**os.environ}, program=UNWELL, closing=0.2)
    started = asyncio.Event()
    task = asyncio.create_task(supervisor.run(started.set))
    async with asyncio.timeout(20):
        await started.wait()
        with pytest.raises(PollerError, match="worker 1: it has not answered for 0 s"):
            await supervisor.reload()
        supervisor.closing = 15.0  # a stop is waited for
        supervisor.stop()
        await task


@pytest.mark.parametrize("deaf", [False, True])
async def test_a_stop_is_in_order_only_if_nobody_had_to_be_killed(config: Config, deaf: bool) -> None:
    environ = {**os.environ, **({"DEAF": "yes"} if deaf else {})}
    supervisor = Supervisor(config, Registry(), environ, program=UNWELL, closing=0.2 if deaf else 15.0)
    started = asyncio.Event()
    task = asyncio.create_task(supervisor.run(started.set))
    async with asyncio.timeout(20):
        await started.wait()
        supervisor.stop()
        if deaf:
            with pytest.raises(StopError, match=r"^worker 1: killed by SIGKILL, worker 2: killed by SIGKILL$"):
                await task
        else:
            await task
