"""What the configuration decides, as plain values: what connectors, policies and runners are made from. Pure.

Durations are seconds, sizes are bytes. `poller.config` fills these in from TOML; nothing else reads TOML. What is never `replace`d is a
Struct: a dataclass is made of source that Python compiles at each start.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import msgspec

from poller.quotas import MAXIMUM_EVENT_BYTES

if TYPE_CHECKING:
    from poller.failures.journal import Delivery, Entry
    from poller.failures.protocols import Destination
    from poller.model import Response
    from poller.protocols import Handler, Ledger, Policy, Source, Store


class Backoff(msgspec.Struct, frozen=True):
    """Exponential with full jitter: the n-th wait is `dice * min(maximum, initial * 2 ** (n - 1))`."""

    initial: float = 1.0
    maximum: float = 60.0

    def delay(self, n: int, dice: float) -> float:
        """Seconds before the try after the n-th failure (n from 1); `dice` in [0, 1)."""
        return dice * min(self.maximum, self.initial * 2.0 ** min(n - 1, 60))


@dataclass(frozen=True, slots=True)
class Batching:
    """When a batch is cut: `size` records, `window` seconds after its first record (0: as soon as it can run), or `maximum_bytes`."""

    size: int
    window: float = 0.0
    maximum_bytes: int = MAXIMUM_EVENT_BYTES


Bisect: TypeAlias = bool | Literal["key"]
"""Whether a stream's batch that failed is divided, and how: False, in halves (True), or along keys (parts.py)."""


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """What is done about the errors that `match` (error_rules.py). None: as the mapping has it. `maximum_retry_attempts` (streams): -1 is
    for ever; `maximum_receive_count` (queues) only lowers the limit that there is; `bisect`: streams."""

    match: str
    action: Literal["discard", "retry", "pause", "park"]
    maximum_retry_attempts: int | None = None
    maximum_receive_count: int | None = None
    backoff: Backoff | None = None
    bisect: Bisect | None = None


@dataclass(frozen=True, slots=True)
class FailureSettings:
    """What the mapping says about failure. None means without limit (AWS's -1), or unset.

    Streams use maximum_retry_attempts, maximum_record_age, bisect and backoff. Queues use maximum_receive_count, and backoff only if the
    mapping sets it (`backoff_set`): else a failed message waits for its visibility timeout, as on AWS. Of `errors` the first that matches
    counts.
    """

    maximum_retry_attempts: int | None = 10
    maximum_record_age: float | None = None
    bisect: Bisect = True
    reporting: bool = False
    maximum_receive_count: int | None = None
    backoff: Backoff = Backoff()  # noqa: RUF009 (it is frozen)
    backoff_set: bool = False
    errors: tuple[ErrorRule, ...] = ()


class BreakerSettings(msgspec.Struct, frozen=True):
    """The circuit breaker of a mapping (breaker.py). Seconds: `initial` until the first probe, then twice as long each time, up to
    `maximum`; what fails while it is open keeps its attempts for `patience`."""

    initial: float = 5.0
    maximum: float = 60.0
    patience: float = 3600.0


class IdempotencySettings(msgspec.Struct, frozen=True):
    """The idempotency window of a mapping (idempotency.py): seconds, and how many records are remembered at most, about."""

    window: float
    maximum_records: int = 1_000_000


class Filterable(msgspec.Struct, frozen=True):
    """What filters may look at in the records of a source (AWS Lambda guide: "Control which events Lambda sends to your function").

    `keys`: top-level keys of what `Format.documents` makes. `data`: the one that holds what the producer wrote. `text`: whether a pattern
    may ask for plain text there (`{"body": ["hello"]}`), not only for JSON (`{"body": {"kind": ["order"]}}`). `mismatch`: what a pattern
    for one means where the data is the other, or neither: "drop": no match; "ignore": what it says of the other keys decides.

    In the event the data stands at `inside`, below each record (empty: at `data`): as text, as base64, or as part of the event's own JSON.
    """

    keys: tuple[str, ...]
    data: str
    text: bool = True
    mismatch: Literal["drop", "ignore"] = "drop"
    inside: tuple[str, ...] = ()
    encoding: Literal["text", "base64", "json"] = "text"


class FilterSettings(msgspec.Struct, frozen=True):
    """The filters of a mapping: a record goes on if any pattern matches. `patterns`: JSON texts, valid ones, at least one.

    `logged`: of so many filtered records one is named in the log; 0: none.
    """

    patterns: tuple[str, ...]
    over: Filterable
    logged: int = 0


class RedactionSettings(msgspec.Struct, frozen=True):
    """What is hidden of the records of a mapping (redaction.py): paths of keys, from the record's element of the event, its data decoded as
    `over` says, or from what the function returned."""

    paths: tuple[tuple[str, ...], ...]
    over: Filterable | None = None


