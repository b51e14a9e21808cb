"""The functions that both sides call: each looks at every record, as cheaply as can be. Run by path, as a user's functions are."""

from __future__ import annotations

import asyncio
import time
from typing import Any

POISON, EVERY = 500, 1_000
"""Of so many offsets one is poison."""

BLOCKING_SECONDS = 0.002


def log(event: Any, _context: object) -> None:
    """A Kafka event."""
    for records in event["records"].values():
        for record in records:
            record["value"]


def stream(event: Any, _context: object) -> None:
    """A Kinesis event."""
    for record in event["Records"]:
        record["kinesis"]


def queue(event: Any, _context: object) -> None:
    """An SQS event."""
    for record in event["Records"]:
        record["body"]


def poisoned(event: Any, _context: object) -> None:
    """A Kafka event, in which one record in a thousand makes the function fail."""
    for records in event["records"].values():
        for record in records:
            if record["offset"] % EVERY == POISON:
                raise ValueError("poison")


async def waiting(event: Any, _context: object) -> None:
    """A Kafka event of one record, which takes 0 to 5 ms, and never the same twice running."""
    for records in event["records"].values():
        for record in records:
            await asyncio.sleep(record["offset"] * 1_777 % 5_000 / 1e6)


def blocking(event: Any, _context: object) -> None:  # noqa: ARG001
    """Any event; holds up the loop for 2 ms."""
    time.sleep(BLOCKING_SECONDS)
