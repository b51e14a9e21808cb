"""`poller import`: golden files, each of which loads; what AWS recorded comes back from what was made of it; what cannot be read."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from poller.cli import program
from poller.config import Config, load
from poller.config.tree import MappingConfig
from poller.errors import ConfigError
from poller.importing.plan import Document, Imported, imported
from poller.registry import CONNECTORS, Registry
from tests.fidelity.cases import CASES, WITHOUT_CASES

HERE = Path(__file__).parent / "imports"
REGISTRY = Registry()
CONNECTED = {name: REGISTRY.connector(name) for name in REGISTRY.names(CONNECTORS)}
PLACE = {"AWS::Region": "eu-west-1", "AWS::AccountId": "111111111111"}
GOLDEN: dict[str, tuple[tuple[str, ...], Mapping[str, str]]] = {
    "orders.toml": (("orders.template.yaml",), {"AWS::Region": "eu-west-1"}),
    "listing.toml": (("listing.json", "functions.json"), {}),
    "mapping.toml": (
        ("mapping.template.json",),
        {**PLACE, "Name": "name", "name-items": "arn:aws:dynamodb:eu-west-1:111111111111:table/items"},
    ),
}


def carried(*texts: str | Any, given: Mapping[str, str] = PLACE) -> Imported:
    """Of documents: texts, or what JSON says."""
    named = [text if isinstance(text, str) else json.dumps(text) for text in texts]
    return imported([Document(f"document{i}", text) for i, text in enumerate(named, 1)], CONNECTED, given)


def loaded(folder: Path, toml: str) -> Config:
    """As the daemon reads it, once functions' code and secrets are where they should be."""
    raw = tomllib.loads(toml)
    for function in raw["functions"].values():
        module = folder / function["code"] / f"{function['handler'].rpartition('.')[0].replace('.', '/')}.py"
        module.parent.mkdir(parents=True, exist_ok=True)
        module.touch()
    (folder / "poller.toml").write_text(toml)
    environ = dict.fromkeys(re.findall(r'"env:(\w+)"', toml), "-")
    return load(folder / "poller.toml", REGISTRY, environ)


def template(**resources: Any) -> dict[str, Any]:
    """With a queue, a function, and a mapping of one to the other."""
    there = {
        "Queue": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "queue"}},
        "Handler": {"Type": "AWS::Lambda::Function", "Properties": {"Runtime": "python3.13", "Handler": "app.handler", "Code": "."}},
        "Mapping": {
            "Type": "AWS::Lambda::EventSourceMapping",
            "Properties": {"FunctionName": {"Ref": "Handler"}, "EventSourceArn": {"Fn::GetAtt": ["Queue", "Arn"]}},
        },
    }
    return {"Resources": {**there, **resources}}


def mapping(**properties: Any) -> dict[str, Any]:
    """A template whose mapping has these properties."""
    made = template()
    made["Resources"]["Mapping"]["Properties"].update(properties)
    return made


# --- golden files ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOLDEN)
def test_the_file_is_the_same_to_the_letter_and_loads(name: str, tmp_path: Path) -> None:
    files, given = GOLDEN[name]
    found = imported([Document(each, (HERE / each).read_text()) for each in files], CONNECTED, given)
    assert found.toml == (HERE / name).read_text()
    config = loaded(tmp_path, found.toml)
    assert tuple(config.mappings) == found.mappings and tuple(config.functions) == found.functions
    # All that is said on stderr stands in the file too.
    flat = " ".join(found.toml.replace("\n#", " ").split())
    assert [remark for remark in found.remarks if remark.text not in flat] == []


def test_what_the_yaml_template_computes(tmp_path: Path) -> None:
    config = loaded(tmp_path, (HERE / "orders.toml").read_text())
    queue, fifo, clicks = (config.mappings[name] for name in ("Handle-Queue", "Handle-Fifo", "Handle-Clicks"))
    assert queue.options.queue == "arn:aws:sqs:eu-west-1:ACCOUNT:orders-prod" and queue.settings.batching.size == 25
    assert queue.settings.filters is not None and json.loads(queue.settings.filters.patterns[1]) == {"body": {"stage": ["prod", "it's"]}}
    assert not fifo.enabled and fifo.options.queue.endswith("Ledger.fifo")
    assert clicks.settings.on_failure == ("arn:aws:sqs:eu-west-1:ACCOUNT:orders-failed-prod",) and clicks.settings.aws_exact
    handle = config.functions["Handle"]
    assert dict(handle.environment) == {
        "STAGE": "prod",
        "REFERENCE": "env:looks-like-one",
        "QUEUE": "https://sqs.eu-west-1.amazonaws.com/ACCOUNT/orders-prod",
        "LITERAL": "${Stage} is prod",
        "FIRST": "subnet-2",
    }
    assert (handle.timeout, handle.memory, handle.code) == (30.0, 512 * 1024**2, tmp_path / "src/orders")


