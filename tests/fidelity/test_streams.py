"""What AWS did with streams, done again: the real engine over a shard in memory, on a virtual clock."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from poller.failures.journal import Entry
from poller.settings import FilterSettings
from poller.testing.clock import run_virtually
from tests.fidelity.cases import WITHOUT_CASES, Case, recorded
from tests.fidelity.parameters import configured, of
from tests.fidelity.shapes import Likeness, events_in
from tests.fidelity.shards import CHANGE, SHARD, ChangeFormat, MemoryStream, changes
from tests.fidelity.stage import Recorder, Stage, answer_of, data

pytestmark = WITHOUT_CASES

QUIET = 300.0
"""Seconds after which none of these mappings has anything left to try."""


class Played:
    """A case's mapping over a shard of its own, until nothing happens any more: what was invoked, and what was given up."""

    def __init__(self, function: Recorder, failures: list[Entry], began: float) -> None:
        self.function, self.failures, self.began = function, failures, began

    @property
    def times(self) -> dict[str, int]:
        """How often each record was delivered, by its place in the shard."""
        numbers = [int(element["kinesis"]["sequenceNumber"]) - 1 for element in self.function.elements]
        return {str(number): numbers.count(number) for number in sorted(set(numbers))}


def play(case: Case, folder: Path, fill: Callable[[MemoryStream], None], sleep: float = 0.0) -> Played:
    """`fill` puts the records before the mapping begins."""

    async def main() -> Played:
        stream, stage = MemoryStream(), Stage(configured(folder, of(case)))
        function = Recorder(answer_of(case), sleep)
        fill(stream)
        began = asyncio.get_running_loop().time()
        stage.run(function, open_source=stream.open)
        await asyncio.sleep(QUIET)
        await stage.stop()
        return Played(function, [row.entry for row in await stage.rows()], began)

    return run_virtually(main())


def numbered(case: Case) -> Callable[[MemoryStream], None]:
    """The records of a case, and what its function reads in them."""
    given = case["input"]
    failing = given.get("should_fail", ())

    def fill(stream: MemoryStream) -> None:
        for number in range(given.get("records", given.get("items"))):
            stream.put({"should_fail": number in failing}, f"test_{number}")

    return fill


def sent_in(value: Any) -> Iterator[dict[str, Any]]:
    """Every record of an invocation that went to a destination."""
    if isinstance(value, dict):
        if "requestContext" in value:
            yield value
        else:
            for each in value.values():
                yield from sent_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from sent_in(each)


def check_failures(case: Case, played: Played, like: Likeness) -> None:
    """The journal has what went to the destination, but for its form; and nothing where nothing went."""
    told = [*sent_in(case["expect"]), *sent_in(case.get("observed"))]
    assert len(played.failures) == bool(told)
    for sent in told:
        (failure,) = played.failures
        context, response = sent["requestContext"], sent.get("responseContext")
        (batch,) = [sent[key] for key in sent if key.endswith("BatchInfo")]
        assert failure.reason == context["condition"]
        assert len(failure.records) == batch["batchSize"]
        if isinstance(batch["startSequenceNumber"], str) and "sequence-number" in batch["startSequenceNumber"]:
            ours = {"shardId": failure.lane, "startSequenceNumber": number(failure.first), "endSequenceNumber": number(failure.last)}
            assert like.differences({key: batch[key] for key in ours}, ours) == []
        if response is None:
            assert failure.reason == "RecordAgeExceeded", "the only one that tells nothing of the response"
            continue
        assert failure.attempts == context["approximateInvokeCount"]
        assert failure.fault is not None
        assert ("Unhandled" if failure.fault.unhandled else None) == response["functionError"]
        check_payload(case, failure, sent.get("payload"), played, like)


def number(name: str) -> str:
    """`shard:sequence` -> sequence."""
    return name.removeprefix(f"{SHARD}:")


def check_payload(case: Case, failure: Entry, payload: Any, played: Played, like: Likeness) -> None:
    """What is kept is the event, as the function got it."""
    kept = json.loads(failure.head + b",".join(record.json for record in failure.records) + failure.tail)
    assert kept in [invocation.event for invocation in played.function.invocations]
    if case["source_kind"] == "kinesis" and isinstance(payload, dict) and isinstance(payload["Records"], list):
        recorded_ = [{**each, "kinesis": each["kinesis"] | {"data": "<data>", "partitionKey": "<key>"}} for each in payload["Records"]]
        assert like.differences(recorded_, kept["Records"]) == []


