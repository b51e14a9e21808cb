"""The seams of the engine. Each protocol has at most four methods; properties apart.

Times are epoch seconds where they outlive a process (`now` comes from `time.time`), monotonic loop time nowhere in these signatures.
Cancelling is always allowed unless a line says otherwise.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import asyncio

    from poller.failures.protocols import Journal, Outbox, Parking, Runs, Upkeep
    from poller.model import (
        Action,
        Batch,
        Call,
        Document,
        Fetched,
        Holding,
        Identifier,
        LaneKey,
        Lease,
        Outcome,
        Record,
        Response,
        Shown,
        Token,
    )
    from poller.progress import Progress
    from poller.strands import Strands


class Facts(Protocol):
    """Columns over the records of one slice, each built when asked for, in the records' order."""

    def tokens(self) -> Sequence[Token]:
        """Each record's place in its lane (`Token`)."""

    def arrivals(self) -> Sequence[float]:
        """When the source took each record: epoch seconds."""

    def sizes(self) -> Sequence[int]:
        """An upper bound of the bytes each record adds to the event's JSON; exact where one record alone is over the limit."""

    def keys(self) -> Sequence[bytes | None]:
        """What order is kept by: partition key, item key, message group; None where there is none."""


class Receipts(Facts, Protocol):
    """What a queue knows besides: how often each record was received, this time included."""

    def receives(self) -> Sequence[int]: ...


class Event(Protocol):
    """What a function is called with, built on demand, anew for each attempt: the mapping is the function's to change."""

    def json(self) -> bytes:
        """The event as JSON text."""

    def mapping(self) -> dict[str, Any]:
        """The event as fresh Python objects."""

    def identifiers(self) -> Sequence[Identifier]:
        """What a partial batch response may name, one a record."""

    def parts(self) -> tuple[bytes, Sequence[bytes], bytes]:
        """(head, one JSON text a record, tail): `head + b",".join(records) + tail` is the event."""


class Format(Protocol):
    """How a source's records look: pure, in bulk. A record is opaque to everyone else."""

    def facts(self, records: Sequence[Record]) -> Facts: ...

    def documents(self, records: Sequence[Record], keys: Collection[str]) -> Iterable[Document]:
        """What filters see, one a record, in order: of the record's top-level keys (`Filterable.keys`) those in `keys`, or more of them.

        Each is as in the event, but for `Filterable.data`, the key of what the producer wrote: that is `filtering.readable` of it, whatever
        the event makes of it. Called for every record of a mapping with filters, unless they take the data alone (DataFormat), and never
        for one without: build nothing else.
        """

    def event(self, records: Sequence[Record]) -> Event: ...

    def names(self, records: Sequence[Record]) -> Sequence[str]:
        """What makes each record itself, for good: messageId, `shard:sequence`, `topic-partition@offset`. For failures, logs and
        idempotency windows only."""


@runtime_checkable
class DataFormat(Format, Protocol):
    """Of records with data that producers write as they like. Filters look at nothing else, nearly always."""

    def data(self, records: Sequence[Record]) -> Sequence[bytes | str | None]:
        """What `documents` has under `Filterable.data`, as it was written: not yet `filtering.readable`."""


class Policy(Protocol):
    """What a source does about failure. Pure: the same arguments give the same actions. Laws: policy.py."""

    def screen(self, batch: Batch, now: float) -> tuple[Batch | None, tuple[Action, ...]]:
        """Before a call: what may still run, and what is done about the rest (too old, too large, received too often)."""

    def decide(self, batch: Batch, outcome: Outcome, now: float, dice: float) -> tuple[Action, ...]:
        """After a call: actions that cover every record of the batch exactly once. `dice` is in [0, 1)."""


class Guard(Protocol):
    """Keeps records of one lane, while it is open, from an invocation for a reason that is not the policy's. Each is asked in turn, for
    every batch. Strands of the lane ask at the same time; what has a key in common, never.

    Both may raise StoreUnavailable: the engine asks again, and nothing of the batch begins, or is settled, meanwhile.
    """

    async def admit(self, batch: Batch) -> tuple[Batch | None, tuple[Action, ...]]:
        """Before `Policy.screen`: what may still run, and what is done about the rest, as `screen` says it; () where all of it runs. An
        `Ack` is of records that need no invocation: it is not counted as handled."""

    async def settling(self, batch: Batch, actions: Sequence[Action]) -> None:
        """What was decided about a batch, before anything of it is journaled or settled. What this keeps is durable when it returns."""


