"""What live AWS did, where the recordings are at hand: responses, partial failures, ages, retries, redrive, validation, batching.

Every recorded case is run here, or in another file, or is not applicable yet; `test_no_recorded_case_is_forgotten` holds this. Where one is
run here, its parameters go through the configuration (`defaults = "aws"`), to the policy that the connector makes of them, and a script of
the function answers.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from connectors.local.stream import block
from connectors.sqs.source import policy as queue_policy
from poller.config import load
from poller.errors import ConfigError
from poller.model import Ack, Batch, Discard, Failure, Outcome, Release, Response, Retry, Returned
from poller.outcome import interpret
from poller.registry import Registry
from poller.settings import MappingSettings
from poller.strands import Strands
from poller.testing.fakes import FORMAT, FakeRecord
from poller.testing.laws import retries_of
from poller.testing.strategies import FAULT, NOW

Case = dict[str, Any]

NOT_YET = {
    "sqs/filter/*": "there are no filters yet",
    "kinesis/filter/*": "there are no filters yet",
    "dynamodb/filter/*": "there are no filters yet",
    "*/create/invalid-filter/*": "there are no filters yet",
    "api/create_event_filter_criteria_validation/*": "there are no filters yet",
    "dynamodb/event/*": "there is no connector for DynamoDB Streams yet",
    "dynamodb/create/*": "there is no connector for DynamoDB Streams yet",
    "dynamodb/disable-states": "there is no connector for DynamoDB Streams yet",
    "kinesis/create/*": "there is no connector for Kinesis yet",
    "kinesis/start/*": "there is no connector for Kinesis yet",
    "kinesis/disable": "there is no connector for Kinesis yet",
    "kinesis/two-functions-one-stream": "there is no connector for Kinesis yet",
    "api/create_event_source_validation*": "starting positions are a connector's options, and there is none for Kinesis and DynamoDB yet",
    "api/create_event_source_self_managed/*": "there is no connector for Kafka yet",
    "sqs/update/function-version": "functions have no versions yet",
    "api/function_name_variations/*": "functions have no versions and aliases yet",
    "async-invoke/*": "there is no asynchronous invocation yet",
    "api/event_source_mapping_*": "AWS's own API: its ids, states and answers are not ours",
}
"""Pattern -> why the cases that it matches are not applicable yet. Of the cases with a destination the reason, the counts and the fault are
run here; the record that is sent is not, for there are no destinations yet."""

ELSEWHERE = {
    "sqs/event/*": "test_sqs_format.py",
    "sqs/create/queue-missing": "test_sqs_aws.py",
}
"""Pattern -> the file that runs them."""

HERE = {
    "responses": ("kinesis/response/*", "dynamodb/response/*", "kinesis/empty-response-body"),
    "partial": ("kinesis/report-batch-item-failures/*", "dynamodb/report-batch-item-failures/*"),
    "exhausted": ("kinesis/on-failure/*", "dynamodb/on-failure/*"),
    "age": ("kinesis/record-age/*",),
    "redelivered": ("sqs/retry/*", "sqs/redrive/*", "sqs/report-batch-item-failures/*"),
    "refused": ("sqs/create/batch-size-11-without-window", "sqs/update/batch-size-11-without-window"),
    "defaults": ("sqs/create/defaults", "kinesis/create/defaults"),
    "duplicate": ("sqs/create/duplicate",),
    "batched": ("sqs/batching/*",),
    "serial": ("sqs/fifo/one-group-is-serial", "kinesis/order/serial-batches-per-shard"),
}

CASES: list[Case] = (
    json.loads((Path(folder) / "esm-observed-on-aws.json").read_text())["cases"] if (folder := os.environ.get("POLLER_CASES")) else []
)
pytestmark = pytest.mark.skipif(not CASES, reason="POLLER_CASES does not name the folder of the recorded cases")


def matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def recorded(group: str) -> pytest.MarkDecorator:
    """The test runs once for each case of the group."""
    found = [pytest.param(case, id=case["name"]) for case in CASES if matches(case["name"], HERE[group])]
    return pytest.mark.parametrize("case", found)


# --- from AWS's parameters to ours ----------------------------------------------------------------------------------------------------

KEYS = {
    "BatchSize": "batch_size = {}",
    "MaximumBatchingWindowInSeconds": 'maximum_batching_window = "{}s"',
    "MaximumRetryAttempts": "maximum_retry_attempts = {}",
    "MaximumRecordAgeInSeconds": 'maximum_record_age = "{}s"',
    "BisectBatchOnFunctionError": "bisect_batch_on_function_error = {}",
    "FunctionResponseTypes": "function_response_types = {}",
}

Configure = Callable[..., dict[str, MappingSettings]]


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    """The settings of mappings with these parameters, by name. Raises ConfigError."""

    def make(case: Case, mappings: Sequence[str] = ("m",)) -> dict[str, MappingSettings]:
        (tmp_path / "app.py").write_text("def handle(event, context): ...\n")
        config = case["config"]
        lines = [form.format(json.dumps(config[key])) for key, form in KEYS.items() if key in config]
        if concurrency := config.get("ScalingConfig", {}).get("MaximumConcurrency"):
            lines.append(f"maximum_concurrency = {concurrency}")
        fifo = ".fifo" if config.get("queue", {}).get("FifoQueue") else ""
        queue = f'{{ type = "sqs", queue = "orders{fifo}", region = "eu-central-1" }}'
        source = queue if case["source_kind"] == "sqs" else '{ type = "local-stream", name = "orders" }'
        tables = [f'[mappings.{name}]\nfunction = "f"\nsource = {source}\n' + "\n".join(lines) for name in mappings]
        text = '[poller]\ndefaults = "aws"\n[functions.f]\nhandler = "app.py:handle"\n' + "\n".join(tables) + "\n"
        (tmp_path / "poller.toml").write_text(text)
        config = load(tmp_path / "poller.toml", Registry(), {"PATH": os.defpath})
        return {name: mapping.settings for name, mapping in config.mappings.items()}

    return make


Answer = Callable[[Sequence[FakeRecord]], Response]


def answer_of(case: Case) -> Answer:
    """The function of a case, by what it does with records."""
    given = case["input"]

    def answer(records: Sequence[FakeRecord]) -> Response:
        if "handler_returns" in given:
            return FAULT if given["handler_returns"] == "RAISES" else Returned(json.dumps(given["handler_returns"]).encode())
        if "should_fail" in given:
            return reported([record.name for record in records if record.token in given["should_fail"]])
        if given.get("handler") == "custom runtime that answers an empty body":
            return Returned(b"")
        return Returned(b"null") if given.get("handler") == "succeeds" else FAULT

    return answer


def reported(names: Sequence[str]) -> Returned:
    return Returned(json.dumps({"batchItemFailures": [{"itemIdentifier": name} for name in names]}).encode())


# --- streams --------------------------------------------------------------------------------------------------------------------------


@dataclass
class Stream:
    """One shard under the policy of its mapping: batches of its records, one after the other, to the end."""

    settings: MappingSettings
    answer: Answer
    now: float = NOW
    invocations: int = 0
    times: Counter[int] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def run(self, records: Sequence[FakeRecord]) -> None:
        size = self.settings.batching.size
        for start in range(0, len(records), size):
            self.work(Batch(records[start : start + size], FORMAT))

    def work(self, batch: Batch) -> None:
        policy = block(self.settings.failure, retention=86_400.0)
        stack = [Retry(batch)]
        while stack:
            retry = stack.pop()
            self.now += retry.delay
            screened, actions = policy.screen(retry.batch, self.now)
            if screened is not None:
                actions = (*actions, *policy.decide(screened, self.invoke(screened), self.now, 0.5))
            self.failures += [action.failure for action in actions if isinstance(action, Discard)]
            stack += reversed(retries_of(actions))

    def invoke(self, batch: Batch) -> Outcome:
        self.invocations += 1
        self.times.update(record.token for record in batch.records)
        response = self.answer(batch.records)
        return interpret(response, FORMAT.event(batch.records), self.settings.failure.reporting)


def shard(count: int, ages: Sequence[float] = ()) -> list[FakeRecord]:
    return [FakeRecord(i, f"4959{i}", None, NOW - (ages[i] if ages else 0.0)) for i in range(count)]


def ran(case: Case, configure: Configure, records: Sequence[FakeRecord]) -> Stream:
    stream = Stream(configure(case)["m"], answer_of(case))
    stream.run(records)
    return stream


def check_record(case: Case, failures: Sequence[Failure]) -> None:
    """What would go to the destination, but for its form."""
    sent = case["expect"].get("destination_body")
    if sent is None:
        assert failures == []
        return
    (failure,) = failures
    (batch_info,) = [sent[key] for key in sent if key.endswith("BatchInfo")]
    assert failure.reason == sent["requestContext"]["condition"]
    assert len(failure.records) == batch_info["batchSize"]
    if "responseContext" not in sent:
        assert failure.reason == "RecordAgeExceeded"
        return
    # AWS counts the attempts; and 1 where there was none (a record too old before its first).
    assert max(1, failure.attempts) == sent["requestContext"]["approximateInvokeCount"]
    assert failure.fault is not None
    assert ("Unhandled" if failure.fault.unhandled else None) == sent["responseContext"]["functionError"]


@recorded("responses")
def test_what_a_response_means(case: Case, configure: Configure) -> None:
    stream = ran(case, configure, shard(case["input"]["records"]))
    assert stream.invocations == case["expect"]["invocations"]
    assert bool(stream.failures) == case["expect"].get("batch_failed", False)
    check_record(case, stream.failures)


@recorded("partial")
def test_partial_failures_of_a_stream(case: Case, configure: Configure) -> None:
    if case["expect"] == {"see": "observed"}:
        # An older recording of the same: its parameters are in AWS's answer, and its function named what it was given.
        observed = case["observed"]
        body = observed["destination_queue_messages"]["Messages"][0]["Body"]
        parameters = {key: observed["create_event_source_mapping_response"][key] for key in ("BatchSize", "MaximumRetryAttempts")}
        case = case | {
            "config": case["config"] | parameters,
            "input": {"items": 1, "should_fail": [0]},
            "expect": {"destination_body": body},
        }
    count = case["input"].get("records", case["input"].get("items"))
    stream = ran(case, configure, shard(count))
    if times := case["expect"].get("times_each_record_delivered"):
        assert stream.times == {int(record): many for record, many in times.items()}
    check_record(case, stream.failures)


@recorded("exhausted")
def test_retries_of_a_stream(case: Case, configure: Configure) -> None:
    stream = ran(case, configure, shard(case["input"]["records"]))
    assert stream.invocations == case["expect"]["invocations"]
    check_record(case, stream.failures)


@recorded("age")
def test_the_age_of_records(case: Case, configure: Configure) -> None:
    name = case["name"].rpartition("/")[2]
    ages = {"expires-while-retrying": [0.0], "expired-before-first-poll": [61.0], "only-expired-part-discarded": [61.0, *[0.0] * 5]}[name]
    stream = ran(case, configure, shard(len(ages), ages))
    check_record(case, stream.failures)
    (failure,) = stream.failures
    if name == "expires-while-retrying":
        assert failure.attempts == stream.invocations > 1
        assert 60 < stream.now - NOW < 120
    else:
        assert failure.attempts == 0, "it was never invoked: AWS says 1 all the same"
        assert [record.token for record in failure.records] == [0]
        assert sum(stream.times.values()) == case["expect"].get("delivered", 0)


# --- queues ---------------------------------------------------------------------------------------------------------------------------


@dataclass
class Queue:
    """A queue with a redrive policy, received whenever everything is visible again."""

    settings: MappingSettings
    redrive: int | None
    answer: Answer
    waiting: list[FakeRecord] = field(default_factory=list)
    invocations: list[list[FakeRecord]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)

    def receive(self) -> None:
        """One receive of all, and what comes of it."""
        received = [record._replace(receives=record.receives + 1) for record in self.waiting]
        self.waiting = []
        self.dead += [record.name for record in received if self.redrive is not None and record.receives > self.redrive]
        records = [record for record in received if record.name not in self.dead]
        for start in range(0, len(records), self.settings.batching.size):
            self.work(Batch(records[start : start + self.settings.batching.size], FORMAT))

    def work(self, batch: Batch) -> None:
        policy = queue_policy(self.settings.failure, self.redrive, self.settings.safe, groups=False)
        assert policy.screen(batch, NOW) == (batch, ())
        self.invocations.append(list(batch.records))
        outcome = interpret(self.answer(batch.records), FORMAT.event(batch.records), self.settings.failure.reporting)
        for action in policy.decide(batch, outcome, NOW, 0.5):
            match action:
                case Ack(done):
                    self.deleted += [record.name for record in done]
                case Release(back, delay, copy):
                    assert delay is None, "AWS leaves the visibility timeout to run out"
                    self.waiting += back
                    self.copies += [record.name for record in (copy.records if copy else ())]
                case _:
                    raise AssertionError(f"AWS does nothing like {action}")


@recorded("redelivered")
def test_failures_of_a_queue(case: Case, configure: Configure) -> None:
    given, expect = case["input"], case["expect"]
    fails = fail_attempts(given)
    redrive = case["config"]["queue"].get("RedrivePolicy", {}).get("maxReceiveCount")
    queue = Queue(configure(case)["m"], redrive, by_receives(case, fails))
    queue.waiting = [FakeRecord(i, f"message-{i}", b"1", NOW, 100, 0) for i in range(len(fails))]
    queue.receive()
    if expect.get("dlq_empty_after_first_attempt"):
        assert queue.dead == []
    while queue.waiting:
        queue.receive()
    dead = expect.get("dlq_messages", expect.get("dlq_messages_after_second", len(expect.get("dlq_bodies", ()))))
    assert len(queue.dead) == dead
    assert queue.copies == queue.dead, "what the queue moves is in the journal"
    assert sorted([*queue.deleted, *queue.dead]) == sorted(f"message-{i}" for i in range(len(fails)))
    if isinstance(expect.get("invocations"), int):
        assert len(queue.invocations) == expect["invocations"]
    if seen := expect.get("ApproximateReceiveCount_seen"):
        assert [str(record.receives) for records in queue.invocations for record in records] == seen
    if isinstance(expect.get("invocations"), list):
        check_invocations(queue, given, expect)


def check_invocations(queue: Queue, given: Any, expect: Any) -> None:
    """The FIFO case: which messages came in which invocation, and which went to the dead-letter queue."""
    numbers = [message["message"] for message in given["messages"]]
    assert [[numbers[record.token] for record in records] for records in queue.invocations] == [
        invocation["messages"] for invocation in expect["invocations"]
    ]
    assert {str(record.receives) for record in queue.invocations[1]} == {expect["invocations"][1]["ApproximateReceiveCount"]}
    assert queue.dead == [f"message-{numbers.index(body['message'])}" for body in expect["dlq_bodies"]]


def fail_attempts(given: Any) -> list[int]:
    """How often each message fails, by the words of the case."""
    if isinstance(given["messages"], list):
        return [message["fail_attempts"] if isinstance(message, dict) else 0 for message in given["messages"]]
    words = {"raises when ApproximateReceiveCount <= 1": 1, "fails on the first 2 receives": 2}
    return [words.get(given.get("handler", ""), 0)] * given["messages"]


def by_receives(case: Case, fails: Sequence[int]) -> Answer:
    given = case["input"]

    def answer(records: Sequence[FakeRecord]) -> Response:
        if "handler_returns" in given:
            return Returned(json.dumps(given["handler_returns"]).encode())
        failing = [record.name for record in records if record.receives <= fails[record.token]]
        if given["handler"].startswith("reports"):
            return reported(failing)
        return FAULT if failing or given["handler"] == "raises for the whole batch" else Returned(b"null")

    return answer


# --- parameters -----------------------------------------------------------------------------------------------------------------------


@recorded("refused")
def test_what_aws_refuses_is_refused(case: Case, configure: Configure) -> None:
    with pytest.raises(ConfigError, match=r'\[mappings.m.batch_size\] found 11 without a maximum_batching_window; .*"1s" and more'):
        configure(case)


@recorded("defaults")
def test_defaults_are_those_of_aws(case: Case, configure: Configure) -> None:
    expect = case["expect"].get("create", case["expect"])
    settings = configure(case)["m"]
    assert settings.batching.size == expect["BatchSize"]
    assert settings.batching.window == expect["MaximumBatchingWindowInSeconds"]
    assert settings.failure.reporting == bool(expect["FunctionResponseTypes"])
    if case["source_kind"] != "sqs":
        assert settings.failure.bisect is expect["BisectBatchOnFunctionError"]
        assert (settings.failure.maximum_retry_attempts, settings.failure.maximum_record_age) == (None, None)
        assert (expect["MaximumRetryAttempts"], expect["MaximumRecordAgeInSeconds"]) == (-1, -1)
        assert settings.width == expect["ParallelizationFactor"]


@recorded("duplicate")
def test_one_mapping_of_a_queue_to_a_function(case: Case, configure: Configure) -> None:
    assert case["expect"]["second"]["code"] == "ResourceConflictException"
    with pytest.raises(ConfigError, match=r"\[mappings.again.source\] found the queue and the function \"f\" of \[mappings.m\]"):
        configure(case, ("m", "again"))


# --- batches --------------------------------------------------------------------------------------------------------------------------


def batches_of(strands: Strands, settings: MappingSettings, now: float) -> Iterator[list[int]]:
    """Start all that can be started: the tokens of each batch."""
    while ready := strands.ready(settings.batching, now):
        taken = strands.take(ready[0], settings.batching, FORMAT, now)
        assert taken is not None
        yield [record.token for record in taken[0].records]


def add(strands: Strands, tokens: Sequence[int], key: bytes | None, now: float) -> None:
    records = [FakeRecord(token, f"r{token}", key, now) for token in tokens]
    strands.add(records, FORMAT.facts(records), now)


@recorded("batched")
def test_batches_of_a_queue(case: Case, configure: Configure) -> None:
    settings, total = configure(case)["m"], case["expect"]["records_total"]
    if accepted := case["expect"].get("accepted_BatchSize"):
        assert settings.batching.size == accepted
    if concurrency := case["config"].get("ScalingConfig", {}).get("MaximumConcurrency"):
        assert settings.width == concurrency
    strands, preloaded = Strands(settings.width, "any"), case["input"].get("preloaded", False)
    for start, count in [(0, total)] if preloaded else [(0, 10), (10, 5)]:
        add(strands, range(start, start + count), None, 0.0)
    window = settings.batching.window
    made = [*batches_of(strands, settings, window), *batches_of(strands, settings, 2 * window)]  # what is left starts a window of its own
    assert sorted(token for batch in made for token in batch) == list(range(total)), "each exactly once"
    assert len(made) == case["expect"].get("batches", len(made))


@recorded("serial")
def test_what_runs_one_after_the_other(case: Case, configure: Configure) -> None:
    settings = configure(case)["m"]
    if case["source_kind"] == "sqs":
        strands, puts, key = Strands(8, "free"), [range(case["input"]["messages"])], case["input"]["message_group"].encode()
    else:
        strands, key = Strands(settings.width, "hash"), None
        puts = [range(start * 10, start * 10 + case["input"]["records_each"]) for start in range(case["input"]["puts"])]
    for put in puts:
        add(strands, put, key, 0.0)
    made = list[list[int]]()
    while batches := list(batches_of(strands, settings, 0.0)):
        assert len(batches) == 1, "the next one starts when this one has ended"
        made += batches
        for strand in strands:
            strands.finish(strand, [key] * len(batches[0]) if strand.keys else ())
    order = [token for batch in made for token in batch]
    assert order == [token for put in puts for token in put]
    assert len(made) == case["expect"].get("invocations", len(order))


# --- all of them ----------------------------------------------------------------------------------------------------------------------


def test_no_recorded_case_is_forgotten() -> None:
    here = [pattern for patterns in HERE.values() for pattern in patterns]
    known = [*here, *ELSEWHERE, *NOT_YET]
    assert [case["name"] for case in CASES if not matches(case["name"], known)] == []
    assert [pattern for pattern in known if not any(fnmatch(case["name"], pattern) for case in CASES)] == [], "patterns without a case"


def test_what_is_said_to_be_elsewhere_is_there() -> None:
    assert [file for file in ELSEWHERE.values() if not (Path(__file__).parent / file).exists()] == []
