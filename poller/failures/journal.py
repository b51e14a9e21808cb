"""What a journal keeps, and how it is asked for; what waits in the outbox beside it; its error groups. Pure values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from poller.model import Fault, Reason


def text_of(key: bytes | None) -> str | None:
    """A key as rows have it. Bytes that are no UTF-8 are written out, as `\\xc8`, so that keys which differ, differ as text."""
    return None if key is None else key.decode(errors="backslashreplace")


@dataclass(frozen=True, slots=True)
class KeptRecord:
    """One record as the journal keeps it: `id` is what makes it itself (a messageId, `shard:sequence`), `json` its element of the event."""

    id: str
    key: str | None
    arrival: float
    json: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """A failure as the journal keeps it: replayable without broker, source or mapping.

    The event is `head + b",".join(record.json for record in records) + tail`. `identifiers` are what a partial batch response names, one a
    record, as JSON. `first` and `last` are positions for a person. `time` is epoch seconds. `run` is the replay that failed again, or "".
    `request_id` is of the last invocation, "" if there was none; `group` is the fingerprint of the fault (fingerprint.py).
    `destinations`: where the store's outbox is to deliver this, from the same transaction on. `taken_from`: the address that a dead letter
    was found at (redrive); "": our own failure. `holds`: the keys of its records are held while its row is open, and later records of these
    keys are parked behind it (parking.py).
    """

    id: str
    mapping: str
    source: str
    lane: str
    function: str
    reason: Reason
    attempts: int
    fault: Fault | None
    first: str
    last: str
    time: float
    head: bytes
    tail: bytes
    records: tuple[KeptRecord, ...]
    identifiers: tuple[str, ...] = ()
    kept: Literal["failure", "queue-dlq"] = "failure"
    run: str = ""
    request_id: str = ""
    group: str = ""
    destinations: tuple[str, ...] = ()
    taken_from: str = ""
    holds: bool = False


RowState: TypeAlias = Literal["kept", "claimed", "parked", "replayed", "dropped"]

OPEN: tuple[RowState, ...] = ("kept", "claimed", "parked")
"""What is still to be done something about."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the journal: the entry, and what became of it. `failures` counts the replays that failed again; `changed` is
    when something happened to it last: it was put down, marked, or a record of it failed once more."""

    entry: Entry
    state: RowState
    failures: int = 0
    changed: float = 0.0


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows are meant; every part that is set narrows it. Times are epoch seconds, `after` inclusive, `before` exclusive.

    `ids` and `group` may be unambiguous prefixes. `states` empty means any. `copies`: include `kept = "queue-dlq"` rows. `key`: rows that
    hold a record of this key.
    """

    ids: tuple[str, ...] = ()
    mapping: str | None = None
    after: float | None = None
    before: float | None = None
    states: tuple[RowState, ...] = ("kept",)
    copies: bool = True
    limit: int | None = None
    group: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one batch, to be sent to a destination. It has one `number` in its outbox, and is sent until it has arrived.

    `id` names it for good (a failure's id, law 13; a success has one of its own), so that a receiver can tell a second delivery from a
    second failure. `entry` is the batch and its error; of a success `reason` and `fault` mean nothing, and `result` is what the function
    returned, as JSON text. `attempts` deliveries have failed; the next is due at `due` (epoch seconds); `error` is why the last one failed.
    """

    number: int
    id: str
    destination: str
    outcome: Literal["failure", "success"]
    entry: Entry
    result: bytes | None = None
    attempts: int = 0
    due: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Damaged:
    """A delivery that cannot be read, by its `number` in the outbox and its `id`. `error` says why; the rest is as of a `Delivery`."""

    number: int
    id: str
    destination: str
    attempts: int
    due: float
    error: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """What an outbox holds for one destination of a mapping. `oldest`: epoch seconds of the oldest; `attempts` and `error`: of the first
    that has failed. `damaged`: so many of `count` could not be read, and are set aside. `newest`: the highest `Delivery.number` of them."""

    mapping: str
    destination: str
    count: int
    oldest: float
    attempts: int = 0
    error: str = ""
    damaged: int = 0
    newest: int = field(default=0, compare=False)


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
