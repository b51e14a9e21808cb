"""Destinations that are not AWS's keep the contract: a file, the embedded queue, a function, an HTTP server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from connectors.file import FileOptions
from connectors.file import kind as file
from connectors.function import FunctionOptions
from connectors.function import kind as function
from connectors.http import HttpOptions
from connectors.http import kind as http
from connectors.local.database import Database
from connectors.local.destination import MAXIMUM_BYTES, LocalQueueOptions
from connectors.local.destination import kind as local_queue
from connectors.local.messages import found
from handlers.inline import connect
from poller.failures.protocols import Destination
from poller.functions import Function
from poller.model import Call, Response
from poller.quotas import MAXIMUM_EVENT_BYTES
from poller.settings import DestinationContext, DestinationKind, Finding, FunctionSettings
from poller.testing.destination_faults import DestinationFaultsContract
from poller.testing.destinations import DestinationContract
from poller.testing.events import DocumentEvent
from tests.servers.webhook import Webhook, webhook

WAIT = 20.0


class KindTarget:
    """Most of a target, from its kind."""

    maximum_bytes: int | None = None
    distinct = False
    carries = False
    foretells = True

    def __init__(self, kind: DestinationKind, to: str, options: Any, folder: Path) -> None:
        self.kind, self.to, self.options, self.folder = kind, to, options, folder

    def context(self, given: DestinationContext) -> DestinationContext:
        return replace(given, base=self.folder, state=self.folder)

    async def open(self, context: DestinationContext) -> Destination:
        assert self.kind.traits(self.to, self.options).maximum_bytes == self.maximum_bytes
        return await self.kind.open(self.to, self.options, self.context(context))

    async def probe(self, context: DestinationContext) -> list[Finding]:
        return await self.kind.probe(self.to, self.options, self.context(context))

    async def arrived(self) -> list[Any]:
        raise NotImplementedError

    async def count(self) -> int:
        return len(await self.arrived())

    async def bodies(self, count: int) -> list[Any]:
        async with asyncio.timeout(WAIT):
            while len(found := await self.arrived()) < count:
                await asyncio.sleep(0.01)
        return found


class FileTarget(KindTarget):
    carries = True

    @property
    def path(self) -> Path:
        return self.folder / "sent" / "failures.jsonl"

    async def arrived(self) -> list[Any]:
        return [json.loads(line) for line in self.path.read_bytes().splitlines()] if self.path.exists() else []

    async def refuse(self) -> None:
        self.path.parent.rename(self.folder / "away")

    async def accept(self) -> None:
        (self.folder / "away").rename(self.path.parent)


class QueueTarget(KindTarget):
    maximum_bytes = MAXIMUM_BYTES

    async def select(self, statement: str) -> list[tuple[Any, ...]]:
        async with Database.shared(self.folder) as database:
            return await database.write(lambda connection: connection.execute(statement).fetchall())

    async def arrived(self) -> list[Any]:
        return [json.loads(body) for (body,) in await self.select("SELECT body FROM messages ORDER BY id")]

    async def refuse(self) -> None:
        """It is of the other kind: also if it has to be made."""
        fifo = not self.options.fifo
        await self.select(
            f"INSERT INTO queues (name, fifo, visibility, retention) VALUES ('failures', {fifo}, 30, 345600) "
            f"ON CONFLICT (name) DO UPDATE SET fifo={fifo}"
        )

    async def accept(self) -> None:
        await self.select(f"UPDATE queues SET fifo={bool(self.options.fifo)}")


class FunctionTarget(KindTarget):
    """A function runs in a thread, and writes down what it was given."""

    maximum_bytes = MAXIMUM_EVENT_BYTES
    foretells = False
    code = """
import json, pathlib
here = pathlib.Path(__file__).parent
def handler(event, context):
    if (here / "refuse").exists():
        raise RuntimeError(json.dumps(event))
    with open(here / "given", "a") as file:
        file.write(json.dumps(event) + "\\n")
