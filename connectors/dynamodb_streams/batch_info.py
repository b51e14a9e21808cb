"""DDBStreamBatchInfo: see `connectors.sharded.batch_info`. Pure."""

from __future__ import annotations

from typing import Any

from connectors.sharded.batch_info import Element, batch_info
from poller.failures.journal import Entry
from poller.windows import iso


def described(entry: Entry) -> dict[str, Any]:
    """The stream is that of the first record: a batch may go from a table's stream to its next one."""
    return {"DDBStreamBatchInfo": batch_info(entry, _sequence, _arrival)}


def _sequence(element: Element) -> str:
    return str(element["dynamodb"]["SequenceNumber"])


def _arrival(element: Element) -> str:
    """In whole seconds, as AWS has it here."""
    return iso(int(element["dynamodb"]["ApproximateCreationDateTime"]))
