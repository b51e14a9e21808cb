"""Which keys and limits hold on which kind of source, and under which defaults (aws-esm: Validation errors, Parameters)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

import pytest

from poller.config.rules import Case, breaches
from poller.config.schema import MappingTable
from poller.settings import Traits
from tests.unit.test_config_parts import (
    FIFO,
    QUEUE,
    STREAM,
    Complain,
    Read,
    mapping,
)

FOR_STREAMS = [
    ("maximum_retry_attempts = 3", "maximum_retry_attempts", "maximum_receive_count, or the queue's redrive policy"),
    (
        "bisect_batch_on_function_error = false",
        "bisect_batch_on_function_error",
        'function_response_types = ["ReportBatchItemFailures"]: a queue gives back single messages',
    ),
    ('maximum_record_age = "1h"', "maximum_record_age", "the queue's own retention, or maximum_receive_count"),
    ("parallelization_factor = 2", "parallelization_factor", "maximum_concurrency"),
]

FOR_QUEUES = [
    ("maximum_concurrency = 2", "maximum_concurrency", "parallelization_factor, or the function's concurrency"),
    ("maximum_receive_count = 2", "maximum_receive_count", "maximum_retry_attempts"),
]


@pytest.mark.parametrize(("line", "key", "instead"), FOR_STREAMS)
def test_a_key_for_streams_on_a_queue(complain: Complain, line: str, key: str, instead: str) -> None:
    assert complain(mapping(line)) == [
        f'poller.toml:4: [mappings.m.{key}] found a key for streams, and the source type "sqs" is a queue; allowed on a queue: {instead}'
    ]


@pytest.mark.parametrize(("line", "key", "instead"), FOR_QUEUES)
def test_a_key_for_queues_on_a_stream(complain: Complain, line: str, key: str, instead: str) -> None:
    assert complain(mapping(line, source=STREAM)) == [
        f'poller.toml:4: [mappings.m.{key}] found a key for queues, and the source type "local-stream" is a stream; '
        f"allowed on a stream: {instead}"
    ]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("batch_size = 11", ".batch_size] found 11; allowed 1 to 10 for a FIFO queue"),
        ('maximum_batching_window = "1s"', '.maximum_batching_window] found "1s"; allowed no window for a FIFO queue'),
    ],
)
@pytest.mark.parametrize("defaults", ["safe", "aws"])
def test_a_fifo_queue_is_limited_always(complain: Complain, line: str, sentence: str, defaults: str) -> None:
    assert complain(mapping(f'defaults = "{defaults}"', line, source=FIFO)) == [f"poller.toml:5: [mappings.m{sentence}"]


WHOLE = 'allowed whole seconds from "0s" (none) to "900s"'


@pytest.mark.parametrize(
    ("source", "lines", "problems"),
    [
        (STREAM, ['tumbling_window = "901s"'], [f'5: [mappings.m.tumbling_window] found "901s"; {WHOLE}; did you mean "900s"?']),
        (STREAM, ['tumbling_window = "1500ms"'], [f'5: [mappings.m.tumbling_window] found "1500ms"; {WHOLE}; did you mean "2s"?']),
        (
            STREAM,
            ['tumbling_window = "1m"', "parallelization_factor = 2"],
            [
                "6: [mappings.m.parallelization_factor] found 2 with a tumbling_window; allowed 1 with a tumbling_window: its state goes "
                "from batch to batch"
            ],
        ),
        (
            QUEUE,
            ['tumbling_window = "1m"'],
            [
                '5: [mappings.m.tumbling_window] found a key for streams, and the source type "sqs" is a queue; '
                "allowed on a queue: no tumbling window"
            ],
        ),
    ],
)
@pytest.mark.parametrize("defaults", ["safe", "aws"])
def test_tumbling_windows(complain: Complain, source: str, lines: list[str], problems: list[str], defaults: str) -> None:
    assert complain(mapping(f'defaults = "{defaults}"', *lines, source=source)) == [f"poller.toml:{problem}" for problem in problems]


@pytest.mark.parametrize("lines", [['tumbling_window = "0s"', "parallelization_factor = 2"], ['tumbling_window = "15m"']])
def test_tumbling_windows_that_are_allowed(read: Read, lines: list[str]) -> None:
    assert read(mapping(*lines, source=STREAM)).mappings["m"].settings.tumbling_window in {0, 900}


def test_a_source_without_tumbling_windows() -> None:
    table = MappingTable(function="f", source={}, tumbling_window="1m")
    case = Case(table, {}, "kafka", Traits("stream", 100), safe=True)
    assert [tuple(breach) for breach in breaches(case)] == [
        ("tumbling_window", '"1m"', 'no tumbling window for the source type "kafka"', None)
    ]


AWS = 'allowed under defaults = "aws":'


@pytest.mark.parametrize(
    ("source", "lines", "problems"),
    [
        # Recorded on AWS: "Maximum batch window in seconds must be greater than 0 if maximum batch size is greater than 10".
        (
            QUEUE,
            ["batch_size = 11"],
            [
                f"5: [mappings.m.batch_size] found 11 without a maximum_batching_window; {AWS} at most 10 on a queue, or "
                'maximum_batching_window = "1s" and more'
            ],
        ),
        (
            QUEUE,
            ["batch_size = 11", 'maximum_batching_window = "0s"'],
            [
                f"5: [mappings.m.batch_size] found 11 without a maximum_batching_window; {AWS} at most 10 on a queue, or "
                'maximum_batching_window = "1s" and more'
            ],
        ),
        (QUEUE, ["batch_size = 11", 'maximum_batching_window = "1s"'], []),
        (QUEUE, ["batch_size = 10"], []),
        (QUEUE, ["batch_size = 10000", 'maximum_batching_window = "10s"'], []),
        # Recorded on AWS: Kinesis and DynamoDB Streams accept 100 with 0, which is their own default.
        (STREAM, ["batch_size = 100"], []),
        (
            QUEUE,
            ['maximum_batching_window = "1500ms"'],
            [f'5: [mappings.m.maximum_batching_window] found "1500ms"; {AWS} whole seconds; did you mean "2s"?'],
        ),
        (
            QUEUE,
            ['maximum_batching_window = "200ms"'],
            [f'5: [mappings.m.maximum_batching_window] found "200ms"; {AWS} whole seconds; did you mean "1s"?'],
        ),
        (QUEUE, ["maximum_concurrency = 1"], [f"5: [mappings.m.maximum_concurrency] found 1; {AWS} 2 to 1000"]),
        (QUEUE, ["maximum_concurrency = 1001"], [f"5: [mappings.m.maximum_concurrency] found 1001; {AWS} 2 to 1000"]),
        (QUEUE, ["maximum_concurrency = 2"], []),
        (
            STREAM,
            ['maximum_record_age = "59s"'],
            [f'5: [mappings.m.maximum_record_age] found "59s"; {AWS} whole seconds from "60s" to "604800s" ("7d"), or -1'],
        ),
        (
            STREAM,
            ['maximum_record_age = "8d"'],
            [f'5: [mappings.m.maximum_record_age] found "8d"; {AWS} whole seconds from "60s" to "604800s" ("7d"), or -1'],
        ),
        (STREAM, ['maximum_record_age = "7d"'], []),
        (STREAM, ["maximum_record_age = -1"], []),
        (STREAM, ["maximum_retry_attempts = 10001"], [f"5: [mappings.m.maximum_retry_attempts] found 10001; {AWS} -1 to 10000"]),
        (STREAM, ["maximum_retry_attempts = 10000"], []),
        (STREAM, ["parallelization_factor = 11"], [f"5: [mappings.m.parallelization_factor] found 11; {AWS} 1 to 10"]),
        (STREAM, ["parallelization_factor = 10"], []),
        # Recorded on AWS: "Unsupported DestinationConfig parameter for given event source mapping type".
        (
            QUEUE,
            ['on_failure = "acme:a"'],
            [f"5: [mappings.m.on_failure] found a destination of a queue; {AWS} none: a queue names its dead-letter queue itself"],
        ),
        (STREAM, ['on_success = "acme:a"'], [f"5: [mappings.m.on_success] found a destination; {AWS} none"]),
        (STREAM, ['on_failure = ["acme:a", "acme:b"]'], [f"5: [mappings.m.on_failure] found 2 destinations; {AWS} one"]),
        (STREAM, ['on_failure = ["acme:a"]'], []),
        (QUEUE, ["on_failure = []"], []),
    ],
)
def test_the_limits_of_aws_hold_under_aws(read: Read, complain: Complain, source: str, lines: list[str], problems: list[str]) -> None:
    text = mapping('defaults = "aws"', *lines, source=source)
    if problems:
        assert complain(text) == [f"poller.toml:{problem}" for problem in problems]
    else:
        assert read(text).mappings["m"]
    # And under `safe` all of these are allowed.
    assert read(mapping('defaults = "safe"', *lines, source=source)).mappings["m"]


@pytest.mark.parametrize("safe", [True, False])
def test_a_fifo_queue_is_limited_even_if_its_connector_does_not_say_so(safe: bool) -> None:
    raw = {"batch_size": 11, "maximum_batching_window": "1s"}
    table = MappingTable(function="f", source={}, batch_size=11, maximum_batching_window="1s")
    lax = Traits("queue", default_batch_size=10, maximum_batch_size=50_000, maximum_batching_window=900.0, fifo=True)
    assert [breach.key for breach in breaches(Case(table, raw, "acme", lax, safe))] == ["batch_size", "maximum_batching_window"]


@pytest.mark.parametrize("kind", ["queue", "stream"])
def test_the_limits_that_protect_hold_whatever_a_connector_allows(kind: Literal["queue", "stream"]) -> None:
    table = MappingTable(function="f", source={}, batch_size=10_001, maximum_batching_window="301s")
    lax = Traits(kind, default_batch_size=10, maximum_batch_size=50_000, maximum_batching_window=900.0)
    assert [breach.allowed for breach in breaches(Case(table, {}, "acme", lax, safe=True))] == ["1 to 10000", '"0s" to "300s"']


# --- what was recorded on AWS, where the recordings are at hand --------------------------------------------------------------------

CASES = os.environ.get("POLLER_CASES") or None
NAMES = {
    "BatchSize": "batch_size = {}",
    "MaximumBatchingWindowInSeconds": 'maximum_batching_window = "{}s"',
    "MaximumRetryAttempts": "maximum_retry_attempts = {}",
    "BisectBatchOnFunctionError": "bisect_batch_on_function_error = {}",
    "ParallelizationFactor": "parallelization_factor = {}",
}


def recorded() -> list[Any]:
    """Mappings of queues and streams that AWS accepted or refused for their own parameters, not for a filter or a missing queue."""
    if CASES is None:
        return []
    cases = json.loads((Path(CASES) / "esm-observed-on-aws.json").read_text())["cases"]
    ours = [case for case in cases if case["source_kind"] in {"sqs", "kinesis", "dynamodb"} and NAMES.keys() & case["config"].keys()]
    return [case for case in ours if case["name"] != "sqs/create/queue-missing" and not case["name"].startswith("async-invoke/")]


@pytest.mark.skipif(CASES is None, reason="POLLER_CASES does not name the folder of the recorded cases")
@pytest.mark.parametrize("case", recorded(), ids=lambda case: case["name"])
def test_what_aws_accepted_is_accepted_and_what_it_refused_is_refused(read: Read, complain: Complain, case: dict[str, Any]) -> None:
    config = case["config"]
    lines = [form.format(json.dumps(config[key])) for key, form in NAMES.items() if key in config]
    if concurrency := config.get("ScalingConfig", {}).get("MaximumConcurrency"):
        lines.append(f"maximum_concurrency = {concurrency}")
    if age := config.get("MaximumRecordAgeInSeconds"):
        lines.append(f"maximum_record_age = {age}" if age == -1 else f'maximum_record_age = "{age}s"')
    fifo = config.get("queue", {}).get("FifoQueue")
    text = mapping('defaults = "aws"', *lines, source=STREAM if case["source_kind"] != "sqs" else FIFO if fifo else QUEUE)
    if case["expect"].get("http_status", 202) == 400:
        assert complain(text)
    else:
        made = read(text).mappings["m"].settings
        assert made.batching.size == config.get("BatchSize", made.batching.size)
        assert made.failure.maximum_retry_attempts == (None if (n := config.get("MaximumRetryAttempts", -1)) == -1 else n)


def test_a_tumbling_window_leaves_room_for_its_state(read: Read) -> None:
    windowed = read(mapping('tumbling_window = "2m"', source=STREAM)).mappings["m"].settings
    plain = read(mapping("", source=STREAM)).mappings["m"].settings
    assert (windowed.tumbling_window, plain.tumbling_window) == (120, 0)
    assert plain.batching.maximum_bytes - windowed.batching.maximum_bytes == 1_048_576
