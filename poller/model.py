"""The nouns of the engine as plain values: batches, outcomes, actions, failures. Pure: no clock, no chance, no IO.

A *record* is the client's own object and opaque to `poller/`: what the engine needs to know of records comes in bulk, by columns, from
the source's `Format` (protocols.py). Everything here is immutable; there are few of them per batch and none per record.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    from poller.protocols import Format

Record: TypeAlias = Any
"""One message: the client's own object."""

Token: TypeAlias = Any
"""A record's place in its lane. Ordered lanes: an int that grows from record to record. Queues: what settles it (a receipt handle)."""

Cause: TypeAlias = Literal["size", "bytes", "window", "drain", "retry", "oversize"]
"""Why a batch was cut: it was full, its window ended, the lane is leaving, it is tried again, or its one record is over the limit."""


class Batch(msgspec.Struct, frozen=True):
    """The records of one invocation.

    `attempt` numbers the invocation to come, or running: 1 is the first; `attempt - 1` invocations of exactly these records have begun.
    A batch that a split, a cut or a listed retry made smaller starts at 1 again. `fault` is why the attempt before failed, and `request_id`
    its invocation's."""

    records: Sequence[Record]
    format: Format
    strand: int = 0
    cause: Cause = "size"
    attempt: int = 1
    fault: Fault | None = None
    request_id: str = ""

    def __len__(self) -> int:
        return len(self.records)

    def but(self, **changes: Any) -> Batch:
        """The same, with these fields changed."""
        return msgspec.structs.replace(self, **changes)


# --- what a handler answers -------------------------------------------------------------------------------------------------------


class Returned(msgspec.Struct, frozen=True):
    """The function returned; `payload` is its result as JSON text."""

    payload: bytes


FaultKind: TypeAlias = Literal["error", "timeout", "exit", "memory", "init", "response", "partial", "lost", "large"]
"""How an invocation failed: it raised; ran out of time; its process ended; ran out of memory; could not be loaded; answered something
that is no valid (partial batch) response; named records as failed; its worker died with it; its answer was too large."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an invocation failed, in Lambda's words: `type` and `message` as in Lambda's error JSON, `trace` one frame a line.

    `unhandled`: Lambda would say `functionError: "Unhandled"`; a bad or partial response is a successful call there, so it is not.
    `record_index`: which record of the event it says it is about, from 0."""

    kind: FaultKind
    type: str
    message: str
    trace: tuple[str, ...] = ()
    unhandled: bool = True
    record_index: int | None = None


@dataclass(frozen=True, slots=True)
class Busy:
    """Throttled, or the function was never reached: not an attempt. Try again after `after` seconds."""

    after: float
    reason: str = ""


Response: TypeAlias = Returned | Fault | Busy
"""What a handler gives back; never an exception for the function's fault."""


class Call(msgspec.Struct, frozen=True):
    """What an invocation is called with. `deadline` is epoch seconds; `lane` and `mapping` are for log lines only."""

    request_id: str
    deadline: float
    timeout: float
    mapping: str = ""
    lane: str = ""


# --- outcomes: what a response means for the batch --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Done:
    """Every record was handled. `state`: what a function with a tumbling window returned, as JSON text; None without one."""

    state: bytes | None = None


@dataclass(frozen=True, slots=True)
class Partial:
    """The function named these records as failed: indices into the batch, ascending, without repeats, at least one. `state`: as in Done."""

    indices: tuple[int, ...]
    state: bytes | None = None


Outcome: TypeAlias = Done | Partial | Fault | Busy


# --- actions: what a policy wants done --------------------------------------------------------------------------------------------

Reason: TypeAlias = Literal[
    "RetryAttemptsExhausted", "RecordAgeExceeded", "RetentionExpiring", "MaximumPayloadSizeExceeded", "MaximumReceiveCountExceeded",
    "ErrorDiscarded", "ErrorParked", "Parked",
]  # fmt: skip
"""Why records were discarded: AWS's `condition`; RetentionExpiring, MaximumReceiveCountExceeded and what follows it are ours.
ErrorParked: an error rule gave them up, and their keys are held. Parked: never invoked, for an earlier record of their key had failed."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Records that are given up. `attempts`: how often exactly this batch was invoked. `fault`: the last error, None if never invoked.

    `kept` is "failure", or "queue-dlq" for a copy of what the queue's own redrive policy moves to its dead-letter queue.
    """

    records: Sequence[Record]
    reason: Reason
    attempts: int
    fault: Fault | None = None
    kept: Literal["failure", "queue-dlq"] = "failure"


