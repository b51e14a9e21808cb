"""From the parameters of CreateEventSourceMapping to a configuration of ours, and what its mappings are made of.

`defaults = "aws"`: such a file means what its parameters mean on AWS. Times are in `second`s: on a real server a second of AWS's is less.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from poller.config import load
from poller.config.tree import Config
from poller.registry import Registry
from tests.fidelity.cases import Case

_PLAIN = {
    "BatchSize": "batch_size",
    "MaximumRetryAttempts": "maximum_retry_attempts",
    "ParallelizationFactor": "parallelization_factor",
    "BisectBatchOnFunctionError": "bisect_batch_on_function_error",
    "FunctionResponseTypes": "function_response_types",
}
_SECONDS = {"MaximumBatchingWindowInSeconds": "maximum_batching_window", "MaximumRecordAgeInSeconds": "maximum_record_age"}

STREAM = '{ type = "local-stream", name = "orders" }'
QUEUE = '{ type = "sqs", queue = "orders", region = "eu-central-1" }'

TOPIC = '{ type = "kafka", bootstrap_servers = ["kafka:1000"], topic = "topic" }'

KINDS = {"sqs": QUEUE, "kinesis": STREAM, "dynamodb": STREAM, "kafka": TOPIC, "any": QUEUE}
"""A source for each kind of AWS's, where only the configuration matters."""


def scaled(seconds: float, second: float) -> int:
    """SQS and AWS's windows know whole seconds, and 0 only as such."""
    return max(1, round(seconds * second)) if seconds else 0


def lines(parameters: dict[str, Any], second: float = 1.0) -> list[str]:
    """Keys of a mapping, as TOML."""
    found = [f"{ours} = {json.dumps(parameters[theirs])}" for theirs, ours in _PLAIN.items() if theirs in parameters]
    found += [f'{ours} = "{scaled(parameters[theirs], second)}s"' for theirs, ours in _SECONDS.items() if theirs in parameters]
    if concurrency := parameters.get("ScalingConfig", {}).get("MaximumConcurrency"):
        found.append(f"maximum_concurrency = {concurrency}")
    if filters := parameters.get("FilterCriteria", {}).get("Filters"):
        texts = [each if isinstance(each := one["Pattern"], str) else json.dumps(each) for one in filters]
        found.append(f"filters = {json.dumps(texts)}")
    return found


def mapping(parameters: dict[str, Any], source: str, name: str = "m", function: str = "f", second: float = 1.0) -> str:
    """The table of a mapping."""
    return "\n".join([f"[mappings.{name}]", f'function = "{function}"', f"source = {source}", *lines(parameters, second), ""])


def of(case: Case, source: str | None = None, second: float = 1.0) -> str:
    """The table of the case's one mapping, `m`."""
    return mapping(case["config"], source or KINDS[case["source_kind"]], second=second)


Configure = Callable[..., Config]
"""(table of a mapping, ...) -> the configuration with the functions `f` and `g`. Raises ConfigError."""


def configured(folder: Path, *tables: str, concurrency: int = 10) -> Config:
    """See `Configure`."""
    (folder / "app.py").write_text("def handle(event, context): ...\n")
    functions = [f'[functions.{name}]\nhandler = "app.py:handle"\nconcurrency = {concurrency}\n' for name in "fg"]
    (folder / "poller.toml").write_text("\n".join(['[poller]\ndefaults = "aws"\n', *functions, *tables]))
    return load(folder / "poller.toml", Registry(), {"PATH": os.defpath})
