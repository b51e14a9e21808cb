"""What live AWS did, where the recordings are at hand: which mappings it accepts, refuses, and what it assumes; and sample events.

What AWS invoked, with what and when, is done again in tests/fidelity. Every recorded case is run there or here, or there is a reason why it
cannot be yet: `test_no_recorded_case_is_forgotten` holds this.
"""

from __future__ import annotations

import base64
import json
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from connectors.kafka.options import KafkaOptions
from connectors.local import StreamOptions
from connectors.local.format import Entry, EntryFormat
from poller.config.tree import MappingConfig
from poller.errors import ConfigError
from tests.fidelity.cases import CASES, NOT_YET, RUN, SAMPLES, WITHOUT_CASES, Case, matches, recorded
from tests.fidelity.parameters import KINDS, QUEUE, STREAM, configured, mapping, of

pytestmark = WITHOUT_CASES

ROOT = Path(__file__).resolve().parents[2]
FIDELITY = ROOT / "FIDELITY.md"


def made(folder: Path, *tables: str) -> MappingConfig:
    """The mapping `m`."""
    return configured(folder, *tables).mappings["m"]


# --- what is assumed ------------------------------------------------------------------------------------------------------------------


@recorded("defaults")
def test_defaults_are_those_of_aws(case: Case, tmp_path: Path) -> None:
    expect = case["expect"].get("create", case["expect"])
    settings = made(tmp_path, of(case)).settings
    assert settings.batching.size == expect["BatchSize"]
    assert settings.batching.window == expect["MaximumBatchingWindowInSeconds"]
    assert settings.failure.reporting == bool(expect["FunctionResponseTypes"])
    if case["source_kind"] == "sqs":
        assert settings.failure.maximum_receive_count is None and not settings.failure.backoff_set
        return
    assert settings.failure.bisect is expect["BisectBatchOnFunctionError"]
    assert (settings.failure.maximum_retry_attempts, settings.failure.maximum_record_age) == (None, None)
    assert (expect["MaximumRetryAttempts"], expect["MaximumRecordAgeInSeconds"]) == (-1, -1)
    assert settings.width == expect["ParallelizationFactor"]


@recorded("defaults of Kafka")
def test_a_mapping_of_a_topic(case: Case, tmp_path: Path) -> None:
    expect, observed = case["expect"], case["observed"]
    default = case["name"].endswith("-default")
    source: dict[str, Any] = {
        "type": "kafka",
        "bootstrap_servers": observed["SelfManagedEventSource"]["Endpoints"]["KAFKA_BOOTSTRAP_SERVERS"],
        "topics": observed["Topics"],
    }
    parameters: dict[str, Any] = {}
    if not default:
        # AWS's answer names what was given, and what was not.
        source["starting_position"] = observed["StartingPosition"]
        source["group"] = observed["SelfManagedKafkaEventSourceConfig"]["ConsumerGroupId"]
        parameters["BatchSize"] = observed["BatchSize"]
    text = "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in source.items()) + " }"
    config = made(tmp_path, mapping(parameters, text))
    settings, options = config.settings, config.options
    assert settings.batching.size == expect["BatchSize"]
    assert settings.batching.window == 0.5, "AWS does not echo it"
    assert (settings.failure.maximum_retry_attempts, settings.failure.maximum_record_age, settings.failure.bisect) == (None, None, False)
    assert isinstance(options, KafkaOptions)
    assert options.starting_position == expect["StartingPosition"]
    assert list(options.names) == expect["Topics"]
    if default:
        assert expect["SelfManagedKafkaEventSourceConfig"]["ConsumerGroupId"] == "<uuid:1>", (
            "AWS's is the id of the mapping, and so is ours"
        )
        assert options.group_of(settings.id) == "poller-m"
    else:
        assert options.group_of(settings.id) == expect["SelfManagedKafkaEventSourceConfig"]["ConsumerGroupId"]


# --- what is refused ------------------------------------------------------------------------------------------------------------------


