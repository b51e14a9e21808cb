"""The daemon in this process: what it says of its mappings, and when it counts as started."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from connectors.local import QueueConnector, QueueOptions
from poller.config import Config, load
from poller.daemon import Daemon
from poller.entry_points import EntryPoint, installed
from poller.errors import ConfigError, NotConnected
from poller.model import Shown
from poller.protocols import Lane, Source
from poller.registry import Registry
from poller.settings import Context

APP = """
def handle(event, context):
    pass
"""

HEAD = """
[poller]
store = "memory:"
listen = "127.0.0.1:0"
[functions.f]
handler = "app.py:handle"
inline = "loop"
[functions.g]
handler = "app.py:handle"
inline = "loop"
"""


def mapping(name: str, kind: str = "local-queue", function: str = "f") -> str:
    return f'[mappings.{name}]\nfunction = "{function}"\nsource = {{ type = "{kind}", name = "{name}" }}\n'


@pytest.fixture
def configured(tmp_path: Path) -> Callable[..., Config]:
    def read(*mappings: str) -> Config:
        (tmp_path / "app.py").write_text(APP)
        (tmp_path / "poller.toml").write_text(HEAD + "".join(mappings))
        return load(tmp_path / "poller.toml", Registry(), {})

    return read


@asynccontextmanager
async def running(config: Config, registry: Registry | None = None, opening: float = 60.0) -> AsyncIterator[Daemon]:
    """From when it says that it has started."""
    daemon, started = Daemon(config, registry or Registry(), {}, opening=opening), asyncio.Event()
    task = asyncio.create_task(daemon.run(started.set))
    try:
        async with asyncio.timeout(30):
            await started.wait()
        yield daemon
    finally:
        daemon.stop()
        await task


# --- two mappings of one queue ----------------------------------------------------------------------------------------------------------


def renamed(config: Config, name: str, same_as: str) -> Config:
    """The source of mapping `name` turns out to be that of another one, which the text of the configuration did not show."""
    mappings = dict(config.mappings)
    mappings[name] = replace(mappings[name], options=mappings[same_as].options)
    return replace(config, mappings=mappings)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "same queue" in record.getMessage()]


async def test_two_mappings_that_turn_out_to_poll_one_queue_for_one_function_are_told(
    configured: Callable[..., Config], caplog: pytest.LogCaptureFixture
) -> None:
    async with running(renamed(configured(mapping("a"), mapping("b")), "b", "a")) as daemon:
        (line,) = told(caplog)
        assert "local-queue:" in line and "raise maximum_concurrency of the other" in line
        assert {each.runner.state for each in daemon.running.values()} == {"running"}, "a warning stops nobody"


@pytest.mark.parametrize(
    ("other", "same"),
    [(mapping("b", function="g"), "a"), (mapping("b"), "b"), (mapping("c", "local-stream") + mapping("b", "local-stream"), "c")],
    ids=["another function", "another queue", "a stream"],
)
async def test_two_mappings_that_do_not_compete_are_told_nothing(
    configured: Callable[..., Config], caplog: pytest.LogCaptureFixture, other: str, same: str
) -> None:
    async with running(renamed(configured(mapping("a"), other), "b", same)) as daemon:
        assert {each.runner.state for each in daemon.running.values()} == {"running"}
        assert told(caplog) == []


# --- starting ---------------------------------------------------------------------------------------------------------------------------


class Away(QueueConnector):
    """A queue that is away, and takes `seconds` to say so. `asked` is set when it is opened."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.asked = asyncio.Event()

    async def open(self, options: QueueOptions, context: Context) -> Source:
        self.asked.set()
        await asyncio.sleep(self._seconds)
        raise NotConnected("no route to the queue")


def instead_of_queues(part: object) -> Registry:
    """Where the local queue's connector is another one."""

    points = installed()

    def entry_points(group: str) -> Iterable[EntryPoint]:
        for point in points(group):
            other = SimpleNamespace(name=point.name, value="x:y", dist=point.dist, load=lambda: part)
            yield cast("EntryPoint", other) if point.name == "local-queue" else point

    return Registry(entry_points)


