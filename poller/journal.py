"""What a journal tells of itself as a whole: its error groups, and what upkeep has removed. Pure; `poller.protocols.Upkeep`."""

from __future__ import annotations

from dataclasses import dataclass

from poller.model import Fault, Reason


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Failures of one fingerprint, `id`: how many rows and records, when the first and the last of them failed (epoch seconds), of which
    mappings, in order. `sample` is the id of the row that came last, `fault` and `reason` are its."""

    id: str
    rows: int
    records: int
    first: float
    last: float
    mappings: tuple[str, ...]
    sample: str
    reason: Reason
    fault: Fault | None


@dataclass(frozen=True, slots=True)
class Removed:
    """A row that upkeep has removed from the journal, with so many records; it took about so many bytes."""

    id: str
    mapping: str
    records: int
    bytes: int
