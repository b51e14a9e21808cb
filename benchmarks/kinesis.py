"""What Kinesis costs: the connector and the engine beside a bare loop over the same client (kinesis_bare.py), both against canned answers.

A *share* is the bare loop's figure by ours, as for Kafka. Figures are CPU of the process that reads; or of all of a daemon's processes,
where it has several workers.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks import kinesis_bare
from benchmarks.canned import canned
from benchmarks.comparison import Comparison, Limit, Reading, Side, measured
from benchmarks.daemon import Daemon, daemon, free_port, total
from benchmarks.engine import inline, settings
from benchmarks.kinesis_server import STREAM
from benchmarks.mapping import running
from benchmarks.usage import resident, settle_down, until
from connectors.aws.connection import Target, connected
from connectors.kinesis import KinesisConnector
from connectors.kinesis.aws import AwsKinesis
from connectors.kinesis.client import KinesisRecord
from connectors.kinesis.options import KinesisOptions, place
from connectors.sharded.shards import Records, Refused
from poller.metrics import MappingCounters

REGION = "us-east-1"
SHARDS, SIZE = 8, 100
IDLE, FEW = 200, 20
"""Shards without records."""

INLINE_CONCURRENCY = 64
SETTLED_SECONDS = 5.0
"""After so long all shards are open, and reads of idle ones are as far apart as they get. Few shards (`--quick`) take half as long."""

SHARED_SECONDS = 20.0
"""The longest that workers take to share the shards."""

_LANE = re.compile(r'^poller_lane_ready{mapping="orders",lane="[^"]+"(?:,worker="(\d+)")?}', re.MULTILINE)
"""A lane that is read, and the worker that reads it."""

CONFIG = """
[poller]
listen = "127.0.0.1:{port}"
workers = {workers}

[functions.orders]
handler = "function.py:stream"
code = "{code}"
inline = "loop"
concurrency = {concurrency}

[mappings.orders]
function = "orders"
batch_size = {size}
source = {{ type = "kinesis", stream = "{stream}", region = "{region}", endpoint = "{endpoint}" }}
"""


class Counted(AwsKinesis):
    """The connector's client; `reads`: how often it was asked for records."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.reads = 0

    async def records(self, iterator: str, shard: str, limit: int) -> Records[KinesisRecord] | Refused:
        self.reads += 1
        return await super().records(iterator, shard, limit)


async def _client(url: str) -> Counted:
    named = place(KinesisOptions(stream=STREAM, region=REGION, endpoint=url))
    return await connected(Counted(named), Target(REGION, None, url, None, connections=1000))


@asynccontextmanager
async def _mapping(client: Counted, url: str, size: int = SIZE) -> AsyncIterator[MappingCounters]:
    async def connect(_options: KinesisOptions) -> Counted:
        return client

    options = KinesisOptions(stream=STREAM, region=REGION, endpoint=url)
    called, mapping = inline("stream", INLINE_CONCURRENCY), settings(1, size)
    settle_down()
    with tempfile.TemporaryDirectory() as folder:
        async with running(KinesisConnector(connect), options, Path(folder), mapping, called) as counters:
            yield counters
    if counters.faults:
        raise SystemExit(f"{counters.faults} invocations failed")


# --- shards with records --------------------------------------------------------------------------------------------------------------


async def ours(records: int, answer: int) -> Reading:
    """CPU a record through the connector and the engine, so many an answer."""
    async with canned("kinesis_server", shards=SHARDS, answer=answer) as url, _mapping(await _client(url), url) as counters:
        return await until(lambda: counters.done, records)


async def bare(records: int, answer: int) -> Reading:
    """CPU a record of the client alone."""
    with tempfile.TemporaryDirectory() as folder:
        async with (
            canned("kinesis_server", shards=SHARDS, answer=answer) as url,
            kinesis_bare.reading(await _client(url), Path(folder), SIZE) as loop,
        ):
            return await until(lambda: loop.done, records)


# --- shards without -------------------------------------------------------------------------------------------------------------------


async def idle(shards: int, seconds: float) -> Reading:
    """CPU a call of a mapping that waits for records of so many shards."""
    async with canned("kinesis_server", shards=shards, answer=0) as url:
        client = await _client(url)
        async with _mapping(client, url):
            return await _per_call(client, shards, seconds)


async def bare_idle(shards: int, seconds: float) -> Reading:
    """CPU a call of as many loops that wait."""
    with tempfile.TemporaryDirectory() as folder:
        async with canned("kinesis_server", shards=shards, answer=0) as url:
            client = await _client(url)
            async with kinesis_bare.reading(client, Path(folder), SIZE):
                return await _per_call(client, shards, seconds)