def test_a_sam_template_means_what_the_transform_of_aws_makes_of_it() -> None:
    """orders.transformed.json is what aws-sam-translator 1.115.0 makes of orders.template.yaml (its code in a bucket, events that are no
    event source mappings left out, roles without their policies)."""
    made, ours = (
        tomllib.loads(carried((HERE / name).read_text()).toml)["mappings"] for name in ("orders.transformed.json", "orders.template.yaml")
    )
    assert {name.replace("-", ""): table for name, table in ours.items()} == made
    assert len(made) == 8


# --- what AWS recorded ----------------------------------------------------------------------------------------------------------------


def recordings() -> Iterator[Any]:
    """Every description of an event source mapping among the recorded cases."""

    def inside(value: Any) -> Iterator[dict[str, Any]]:
        if isinstance(value, dict):
            if "FunctionArn" in value and "UUID" in value:
                yield value
            for each in value.values():
                yield from inside(each)

    for case in CASES:
        for number, document in enumerate(inside(case.get("observed"))):
            yield pytest.param(document, id=f"{case['name']}-{number}")


def concrete(recorded: Any) -> Any:
    """With what the recorder replaced put back in some way."""
    text = json.dumps(recorded).replace("<partition>", "aws").replace("<region>", "eu-west-1")
    return json.loads(re.sub(r"<([\w-]+)(?::(\d+))?>", r"\1\2", text))


def described(one: MappingConfig) -> dict[str, Any]:
    """A mapping of ours in AWS's words."""
    settings, failure = one.settings, one.settings.failure
    told: dict[str, Any] = {
        "UUID": settings.id,
        "BatchSize": settings.batching.size,
        "FunctionResponseTypes": ["ReportBatchItemFailures"] if failure.reporting else [],
        "StartingPosition": getattr(one.options, "starting_position", None),
        "EventSourceArn": next((v for k in ("queue", "consumer_arn", "stream", "table") if (v := getattr(one.options, k, None))), None),
        "DestinationConfig": {"OnFailure": {"Destination": settings.on_failure[0]} if settings.on_failure else {}},
        "MaximumBatchingWindowInSeconds": settings.batching.window,
    }
    if one.queue:
        return {**told, "ScalingConfig": {"MaximumConcurrency": settings.width}}
    return {
        **told,
        "BisectBatchOnFunctionError": failure.bisect,
        "MaximumRetryAttempts": -1 if failure.maximum_retry_attempts is None else failure.maximum_retry_attempts,
        "MaximumRecordAgeInSeconds": -1 if failure.maximum_record_age is None else failure.maximum_record_age,
        "ParallelizationFactor": settings.width,
        "TumblingWindowInSeconds": settings.tumbling_window,
        "Topics": list(getattr(one.options, "names", ())),
        "SelfManagedEventSource": {"Endpoints": {"KAFKA_BOOTSTRAP_SERVERS": getattr(one.options, "bootstrap_servers", None)}},
        "SelfManagedKafkaEventSourceConfig": {"ConsumerGroupId": getattr(one.options, "group", None)},
    }


ANSWERED = {
    "EventSourceMappingArn", "FunctionArn", "LastModified", "LastProcessingResult", "SourceAccessConfigurations", "State",
    "StateTransitionReason",
}  # fmt: skip
"""What a configuration does not say, or (logins) says in another way."""


@WITHOUT_CASES
@pytest.mark.parametrize("recorded", [*recordings()])
def test_what_aws_recorded_comes_back_from_what_is_made_of_it(recorded: dict[str, Any], tmp_path: Path) -> None:
    document = concrete(recorded)
    if document["State"] == "Deleting":
        with pytest.raises(ConfigError, match="left out: it is being deleted"):
            carried(document)
        return
    found = carried({"EventSourceMappings": [document]})
    (one,) = loaded(tmp_path, found.toml).mappings.values()
    told = described(one)
    assert {key: told[key] for key in document.keys() - ANSWERED} == {key: document[key] for key in document.keys() - ANSWERED}
    assert one.enabled is (document["State"] not in {"Disabled", "Disabling"})


@WITHOUT_CASES
def test_there_are_recordings() -> None:
    assert len(list(recordings())) >= 25


