"""KinesisBatchInfo: see `connectors.sharded.batch_info`. Pure."""

from __future__ import annotations

from typing import Any

from connectors.sharded.batch_info import Element, batch_info
from poller.failures.invocation import milliseconds
from poller.failures.journal import Entry


def described(entry: Entry) -> dict[str, Any]:
    """For every source whose records are Kinesis's."""
    return {"KinesisBatchInfo": batch_info(entry, _sequence, _arrival)}


def _sequence(element: Element) -> str:
    """As the stream has it: that of the aggregate, for one of its user records."""
    return str(element["kinesis"]["sequenceNumber"]).partition(":")[0]


def _arrival(element: Element) -> str:
    return milliseconds(element["kinesis"]["approximateArrivalTimestamp"])
