"""The event source mappings that were recorded on AWS, as data, and what becomes of each recording.

A case belongs to a group that a test runs, or there is a reason why nothing of it is there yet: `tests/unit/test_recorded_cases.py` holds
that there is no third way. FIDELITY.md tells the same by behaviour.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeAlias

import pytest

Case: TypeAlias = dict[str, Any]

FOLDER = Path(folder) if (folder := os.environ.get("POLLER_CASES")) else None
CASES: list[Case] = [] if FOLDER is None else json.loads((FOLDER / "esm-observed-on-aws.json").read_text())["cases"]
SAMPLES: dict[str, Any] = {} if FOLDER is None else json.loads((FOLDER / "powertools-events.json").read_text())["events"]
"""Whole events, as unmodified handlers read them."""

WITHOUT_CASES = pytest.mark.skipif(not CASES, reason="POLLER_CASES does not name the folder of the recorded cases")

RUN = {
    # tests/unit: what a configuration may say.
    "defaults": ("sqs/create/defaults", "kinesis/create/defaults"),
    "defaults of Kafka": ("api/create_event_source_self_managed/event-source-mapping-*",),
    "refused": ("sqs/create/batch-size-11-without-window", "sqs/update/batch-size-11-without-window"),
    "refused filters": ("*/create/invalid-filter/*",),
    "no filters": ("api/create_event_filter_criteria_validation/response-with-empty-filters",),
    "refused starting positions": ("api/create_event_source_validation*/invalid_starting_position",),
    "incomplete": (
        "api/event_source_mapping_exceptions/create_no_event_source_arn",
        "api/event_source_mapping_exceptions/create_unknown_params",
    ),
    "refused destinations": ("api/event_source_mapping_exceptions/destination_config_failure",),
    "twice": ("*/create/duplicate", "api/create_event_source_self_managed/*duplicate-source"),
    "otherwise here": (
        "api/create_event_source_validation*/no_starting_position",
        "api/create_event_source_self_managed/missing-source-access-configuration",
    ),
    # tests/fidelity: what was invoked, with what, and when. The queues' run on a virtual clock and on a real server.
    "messages": ("sqs/event/*",),
    "redelivered": ("sqs/retry/*", "sqs/redrive/*", "sqs/report-batch-item-failures/*"),
    "batched": ("sqs/batching/*",),
    "no queue": ("sqs/create/queue-missing",),
    "one group": ("sqs/fifo/one-group-is-serial",),
    "filtered messages": ("sqs/filter/*",),
    "responses": ("kinesis/response/*", "dynamodb/response/*", "kinesis/empty-response-body"),
    "partial": ("kinesis/report-batch-item-failures/*", "dynamodb/report-batch-item-failures/*"),
    "exhausted": ("kinesis/on-failure/*", "dynamodb/on-failure/*"),
    "age": ("kinesis/record-age/*",),
    "records": ("kinesis/create/defaults",),
    "serial": ("kinesis/order/serial-batches-per-shard",),
    "from the start": ("kinesis/start/trim-horizon",),
    "disabled": ("kinesis/disable",),
    "shared": ("kinesis/two-functions-one-stream",),
    "filtered records": ("kinesis/filter/*",),
    "filtered changes": ("dynamodb/filter/*",),
    "changes": ("dynamodb/event/*",),
    "no stream": ("kinesis/create/stream-missing", "dynamodb/create/stream-missing"),
    "no changes at a time": ("api/create_event_source_validation/incompatible_starting_position",),
}
"""Group -> patterns of its cases. DynamoDB's cases about retries, responses and filters run on a stream in memory: what they show is the
engine's. Of the cases with a destination the reason, counts, fault and payload are compared with the journal's row, and in
test_invocation_records.py the whole record with what is sent here."""

NOT_YET = {
    "dynamodb/disable-states": "states that AWS's API answers are not ours; what a disabled mapping does is kinesis/disable",
    "async-invoke/*": "there is no asynchronous invocation yet",
    "sqs/update/function-version": "functions have no versions yet",
    "api/function_name_variations/*": "functions have no versions, aliases and ARNs yet",
    "api/event_source_mapping_exceptions/*_unknown_uuid": "AWS's own API: mappings are tables of a file here, and have no UUID",
    "api/event_source_mapping_lifecycle*": "AWS's own API: its states and answers are not ours",
}
"""Pattern -> why nothing of these cases is there yet."""


def matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def cases_of(group: str) -> list[Case]:
    return [case for case in CASES if matches(case["name"], RUN[group])]


def recorded(group: str) -> pytest.MarkDecorator:
    """The test runs once for each case of the group."""
    return pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in cases_of(group)])