# --- mappings are carried over whole, or not at all -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (mapping(BatchSize={"Ref": "Size"}) | {"Parameters": {"Size": {"Type": "Number"}}}, "give --parameter Size=VALUE"),
        (mapping(FilterCriteria={"Filters": [{"Pattern": {"Fn::ImportValue": "p"}}]}), "the export 'p' is another stack's"),
        (mapping(BatchSize="many"), "BatchSize is 'many', and no whole number"),
        (mapping(FilterCriteria={"Filters": [{"Pattern": 1}]}), "a pattern of its FilterCriteria is no text"),
        (mapping(EventSourceArn="arn:aws:mq:eu-west-1:1:broker:b"), "no installed connector reads arn:aws:mq"),
        (mapping(EventSourceArn="{{resolve:ssm:queue}}"), "is looked up when a stack is made"),
        (
            mapping(EventSourceArn="arn:aws:kinesis:eu-west-1:111111111111:stream/s", StartingPosition="AT_TIMESTAMP"),
            "starting_position_timestamp belongs to",
        ),
        (
            template(Handler={"Type": "AWS::Lambda::Function", "Properties": {"Runtime": "java21", "Handler": "a.B"}}),
            "its runtime is java21",
        ),
        (
            template(Queue={"Type": "AWS::Serverless::Application"}),
            "Fn::GetAtt Queue.Arn (AWS::Serverless::Application) is known only once",
        ),
    ],
    ids=lambda part: part[:30] if isinstance(part, str) else "",
)
def test_nothing_is_carried_over_by_half(document: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match="no event source mapping could be carried over") as refused:
        carried(document)
    assert reason in str(refused.value)


@pytest.mark.parametrize("config", [{"ConsumptionMode": "Queue"}, {"SchemaRegistryConfig": {"SchemaRegistryURI": "arn"}}])
def test_a_topic_that_would_be_read_otherwise_is_not_carried_over(config: dict[str, Any]) -> None:
    topic = {
        "EventSourceArn": None,
        "SelfManagedEventSource": {"Endpoints": {"KafkaBootstrapServers": ["b:9092"]}},
        "Topics": ["t"],
        "StartingPosition": "LATEST",
    }
    assert carried(mapping(**topic)).mappings == ("Mapping",)
    with pytest.raises(ConfigError, match="no event source mapping"):
        carried(mapping(**topic, SelfManagedKafkaEventSourceConfig=config))


def test_what_the_caller_knows_counts_more_than_what_stands_in() -> None:
    found = carried(template(Queue={"Type": "AWS::SQS::Queue"}), given={"Queue": "stack-Queue-1A2B", "AWS::Region": "eu-west-1"})
    assert 'queue = "arn:aws:sqs:eu-west-1:ACCOUNT:stack-Queue-1A2B"' in found.toml
    assert [remark.text for remark in found.remarks] == [
        "AWS::AccountId is not known: ACCOUNT stands for it; give --parameter AWS::AccountId=VALUE"
    ]


def test_what_is_given_and_asked_for_by_nobody_is_said() -> None:
    found = carried(template(), given={**PLACE, "Quue": "x"})
    assert [str(remark) for remark in found.remarks] == ["--parameter Quue: no template asks for it"]


@pytest.mark.parametrize(
    "name", [{"Ref": "Live"}, {"Fn::Sub": "${Handler}:live"}, {"Fn::Sub": "${Handler.Arn}:live"}, "111111111111:Handler:live"]
)
def test_a_function_is_found_by_whatever_names_it(name: Any) -> None:
    alias = {"Type": "AWS::Lambda::Alias", "Properties": {"FunctionName": {"Ref": "Handler"}, "Name": "live"}}
    document = template(Live=alias)
    document["Resources"]["Mapping"]["Properties"]["FunctionName"] = name
    found = carried(document)
    assert found.functions == ("Handler",)
    assert [remark.text[:43] for remark in found.remarks] == ["its function is the version or alias live of"[:43]]


def test_what_sam_makes_by_itself_is_not_known_and_no_error() -> None:
    api = {"Fn::Sub": "https://${ServerlessRestApi}.execute-api.${AWS::Region}.amazonaws.com"}
    handler = {"Handler": "app.f", "Role": {"Fn::GetAtt": ["HandlerRole", "Arn"]}, "Environment": {"Variables": {"API": api}}}
    found = carried(template(Handler={"Type": "AWS::Serverless::Function", "Properties": handler}))
    assert [remark.text for remark in found.remarks] == [
        "the variable API is left out: Ref names 'ServerlessRestApi', which is not in the template; "
        "give --parameter ServerlessRestApi=VALUE"
    ]


