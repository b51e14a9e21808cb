"""The keys of the file, table by table: names, types, defaults, a sentence each. `reference.py` prints them, `tables.py` checks them.

A default of None means that it depends: the `default` in `extra` says on what. `unit` marks strings that are durations or sizes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct

DEFAULT_LISTEN = "127.0.0.1:8780"
DEFAULT_STORE = ".poller/poller.db"

Defaults: TypeAlias = Literal["safe", "aws"]
Positive: TypeAlias = Annotated[int, Meta(ge=1)]


class PollerTable(Struct, frozen=True, kw_only=True):
    """The daemon itself."""

    store: Annotated[
        str | None,
        Meta(
            description="Where checkpoints, leases and the journal live: `sqlite:` and a path (relative to this file); a "
            "`postgresql://` URL, for a fleet; or `memory:`, which forgets everything when the process ends. May be a reference: "
            "`env:NAME`, `file:/path`. Local sources keep their data in the folder of the file, or in `.poller` beside this one.",
            extra={"default": f"`sqlite:{DEFAULT_STORE}`"},
        ),
    ] = None
    leases: Annotated[
        str | None,
        Meta(
            description="Where checkpoints and leases live, if not in the store: a URL as for `store`, or `dynamodb://TABLE`, a table of "
            "the Kinesis Client Library.",
            extra={"default": "the store"},
        ),
    ] = None
    journal: Annotated[
        str | None,
        Meta(description="Where failures are kept, if not in the store: a URL as for `store`.", extra={"default": "the store"}),
    ] = None
    listen: Annotated[str, Meta(description="Host and port of health and metrics.")] = DEFAULT_LISTEN
    defaults: Annotated[
        Defaults,
        Meta(
            description="The policy where a mapping says nothing: `safe` (10 retries, bisect on) or `aws` (AWS's own: retries for ever; "
            "and AWS's own limits are errors)."
        ),
    ] = "safe"
    journal_retention: Annotated[
        str | None,
        Meta(
            description="How long the journal keeps a failure to which nothing happens any more. What was replayed or dropped goes "
            "silently; what was not is given up for good, which is logged, and counted in the metrics.",
            extra={"unit": "duration", "default": "for ever"},
        ),
    ] = None
    journal_maximum_size: Annotated[
        str | None,
        Meta(
            description="How large the journal may get, about: above it what was replayed or dropped is removed, the oldest first; and "
            "never what is still to be replayed.",
            extra={"unit": "size", "default": "no limit"},
        ),
    ] = None
    shutdown_grace: Annotated[
        str,
        Meta(
            description="How long a stop waits for running invocations; then they are ended and tried again later.",
            extra={"unit": "duration"},
        ),
    ] = "25s"
    workers: Annotated[
        Positive | Literal["auto"],
        Meta(
            description="How many processes do the work, each on a core of its own; `auto`: the CPUs that this process may use. Limits are "
            "those of all together."
        ),
    ] = 1
    log: Annotated[Literal["auto", "text", "json"], Meta(description="The form of log lines; `auto` is text at a terminal, else JSON.")] = (
        "auto"
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="The least severe lines that are logged.")] = "info"


class FunctionTable(Struct, frozen=True, kw_only=True):
    """One function: an ordinary Lambda function, by name."""

    handler: Annotated[str, Meta(description="What to call: `file.py:name`, or Lambda's own `module.name`.")]
    code: Annotated[
        str | None,
        Meta(
            description="The folder of the code: the task root, and first on the function's path.",
            extra={"default": "the folder of this file"},
        ),
    ] = None
    timeout: Annotated[str, Meta(description="When an invocation is ended and counts as failed.", extra={"unit": "duration"})] = "3s"
    memory: Annotated[
        str | None, Meta(description="How much memory one environment may use.", extra={"unit": "size", "default": "no limit"})
    ] = None
    concurrency: Annotated[
        Positive | None,
        Meta(
            description="The most invocations at once, over all mappings.",
            extra={"default": "2 x CPUs; 64 with `inline`"},
        ),
    ] = None
    environment: Annotated[
        dict[str, str],
        Meta(
            description="The function's environment variables, besides Lambda's own; the daemon's are never passed on. Values may be "
            "references: `env:NAME`, `file:/path`.",
            extra={"default": "`{}`"},
        ),
    ] = {}
    inline: Annotated[
        Literal["loop", "thread"] | None,
        Meta(
            description="Run in this process instead of one of its own: on the event loop, or in a thread.",
            extra={"default": "a process of its own"},
        ),
    ] = None
    python: Annotated[
        str | None,
        Meta(
            description="The interpreter of the function's process: a path to it, or to a virtual environment.",
            extra={"default": "the interpreter that runs poller"},
        ),
    ] = None
    type: Annotated[
        str | None,
        Meta(
            description="The kind of handler, one that is installed (`poller connectors`).",
            extra={"default": "`python`, or `inline` if that is set"},
        ),
    ] = None
    options: Annotated[
        dict[str, Any] | None,
        Meta(
            description="The options of an installed kind of handler; the kinds `python` and `inline` have none.", extra={"default": "`{}`"}
        ),
    ] = None


class BackoffTable(Struct, frozen=True, kw_only=True):
    """Exponential, with full jitter."""

    initial: Annotated[str, Meta(description="The longest wait after the first failure.", extra={"unit": "duration"})] = "1s"
    maximum: Annotated[str, Meta(description="The longest wait after any failure.", extra={"unit": "duration"})] = "60s"


class BreakerTable(Struct, frozen=True, kw_only=True):
    """What a mapping does while its function fails, whatever it is given: it waits, and probes with one batch from time to time."""

    initial: Annotated[str, Meta(description="The wait before the first probe.", extra={"unit": "duration"})] = "5s"
    maximum: Annotated[
        str, Meta(description="The longest wait between two probes; each is twice as long as the one before.", extra={"unit": "duration"})
    ] = "60s"
    patience: Annotated[
        str,
        Meta(
            description="For so long what fails while the breaker is open keeps its attempts; then they count again, at the probes' pace.",
            extra={"unit": "duration"},
        ),
    ] = "1h"


class ErrorTable(Struct, frozen=True, kw_only=True):
    """What to do about certain errors of the function; of several such tables the first that matches counts."""

    match: Annotated[
        str,
        Meta(
            description="Which errors: a glob (`*`, `?`, `[...]`) over the error's type, such as `ValidationError*`; over `type: message` "
            'if it holds ": ".',
            min_length=1,
        ),
    ]
    action: Annotated[
        Literal["discard", "park", "retry", "pause"],
        Meta(
            description="`discard`: given up at once, to the journal and `on_failure`; where failed batches are split, the record is found "
            "first. `park`: the same, and later records of its key are parked behind it (`on_failure_order`). `retry`: tried again, as the "
            "keys below say. `pause`: the mapping is paused, until `poller resume`."
        ),
    ]
    maximum_retry_attempts: Annotated[
        Annotated[int, Meta(ge=-1)] | None,
        Meta(description="Streams, with `retry`: as the mapping's, for these errors.", extra={"default": "the mapping's"}),
    ] = None
    maximum_receive_count: Annotated[
        Positive | None,
        Meta(
            description="Queues, with `retry`: as the mapping's, for these errors; it cannot be above that.",
            extra={"default": "the mapping's"},
        ),
    ] = None
    bisect_batch_on_function_error: Annotated[
        bool | Literal["key"] | None,
        Meta(description="Streams, not with `pause`: as the mapping's, for these errors.", extra={"default": "the mapping's"}),
    ] = None
    retry_backoff: Annotated[
        BackoffTable | None,
        Meta(description="With `retry`: as the mapping's, for these errors.", extra={"default": "the mapping's"}),
    ] = None


class MappingTable(Struct, frozen=True, kw_only=True):
    """One event source mapping. Its source is the table `[mappings.NAME.source]`: `type`, and the options of that type."""

    function: Annotated[str, Meta(description="The function to invoke: the name of a `[functions.NAME]` table.")]
    source: Annotated[dict[str, Any], Meta(description="What to poll: `type` and the options of that type.")]
    id: Annotated[
        str | None,
        Meta(
            description="What progress and failures are kept under; set it to rename a mapping without losing its place.",
            extra={"default": "the mapping's name"},
        ),
    ] = None
    enabled: Annotated[bool, Meta(description="`false` pauses the mapping; its place is kept.")] = True
    defaults: Annotated[
        Defaults | None, Meta(description="As `defaults` of `[poller]`, for this mapping.", extra={"default": "as in `[poller]`"})
    ] = None
    batch_size: Annotated[
        Positive | None,
        Meta(description="The most records of one invocation, up to 10,000 (FIFO queues: 10).", extra={"default": "the source's"}),
    ] = None
    maximum_batching_window: Annotated[
        str | None,
        Meta(
            description="How long a batch may wait for more records, from its first one on, up to 300 s; not for FIFO queues.",
            extra={"unit": "duration", "default": "the source's, mostly `0s`"},
        ),
    ] = None
    function_response_types: Annotated[
        list[Literal["ReportBatchItemFailures"]],
        Meta(description='`["ReportBatchItemFailures"]`: the function names the records that failed.', extra={"default": "`[]`"}),
    ] = []
    redact: Annotated[
        list[str],
        Meta(
            description="Paths to what is hidden of a record where it is shown, exported, or sent to a destination, such as "
            "`body.card.number`: keys of the record's element in the event, data decoded; `*` is any key. Paths that begin with "
            "`responsePayload` hide what the function returned. Replays run the whole record.",
            extra={"default": "`[]`: nothing"},
        ),
    ] = []
    filters: Annotated[
        list[str | dict[str, Any]],
        Meta(
            description="Patterns in EventBridge's language, as JSON text or as tables. A record that matches none is not handed to the "
            "function: queues delete it, streams pass it over; it is counted, and kept nowhere.",
            extra={"default": "`[]`: everything"},
        ),
    ] = []
    log_filtered: Annotated[
        Positive | None,
        Meta(
            description="Of so many records that match no filter the log names one, by its id alone; 1 names all.",
            extra={"default": "they are counted only"},
        ),
    ] = None
    maximum_retry_attempts: Annotated[
        Annotated[int, Meta(ge=-1)] | None,
        Meta(
            description="Streams: how often a failed batch is tried again; -1 is for ever.",
            extra={"default": "10; -1 under `aws`"},
        ),
    ] = None
    bisect_batch_on_function_error: Annotated[
        bool | Literal["key"] | None,
        Meta(
            description="Streams: split a failed batch in two until the bad record stands alone. `key`: so that the records of a key stay "
            "together, where they can. An error that names a record (`record_index`) is split there.",
            extra={"default": "true; false under `aws`"},
        ),
    ] = None
    maximum_record_age: Annotated[
        str | Literal[-1] | None,
        Meta(
            description="Streams: how old a record may be and still be tried; -1 is any age.",
            extra={"unit": "duration", "default": "-1: as long as the source keeps records"},
        ),
    ] = None
    parallelization_factor: Annotated[
        Positive | None,
        Meta(description="Streams: batches at once in a shard or partition; records of one key stay in order.", extra={"default": "1"}),
    ] = None
    tumbling_window: Annotated[
        str | None,
        Meta(
            description="Streams of Kinesis's and DynamoDB's kind: how long a tumbling window is, whole seconds up to 900 s. Each batch is "
            "given the state of its window, and every response must have a `state`; `0s` is none.",
            extra={"unit": "duration", "default": "none"},
        ),
    ] = None
    maximum_concurrency: Annotated[
        Positive | None,
        Meta(description="Queues: the most batches of this mapping at once.", extra={"default": "the function's `concurrency`"}),
    ] = None
    maximum_receive_count: Annotated[
        Positive | None,
        Meta(
            description="Queues: how often a message may be received before it is kept as a failure.",
            extra={"default": "10 where the queue has no redrive policy; none under `aws`"},
        ),
    ] = None
    on_failure: Annotated[
        str | dict[str, Any] | list[str | dict[str, Any]],
        Meta(
            description="Where batches that were given up are sent: a URL or an ARN, a table `{ to = ... }` with the options of its kind, "
            "or a list of these. The journal keeps them all the same. An address may be `env:NAME`.",
            extra={"default": "`[]`: nowhere"},
        ),
    ] = []
    on_success: Annotated[
        str | dict[str, Any] | list[str | dict[str, Any]],
        Meta(
            description="Where batches that were handled are sent, with what the function returned; as `on_failure`. It costs one durable "
            "write a batch.",
            extra={"default": "`[]`: nowhere"},
        ),
    ] = []
    on_failure_order: Annotated[
        Literal["park"] | None,
        Meta(
            description="Streams and FIFO queues: `park` keeps the order of a key when a record of it was given up. Later records of that "
            "key (partition key, item key, message group) are not run: they go to the journal behind it, in order, as rows in state "
            "`parked`, and each is released when the one before it was replayed or dropped (`poller replay`). Other keys, and records "
            "without a key, go on. What an error rule discards, and what a queue itself moves to its dead-letter queue, holds nothing: "
            "on a FIFO queue set `maximum_receive_count` to at most the queue's own. What is parked goes to no destination.",
            extra={"default": "none: records behind a failure run"},
        ),
    ] = None
    maximum_parked_keys: Annotated[
        Positive,
        Meta(
            description="The most keys that failures may hold. With more, the lane waits before it gives up what fails: `poller status` "
            "says so, and it goes on when failures were replayed or dropped."
        ),
    ] = 10_000
    idempotency_window: Annotated[
        str | None,
        Meta(
            description="For so long a record that was acknowledged is not handed to the function again: not after a crash, and not when a "
            "queue delivers it once more. It costs a look-up and a durable write a batch, in the store.",
            extra={"unit": "duration", "default": "none"},
        ),
    ] = None
    idempotency_maximum_records: Annotated[
        Positive | None,
        Meta(
            description="How many records the window remembers at most, about: they are counted once a minute, and those that would be "
            "forgotten first go.",
            extra={"default": "1,000,000"},
        ),
    ] = None
    aws_exact: Annotated[
        bool | None,
        Meta(
            description="What is sent to destinations is AWS's invocation record to the letter: without payload and error where AWS has "
            "none.",
            extra={"default": "false; true under `aws`"},
        ),
    ] = None
    circuit_breaker: Annotated[
        bool | BreakerTable | None,
        Meta(
            description="Stop reading while it is the function that fails, not a record: 5 batches in a row, or half of the last 20, with "
            "one error and no key in common. `true`, `false`, or a table `{ initial, maximum, patience }`.",
            extra={"default": "true; false under `aws`"},
        ),
    ] = None
    retry_backoff: Annotated[
        BackoffTable | None,
        Meta(
            description="How long a failed batch waits before it is tried again, `{ initial, maximum }`.",
            extra={"default": '`{ initial = "1s", maximum = "60s" }`; queues: the visibility timeout'},
        ),
    ] = None
    errors: Annotated[
        list[ErrorTable],
        Meta(
            description="What to do about certain errors: tables `[[mappings.NAME.errors]]`, of which the first that matches counts.",
            extra={"default": "`[]`: all errors alike"},
        ),
    ] = []