@recorded("responses")
def test_what_a_response_means(case: Case, tmp_path: Path) -> None:
    played = play(case, tmp_path, numbered(case))
    assert len(played.function.invocations) == case["expect"]["invocations"]
    assert bool(played.failures) == case["expect"].get("batch_failed", False)
    check_failures(case, played, Likeness())


@recorded("exhausted")
def test_retries(case: Case, tmp_path: Path) -> None:
    played = play(case, tmp_path, numbered(case))
    assert len(played.function.invocations) == case["expect"]["invocations"]
    check_failures(case, played, Likeness())


@recorded("partial")
def test_partial_failures(case: Case, tmp_path: Path) -> None:
    if case["expect"] == {"see": "observed"}:
        # An older recording of the same: its parameters are in AWS's answer, and its function named what it was given.
        answer = case["observed"]["create_event_source_mapping_response"]
        parameters = {key: answer[key] for key in ("BatchSize", "MaximumRetryAttempts", "MaximumBatchingWindowInSeconds")}
        case = case | {"config": case["config"] | parameters, "input": {"items": 1, "should_fail": [0]}}
    played, like = play(case, tmp_path, numbered(case)), Likeness()
    assert played.times == case["expect"].get("times_each_record_delivered", played.times)
    if case["source_kind"] == "kinesis":
        (delivered,) = events_in(case["observed"])
        assert like.differences(delivered["Records"], played.function.elements) == []
    check_failures(case, played, like)


AGES = {"expires-while-retrying": [0.0], "expired-before-first-poll": [61.0], "only-expired-part-discarded": [61.0, *[0.0] * 5]}
"""How old the records of a case are when its mapping begins."""


@recorded("age")
def test_the_age_of_records(case: Case, tmp_path: Path) -> None:
    name = case["name"].rpartition("/")[2]

    def fill(stream: MemoryStream) -> None:
        for age in AGES[name]:
            stream.put({}, age=age)

    played = play(case, tmp_path, fill)
    check_failures(case, played, Likeness())
    (failure,) = played.failures
    if name == "expires-while-retrying":
        invocations = played.function.invocations
        assert failure.attempts == len(invocations) > 1
        assert invocations[-1].began - played.began <= 60, "none once it is too old"
        assert failure.fault is not None, "ours: why it failed is kept"
    else:
        assert failure.attempts == 0, "ours: it was never invoked; AWS says 1 all the same"
        assert played.times == {str(number): 1 for number in range(1, 1 + case["expect"].get("delivered", 0))}


@recorded("filtered changes")
def test_filtered_changes_of_a_table(case: Case, tmp_path: Path) -> None:
    patterns = tuple(json.dumps(each["Pattern"]) for each in case["config"]["FilterCriteria"]["Filters"])
    items = case["input"]["put_items"]
    rest = {key: value for key, value in case["config"].items() if key != "FilterCriteria"}  # of another source's records

    async def main() -> list[dict[str, Any]]:
        config = configured(tmp_path, of(case | {"config": rest}))
        made = config.mappings["m"]
        config.mappings["m"] = replace(made, settings=replace(made.settings, filters=FilterSettings(patterns, CHANGE)))
        stream, stage, function = MemoryStream(ChangeFormat("orders")), Stage(config), Recorder(answer_of(case))
        for change in changes(items):
            stream.put(change)
        stage.run(function, open_source=stream.open)
        await asyncio.sleep(QUIET)
        await stage.stop()
        assert await stage.rows() == []
        return function.elements

    delivered = run_virtually(main())
    expect = case["expect"]
    assert len(delivered) == expect["invocations"]
    matching = [item for item, which in zip(items, ("first", "second"), strict=True) if expect[f"{which}_item_matches"]]
    assert [each["dynamodb"]["NewImage"] for each in delivered] == matching
    told = [element for event in events_in(case["observed"]) for element in event["Records"]]
    assert [(each["eventName"], each["dynamodb"]["NewImage"]) for each in told] == [
        (each["eventName"], each["dynamodb"]["NewImage"]) for each in delivered
    ]


@recorded("serial")
def test_one_batch_of_a_shard_after_the_other(case: Case, tmp_path: Path) -> None:
    given, expect = case["input"], case["expect"]

    def fill(stream: MemoryStream) -> None:
        for record in range(given["puts"] * given["records_each"]):
            stream.put({"record": record})

    played = play(case, tmp_path, fill, given["handler_sleep_s"])
    first, second = played.function.invocations
    assert first.ended is not None and second.began >= first.ended
    assert second.began - first.began >= expect["min_start_gap_s"]
    assert [data(element)["record"] for element in played.function.elements] == list(range(given["puts"] * given["records_each"]))