@dataclass(frozen=True, slots=True)
class MappingSettings:
    """One mapping. `width`: the most batches at once (queues: maximum_concurrency; streams: parallelization_factor, a lane).

    `tumbling_window`: whole seconds; 0: none (windows.py). `on_failure`, `on_success`: names of destinations, as the file has them.
    `aws_exact`: what is sent there is AWS's to the letter. `breaker` None: without a circuit breaker. `idempotency` None: without
    an idempotency window. `on_failure_order` "park": what fails for good holds its keys (parking.py), of which at most
    `maximum_parked_keys` are held.
    """

    id: str
    name: str
    function: str
    batching: Batching
    failure: FailureSettings
    width: int
    safe: bool = True
    filters: FilterSettings | None = None
    tumbling_window: int = 0
    on_failure: tuple[str, ...] = ()
    on_success: tuple[str, ...] = ()
    aws_exact: bool = False
    breaker: BreakerSettings | None = None
    redaction: RedactionSettings | None = None
    idempotency: IdempotencySettings | None = None
    on_failure_order: Literal["", "park"] = ""
    maximum_parked_keys: int = 10_000

    @property
    def parks(self) -> bool:
        """Whether a failure may hold its keys: any, or what an error rule says so of."""
        return self.on_failure_order == "park" or any(rule.action == "park" for rule in self.failure.errors)


@dataclass(frozen=True, slots=True)
class Traits:
    """What a kind of source, with these options, allows; `poller.config` turns it into errors and defaults.

    `maximum_batching_window` 0: none allowed. `filterable` None: the source's records cannot be filtered. `identity`: what is polled,
    however the options spell it; equal only where it is the same for certain, "" where the options do not tell. `visibility` (queues):
    seconds until a failed record comes again. `assumed`: what `visibility` and `Connector.policy` take for granted, because only the open
    source knows: sentences for a person. `tumbling`: its records may be put into tumbling windows; its format has an `arn` then
    (windows.py: Addressed). `local`: its data are kept in `Context.state`, so on this host only. `refused_by_aws`: what AWS would not take
    of these options, sentences that begin with the key they are about; errors under `defaults = "aws"`, as is a parallelization factor
    above `aws_parallelization_factor`.
    """

    kind: Literal["queue", "stream"]
    default_batch_size: int
    maximum_batch_size: int = 10_000
    maximum_batching_window: float = 300.0
    default_batching_window: float = 0.0
    fifo: bool = False
    filterable: Filterable | None = None
    identity: str = ""
    tumbling: bool = False
    visibility: float = 30.0
    assumed: tuple[str, ...] = ()
    refused_by_aws: tuple[str, ...] = ()
    aws_parallelization_factor: int = 10
    local: bool = False


@dataclass(slots=True)
class Tally:
    """What only a source can count: `rebalances`, how often its group has shared its lanes anew, and `expired`, records (or positions,
    where it cannot tell them apart) that the source's retention removed before they were read."""

    rebalances: int = 0
    expired: int = 0


@dataclass(frozen=True, slots=True)
class Context:
    """What a source is opened with. `owner` names this worker; `clock` is epoch seconds; `base` is the configuration's folder;
    `state` is the folder of the store, where local sources keep their data. The source adds to `tally`. `worker`: which of its daemon's
    workers this is, from 1; 0: the only one."""

    mapping: MappingSettings
    store: Store
    owner: str
    clock: Callable[[], float]
    base: Path
    state: Path
    checkpoint_interval: float = 1.0
    tally: Tally = field(default_factory=Tally)
    worker: int = 0


class Finding(msgspec.Struct, frozen=True):
    """What `check --live` found: `level` "error" keeps the mapping from working; `text` says what, where and what to do."""

    level: Literal["ok", "warning", "error"]
    text: str


class Connector(Protocol):
    """What the entry point group `poller.connectors` names: an object (usually a module's instance) that knows one kind of source.

    Importing it must not import a vendor's library; `open` and `probe` may.
    """

    options: type[msgspec.Struct]
    """The keys of `[mappings.X.source]` besides `type`; unknown keys are errors; durations and sizes are plain `str` fields that the
    connector reads with `poller.units`, secrets are resolved before it sees them."""

    def traits(self, options: Any) -> Traits:
        """Raises ConfigError for options that contradict each other."""

    def policy(self, options: Any, settings: MappingSettings) -> Policy:
        """What a source with these options does about failure, as far as options tell. Pure, and the only place that knows: `open` fills
        in what it had to ask for (`Traits.assumed`), and nothing else; `explain` shows it, and replays take their meaning from it."""

    async def open(self, options: Any, context: Context) -> Source:
        """Raises NotConnected (the engine tries again) or SourceError (it never will). `Source.aclose` closes all that this opens."""

    async def probe(self, options: Any, context: Context, timeout: float) -> list[Finding]:
        """For `check --live`: does it exist, may we read it, does its visibility timeout fit the function's `timeout`?"""


