"""Enhanced fan-out, with the engine: records of a real server, pushed in AWS's framing, by a proxy that ends subscriptions when told."""

from __future__ import annotations

import asyncio
import time
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import md5
from typing import Any

import orjson
import pytest
from aiohttp import web

from connectors.kinesis import KinesisConnector, connect_to_aws
from connectors.kinesis.client import LIMITS
from connectors.kinesis.fanout import FanOut, Times
from connectors.kinesis.format import KinesisFormat
from connectors.kinesis.options import KinesisOptions
from connectors.kinesis.pushes import MOST_BYTES
from connectors.kinesis.source import open_source
from connectors.sharded.dialect import Dialect
from poller.model import Call, Response, Returned
from poller.progress import ORIGIN
from poller.protocols import Event, Source
from poller.settings import Context
from tests.integration.stream_workers import DONE, Element, Mapping, Script, Worker
from tests.servers.fanout import DENIED, GONE, IN_USE, FanOutServer, event, fan_out_server
from tests.servers.kinesis.client import REGION, StreamsClient
from tests.servers.kinesis.proxy import INITIAL

FIRST = "shardId-000000000000"


class Hasty(KinesisConnector):
    """Waits for moments where Kinesis wants seconds, and minutes."""

    async def open(self, options: KinesisOptions, context: Context) -> Source:
        return await open_source(await connect_to_aws(options), options, context, Times(apart=0.1, moment=0.1, away=0.5))


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


@pytest.fixture
async def server(kinesis_local: str) -> AsyncIterator[FanOutServer]:
    async with fan_out_server(kinesis_local) as served:
        yield served


class Stream:
    """A stream with a consumer; what is put into it, in order."""

    def __init__(self, client: StreamsClient, name: str, consumer: str) -> None:
        self.client, self.name, self.consumer = client, name, consumer
        self.sent: list[str] = []

    async def put(self, count: int, shard: str = FIRST) -> None:
        names = [str(len(self.sent) + n) for n in range(count)]
        await self.client.put_to(self.name, shard, [each.encode() for each in names])
        self.sent += names

    def mapping(self, server: FanOutServer, **options: Any) -> Mapping:
        given = KinesisOptions(stream=self.name, region=REGION, endpoint=server.url, consumer_arn=self.consumer, **options)
        return Mapping(Hasty(), given)


@pytest.fixture
async def stream(streams: StreamsClient) -> Stream:
    name = await streams.create()
    return Stream(streams, name, await streams.register(name))


def name(element: Element) -> str:
    return b64decode(element["kinesis"]["data"]).decode()


@pytest.mark.servers
async def test_records_come_in_order_over_renewals(server: FanOutServer, stream: Stream) -> None:
    """Each subscription ends after one event of seven records."""
    server.lasts, server.piece = 1, 7
    script = Script(name)
    await stream.put(50)
    async with Worker(stream.mapping(server), script) as worker:
        await worker.handled(30)
        await stream.put(20)
        await worker.handled(70)
        assert worker.counters.reconnects == 0
    assert script.seen == stream.sent
    assert len(server.begun) >= 10
    assert server.begun[0] == {"Type": "TRIM_HORIZON"}
    assert {each["Type"] for each in server.begun[1:]} == {"AFTER_SEQUENCE_NUMBER"}
    assert server.asked["GetRecords"] == 0, "all of them were pushed"


@pytest.mark.servers
async def test_a_subscription_that_is_cut_off_within_an_event_loses_nothing(server: FanOutServer, stream: Stream) -> None:
    server.cuts, server.piece = 3, 7
    script = Script(name)
    await stream.put(50)
    async with Worker(stream.mapping(server), script) as worker:
        await worker.handled(50)
        server.cuts = 2
        await stream.put(20)
        await worker.handled(70)
    assert script.seen == stream.sent
    assert server.cuts == 0
    assert server.asked["GetRecords"] == 0


@pytest.mark.servers
async def test_a_subscription_that_someone_else_takes_is_taken_back(server: FanOutServer, stream: Stream) -> None:
    script = Script(name)
    await stream.put(5)
    async with Worker(stream.mapping(server), script) as worker:
        await worker.handled(5)
        server.end(IN_USE)
        await worker.until(lambda: not server.running)
        await stream.put(5)
        await worker.handled(10)
    assert script.seen == stream.sent
    assert len(server.begun) == 2
    assert server.asked["GetRecords"] == 0


