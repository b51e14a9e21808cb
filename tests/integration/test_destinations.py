"""Destinations of a daemon in this process: functions, queues and files get what becomes of batches; what it says of them; reloads."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from connectors.local import queue_connector
from poller.config import Config, load
from poller.daemon import Daemon
from poller.failures.journal import Selection
from poller.feed import Item
from poller.metrics import exposition
from poller.probe import probe
from poller.registry import Registry
from poller.settings import DestinationTraits
from tests.integration.test_daemon import running
from tests.servers.webhook import webhook

APP = """
import json, pathlib

def handle(event, context):
    bodies = [record["body"] for record in event["Records"]]
    if "poison" in bodies:
        raise ValueError("as asked")
    return {"handled": bodies}

def collect(event, context):
    with open(pathlib.Path(__file__).parent / "collected", "a") as out:
        out.write(json.dumps(event) + "\\n")

def refuse(event, context):
    raise RuntimeError("not now")
"""

HEAD = """
[poller]
store = "sqlite:state/poller.db"
listen = "127.0.0.1:0"
shutdown_grace = "5s"
[functions]
f = { handler = "app.py:handle", inline = "loop" }
collect = { handler = "app.py:collect", inline = "loop" }
refuse = { handler = "app.py:refuse", inline = "loop" }
[mappings.a]
function = "f"
batch_size = 1
maximum_receive_count = 1
"""
SOURCE = '[mappings.a.source]\ntype = "local-queue"\nname = "a"\nvisibility_timeout = "1s"\n'


@pytest.fixture
def configured(tmp_path: Path) -> Callable[..., Config]:
    def read(*lines: str) -> Config:
        if not (tmp_path / "app.py").exists():  # a file that was written anew is other code to a reload
            (tmp_path / "app.py").write_text(APP)
        (tmp_path / "poller.toml").write_text(HEAD + "".join(f"{line}\n" for line in lines) + SOURCE)
        return load(tmp_path / "poller.toml", Registry(), {})

    return read


@dataclass(frozen=True)
class Place:
    """Where `put` finds the queue."""

    base: Path
    state: Path
    clock: Callable[[], float] = time.time


async def put(config: Config, *bodies: str) -> None:
    options: Any = config.mappings["a"].options
    await queue_connector.put(options, Place(config.base, config.state), [Item(body.encode()) for body in bodies])


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await true():
            await asyncio.sleep(0.02)


def emptied(daemon: Daemon) -> Callable[[], Awaitable[bool]]:
    async def nothing_waits() -> bool:
        counters = daemon.running["a"].runner.work.counters
        return counters.kept + counters.done >= 3 and not await daemon.store.outbox.waiting()

    return nothing_waits


def lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


async def test_a_function_a_file_and_a_queue_get_what_becomes_of_batches(configured: Callable[..., Config], tmp_path: Path) -> None:
    config = configured('on_failure = ["function:collect", "local-queue:dead"]', 'on_success = "file:done.jsonl"')
    async with running(config) as daemon:
        await put(config, "fine", "poison", "good")
        await until(emptied(daemon))
        status = await daemon.status()
        assert [(each.name, each.mapping, each.waiting, each.configured) for each in status.destinations] == [
            ("function:collect", "a", 0, True),
            ("local-queue:dead", "a", 0, True),
            ("file:done.jsonl", "a", 0, True),
        ]
        counters = daemon.running["a"].runner.work.counters
        assert (counters.delivered, counters.delivery_failures, counters.dropped) == (4, 0, 0)
        (row,) = await daemon.store.journal.select(Selection(states=()))
    (failure,) = lines(tmp_path / "collected")
    assert failure["id"] == row.entry.id and failure["requestContext"]["requestId"] == row.entry.request_id
    done = lines(tmp_path / "done.jsonl")
    assert sorted(each["responsePayload"]["handled"][0] for each in done) == ["fine", "good"]


async def test_one_that_fails_shows_and_what_waits_outlives_its_configuration(configured: Callable[..., Config], tmp_path: Path) -> None:
    config = configured('on_failure = "function:refuse"')
    async with running(config) as daemon:
        await put(config, "poison")

        async def failed() -> bool:
            return any(each.attempts for each in await daemon.store.outbox.waiting())

        await until(failed)
        status = await daemon.status()
        (shown,) = status.destinations
        assert (shown.waiting, shown.last_error) == (1, "function refuse failed (error: RuntimeError); its log says why")
        assert status.ready, "nothing is lost, and no lane waits"
        assert 'poller_destination_waiting{mapping="a",destination="function:refuse"} 1' in exposition(status)
        lane = daemon.running["a"].task
        # Another one instead: what waits is kept, and shown.
        await daemon.adopt(configured('on_failure = "function:collect"'))
        assert lane.done()
        after = {each.name: each for each in (await daemon.status()).destinations}
        assert (after["function:refuse"].waiting, after["function:refuse"].configured, after["function:refuse"].mapping) == (1, False, "a")
        assert after["function:collect"].waiting == 0
        await put(config, "poison")
        await until(lambda: _there(tmp_path / "collected"))
        # Named again, it is delivered.
        (tmp_path / "app.py").write_text(APP.replace('raise RuntimeError("not now")', "pass"))
        await daemon.adopt(configured('on_failure = ["function:refuse"]'))
        await until(lambda: _empty(daemon))


async def test_what_is_torn_in_the_store_is_set_aside_and_shown_and_all_else_arrives(
    configured: Callable[..., Config], tmp_path: Path
) -> None:
    async with running(configured('on_success = "function:refuse"')) as daemon:
        await put(daemon.config, "one", "two", "three")
        await until(lambda: _waiting(daemon, 3))
    with closing(sqlite3.connect(tmp_path / "state" / "poller.db")) as connection, connection:
        (torn,) = connection.execute("SELECT id FROM outbox ORDER BY number").fetchone()
        connection.execute("UPDATE outbox SET due = 0, destination = 'function:collect'")
        connection.execute("UPDATE outbox SET entry = substr(entry, 1, length(entry) / 2) WHERE id = ?", (torn,))
    async with running(configured('on_success = "function:collect"')) as daemon:
        await until(lambda: _waiting(daemon, 1))
        status = await daemon.status()
        (shown,) = status.destinations
        assert (shown.waiting, shown.damaged, shown.last_error, status.ready) == (1, 1, "", True)
        assert 'poller_destination_damaged{mapping="a",destination="function:collect"} 1' in exposition(status)
    assert len(lines(tmp_path / "collected")) == 2


async def _waiting(daemon: Daemon, count: int) -> bool:
    return sum(each.count for each in await daemon.store.outbox.waiting()) == count and daemon.running["a"].runner.state == "running"


async def _there(file: Path) -> bool:
    return file.exists()


async def _empty(daemon: Daemon) -> bool:
    return not await daemon.store.outbox.waiting()


async def test_options_of_a_destination_restart_no_lane(configured: Callable[..., Config]) -> None:
    async with running(configured('on_failure = { to = "file:dead.jsonl", maximum_bytes = "1MiB" }')) as daemon:
        lane = daemon.running["a"].task
        assert await daemon._change(configured('on_failure = { to = "file:dead.jsonl", maximum_bytes = "2MiB" }')) == []
        assert not lane.done()
        (courier,) = [courier for courier, _ in daemon._couriers._couriers.values()]
        assert courier.route.destination.options.maximum_bytes == "2MiB"


async def test_a_destination_that_hangs_keeps_no_lane_from_starting_anew(configured: Callable[..., Config]) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        asked.set()
        await answer.wait()
        return web.Response()

    async with webhook() as receiver:
        receiver.serve = hang
        hook = f'on_failure = "{receiver.url}"'
        config = configured(hook)
        async with running(config) as daemon:
            await put(config, "poison")
            await asyncio.wait_for(asked.wait(), 20)
            reloading = asyncio.create_task(daemon.adopt(configured(hook, 'redact = ["body.card"]')))
            await put(config, "fine")

            async def handled() -> bool:
                one = daemon.running.get("a")
                return one is not None and one.config is not config.mappings["a"] and one.runner.work.counters.done == 1

            try:
                await until(handled)
                assert not reloading.done()
            finally:
                answer.set()
            assert await reloading == ["started a"]


async def test_of_several_workers_the_first_one_delivers(configured: Callable[..., Config]) -> None:
    config = configured('on_failure = "function:collect"')
    for worker, couriers in ((1, 1), (2, 0)):
        daemon, started = Daemon(config, Registry(), {}, worker=worker), asyncio.Event()
        task = asyncio.create_task(daemon.run(started.set))
        await asyncio.wait_for(started.wait(), 30)
        assert len(daemon._couriers._couriers) == couriers
        daemon.stop()
        await task


async def test_a_destination_that_turns_out_to_be_the_source_is_refused_at_the_start(configured: Callable[..., Config]) -> None:
    config = configured('on_failure = "function:collect"')
    async with running(config) as daemon:
        identity = daemon.running["a"].identity
    one = config.mappings["a"]
    same = replace(one, destinations=(replace(one.destinations[0], traits=DestinationTraits(identity=identity)),))
    async with running(replace(config, mappings={"a": same})) as daemon:
        (status,) = (await daemon.status()).mappings
        assert status.state == "failed"
        assert status.last_error == "the destination function:collect is the mapping's own source, and would feed it: name another one"


async def test_check_live_looks_at_destinations_and_sends_nothing(configured: Callable[..., Config], tmp_path: Path) -> None:
    config = configured('on_failure = ["function:collect", "file:no/such/folder/dead.jsonl"]')
    found = {each.what: each.finding for each in await probe(config, Registry(), lambda *_: None)}
    assert found["destination function:collect of mapping a"].level == "ok"
    assert "destination file:no/such/folder/dead.jsonl of mapping a" in found
    assert not (tmp_path / "collected").exists()
