"""`poller iam`: what a mapping needs, resource by resource; that no call of ours was forgotten; that actions are spelt as AWS does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import botocore.loaders
import pytest
from click.testing import CliRunner

from connectors.dynamodb import permissions as ledger
from connectors.dynamodb_streams import permissions as tables
from connectors.kafka import permissions as topics
from connectors.kinesis import permissions as streams
from connectors.sqs import permissions as queues
from poller.cli import program
from poller.cli.permitting import Permitted, permitted
from poller.config import load
from poller.errors import ConfigError
from poller.permissions import DestinationPermissions, LetterPermissions, Somewhere
from poller.redrive.letters import Readable
from poller.registry import DESTINATIONS, Registry

ROOT = Path(__file__).resolve().parents[2]
HERE = Somewhere("eu-west-1", "111111111111")
SQS = "arn:aws:sqs:eu-west-1:111111111111"
STREAM = "arn:aws:kinesis:eu-west-1:111111111111:stream/clicks"
TABLE = "arn:aws:dynamodb:eu-west-1:111111111111:table/items"


def configured(folder: Path, source: str, mapping: str = "", daemon: str = "") -> Path:
    (folder / "app.py").touch()
    path = folder / "poller.toml"
    path.write_text(
        f'[poller]\nstore = "sqlite:p.db"\n{daemon}\n[functions.f]\nhandler = "app.py:f"\n'
        f'[mappings.m]\nfunction = "f"\n{mapping}\n[mappings.m.source]\n{source}\n'
    )
    return path


def asked(
    folder: Path, source: str, mapping: str = "", daemon: str = "", place: Somewhere = HERE, origin: str | None = None, back: bool = False
) -> Permitted:
    registry = Registry()
    return permitted(load(configured(folder, source, mapping, daemon), registry, {}), registry, "m", place, origin, back)


def allowed(found: Permitted, role: str = "") -> dict[str, set[str]]:
    """Resource -> actions."""
    told: dict[str, set[str]] = {}
    for statement in next(each.policy for each in found.principals if each.role == role)["Statement"]:
        assert statement["Effect"] == "Allow" and re.fullmatch(r"[A-Za-z0-9]+", statement["Sid"])
        for resource in statement["Resource"]:
            told.setdefault(resource, set()).update(statement["Action"])
    return told


# --- sources --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queue", "named"),
    [
        (f"{SQS}:orders", True),
        ("orders", True),
        ("https://sqs.eu-west-1.amazonaws.com/111111111111/orders", False),
        ("https://eu-west-1.queue.amazonaws.com/111111111111/orders", False),
    ],
)
def test_a_queue_is_named_by_its_arn_however_it_is_spelt(queue: str, named: bool, tmp_path: Path) -> None:
    found = allowed(asked(tmp_path, f'type = "sqs"\nqueue = "{queue}"'))
    assert found == {f"{SQS}:orders": {*queues.ACTIONS} | ({queues.BY_NAME} if named else set())}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('type = "kinesis"\nstream = "clicks"', {STREAM: {*streams.ACTIONS}}),
        (
            'type = "kinesis"\nstream = "clicks"\nregion = "cn-north-1"',
            {"arn:aws-cn:kinesis:cn-north-1:111111111111:stream/clicks": {*streams.ACTIONS}},
        ),
        (
            f'type = "kinesis"\nstream = "clicks"\nconsumer_arn = "{STREAM}/consumer/fast:1"',
            {STREAM: {*streams.ACTIONS}, f"{STREAM}/consumer/fast:1": {*streams.FAN_OUT}},
        ),
        ('type = "dynamodb-streams"\ntable = "items"', {f"{TABLE}/stream/*": {*tables.ACTIONS, tables.BY_TABLE}}),
        (f'type = "dynamodb-streams"\ntable = "{TABLE}"', {f"{TABLE}/stream/*": {*tables.ACTIONS, tables.BY_TABLE}}),
        (f'type = "dynamodb-streams"\ntable = "{TABLE}/stream/2026"', {f"{TABLE}/stream/2026": {*tables.ACTIONS}}),
        (
            'type = "kafka"\ntopic = "t"\nsasl = { mechanism = "AWS_MSK_IAM" }\n'
            'bootstrap_servers = ["b-2.demo.a1b2c3.c2.kafka.eu-central-1.amazonaws.com:9098"]',
            {
                "arn:aws:kafka:eu-central-1:111111111111:cluster/demo/*": {"kafka-cluster:Connect"},
                "arn:aws:kafka:eu-central-1:111111111111:topic/demo/*/t": {
                    "kafka-cluster:DescribeTopic", "kafka-cluster:DescribeTopicDynamicConfiguration", "kafka-cluster:ReadData",
                },
                "arn:aws:kafka:eu-central-1:111111111111:group/demo/*/poller-m": {
                    "kafka-cluster:DescribeGroup", "kafka-cluster:AlterGroup",
                },
            },
        ),
    ],
    ids=range(7),
)  # fmt: skip
def test_a_stream_is_named_as_closely_as_it_can_be(source: str, expected: dict[str, set[str]], tmp_path: Path) -> None:
    assert allowed(asked(tmp_path, source)) == expected


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ('type = "local-queue"\nname = "q"', "the source (local-queue) is nothing that IAM guards"),
        (
            'type = "kafka"\ntopic = "t"\nbootstrap_servers = ["b:9092"]',
            "the cluster's own ACLs decide, not IAM: it needs READ and DESCRIBE",
        ),
        ('type = "sqs"\nqueue = "q"\nendpoint = "http://127.0.0.1:9324"', "which is not AWS's: IAM does not decide there"),
        ('type = "sqs"\nqueue = "http://127.0.0.1:9324/000000000000/q"', "which is not AWS's: IAM does not decide there"),
    ],
)
def test_what_iam_does_not_decide_is_said(source: str, sentence: str, tmp_path: Path) -> None:
    found = asked(tmp_path, source)
    assert found.principals == () and sentence in " ".join(found.remarks)


def test_an_endpoint_inside_a_private_network_is_still_of_aws(tmp_path: Path) -> None:
    source = 'type = "sqs"\nqueue = "q"\nendpoint = "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com"'
    assert allowed(asked(tmp_path, source)).keys() == {f"{SQS}:q"}


def test_what_nobody_knows_is_said(tmp_path: Path) -> None:
    found = asked(tmp_path, 'type = "sqs"\nqueue = "q"', place=Somewhere())
    assert allowed(found).keys() == {"arn:aws:sqs:*:*:q"}
    assert [text[:30] for text in found.remarks[:2]] == ["the region is not known, and *", "the account is not known, and "]


# --- destinations, ledger, roles ------------------------------------------------------------------------------------------------------

DESTINED = {
    f"{SQS}:failed": (f"{SQS}:failed", {"sqs:SendMessage"}),
    "arn:aws:sns:eu-west-1:111111111111:failed": ("arn:aws:sns:eu-west-1:111111111111:failed", {"sns:Publish"}),
    "arn:aws:s3:::failed": ("arn:aws:s3:::failed/*", {"s3:PutObject"}),
    "s3://failed/here": ("arn:aws:s3:::failed/here/*", {"s3:PutObject"}),
    "arn:aws:lambda:eu-west-1:111111111111:function:g": ("arn:aws:lambda:eu-west-1:111111111111:function:g", {"lambda:InvokeFunction"}),
    "arn:aws:events:eu-west-1:111111111111:event-bus/b": ("arn:aws:events:eu-west-1:111111111111:event-bus/b", {"events:PutEvents"}),
}


def test_each_destination_is_named(tmp_path: Path) -> None:
    *some, last = DESTINED
    mapping = f"on_failure = {json.dumps(['file:failures.jsonl', *some])}\non_success = {json.dumps(last)}"
    found = asked(tmp_path, 'type = "sqs"\nqueue = "q"', mapping)
    assert allowed(found) == dict(DESTINED.values()) | {f"{SQS}:q": {*queues.ACTIONS, queues.BY_NAME}}
    assert "the destination file:failures.jsonl is nothing that IAM guards" in found.remarks


def test_what_is_a_secret_of_an_address_is_not_told(tmp_path: Path) -> None:
    (remark,) = asked(tmp_path, 'type = "local-queue"\nname = "q"', 'on_failure = "https://hooks.test/T0/s3cret"').remarks[1:]
    assert remark.startswith("the destination https://hooks.test/***") and "s3cret" not in remark


def test_a_topic_of_the_same_cluster_is_written_to(tmp_path: Path) -> None:
    source = (
        'type = "kafka"\ntopic = "t"\nsasl = { mechanism = "AWS_MSK_IAM" }\n'
        'bootstrap_servers = ["b-1.demo.a1b2c3.c2.kafka.eu-west-1.amazonaws.com:9098"]'
    )
    found = allowed(asked(tmp_path, source, 'on_failure = "kafka://dead"'))
    assert found["arn:aws:kafka:eu-west-1:111111111111:topic/demo/*/dead"] == {"kafka-cluster:DescribeTopic", "kafka-cluster:WriteData"}
    assert found["arn:aws:kafka:eu-west-1:111111111111:cluster/demo/*"] == {"kafka-cluster:Connect", "kafka-cluster:WriteDataIdempotently"}


def test_every_kind_of_destination_that_iam_may_guard_tells_its_permissions() -> None:
    registry = Registry()
    guarded = {name for name in registry.names(DESTINATIONS) if isinstance(registry.destination(name), DestinationPermissions)}
    assert guarded == {"events", "kafka", "lambda", "s3", "sns", "sqs"}


BROKER = (
    'type = "kafka"\ntopic = "t"\nsasl = { mechanism = "AWS_MSK_IAM" }\n'
    'bootstrap_servers = ["b-1.demo.a1b2c3.c2.kafka.eu-west-1.amazonaws.com:9098"]'
)


@pytest.mark.parametrize(
    ("origin", "source", "expected"),
    [
        (f"{SQS}:dead", 'type = "sqs"\nqueue = "q"', {f"{SQS}:dead": {*queues.ACTIONS, queues.BY_NAME}}),
        (
            "s3://failed/here",
            'type = "sqs"\nqueue = "q"',
            {"arn:aws:s3:::failed": {"s3:ListBucket"}, "arn:aws:s3:::failed/here/*": {"s3:GetObject"}},
        ),
        (
            "kafka://dead",
            BROKER,
            {
                "arn:aws:kafka:eu-west-1:111111111111:topic/demo/*/dead": {*topics.READ},
                "arn:aws:kafka:eu-west-1:111111111111:group/demo/*/poller-redrive-m": {*topics.JOIN},
            },
        ),
    ],
    ids=["sqs", "s3", "kafka"],
)
def test_what_taking_letters_needs_is_told_when_asked_for(origin: str, source: str, expected: dict[str, set[str]], tmp_path: Path) -> None:
    without, found = (allowed(asked(tmp_path, source, origin=each)) for each in (None, origin))
    assert found == without | expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('type = "sqs"\nqueue = "q"', {f"{SQS}:q": {"sqs:SendMessage"}}),
        ('type = "kinesis"\nstream = "clicks"', {STREAM: {"kinesis:PutRecord"}}),
        (
            BROKER,
            {"arn:aws:kafka:eu-west-1:111111111111:topic/demo/*/t": {*topics.WRITE}}
            | {"arn:aws:kafka:eu-west-1:111111111111:cluster/demo/*": {"kafka-cluster:WriteDataIdempotently"}},
        ),
    ],
    ids=["sqs", "kinesis", "kafka"],
)
def test_what_putting_back_needs_is_told_when_asked_for(source: str, expected: dict[str, set[str]], tmp_path: Path) -> None:
    without, found = (allowed(asked(tmp_path, source, back=each)) for each in (False, True))
    assert found == {resource: without.get(resource, set()) | expected.get(resource, set()) for resource in without | expected}


def test_putting_back_where_iam_guards_nothing_and_where_nothing_can_be_put(tmp_path: Path) -> None:
    local = asked(tmp_path, 'type = "local-queue"\nname = "q"', back=True)
    assert not local.principals and "the source (local-queue) is nothing that IAM guards" in local.remarks
    with pytest.raises(ConfigError, match="of type 'dynamodb-streams', cannot be written to"):
        asked(tmp_path, 'type = "dynamodb-streams"\ntable = "t"', back=True)


def test_events_that_found_no_room_in_a_letter_are_read_too(tmp_path: Path) -> None:
    found = allowed(asked(tmp_path, 'type = "sqs"\nqueue = "q"', 'on_failure = ["s3://failed", "file:f.jsonl"]', origin=f"{SQS}:dead"))
    assert found["arn:aws:s3:::failed"] == {"s3:ListBucket"}
    assert found["arn:aws:s3:::failed/*"] == {"s3:PutObject", "s3:GetObject"}


def test_letters_that_iam_does_not_guard_and_those_that_cannot_be_read(tmp_path: Path) -> None:
    source = 'type = "sqs"\nqueue = "q"'
    assert "what lies at file:f.jsonl is nothing that IAM guards" in asked(tmp_path, source, origin="file:f.jsonl").remarks
    with pytest.raises(ConfigError, match="nothing can be read from there; it can from an address of file, kafka, "):
        asked(tmp_path, source, origin="arn:aws:sns:eu-west-1:111111111111:failed")


def test_every_kind_whose_letters_iam_may_guard_tells_its_permissions() -> None:
    """Each that can be read, and is guarded for sending."""
    registry = Registry()
    kinds = {name: registry.destination(name) for name in registry.names(DESTINATIONS)}
    guarded = {name for name, kind in kinds.items() if isinstance(kind, LetterPermissions)}
    assert guarded == {name for name, kind in kinds.items() if isinstance(kind, Readable) and isinstance(kind, DestinationPermissions)}


def test_a_role_has_a_policy_of_its_own(tmp_path: Path) -> None:
    role = "arn:aws:iam::111111111111:role/reads"
    found = asked(tmp_path, f'type = "sqs"\nqueue = "q"\nrole_arn = "{role}"', f'on_failure = "{SQS}:failed"')
    assert allowed(found) == {f"{SQS}:failed": {"sqs:SendMessage"}, role: {"sts:AssumeRole"}}
    assert allowed(found, role).keys() == {f"{SQS}:q"}


def test_a_ledger_needs_its_two_tables(tmp_path: Path) -> None:
    daemon = 'leases = "dynamodb://leases-{mapping}-{source}?region=eu-west-1"'
    found = allowed(asked(tmp_path, 'type = "local-stream"\nname = "s"', 'id = "mine"', daemon))
    table = "arn:aws:dynamodb:eu-west-1:111111111111:table/leases-mine-????????????"
    assert found == {table: {*ledger.TABLE}, f"{table}-poller": {*ledger.BESIDE}}


# --- nothing forgotten, nothing misspelt ----------------------------------------------------------------------------------------------

ACTIONS = {
    "sqs": {*queues.ACTIONS, queues.BY_NAME, queues.RETURN},
    "kinesis": {*streams.ACTIONS, *streams.FAN_OUT, streams.RETURN},
    "dynamodb_streams": {*tables.ACTIONS, tables.BY_TABLE},
    "dynamodb": {*ledger.TABLE, *ledger.BESIDE},
}
SHARED = {"kinesis": "sharded", "dynamodb_streams": "sharded"}
IN_A_TRANSACTION = {"Put": "PutItem", "Delete": "DeleteItem", "Update": "UpdateItem", "ConditionCheck": "ConditionCheckItem"}


def operations(package: str) -> set[str]:
    """What the sources of a connector call, by the names of AWS's actions."""
    text = "".join(
        path.read_text() for name in {package, SHARED.get(package, package)} for path in (ROOT / "connectors" / name).glob("*.py")
    )
    snake = {"".join(part.title() for part in name.split("_")) for name in re.findall(r'\b_?ask\(\s*"([a-z_]+)"', text)}
    spelt = set(re.findall(r'\b(?:_ask|call|read|pages|received)\(\s*"([A-Z][A-Za-z]+)"', text))
    inside = {IN_A_TRANSACTION[name] for name in re.findall(r'"(Put|Delete|Update|ConditionCheck)": \{"TableName"', text)}
    return {name.removesuffix("Batch") for name in snake | spelt} - {"TransactWriteItems"} | inside