class Lane(Protocol):
    """What is fetched from and settled as a unit. One task calls `fetch`; `begin` and `settle` may be called by several at once.

    State: open -> (leaving) -> closed; from any state -> lost. After `LaneLost` no call changes anything outside the process.
    """

    @property
    def name(self) -> str: ...
    @property
    def format(self) -> Format: ...
    @property
    def strands(self) -> Strands:
        """Made by the lane, filled by the runner: where the records are that were fetched and are not settled."""

    @property
    def leaving(self) -> asyncio.Future[float]:
        """Set to a deadline (loop time) when the lane must be given up."""

    async def fetch(self, limit: int) -> Fetched:
        """At most `limit` records; may be empty after a wait of its own. Raises LaneEnded, LaneLost, NotConnected.

        A queue's fetch is never cancelled (it would swallow messages): it must return within its long poll once `leaving` is set.
        """

    async def begin(self, batch: Batch) -> None:
        """Called before every invocation: the attempt is durable if it must be (progress.py). If this raises, nothing has begun.

        Raises LaneLost, StoreUnavailable, NotYet.
        """

    async def settle(self, batch: Batch, actions: Sequence[Action]) -> None:
        """Do what was decided about `batch`. A `Discard` is in the journal already and counts as done. Idempotent.

        Raises LaneLost; NotConnected: nothing may have been done, and the engine asks again.
        """

    async def aclose(self, broken: bool = False) -> None:
        """Give everything unsettled back at once, save progress as closed, drop the lease. Tolerated twice, and when lost.

        `broken`: the runner failed in a way that nobody foresaw, perhaps between a fetch and its strands. Nothing is saved then, so that
        what was fetched is read again from the last save.
        """


@runtime_checkable
class Visible(Protocol):
    """A lane that can tell more than its runner knows."""

    async def show(self, now: float) -> Shown:
        """Cheap: `status` and metrics ask for it. `now` is epoch seconds."""


@runtime_checkable
class Saving(Protocol):
    """A lane of which what was settled becomes durable only later, with a save."""

    async def save(self) -> None:
        """All that was settled is durable when it returns. Raises LaneLost, StoreUnavailable."""


@runtime_checkable
class Prompt(Protocol):
    """A lane that mostly needs no wait to begin and to settle."""

    def begin_now(self, batch: Batch) -> bool:
        """As `begin`, if that would not wait, or raise; False: nothing has begun, and `begin` is to be called."""

    def settle_now(self, batch: Batch, actions: Sequence[Action]) -> bool:
        """As `settle`, if that would not wait, or raise; False: nothing is settled, and `settle` is to be called."""


class Source(Protocol):
    """What a connector polls."""

    @property
    def policy(self) -> Policy: ...
    @property
    def identity(self) -> str:
        """What makes it the same source tomorrow: an ARN, cluster id + topic + group, a local path + name."""

    def lanes(self) -> AsyncIterator[Lane]:
        """Lanes as this worker is given them; ends when there never will be another. Raises NotConnected: the engine asks again; and
        SourceReplaced."""

    async def aclose(self) -> None: ...


class Handler(Protocol):
    """A way to run one function."""

    async def invoke(self, event: Event, call: Call) -> Response:
        """Run the function once. Never raises for the function's fault; cancelling ends the function (its attempt is handed back)."""

    async def aclose(self) -> None:
        """End every environment. Tolerated twice."""


class Next(NamedTuple):
    """What to run next; `pause`: everyone else on the loop first."""

    event: Event
    call: Call
    pause: bool


Following: TypeAlias = "Callable[[Response], Next | None]"
"""Told a response, says what is next, or None. It does not wait, and does not raise."""