async def _per_call(client: Counted, shards: int, seconds: float) -> Reading:
    await asyncio.sleep(SETTLED_SECONDS if shards == IDLE else SETTLED_SECONDS / 2)
    before, at, began = client.reads, time.perf_counter(), time.process_time()
    await asyncio.sleep(seconds)
    used, reads = time.process_time() - began, client.reads - before
    # A machine that is busy makes them fewer; more would not be what is compared, but for the last steps of slowing down.
    if not 0 < reads <= shards * (time.perf_counter() - at + 2):
        raise SystemExit(f"{reads} reads of {shards} shards: not what was meant")
    return Reading(used / reads * 1e6)


async def held(shards: int) -> Reading:
    """Resident bytes of a process that waits for records of so many shards."""
    async with canned("kinesis_server", shards=shards, answer=0) as url, _mapping(await _client(url), url):
        await asyncio.sleep(SETTLED_SECONDS if shards == IDLE else SETTLED_SECONDS / 2)
        return Reading(resident(os.getpid()))


def lane(many: int, few: int) -> Reading:
    """kB of resident memory for each lane that `many` are more than `few`."""
    more, less = (measured(Side("kinesis", "held", {"shards": shards}), Path()).figure for shards in (many, few))
    return Reading((more - less) / (many - few) / 1e3)


# --- several workers ------------------------------------------------------------------------------------------------------------------


async def workers(count: int, seconds: float, folder: str) -> Reading:
    """CPU a record of a daemon with so many workers: all its processes together."""
    async with canned("kinesis_server", shards=SHARDS) as url:
        port, file = free_port(), Path(folder) / str(count) / "poller.toml"
        given = {"code": Path(__file__).parent, "concurrency": INLINE_CONCURRENCY, "size": SIZE, "stream": STREAM, "region": REGION}
        file.parent.mkdir()
        file.write_text(CONFIG.format(port=port, workers=count, endpoint=url, **given))
        async with daemon(file, port) as run:
            await _shared(run, count)
            first = await run.metrics()
            await asyncio.sleep(seconds)
            last = await run.metrics()
    used, done = (total(last, name) - total(first, name) for name in ("process_cpu_seconds_total", "poller_done_event_total"))
    if not done or total(last, "poller_invoke_error_total"):
        raise SystemExit("nothing was done, or invocations failed: not what was meant")
    return Reading(used / done * 1e6)


async def _shared(run: Daemon, count: int) -> None:
    """Until each worker has its part of the shards."""
    until_ = time.monotonic() + SHARED_SECONDS
    while time.monotonic() < until_:
        lanes = _LANE.findall(await run.metrics())
        if len(lanes) == SHARDS and {lanes.count(worker) for worker in lanes} == {SHARDS // count}:
            return
        await asyncio.sleep(0.5)
    raise SystemExit("the workers do not share the shards evenly: not what was meant")


SIDES = {
    "ours": ours,
    "bare": bare,
    "idle": idle,
    "bare_idle": bare_idle,
    "held": held,
    "lane": lane,
    "workers": workers,
}


def comparisons(quick: bool) -> list[Comparison]:
    def beside(name: str, share: float | None, answer: int, records: int) -> Comparison:
        parameters = {"records": records // 10 if quick else records, "answer": answer}
        limit = None if share is None else Limit("share", at_least=share)
        return Comparison(name, "us/record", Side("kinesis", "ours", parameters), Side("kinesis", "bare", parameters), limit)

    idle = 2 * FEW if quick else IDLE
    waiting = {"shards": idle, "seconds": 1.0 if quick else 30.0}
    spent = {"seconds": 1.0 if quick else 15.0}
    return [
        beside(f"Kinesis, inline, batches of {SIZE}", 0.8, 1000, 200_000),
        beside("- 100 records an answer", None, 100, 20_000),
        Comparison(
            f"- {idle} idle shards",
            "us/call",
            Side("kinesis", "idle", waiting),
            Side("kinesis", "bare_idle", waiting),
            Limit("times", at_most=1.3),
        ),
        Comparison(
            "- memory of an idle lane", "kB", Side("kinesis", "lane", {"many": idle, "few": FEW}), limit=Limit("figure", at_most=100)
        ),
        Comparison(
            "- two workers",
            "us/record",
            Side("kinesis", "workers", {"count": 2, **spent}, in_folder=True),
            Side("kinesis", "workers", {"count": 1, **spent}, in_folder=True),
            Limit("times", at_most=1.1),
            "one",
        ),
    ]