def test_what_hangs_on_a_condition_that_nobody_knows_is_left_out() -> None:
    document = template(Handler={"Type": "AWS::Lambda::Function", "Condition": "C", "Properties": {}})
    document |= {"Parameters": {"P": {"Type": "String"}}, "Conditions": {"C": {"Fn::Equals": [{"Ref": "P"}, "x"]}}}
    assert "left out: its condition C is not known: the parameter P has no default" in carried(document).toml.replace("\n#", "")


def test_what_is_not_looked_into_is_said() -> None:
    found = carried(template(**{"Inner": {"Type": "AWS::CloudFormation::Stack"}, "Fn::Transform": {"Name": "AWS::Include"}}))
    assert [remark.where for remark in found.remarks] == ["document1: Inner", "document1: Fn::Transform"]


def test_secrets_are_not_written() -> None:
    handler = {
        "Runtime": "python3.13",
        "Handler": "app.handler",
        "Code": ".",
        "Environment": {"Variables": {"T": {"Fn::Sub": "x${Token}"}}},
    }
    document = template(Handler={"Type": "AWS::Lambda::Function", "Properties": handler})
    document["Parameters"] = {"Token": {"Type": "String", "NoEcho": True, "Default": "hunter2"}}
    found = carried(document, given={**PLACE, "Token": "hunter3"})
    assert "hunter" not in repr(found) and '# T = "env:T"' in found.toml
    assert [remark.text for remark in found.remarks] == [
        "the variable T is left out: the parameter Token is secret (NoEcho), and is not written here"
    ]


# --- what cannot be read --------------------------------------------------------------------------------------------------------------

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join(f'*a{i - 1}' for _ in range(10))}]\n" for i in range(1, 9)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i}\n  <<: [*a{i - 1}, *a{i - 1}]\n  y{i}: 1\n" for i in range(1, 40))


def _doubled() -> dict[str, Any]:
    """Forty queues, each named with the name of the one before, twice."""
    document = mapping(EventSourceArn={"Fn::GetAtt": ["Q39", "Arn"]})
    document["Resources"]["Q0"] = _queue("x")
    for i in range(1, 40):
        document["Resources"][f"Q{i}"] = _queue({"Fn::Sub": f"${{Q{i - 1}.QueueName}}${{Q{i - 1}.QueueName}}"})
    return document


def _queue(name: Any) -> dict[str, Any]:
    return {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": name}}


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ("", "found something else; allowed what `aws lambda list-event-source-mappings`"),
        ("[1, 2]", "no event source mapping, or no function"),
        ('{"Resources": ', "neither JSON nor YAML"),
        ("Resources:\n  a: [1\n  b: 2\n", "document1:3: neither JSON nor YAML"),
        ("Resources: !!python/object/apply:os.system [exit]", "neither JSON nor YAML: could not determine a constructor"),
        ("[" * 100_000, "nested too deep"),
        ("- " * 20_000, "nested too deep"),
        (LAUGHS, "more than 500,000 values once its aliases are written out"),
        (MERGES, "more than 500,000 values once its aliases are written out"),
        ("a: &a [*a]", "an alias that holds itself"),
        (_doubled(), "a text of more than 1,000,000 characters"),
        (
            template(Queue=_queue({"Ref": "Other"}), Other=_queue({"Fn::Sub": "${Queue.QueueName}-x"})),
            "a loop: Other -> Queue.QueueName -> Other",
        ),
        (
            template(X={"Type": "X", "Condition": "A"}) | {"Conditions": {"A": {"Condition": "B"}, "B": {"Fn::Not": [{"Condition": "A"}]}}},
            "a loop: condition A -> condition B -> condition A",
        ),
        (mapping(BatchSize={"Ref": "Nothing"}), "Ref names 'Nothing', which is not in the template; give --parameter Nothing=VALUE"),
        (mapping(BatchSize={"Fn::Select": [3, [1]]}), "Fn::Select wants number 3 of 1"),
        ({"Resources": [1]}, "Resources is no table of names"),
        (template(**{"Fn::ForEach::L": ["I", {"Ref": "I"}, {}]}), "what Fn::ForEach goes over is not known: Ref names 'I'"),
        (template(**{"Fn::ForEach::L": ["I", [f"i{n}" for n in range(600)], {"R${I}": {}}]}), "turns of loops, or 500 resources"),
        (
            template(**{"Fn::ForEach::L": ["I", [*range(100)], {"Fn::ForEach::M": ["J", [*range(100)], {}]}]}),
            "Fn::ForEach::M: more than 5,000 turns of loops",
        ),
    ],
    ids=lambda part: part[:30] if isinstance(part, str) else "",
)
def test_what_cannot_be_read_is_one_sentence(document: str | dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        carried(document)
    assert problem in str(refused.value)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 20_000)
    | st.text(max_size=6)
    | st.sampled_from(["arn:aws:sqs:eu-west-1:1:q", "Queue", "a.b"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Ref", "Fn::Sub", "Fn::Join", "Fn::If", "Fn::GetAtt", "Filters", "OnFailure", "Destination", "Type", "x"]),
            inner,
            max_size=2,
        )
    ),
    max_leaves=6,
)
NAMES = [
    "AmazonManagedKafkaEventSourceConfig", "BatchSize", "DestinationConfig", "Enabled", "EventSourceArn", "FilterCriteria",
    "FunctionName", "FunctionResponseTypes", "MaximumRecordAgeInSeconds", "ScalingConfig", "SelfManagedEventSource",
    "SourceAccessConfigurations", "StartingPosition", "StartingPositionTimestamp", "Topics",
]  # fmt: skip


