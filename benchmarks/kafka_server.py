"""A real broker for a run of the benchmarks: started once, filled once, and read by each side anew, in a group of its own.

    serving(): broker, topics, records --(environment variables)--> every side: `served()`

The benchmarks are developers' tools, as the servers of the tests are; so this is the same broker, of one node, without logins. 200 B of
JSON a value, keys of 7 to 10 bytes, no headers, no compression, in the batches of 16 KiB that a busy producer makes.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

LOG, SINGLE = "orders", "messages"
"""The topics: one of PARTITIONS, and one of a single partition."""

PARTITIONS = 4
BYTES = 200
KEYS = 10_000
RECORDS = 1_100_000
"""A tenth more than any side reads: a topic that runs dry is another matter."""

MESSAGES, MESSAGE_KEYS = 10_000, 1_000
"""Those of the single partition, which is read to its end."""

FIFTH = 5
"""So many are of the kind "order", but for the last, a "refund"."""

IN_FLIGHT = 64
_VARIABLE = "POLLER_BENCHMARK_KAFKA"


@dataclass(frozen=True, slots=True)
class Served:
    """Where the records are."""

    bootstrap: str

    @staticmethod
    def group() -> str:
        """Of nobody else: it begins where the topic does."""
        return f"benchmark-{uuid.uuid4().hex}"


def served() -> Served:
    """In a side's process."""
    if _VARIABLE not in os.environ:
        raise SystemExit("there is no broker: `python -m benchmarks kafka` starts one")
    return Served(os.environ[_VARIABLE])


@contextmanager
def serving(records: int, folder: Path | None = None) -> Iterator[Served]:
    """A broker with so many records, until the end of the `with`; its data in a folder inside `folder` (default: the system's).

    Raises pytest's `skip.Exception` or `fail.Exception` if there is none, or it does not start.
    """
    from tests.servers.kafka.broker import plain  # not for the sides: they need none of it

    with tempfile.TemporaryDirectory(dir=folder, prefix="benchmark-kafka-") as own:
        broker = plain(Path(own))
        try:
            broker.start()
            asyncio.run(fill(broker.bootstrap, records))
            os.environ[_VARIABLE] = broker.bootstrap
            yield Served(broker.bootstrap)
        finally:
            os.environ.pop(_VARIABLE, None)
            broker.kill()


async def fill(bootstrap: str, records: int) -> None:
    """Both topics, and the one of the commits."""
    from tests.servers.kafka.client import KafkaClient

    async with KafkaClient(bootstrap) as client:
        await client.create_topic(LOG, PARTITIONS)
        await client.create_topic(SINGLE, 1)
        await client.coordinator("benchmark")
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        # Keys have nothing to do with partitions: else those of one would all be of one strand.
        per_partition = range(records // PARTITIONS)
        await asyncio.gather(*(_send(producer, LOG, number, per_partition, KEYS) for number in range(PARTITIONS)))
        await _send(producer, SINGLE, 0, range(MESSAGES), MESSAGE_KEYS)


async def _send(producer: Any, topic: str, partition: int, numbers: range, keys: int) -> None:
    now, sent = int(time.time() * 1000), deque[Any]()
    batch = producer.create_batch()
    for number in numbers:
        key, value = b"order-%d" % (number % keys), made(number)
        while batch.append(timestamp=now, key=key, value=value) is None:
            sent.append(await producer.send_batch(batch, topic, partition=partition))
            batch = producer.create_batch()
            if len(sent) > IN_FLIGHT:
                await sent.popleft()
    sent.append(await producer.send_batch(batch, topic, partition=partition))
    await asyncio.gather(*sent)


def made(number: int) -> bytes:
    """A value of BYTES bytes."""
    kind = "refund" if number % FIFTH == FIFTH - 1 else "order"
    value = {"id": number, "kind": kind, "customer": f"customer-{number % KEYS}", "amount": number % 500 / 4, "note": ""}
    text = json.dumps(value, separators=(",", ":"))
    return text.replace('"note":""', f'"note":"{"x" * (BYTES - len(text))}"').encode()
