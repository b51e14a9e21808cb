"""What Kafka costs a record: the connector and the engine beside a bare loop over aiokafka (kafka_bare.py), both from one real broker.

A *share* is the bare loop's figure by ours: 0.85 means that we do 0.85 of its records in the same time. Figures are microseconds a record:
CPU of the process that reads, or wall time where that is said.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks import function, kafka_bare
from benchmarks.comparison import Comparison, Limit, Reading, Side
from benchmarks.engine import inline, settings
from benchmarks.kafka_server import LOG, MESSAGE_KEYS, MESSAGES, RECORDS, SINGLE, Served, served, serving
from benchmarks.mapping import running
from benchmarks.usage import lasted, until
from connectors.kafka import KafkaConnector
from connectors.kafka.options import FILTERABLE, KafkaOptions
from handlers import python
from poller.collector import settle_down
from poller.functions import Function
from poller.metrics import MappingCounters
from poller.settings import Backoff, FailureSettings, FilterSettings, FunctionSettings, MappingSettings

ORDERS = FilterSettings(('{"value": {"kind": ["order"]}}',), FILTERABLE)
"""Four of five records match."""

INLINE_CONCURRENCY = 64
TICK_SECONDS = 0.001


def serve(quick: bool, folder: Path | None) -> AbstractContextManager[Served]:
    """What the sides need, for as long as a run."""
    return serving(RECORDS // 10 if quick else RECORDS, folder)


def in_process(concurrency: int) -> Function:
    """The function in processes of its own."""
    file = Path(function.__file__)
    chosen = FunctionSettings("orders", f"{file.name}:log", file.parent, 30.0, concurrency=concurrency)
    return Function(chosen, python.connect(chosen, lambda *_: None))


@asynccontextmanager
async def _mapping(topic: str, mapping: MappingSettings, called: Function) -> AsyncIterator[MappingCounters]:
    server = served()
    options = KafkaOptions(bootstrap_servers=[server.bootstrap], topic=topic, group=server.group())
    settle_down(called.settings.concurrency)  # as the daemon does
    with tempfile.TemporaryDirectory() as folder:
        async with running(KafkaConnector(), options, Path(folder), mapping, called) as counters:
            yield counters


def _finished(counters: MappingCounters) -> int:
    return counters.done + counters.filtered + counters.dropped


async def ours(records: int, size: int, width: int = 1, filtered: bool = False, retries: int | None = None) -> Reading:
    """CPU a record, with the function on the loop. `retries`: of a function that fails for one record in a thousand; it is bisected."""
    mapping = replace(settings(width, size), filters=ORDERS if filtered else None)
    if retries is not None:
        # Without waits: those cost nobody anything.
        mapping = replace(mapping, failure=FailureSettings(maximum_retry_attempts=retries, bisect=True, backoff=Backoff(0.0, 0.0)))
    called = inline("log" if retries is None else "poisoned", INLINE_CONCURRENCY)
    async with _mapping(LOG, mapping, called) as counters:
        reading = await until(lambda: _finished(counters), records)
    if bool(counters.faults) != (retries is not None) or bool(counters.filtered) != filtered:
        raise SystemExit(f"{counters.faults} invocations failed, {counters.filtered} records were filtered: not what was meant")
    return reading


async def process(records: int, size: int, concurrency: int = 2 * len(os.sched_getaffinity(0)), wall: bool = False) -> Reading:
    """CPU a record of this process, or wall time; with the function in processes of its own, as many as there are by default."""
    async with _mapping(LOG, settings(1, size), in_process(concurrency)) as counters:
        reading = await until(lambda: counters.done, records, time.perf_counter if wall else time.process_time)
    if counters.faults:
        raise SystemExit(f"{counters.faults} invocations failed")
    return reading


async def piped(records: int, size: int) -> Reading:
    """Wall time of the bare loop with one such process."""
    return await kafka_bare.piped(records, size, lambda: in_process(1))


async def keyed() -> Reading:
    """Wall time until every message of the single partition is handled, each a batch, and as many at once as there are keys."""
    async with _mapping(SINGLE, settings(MESSAGE_KEYS, 1), inline("waiting", MESSAGE_KEYS)) as counters:
        reading = await lasted(lambda: counters.done, MESSAGES)
    if counters.faults or counters.done != MESSAGES:
        raise SystemExit(f"{counters.done} of {MESSAGES} messages are done, {counters.faults} invocations failed")
    return reading


async def stall(records: int, size: int) -> Reading:
    """The longest time, in milliseconds, in which the loop came to nobody else, with a function on it that takes 2 ms."""
    async with _mapping(LOG, settings(1, size), inline("blocking", INLINE_CONCURRENCY)) as counters:
        longest = await _longest(lambda: counters.done, records)
    return Reading(longest * 1e3)


async def _longest(count: Callable[[], int], records: int) -> float:
    longest, before = 0.0, time.perf_counter()
    while count() < records:
        await asyncio.sleep(TICK_SECONDS)
        now = time.perf_counter()
        if count():  # from when it reads: to connect is another matter
            longest = max(longest, now - before - TICK_SECONDS)
        before = now
    return longest


SIDES = {
    "ours": ours,
    "process": process,
    "keyed": keyed,
    "stall": stall,
    "bare": kafka_bare.bare,
    "piped": piped,
    "tasks": kafka_bare.tasks,
}

_SHARES = {10: 0.4, 100: 0.6, 1000: 0.7}


def comparisons(quick: bool) -> list[Comparison]:
    def scaled(records: int) -> int:
        return records // 10 if quick else records

    def beside(name: str, share: float | None, handler: str = "log", records: int = 1_000_000, **more: object) -> Comparison:
        parameters: dict[str, object] = {"records": scaled(records), "size": 100}
        bare = Side("kafka", "bare", {**parameters, "handler": handler})
        limit = None if share is None else Limit("share", at_least=share)
        return Comparison(name, "us/record", Side("kafka", "ours", {**parameters, **more}), bare, limit)

    def cpu(size: int) -> Comparison:
        parameters = {"records": scaled(200_000 if size == 10 else 500_000), "size": size}
        ours, bare = Side("kafka", "process", parameters), Side("kafka", "bare", parameters)
        return Comparison(f"- in a process, batches of {size}", "us/record", ours, bare, Limit("share", at_least=_SHARES[size]))

    def wall(size: int) -> Comparison:
        parameters = {"records": scaled(200_000 if size == 10 else 500_000), "size": size}
        ours = Side("kafka", "process", {**parameters, "concurrency": 2, "wall": True})
        name = f"- in two processes, batches of {size}, wall time"
        return Comparison(name, "us/record", ours, Side("kafka", "piped", parameters), Limit("share", at_least=1.0), "bare, one process")

    return [
        beside("Kafka, inline, batches of 100", 0.85),
        beside("- 4 strands, by key", 0.65, width=4),
        beside("- a filter, 80 % match", 0.7, filtered=True),
        beside("- 1 poison in 1,000, bisected", 0.7, "poisoned", retries=0),
        beside("- the same, 2 retries", None, "poisoned", 200_000, retries=2),
        *map(cpu, _SHARES),
        *map(wall, _SHARES),
        Comparison(
            "- 10,000 messages of 0-5 ms, 1,000 keys, wall time",
            "s",
            Side("kafka", "keyed"),
            Side("kafka", "tasks"),
            Limit("times", at_most=3.0),
            "a task a key",
        ),
        Comparison(
            "- longest stall, function of 2 ms",
            "ms",
            Side("kafka", "stall", {"records": scaled(200_000), "size": 100}),
            limit=Limit("figure", at_most=50.0),
        ),
    ]
