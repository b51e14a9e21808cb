"""The functions that both sides call: each looks at every record, as cheaply as can be. Run by path, as a user's functions are."""

from __future__ import annotations

from typing import Any


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