@pytest.mark.servers
async def test_a_restart_goes_on_where_it_was(server: FanOutServer, stream: Stream) -> None:
    script, mapping = Script(name), stream.mapping(server)
    await stream.put(5)
    async with Worker(mapping, script) as worker:
        await worker.handled(5)
    await worker_gone(server)
    await stream.put(5)
    async with Worker(mapping, script, "b") as worker:
        await worker.handled(5)
    assert script.seen == stream.sent
    assert server.begun[-1]["Type"] == "AT_SEQUENCE_NUMBER", "the last one is looked at again, for it might have been trimmed"


async def worker_gone(server: FanOutServer) -> None:
    """When nobody is subscribed any more."""
    async with asyncio.timeout(20):
        while server.running:
            await asyncio.sleep(0.01)


@pytest.mark.servers
async def test_shards_that_split_and_merge_are_pushed_parents_first(server: FanOutServer, stream: Stream) -> None:
    held = asyncio.Event()

    async def answer(names: list[str]) -> Response:
        if "4" in names:
            await held.wait()
        return DONE

    script = Script(name, answer)
    await stream.put(5)
    async with Worker(stream.mapping(server), script) as worker:
        await worker.until(lambda: script.seen)
        left, right = await stream.client.split(stream.name, FIRST)
        await stream.put(5, left)
        await stream.put(5, right)
        await worker.until(lambda: not server.running)  # the end was pushed
        assert script.seen == stream.sent[:5]
        held.set()
        await worker.handled(15)
        child = await stream.client.merge(stream.name, left, right)
        await stream.put(5, child)
        await worker.handled(20)
        await worker.until(lambda: worker.lanes == {child})
        assert worker.counters.tally.expired == 0
    assert sorted(script.seen, key=int) == stream.sent
    for part in (stream.sent[5:10], stream.sent[10:15]):
        assert [each for each in script.seen if each in part] == part
    assert script.seen[:5] + script.seen[15:] == stream.sent[:5] + stream.sent[15:]
    assert len(server.begun) == 4, "each shard once"


@pytest.mark.servers
async def test_what_cannot_be_pushed_is_polled_and_pushed_again_later(
    server: FanOutServer, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "poller.kinesis")
    script = Script(name)
    server.refusal = GONE
    await stream.put(5)
    async with Worker(stream.mapping(server), script) as worker:
        await worker.handled(5)
        assert server.asked["GetRecords"] > 0
        await worker.until(lambda: server.asked["SubscribeToShard"] >= 3)
        server.refusal = None
        await worker.until(lambda: server.running)
        polled = server.asked["GetRecords"]
        await stream.put(5)
        await worker.handled(10)
        assert server.asked["GetRecords"] == polled
        server.refusal = GONE
        server.end()  # while it runs
        await stream.put(5)
        await worker.handled(15)
        assert worker.counters.reconnects == 0
        said = [each.getMessage() for each in caplog.records if each.name == "poller.kinesis"]
    assert script.seen == stream.sent
    assert [("polled, not pushed" in each, "pushed again" in each) for each in said] == [(True, False), (False, True), (True, False)]
    assert GONE.code in said[0]