@recorded("refused")
def test_what_aws_refuses_is_refused(case: Case, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'\[mappings.m.batch_size\] found 11 without a maximum_batching_window; .*"1s" and more'):
        configured(tmp_path, of(case))


@recorded("refused filters")
def test_filters_that_aws_refuses_are_refused_with_their_place(case: Case, tmp_path: Path) -> None:
    assert case["expect"]["message"] == "Invalid filter pattern definition."
    with pytest.raises(ConfigError) as caught:
        configured(tmp_path, of(case))
    assert [problem for problem in caught.value.problems if "[mappings.m.filters.0]" not in problem] == []


@recorded("no filters")
def test_no_filters_are_no_filters(case: Case, tmp_path: Path) -> None:
    assert case["expect"]["http_status"] == 202
    text = of(case).replace("source =", "filters = []\nsource =")
    assert made(tmp_path, text).settings.filters is None


@recorded("refused starting positions")
def test_a_starting_position_that_there_is_not(case: Case, tmp_path: Path) -> None:
    allowed = re.search(r"enum value set: \[(.*)\]", case["expect"]["message"])
    assert allowed is not None
    with pytest.raises(ConfigError) as caught:
        configured(tmp_path, of(case, STREAM.replace(" }", ', starting_position = "invalid" }')))
    (problem,) = caught.value.problems
    assert "[mappings.m.source.starting_position]" in problem
    assert [position for position in allowed[1].split(", ") if position not in problem] == []


@recorded("incomplete")
def test_a_mapping_without_a_source_or_a_function_that_is_there(case: Case, tmp_path: Path) -> None:
    without_source = case["name"].endswith("no_event_source_arn")
    text = mapping({}, QUEUE).replace(f"source = {QUEUE}\n", "") if without_source else mapping({}, QUEUE, function="unknown")
    with pytest.raises(ConfigError) as caught:
        configured(tmp_path, text)
    (problem,) = caught.value.problems
    assert ("source" if without_source else 'the function "unknown", which does not exist') in problem


@recorded("refused destinations")
def test_a_queue_has_no_destination_of_its_own(case: Case, tmp_path: Path) -> None:
    """As long as it is to mean what it means on AWS."""
    assert case["expect"]["message"] == "Unsupported DestinationConfig parameter for given event source mapping type."
    text = of(case).replace("source =", 'on_failure = "arn:aws:sqs:eu-central-1:123456789012:failed"\nsource =')
    with pytest.raises(ConfigError) as caught:
        configured(tmp_path, text)
    (problem,) = caught.value.problems
    assert "[mappings.m.on_failure]" in problem


@recorded("twice")
def test_one_mapping_of_a_source_to_a_function(case: Case, tmp_path: Path) -> None:
    expect = case["expect"].get("second", case["expect"])
    assert expect["code"] == "ResourceConflictException"
    source = KINDS[case["source_kind"]]
    if servers := re.search(r'event source \("([^"]+)"\)', expect["message"]):
        source = source.replace('["kafka:1000"]', json.dumps(servers[1].split(",")))
    tables = mapping({}, source), mapping({}, source, "again")
    with pytest.raises(ConfigError, match=r"\[mappings.again.source\] found the (queue|stream) and the function \"f\" of \[mappings.m\]"):
        configured(tmp_path, *tables)
    assert configured(tmp_path, tables[0], mapping({}, source, "again", function="g")).mappings.keys() == {"m", "again"}


# --- what is otherwise here, on purpose -------------------------------------------------------------------------------------------------


@recorded("otherwise here")
def test_what_aws_wants_to_be_said_and_is_assumed_here(case: Case, tmp_path: Path) -> None:
    """Under `defaults = "aws"` too: a file that AWS would take means the same here."""
    assert case["expect"]["http_status"] == 400
    options = made(tmp_path, of(case)).options
    if case["source_kind"] == "kafka":
        assert isinstance(options, KafkaOptions) and (options.sasl, options.tls) == (None, None), "not every broker asks who we are"
    else:
        assert isinstance(options, StreamOptions) and options.starting_position == "TRIM_HORIZON", "nothing is passed over"