class StoreKind(Protocol):
    """What the entry point group `poller.stores` names, by the scheme of a store's URL. Importing it must not import a vendor's library.

    `base`: where relative paths start, the configuration's folder. Both calls raise ConfigError for a URL that is none of this kind's,
    StoreError or StoreUnavailable when it cannot be used.
    """

    shared: bool
    """Whether workers on several hosts may use it."""

    def check(self, url: str, base: Path) -> None:
        """Raises ConfigError for a URL that `store` or `ledger` would refuse unseen. Connects to nothing."""

    async def ledger(self, url: str, base: Path) -> Ledger:
        """Checkpoints, states and leases (`[poller] leases`)."""

    async def store(self, url: str, base: Path) -> Store:
        """All of them and the journal (`[poller] store`, `[poller] journal`). Raises ConfigError where it keeps no journal."""


class DestinationTraits(msgspec.Struct, frozen=True):
    """What a destination is, as far as its address and options tell. `identity`: what is sent to, equal to `Traits.identity` of a source
    that reads the same thing; "" where they do not tell. `maximum_bytes`: the largest body it takes; None: any. `seconds`: after so long a
    send has failed; None: it ends by itself. `shown`: what stands for an address that may hold a secret, in logs and on pages: another one
    for another address; "": the address itself."""

    identity: str = ""
    maximum_bytes: int | None = None
    seconds: float | None = 60.0
    shown: str = ""


@dataclass(frozen=True, slots=True)
class DestinationContext:
    """What a destination is opened with. `mapping` is the mapping whose batches are sent; `state` and `base` as in `Context`. `exact`:
    bodies as AWS's to the letter, without payload and error where AWS has none. `spill` sends a delivery to the destination of the mapping
    that takes bodies of any size (`Placing`), and gives its place there; None if there is none. `invoke` runs one of the configured
    functions, by name: for a destination that is a function. `describe` is the connector's (`Describing`), or makes nothing."""

    mapping: MappingSettings
    base: Path
    state: Path
    clock: Callable[[], float]
    invoke: Callable[[str, bytes], Awaitable[Response]]
    describe: Callable[[Entry], dict[str, Any]]
    exact: bool = False
    spill: Callable[[Delivery], Awaitable[str]] | None = None


class DestinationKind(Protocol):
    """What the entry point group `poller.destinations` names, by the scheme of a destination's address: that of a URL, or the service of
    an ARN (`arn:aws:sqs:...`: `sqs`). Importing it must not import a vendor's library; `open` and `probe` may."""

    options: type[msgspec.Struct]
    """What a destination's table may say besides `to`, as `Connector.options`."""

    def traits(self, to: str, options: Any) -> DestinationTraits:
        """Raises ConfigError for an address that is none of this kind's, or options that contradict each other. Connects to nothing."""

    async def open(self, to: str, options: Any, context: DestinationContext) -> Destination:
        """Raises NotConnected (the engine tries again)."""

    async def probe(self, to: str, options: Any, context: DestinationContext) -> list[Finding]:
        """For `check --live`: does it exist, may we send to it? Sends nothing."""


class Surroundings(msgspec.Struct, frozen=True):
    """What stands around a destination in the configuration: the options of the mapping's source, and the names of all functions."""

    source: Any
    functions: frozenset[str]


@runtime_checkable
class Surrounded(Protocol):
    """A kind of destination for which its surroundings matter: it takes from them what is not said of it, or must exist there."""

    def completed(self, to: str, options: Any, around: Surroundings) -> Any:
        """`options` with what they lack. Raises ConfigError, also where the destination is the mapping's own source. Pure."""


@runtime_checkable
class Describing(Protocol):
    """A connector whose source AWS describes in an invocation record (KinesisBatchInfo, DDBStreamBatchInfo, KafkaBatchInfo)."""

    def describe(self, entry: Entry) -> dict[str, Any]:
        """The one key and its value, made from the entry alone, for the mapping may be gone. Pure."""


@dataclass(frozen=True, slots=True)
class FunctionSettings:
    """One function. `handler` is `file.py:name` or Lambda's `module.name`; `code` is the task root. `memory` in bytes.

    `python` is the interpreter for a process of its own: a path to it or to a virtual environment; None is this one.
    `environment` holds what the configuration gave, secrets resolved; the daemon's own environment is never passed on.
    """

    name: str
    handler: str
    code: Path
    timeout: float = 3.0
    memory: int | None = None
    concurrency: int = 1
    environment: tuple[tuple[str, str], ...] = ()
    inline: Literal["loop", "thread"] | None = None
    python: str | None = None
    options: tuple[tuple[str, Any], ...] = ()


class HandlerKind(Protocol):
    """What the entry point group `poller.handlers` names."""

    def __call__(self, settings: FunctionSettings, log: FunctionLog) -> Handler:
        """A handler for this function; nothing runs before its first `invoke`. Raises HandlerError when it can never work."""


class FunctionLog(Protocol):
    """Where a function's stdout and stderr go, a line a call, with the request id that was running ("" when none was)."""

    def __call__(self, function: str, request_id: str, line: str) -> None: ...