@pytest.mark.servers
async def test_a_consumer_that_we_may_not_subscribe_says_what_is_missing(
    server: FanOutServer, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(name)
    server.refusal = DENIED
    await stream.put(5)
    async with Worker(stream.mapping(server), script) as worker:
        await worker.handled(5)
    (said,) = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert "not authorized to perform: kinesis:SubscribeToShard" in said and "check the credentials" in said


def aggregate(*names: str) -> bytes:
    """As the Kinesis Producer Library makes it."""
    users = [b"\x08\x00\x1a" + bytes([len(each)]) + each.encode() for each in names]
    message = b"\x0a\x01k" + b"".join(b"\x1a" + bytes([len(each)]) + each for each in users)
    return b"\xf3\x89\x9a\xc2" + message + md5(message, usedforsecurity=False).digest()


@pytest.mark.servers
async def test_aggregates_are_taken_apart_as_when_they_are_polled(server: FanOutServer, stream: Stream) -> None:
    script = Script(name)
    server.lasts, server.piece = 1, 2
    mapping = stream.mapping(server, deaggregate=True)
    await stream.client.put(stream.name, [("k", aggregate("0", "1", "2")), ("k", b"3"), ("k", aggregate("4", "5"))])
    async with Worker(mapping, script) as worker:
        await worker.handled(6)
    await worker_gone(server)
    await stream.client.put(stream.name, [("k", aggregate("6", "7"))])
    async with Worker(mapping, script) as worker:
        await worker.handled(2)
    assert script.seen == [str(number) for number in range(8)]
    assert server.asked["GetRecords"] == 0


class Collecting(Script):
    """Its state is the names of a window's records; `finals`: the states of windows that have ended, with their shards."""

    def __init__(self) -> None:
        super().__init__(name)
        self.finals: list[tuple[str, list[str]]] = []

    async def invoke(self, event: Event, call: Call) -> Response:
        document, before = event.mapping(), len(self.seen)
        await super().invoke(event, call)
        names = [*document["state"].get("names", ()), *self.seen[before:]]
        if document["isFinalInvokeForWindow"]:
            self.finals.append((document["shardId"], names))
        return Returned(orjson.dumps({"state": {"names": names}}))


@pytest.mark.servers
async def test_windows_of_pushed_shards_end_at_the_head_and_with_their_shard(server: FanOutServer, stream: Stream) -> None:
    """Nothing comes after a window's records: that it is over is known from events without any, and from the shard's end."""
    script, mapping = Collecting(), stream.mapping(server)
    mapping.settings = replace(mapping.settings, tumbling_window=1)
    await stream.put(10)
    async with Worker(mapping, script) as worker:
        await worker.until(lambda: sum(len(names) for _, names in script.finals) == 10)
    assert server.asked["GetRecords"] == 0, "all of them were pushed"
    await worker_gone(server)
    mapping.settings = replace(mapping.settings, tumbling_window=900)
    await stream.put(5)
    async with Worker(mapping, script) as worker:
        await worker.handled(5)
        left, right = await stream.client.split(stream.name, FIRST)
        await stream.put(5, left)
        await worker.handled(10)
        await stream.client.merge(stream.name, left, right)
        await worker.until(lambda: left in {shard for shard, _ in script.finals})
    assert [number for _, names in script.finals for number in names] == stream.sent


# --- the line -------------------------------------------------------------------------------------------------------------------------


class Flood:
    """Pushes records of a megabyte as fast as they are taken; `stalled` once nothing was taken for a second."""

    def __init__(self) -> None:
        self.sent = 0
        self.stalled = asyncio.Event()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/vnd.amazon.eventstream"})
        await response.prepare(request)
        await response.write(INITIAL)
        data = "A" * (1 << 20)
        try:
            while True:
                number = str(self.sent + 1)
                record = {"SequenceNumber": number, "ApproximateArrivalTimestamp": 1.0, "PartitionKey": "k", "Data": data}
                told = {"Records": [record], "ContinuationSequenceNumber": number, "MillisBehindLatest": 1000}
                writing = asyncio.ensure_future(response.write(event(told)))
                if not (await asyncio.wait({writing}, timeout=1.0))[0]:
                    self.stalled.set()
                await writing
                self.sent += 1
        except ConnectionError:
            return response


@asynccontextmanager
async def flooded() -> AsyncIterator[tuple[Flood, str]]:
    flood = Flood()
    answer: Any = flood.answer
    runner = web.ServerRunner(web.Server(answer), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield flood, "http://{}:{}".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


async def test_a_slow_lane_stalls_the_line_and_memory_does_not_grow() -> None:
    """Through botocore's parser and aiohttp's buffers: what is not taken stays with the sender."""
    consumer = "arn:aws:kinesis:us-east-1:123456789012:stream/orders/consumer/c:1"
    async with flooded() as (flood, url):
        client = await connect_to_aws(KinesisOptions(stream="orders", region=REGION, endpoint=url))
        dialect: Any = Dialect("orders", client, KinesisFormat("arn:aws:kinesis:us-east-1:1:stream/orders", "r"), LIMITS)
        reader = FanOut(client, consumer, dialect, time.time).wrap(Idle())  # type: ignore[arg-type]
        found, position = await reader.read(ORIGIN, "TRIM_HORIZON", 1)
        async with asyncio.timeout(30):
            await flood.stalled.wait()
        # What waits for the lane, an event more, and what the sockets hold.
        assert flood.sent << 20 <= MOST_BYTES + (12 << 20)
        numbers = [each.sequence for each in found]
        while len(numbers) < 40:
            found, position = await reader.read(position, "TRIM_HORIZON", 10)
            numbers += [each.sequence for each in found]
        assert numbers == [str(n) for n in range(1, len(numbers) + 1)]
        await reader.aclose()
        await client.aclose()


class Idle:
    """The polling reader of a shard that is pushed."""

    name = FIRST

    def forget(self) -> None:
        """Nothing was read ahead."""

    async def aclose(self) -> None:
        """Nothing is open."""