# --- sample events --------------------------------------------------------------------------------------------------------------------

SAMPLES_RUN = {
    "aws:sqs": "tests/connectors/test_sqs_format.py",
    "aws:kinesis": "tests/unit/test_recorded_cases.py",
    "aws:kafka": "tests/connectors/test_kafka_format.py",
    "aws:SelfManagedKafka": "tests/connectors/test_kafka_format.py",
    "aws:dynamodb": "there is no connector for DynamoDB Streams yet",
}
"""Event source -> the file that runs its samples, or the reason why there is none."""

KINESIS = {name: event for name, event in SAMPLES.items() if event.get("Records", [{}])[0].get("eventSource") == "aws:kinesis"}


@pytest.mark.parametrize("name", KINESIS)
def test_a_sample_of_kinesis_comes_out_of_the_local_stream(name: str) -> None:
    """All but where it is from."""
    for element in KINESIS[name]["Records"]:
        record, shard = element["kinesis"], element["eventID"].partition(":")[0]
        data = base64.b64decode(record["data"])
        entry = Entry(shard, int(record["sequenceNumber"]), record["approximateArrivalTimestamp"], record["partitionKey"], data)
        (ours,) = EntryFormat("orders").event([entry]).mapping()["Records"]
        ours |= {key: element[key] for key in ("eventSourceARN", "awsRegion", "invokeIdentityArn")}
        assert ours == element


# --- all of them ----------------------------------------------------------------------------------------------------------------------


def test_no_recorded_case_is_forgotten() -> None:
    run = [pattern for patterns in RUN.values() for pattern in patterns]
    known = [*run, *NOT_YET]
    assert [case["name"] for case in CASES if not matches(case["name"], known)] == []
    assert [pattern for pattern in known if not any(fnmatch(case["name"], pattern) for case in CASES)] == [], "patterns without a case"


def test_no_recorded_case_is_run_and_not_there_yet() -> None:
    run = [pattern for patterns in RUN.values() for pattern in patterns]
    assert [case["name"] for case in CASES if matches(case["name"], run) and matches(case["name"], list(NOT_YET))] == []


def test_no_sample_is_forgotten() -> None:
    sources = {event.get("eventSource") or event["Records"][0]["eventSource"] for event in SAMPLES.values()}
    assert sources == SAMPLES_RUN.keys()


def test_what_fidelity_calls_recorded_is_shown_by_a_recording() -> None:
    rows = [line for line in FIDELITY.read_text().splitlines() if "| recorded |" in line]
    assert len(rows) > 20
    files = {row: re.findall(r"`(tests/[\w/]+\.py)", row.rpartition("| recorded |")[2]) for row in rows}
    assert [row for row, named in files.items() if not any(map(reads_recordings, named))] == []


def reads_recordings(file: str) -> bool:
    return "POLLER_CASES" in (text := (ROOT / file).read_text()) or "tests.fidelity.cases" in text


def test_fidelity_names_every_test_of_a_recording() -> None:
    files = [Path(__file__), *(ROOT / "tests" / "fidelity").glob("test_*.py")]
    tests = [name for file in files for name in re.findall(r"@recorded\(.*\n(?:async )?def (test_\w+)", file.read_text())]
    assert len(tests) > 15
    text = FIDELITY.read_text()
    assert [name for name in tests if f"::{name}`" not in text] == []


def test_every_group_and_sample_has_its_test() -> None:
    files = [Path(__file__), *(ROOT / "tests" / "fidelity").glob("*.py")]
    text = "".join(file.read_text() for file in files if file.name != "cases.py")
    assert [group for group in RUN if f'recorded("{group}")' not in text and f'"{group}": ' not in text] == []
    assert [file for file in SAMPLES_RUN.values() if file.endswith(".py") and not (ROOT / file).exists()] == []