@runtime_checkable
class Successive(Protocol):
    """A handler that can go from one invocation to the next without its caller, who waits meanwhile."""

    @property
    def suspends(self) -> bool:
        """Whether who calls it comes back only after everyone else on the loop has run."""

    async def run(self, event: Event, call: Call, following: Following) -> Response:
        """As `invoke`; or the response is told to `following` instead, which says what to run next, and so on: what is returned is of the
        last, whether `following` was told of it or not. Cancelled, or late, it asks no more."""


class Checkpoints(Protocol):
    """Where progress lives. Who changes it presents the lane's lease: LaneLost when that is stale, StoreUnavailable when not done."""

    async def load(self, key: LaneKey) -> Progress | None: ...

    async def save(self, lease: Lease, progress: Progress) -> None:
        """Durable when it returns."""

    async def forget(self, lease: Lease) -> None:
        """The lane has no progress any more; durable when it returns."""


class States(Protocol):
    """Values that are too large for a lane's progress, by number: written before the save that refers to them."""

    async def put(self, lease: Lease, number: int, value: bytes) -> None:
        """Durable, and whole, when it returns; a number that is there is replaced. Raises LaneLost, StoreUnavailable."""

    async def get(self, key: LaneKey, number: int) -> bytes | None: ...

    async def prune(self, lease: Lease, keep: Collection[int]) -> None:
        """Only these are kept. Raises LaneLost, StoreUnavailable."""


class Acknowledged(Protocol):
    """Names of records that were acknowledged, by mapping, each known until a time of its own: what an idempotency window remembers
    (idempotency.py). A name is 16 bytes, of which the first come from a time. Times are the callers'."""

    async def put(self, mapping: str, names: Sequence[bytes], now: float, until: float) -> None:
        """They are known until then. Durable, and all of them, when it returns; one that is known keeps the later time. Nothing is put
        where the mapping was forgotten at `now` or later: this was asked before, and comes late. Raises StoreUnavailable."""

    async def known(self, mapping: str, names: Sequence[bytes], now: float) -> Collection[bytes]:
        """Those of these that are known at `now`. Raises StoreUnavailable."""

    async def forget(self, mapping: str, now: float) -> None:
        """Nothing of the mapping is known any more; durable when it returns."""

    async def trim(self, now: float, most: Mapping[str, int]) -> int:
        """Remove what is over, of every mapping, and of those in `most` what they have above that, whose time ends first: in small
        transactions, so that nobody waits for long. How many names are gone."""


class Leases(Protocol):
    """Who owns what. A lease holds until `now + duration` of its last claim or renewal; the holder steps down on doubt."""

    async def claim(self, key: LaneKey, owner: str, now: float, duration: float, ask: bool = False) -> Lease | None:
        """The lease, if it was free, expired, or this owner's own; else None. Every claim makes `counter` grow, so that a save that was
        sent before, and arrives after it, is refused.

        `ask`: where another holds it, leave word that `owner` wants it (`Holding.wanted`; the last who asks is heard). Once dropped, it is
        kept for who asked, until `now + duration` of the asking; when it is had by who asked, the word is taken back. A lease whose time is
        over is kept for nobody: a lane whose owner crashed must be read."""

    async def renew(self, leases: Sequence[Lease], now: float, duration: float) -> Sequence[Lease]:
        """Those that were still valid and are now extended."""

    async def drop(self, lease: Lease) -> None:
        """Free it for others at once. Nothing happens if it is not ours any more."""

    async def held(self, mapping: str, source: str, now: float) -> Sequence[Holding]:
        """Every lane of this mapping and source that was ever claimed, or has progress, in any order: who has it now, and who wants it."""


class Ledger(Protocol):
    """What lanes are shared by: checkpoints, states and leases, always in one place, so that who saves can be checked."""

    @property
    def checkpoints(self) -> Checkpoints: ...
    @property
    def states(self) -> States: ...
    @property
    def leases(self) -> Leases: ...

    async def aclose(self) -> None: ...


@runtime_checkable
class Store(Ledger, Protocol):
    """A ledger and a journal; the journal may come from another place."""

    @property
    def journal(self) -> Journal: ...
    @property
    def parking(self) -> Parking: ...
    @property
    def outbox(self) -> Outbox: ...
    @property
    def runs(self) -> Runs: ...
    @property
    def upkeep(self) -> Upkeep: ...
    @property
    def acknowledged(self) -> Acknowledged: ...
