"""What AWS sent to destinations, made again: whole records, key by key, from the failures of the same cases."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from connectors.dynamodb_streams import connector as dynamodb
from connectors.local import stream_connector
from poller.failures.invocation import key, record
from poller.failures.journal import Delivery, Entry, KeptRecord
from poller.testing.destinations import context
from tests.fidelity.cases import CASES, RUN, WITHOUT_CASES, Case, matches
from tests.fidelity.shapes import Likeness
from tests.fidelity.shards import MemoryStream
from tests.fidelity.test_streams import AGES, numbered, play, sent_in

pytestmark = WITHOUT_CASES

SENT = [
    case
    for case in CASES
    if any(matches(case["name"], RUN[group]) for group in ("responses", "exhausted", "partial", "age"))
    if list(sent_in(case.get("observed")))
]

MOMENT = re.compile(r"<timestamp:(.+)>")


def filling(case: Case) -> Callable[[MemoryStream], None]:
    ages = AGES.get(case["name"].rpartition("/")[2], [])

    def fill(stream: MemoryStream) -> None:
        for age in ages:
            stream.put({}, age=age)

    return fill if ages else numbered(case)


def change(kept: KeptRecord) -> KeptRecord:
    """The same as a record of a table, as DynamoDB Streams has it."""
    sequence = kept.id.partition(":")[2]
    change = {"ApproximateCreationDateTime": kept.arrival, "Keys": {"id": {"S": "1"}}, "SequenceNumber": sequence, "SizeBytes": 54}
    arn = "arn:aws:dynamodb:us-east-1:000000000000:table/orders/stream/2026-01-01T00:00:00.000"
    return replace(kept, json=json.dumps({"eventID": "1", "dynamodb": change, "eventSourceARN": arn}).encode())


def moments(sent: Any, ours: Any) -> list[tuple[str, str]]:
    """What stands where AWS has a time, with AWS's."""
    if isinstance(sent, dict):
        return [pair for name in sent for pair in moments(sent[name], ours[name])]
    found = MOMENT.fullmatch(sent) if isinstance(sent, str) else None
    return [(found[1], ours)] if found else []


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in SENT])
def test_a_record_is_as_on_aws(case: Case, tmp_path: Path) -> None:
    if case["expect"] == {"see": "observed"}:
        answer = case["observed"]["create_event_source_mapping_response"]
        parameters = {name: answer[name] for name in ("BatchSize", "MaximumRetryAttempts", "MaximumBatchingWindowInSeconds")}
        case = case | {"config": case["config"] | parameters, "input": {"items": 1, "should_fail": [0]}}
    (failure,) = play(case, tmp_path, filling(case)).failures
    describe: Callable[[Entry], dict[str, Any]] = stream_connector.describe
    if case["source_kind"] == "dynamodb":
        failure, describe = replace(failure, records=tuple(map(change, failure.records))), dynamodb.describe
    delivery = Delivery(1, failure.id, "anywhere", "failure", failure)
    to_s3 = case["name"].endswith("/s3")

    for sent in sent_in(case["observed"]):
        told = record(delivery, context(describe, exact=True), carried=to_s3)
        ours = json.loads(told)
        if to_s3:
            # What is in it is compared in test_streams.py; the recorder parsed it, and sorted its keys.
            assert json.loads(ours["payload"])["Records"]
            assert isinstance(sent["payload"]["Records"], list)
            sent = sent | {"payload": "<payload>"}
            assert re.fullmatch(
                rf"aws/lambda/[\w-]+/{failure.lane}/\d{{4}}/\d\d/\d\d/(\d{{4}}-\d\d-\d\dT\d\d\.\d\d\.\d\d)-[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}",
                key(delivery, "m"),
            )
            assert ours["timestamp"][:19].replace(":", ".") in key(delivery, "m")
        else:
            assert list(ours) == list(sent), "in AWS's order too"
            assert [list(ours[name]) for name in sent if isinstance(sent[name], dict)] == [
                list(each) for each in sent.values() if isinstance(each, dict)
            ]
        if case["name"].endswith("expires-while-retrying"):
            assert ours["requestContext"].pop("approximateInvokeCount") == failure.attempts > 1
            sent["requestContext"].pop("approximateInvokeCount")
        assert Likeness().differences(sent, ours) == []
        for theirs, mine in moments(sent, ours):
            assert re.sub(r"\d", "0", mine) == re.sub(r"\d", "0", theirs), "with milliseconds where AWS has them"


def test_all_that_was_sent_is_looked_at() -> None:
    assert len(SENT) == 24