async def test_it_has_started_when_every_source_is_open_and_it_would_say_that_it_is_ready(configured: Callable[..., Config]) -> None:
    async with running(configured(mapping("a"), mapping("b", "local-stream"))) as daemon:
        assert (await daemon.status()).ready


async def test_a_source_that_is_away_is_no_reason_not_to_start(configured: Callable[..., Config]) -> None:
    async with running(configured(mapping("a"), mapping("b", "local-stream")), instead_of_queues(Away(0.0))) as daemon:
        status = await daemon.status()
        assert [str(reason) for reason in status.reasons] == ["a: reconnecting; no route to the queue"]


async def test_nor_is_one_that_says_nothing(configured: Callable[..., Config]) -> None:
    async with running(configured(mapping("a"), mapping("b", "local-stream")), instead_of_queues(Away(3600.0)), opening=0.2) as daemon:
        async with asyncio.timeout(30):
            await daemon.running["b"].runner.tried.wait()  # the other one may take longer than it is waited for
        assert [str(reason) for reason in (await daemon.status()).reasons] == ["a: starting"]


async def test_a_stop_ends_the_start(configured: Callable[..., Config]) -> None:
    away = Away(3600.0)
    daemon = Daemon(configured(mapping("a")), instead_of_queues(away), {}, opening=3600.0)
    task = asyncio.create_task(daemon.run(lambda: None))
    async with asyncio.timeout(30):
        await away.asked.wait()
        daemon.stop()
        await task


async def test_a_source_that_cannot_be_opened_as_it_is_configured_is_a_failure_that_shows(configured: Callable[..., Config]) -> None:
    class Refused(QueueConnector):
        async def open(self, options: QueueOptions, context: Context) -> Source:
            raise ConfigError("the queue has no such option; take it away")

    async with running(configured(mapping("a")), instead_of_queues(Refused())) as daemon:
        reasons = [str(reason) for reason in (await daemon.status()).reasons]
        assert reasons == ["a: failed; the queue has no such option; take it away"]


# --- changes while it is asked ----------------------------------------------------------------------------------------------------------


class Silent(QueueConnector):
    """A queue whose lanes say no more about themselves before `told` is set. `asked` is set when they are asked."""

    def __init__(self) -> None:
        self.asked, self.told = asyncio.Event(), asyncio.Event()

    async def open(self, options: QueueOptions, context: Context) -> Source:
        source = await super().open(options, context)
        lanes = source.lanes

        async def silent() -> AsyncIterator[Lane]:
            async for lane in lanes():
                lane.show = self._show  # type: ignore[attr-defined]
                yield lane

        source.lanes = silent  # type: ignore[method-assign]
        return source

    async def _show(self, now: float) -> Shown:
        self.asked.set()
        await self.told.wait()
        return Shown()


async def test_a_status_that_is_asked_for_during_a_reload_is_answered(configured: Callable[..., Config]) -> None:
    silent = Silent()
    async with running(configured(mapping("a"), mapping("b")), instead_of_queues(silent)) as daemon:
        for running_ in daemon.running.values():
            async with asyncio.timeout(30):
                while not running_.runner.runners:
                    await asyncio.sleep(0)
        asking = asyncio.create_task(daemon.status())
        await silent.asked.wait()
        await daemon.adopt(configured(mapping("b"), mapping("c")))
        silent.told.set()
        status = await asking
        assert sorted(each.name for each in status.mappings) == ["a", "b", "c"]


async def test_a_reload_whose_client_has_gone_is_done_to_its_end(configured: Callable[..., Config]) -> None:
    silent = Silent()
    async with running(configured(mapping("a")), instead_of_queues(silent)) as daemon:
        first = daemon.running["a"].task
        adopting = asyncio.create_task(daemon.adopt(configured(mapping("a") + "batch_size = 3\n")))
        await asyncio.sleep(0)
        adopting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adopting
        again = daemon.running["a"]
        assert first.done() and not first.cancelled() and not again.task.done()
        assert again.config.settings.batching.size == 3