@given(st.dictionaries(st.sampled_from(NAMES), values, max_size=5), st.sampled_from(["arn:aws:kafka:r:1:cluster/c", None]), st.booleans())
def test_whatever_stands_in_a_document_a_file_is_made_or_a_sentence_said(properties: dict[str, Any], arn: str | None, listed: bool) -> None:
    source = {} if arn is None else {"EventSourceArn": arn, "Topics": ["t"]}
    document: Any = mapping(**properties, **source) if not source.keys() & properties.keys() else mapping(**properties)
    if listed:
        document = {"EventSourceMappings": [{"UUID": "u", "FunctionArn": "f", "EventSourceArn": "arn:aws:sqs:r:1:q", **properties}]}
    try:
        found = carried(document)
    except ConfigError:
        return
    assert tomllib.loads(found.toml)["mappings"].keys() == {*found.mappings}


# --- the command ----------------------------------------------------------------------------------------------------------------------


def run(*arguments: str, input: str | None = None) -> Result:
    result = CliRunner().invoke(program, ["import", *arguments], input=input, prog_name="poller")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with a template below it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "infra").mkdir()
    shutil.copy(HERE / "mapping.template.json", tmp_path / "infra" / "template.json")
    return tmp_path


GIVEN = [part for name, value in GOLDEN["mapping.toml"][1].items() for part in ("--parameter", f"{name}={value}")]


def test_the_command_writes_a_file_whose_paths_start_at_it(project: Path) -> None:
    done = run("infra/template.json", "-o", "poller.toml", *GIVEN)
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "carried over: mappings 4, functions 1; remarks: 0; wrote poller.toml\n"
    assert loaded(project, (project / "poller.toml").read_text()).functions["name"].code == project / "infra" / "build"
    again = run("infra/template.json", "-o", "poller.toml", *GIVEN)
    assert again.exit_code == 2 and "there already, and left as it is" in again.stderr


def test_remarks_are_no_part_of_what_is_printed(project: Path) -> None:
    listing = (HERE / "listing.json").read_text()
    done = run("-", input=listing)
    assert done.exit_code == 0 and "mappings" in tomllib.loads(done.stdout)
    *remarks, count = done.stderr.splitlines()
    assert count == f"carried over: mappings 4, functions 3; remarks: {len(remarks)}"
    told = json.loads(run("-", "--json", input=listing).stdout)
    assert told["toml"] == done.stdout and [f"{each['where']}: {each['text']}" for each in told["remarks"]] == remarks
    # The middle of a stream's history is nobody's to guess.
    assert "starting_position says what is read again" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["infra/template.json", "--parameter", "Name"], "write NAME=VALUE"),
        (["infra/template.json"], "the parameter Name has no default; give --parameter Name=VALUE"),
        (["infra/template.json", "infra/template.json", *GIVEN], "the function 'name' is described twice"),
    ],
)
def test_what_the_command_cannot_do_ends_with_2(arguments: list[str], problem: str, project: Path) -> None:
    done = run(*arguments)
    assert done.exit_code == 2 and problem in done.stderr


def test_the_daemon_imports_none_of_this(project: Path) -> None:
    names = "m for m in sys.modules if m.startswith(('yaml', 'poller.imp'))"
    code = f"import sys, poller.daemon, connectors.sqs, connectors.kafka; print(*sorted({names}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=project)
    assert done.stdout.split() == []