@pytest.mark.parametrize("package", ACTIONS)
def test_every_call_is_allowed_and_nothing_else(package: str) -> None:
    called = operations(package)
    given = {action.partition(":")[2] for action in ACTIONS[package]}
    assert len(called) >= 4
    assert called == given


@pytest.mark.parametrize(
    ("service", "package"), [("sqs", "sqs"), ("kinesis", "kinesis"), ("dynamodbstreams", "dynamodb_streams"), ("dynamodb", "dynamodb")]
)
def test_actions_are_spelt_as_operations_are(service: str, package: str) -> None:
    model: dict[str, Any] = botocore.loaders.Loader().load_service_model(service, "service-2")
    known = {*model["operations"], "ConditionCheckItem"}
    assert {action.partition(":")[2] for action in ACTIONS[package]} <= known


# --- the command ----------------------------------------------------------------------------------------------------------------------


def test_the_command_prints_a_policy_alone_on_stdout(tmp_path: Path) -> None:
    path = configured(tmp_path, 'type = "sqs"\nqueue = "q"\nregion = "eu-west-1"')
    shown = CliRunner().invoke(program, ["iam", "m", "-c", str(path), "--account", "111111111111"])
    assert shown.exit_code == 0 and json.loads(shown.stdout)["Statement"][0]["Resource"] == [f"{SQS}:q"]
    lines = CliRunner().invoke(program, ["iam", "m", "-c", str(path), "--json"], env={"AWS_REGION": "us-east-1"}).stdout.splitlines()
    first, last = (json.loads(line) for line in lines)
    assert first["role"] is None and first["policy"]["Version"] == "2012-10-17" and "--account" in last["remarks"][0]


def test_a_mapping_that_does_not_exist_is_a_sentence(tmp_path: Path) -> None:
    registry = Registry()
    config = load(configured(tmp_path, 'type = "sqs"\nqueue = "q"'), registry, {})
    with pytest.raises(ConfigError, match='found the mapping "n", which does not exist; allowed m'):
        permitted(config, registry, "n", HERE)