class Ack(msgspec.Struct, frozen=True):
    """These records are done. `state`: of their tumbling window, these records included; None without one."""

    records: Sequence[Record]
    state: bytes | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """Give these records back to the queue. `delay`: seconds until they are visible again; None leaves the visibility timeout to run out.

    `failure`: journal this copy first (the queue is about to move the records to its dead-letter queue).
    """

    records: Sequence[Record]
    delay: float | None = None
    failure: Failure | None = None


class Retry(msgspec.Struct, frozen=True):
    """Run this batch, not before `delay` seconds from now, before anything later of its strand."""

    batch: Batch
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Discard:
    """Give these records up: journal first, then they count as done."""

    failure: Failure


Action: TypeAlias = Ack | Release | Retry | Discard


# --- retry state that outlives a worker -------------------------------------------------------------------------------------------


class Span(msgspec.Struct, frozen=True):
    """Records of one strand under retry.

    `first` and `last` are tokens of the lane; `end` is one past the last token of the batch the span came from: what lies between the
    span's own records and `end`, on this strand, is done. `listed` names the records when only some of first..last are meant.
    `attempts` invocations of exactly this batch have begun; `running`: the outcome of the last of them is not known.
    `not_before`: epoch seconds.
    """

    strand: int
    first: int
    last: int
    end: int
    attempts: int
    running: bool = False
    not_before: float = 0.0
    listed: tuple[int, ...] | None = None

    def holds(self, token: int) -> bool:
        """Whether the record at `token`, known to be of this strand, is under retry."""
        return self.first <= token <= self.last and (self.listed is None or token in self.listed)

    def but(self, **changes: Any) -> Span:
        """The same, with these fields changed."""
        return msgspec.structs.replace(self, **changes)


Closing: TypeAlias = Literal["", "over", "early"]
"""Whether a window is open; it has ended; or it ends before its time, because its state is too large."""


@dataclass(frozen=True, slots=True)
class Window:
    """A tumbling window of a lane, from `start` up to `end`: epoch seconds.

    `first`: the token of its first record. `state`: the number that its state has in `States`; 0: nothing was returned yet, it is `{}`.
    Unless `closing` is "", no record joins it any more, and its final invocation is due, of which `attempts`, `running` and `not_before`
    say what they say of a span.
    """

    start: int
    end: int
    first: int
    state: int = 0
    closing: Closing = ""
    attempts: int = 0
    running: bool = False
    not_before: float = 0.0


class Fetched(msgspec.Struct, frozen=True):
    """What one `fetch` brought: records, and what goes on from an earlier life, each span with exactly its records.

    A span is run as one batch, before any of `records` of its strand.
    """

    records: Sequence[Record]
    resumed: Sequence[tuple[Span, Sequence[Record]]] = ()


# --- who owns what --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LaneKey:
    """Where a lane's progress and lease live: mapping id, source identity, lane name."""

    mapping: str
    source: str
    lane: str


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to a lane. `counter` grows with every change of owner: the fencing token that a save presents."""

    key: LaneKey
    owner: str
    counter: int


@dataclass(frozen=True, slots=True)
class Holding:
    """Who has a lane: `owner` while the lease is valid, and who asked for it (`Leases.claim`); "" for nobody."""

    lane: str
    owner: str = ""
    wanted: str = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a lane tells of itself for `status`. `position` and `first` are for a person; `head`: the first span under retry, which begins
    at `first`. None: not known."""

    position: str = ""
    owner: str = ""
    head: Span | None = None
    lag_records: int | None = None
    lag_seconds: float | None = None
    first: str = ""


Identifier: TypeAlias = Hashable
"""What `itemIdentifier` names, in a form that compares: a string, or the sorted pairs of an object (Kafka)."""

Document: TypeAlias = Mapping[str, Any]
