"""Where a stream is read from while there is no progress: the options that say so, shared by every connector of a stream.

Vendor-free. A source keeps the answer as `Progress.origin`: "TRIM_HORIZON", or "AT_TIMESTAMP " and epoch seconds. For LATEST that is the
moment when the mapping first began to read the stream; `poller.shards.beginning` keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias

Position: TypeAlias = Literal["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"]


def epoch(timestamp: str | float) -> float:
    """Epoch seconds of a `starting_position_timestamp`; without a zone it is local time. Raises ValueError."""
    if isinstance(timestamp, str):
        try:
            return float(timestamp)
        except ValueError:
            return datetime.fromisoformat(timestamp).timestamp()
    return timestamp


def contradictions(position: Position, timestamp: str | float | None) -> list[str]:
    """What is wrong with the two options together, a sentence each."""
    if (position == "AT_TIMESTAMP") is (timestamp is None):
        return ['starting_position_timestamp belongs to starting_position = "AT_TIMESTAMP": give both, or neither']
    if timestamp is not None:
        try:
            epoch(timestamp)
        except ValueError:
            return [f"starting_position_timestamp = {timestamp!r} is no time; write ISO 8601 such as '2026-01-31T08:00:00Z'"]
    return []


def origin(position: Position, timestamp: str | float | None, now: float) -> str:
    """`Progress.origin`, or "LATEST " and the moment of opening: what counts if nobody has begun to read before.

    Raises ValueError, with a sentence for a person, for a time in the future (as AWS refuses it).
    """
    if position == "TRIM_HORIZON":
        return "TRIM_HORIZON"
    if timestamp is None:
        return f"LATEST {now!r}"
    moment = epoch(timestamp)
    if moment > now:
        raise ValueError(f"starting_position_timestamp {timestamp!r} is in the future")
    return f"AT_TIMESTAMP {moment!r}"


class ImportedStart(NamedTuple):
    """The two options, as a document of AWS's has them; `read`: the properties that they are; sentences for a person."""

    options: dict[str, Any]
    read: frozenset[str]
    remarks: tuple[str, ...] = ()


def imported_start(properties: Mapping[str, Any]) -> ImportedStart:
    """Of an event source mapping (`poller.importing`). AWS asks for a position; a document without one was not deployed so."""
    options = {"starting_position": properties.get("StartingPosition", "TRIM_HORIZON")}
    if options["starting_position"] == "AT_TIMESTAMP" and "StartingPositionTimestamp" in properties:
        options["starting_position_timestamp"] = properties["StartingPositionTimestamp"]
    said = () if "StartingPosition" in properties else ("StartingPosition is missing; TRIM_HORIZON is written, which passes nothing over",)
    return ImportedStart(options, frozenset({"StartingPosition", "StartingPositionTimestamp"}), said)