"""

    def __init__(self, kind: DestinationKind, to: str, options: Any, folder: Path) -> None:
        super().__init__(kind, to, options, folder)
        (folder / "app.py").write_text(self.code)
        settings = FunctionSettings("audit", "app.py:handler", folder, timeout=WAIT, inline="thread")
        self.function = Function(settings, connect(settings, lambda *_: None))

    def context(self, given: DestinationContext) -> DestinationContext:
        return replace(given, invoke=self.invoke)

    async def invoke(self, name: str, event: bytes) -> Response:
        assert name == "audit"
        return await self.function.invoke(DocumentEvent(orjson.loads(event)), Call("request", time.time() + WAIT, WAIT))

    async def arrived(self) -> list[Any]:
        given = self.folder / "given"
        return [json.loads(line) for line in given.read_text().split("\n")[:-1]] if given.exists() else []

    async def refuse(self) -> None:
        (self.folder / "refuse").touch()

    async def accept(self) -> None:
        (self.folder / "refuse").unlink()


class HttpTarget(KindTarget):
    distinct = True  # this server looks at Idempotency-Key

    def __init__(self, server: Webhook, folder: Path) -> None:
        super().__init__(http, f"{server.url}/failures", HttpOptions(), folder)
        self.server = server

    async def arrived(self) -> list[Any]:
        return [json.loads(body) for body in {request.headers["idempotency-key"]: request.body for request in self.server.taken}.values()]

    async def refuse(self) -> None:
        await self.server.close()

    async def accept(self) -> None:
        await self.server.listen()


class TestFile(DestinationContract, DestinationFaultsContract):
    @pytest.fixture
    def target(self, tmp_path: Path) -> FileTarget:
        (tmp_path / "sent").mkdir()
        return FileTarget(file, "file:sent/failures.jsonl", FileOptions(), tmp_path)


class TestLocalQueue(DestinationContract, DestinationFaultsContract):
    @pytest.fixture
    def target(self, tmp_path: Path) -> QueueTarget:
        return QueueTarget(local_queue, "local-queue:failures", LocalQueueOptions(fifo=False), tmp_path)


class TestLocalFifoQueue(DestinationContract, DestinationFaultsContract):
    @pytest.fixture
    def target(self, tmp_path: Path) -> QueueTarget:
        target = QueueTarget(local_queue, "local-queue:failures", LocalQueueOptions(fifo=True), tmp_path)
        target.distinct = True
        return target

    async def test_its_group_is_the_lane(self, target: QueueTarget) -> None:
        await self.test_a_failure_arrives_with_its_cause_and_its_event(target)
        assert await target.select("SELECT group_id FROM messages") == [("shardId-000000000001",)]

    async def test_a_queue_that_is_there_stays_as_it_is(self, target: QueueTarget) -> None:
        await target.select("INSERT INTO queues (name, fifo, visibility, retention) VALUES ('failures', 1, 7, 70)")
        target.options = LocalQueueOptions()
        await self.test_a_failure_arrives_with_its_cause_and_its_event(target)
        async with Database.shared(target.folder) as database:
            queue = await database.read(lambda connection: found(connection, "failures"))
        assert queue is not None
        assert (queue.fifo, queue.visibility, queue.retention) == (True, 7, 70)


class TestFunction(DestinationContract, DestinationFaultsContract):
    @pytest.fixture
    async def target(self, tmp_path: Path) -> AsyncIterator[FunctionTarget]:
        target = FunctionTarget(function, "function:audit", FunctionOptions(), tmp_path)
        yield target
        await target.function.aclose()


class TestHttp(DestinationContract, DestinationFaultsContract):
    @pytest.fixture
    async def target(self, tmp_path: Path) -> AsyncIterator[HttpTarget]:
        async with webhook() as server:
            yield HttpTarget(server, tmp_path)
