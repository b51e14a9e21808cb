"""What the options of `kinesis` and `dynamodb_streams` allow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connectors.dynamodb_streams import DynamoDBConnector
from connectors.dynamodb_streams.options import DynamoDBOptions
from connectors.kinesis import KinesisConnector
from connectors.kinesis.options import KinesisOptions
from poller.errors import ConfigError
from poller.policy import Block
from poller.settings import Batching, FailureSettings, MappingSettings

STREAM = "arn:aws:kinesis:eu-west-1:123456789012:stream/orders"
CONSUMER = f"{STREAM}/consumer/fan-out:1545084650"
TABLE = "arn:aws:dynamodb:eu-west-1:123456789012:table/orders"
ROLE = "arn:aws:iam::123456789012:role/poller"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"stream": "a b"}, "is no Kinesis stream"),
        ({"stream": ""}, "is no Kinesis stream"),
        ({"stream": CONSUMER}, "consumer_arn"),
        ({"stream": TABLE}, "is no Kinesis stream"),
        ({"stream": STREAM, "region": "us-east-1"}, "leave region out"),
        ({"stream": "s", "role_arn": "poller"}, "role's ARN"),
        ({"stream": "s", "endpoint": "localhost:4567"}, "write a URL"),
        ({"stream": "s", "starting_position": "AT_TIMESTAMP"}, "starting_position_timestamp"),
        ({"stream": "s", "consumer_arn": "fan-out"}, "registered consumer"),
        ({"stream": "s", "consumer_arn": CONSUMER}, "is a consumer of"),
        ({"stream": STREAM.replace("eu-west", "us-west"), "consumer_arn": CONSUMER}, "is a consumer of"),
        ({"stream": "orders", "region": "us-east-1", "consumer_arn": CONSUMER}, "leave region out"),
    ],
)
def test_what_kinesis_does_not_take(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        KinesisConnector().traits(KinesisOptions(**options))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"table": "a b"}, "is no DynamoDB table"),
        ({"table": STREAM}, "is no DynamoDB table"),
        ({"table": f"{TABLE}/stream/"}, "is no DynamoDB table"),
        ({"table": TABLE, "region": "us-east-1"}, "leave region out"),
        ({"table": "t", "role_arn": "poller"}, "role's ARN"),
        ({"table": "t", "endpoint": "localhost:8000"}, "write a URL"),
    ],
)
def test_what_dynamodb_streams_does_not_take(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        DynamoDBConnector().traits(DynamoDBOptions(**options))


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        KinesisConnector().traits(KinesisOptions(stream="a b", role_arn="r", endpoint="e", consumer_arn="c"))
    assert len(raised.value.problems) == 4


def test_no_changes_at_a_time() -> None:
    """As on AWS: `Unsupported starting position for arn type`."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"table": "t", "starting_position": "AT_TIMESTAMP"}, DynamoDBOptions)


def identity(**options: Any) -> str:
    if "stream" in options:
        return KinesisConnector().traits(KinesisOptions(**options)).identity
    return DynamoDBConnector().traits(DynamoDBOptions(**options)).identity


def test_one_source_has_one_identity_however_it_is_written() -> None:
    assert identity(stream=STREAM) == identity(stream=STREAM, region="eu-west-1") == identity(stream=STREAM, profile="p")
    assert identity(table=TABLE) == identity(table=TABLE, region="eu-west-1")
    assert identity(stream="orders") == identity(stream="orders", consumer_arn=CONSUMER)
    different = [
        identity(stream=STREAM),
        identity(stream="orders"),
        identity(stream="orders", region="eu-west-1"),
        identity(stream="orders", profile="p"),
        identity(stream="orders", role_arn=ROLE),
        identity(stream="orders", endpoint="http://127.0.0.1:1"),
    ]
    assert len(set(different)) == len(different)
    tables = [TABLE, f"{TABLE}/stream/2015-05-11T21:21:33.291", f"{TABLE}/stream/2016-05-11T21:21:33.291", "orders"]
    assert len({identity(table=each) for each in tables}) == len(tables)
    assert identity(stream="orders", endpoint="http://h:1/") == identity(stream="orders", endpoint="http://h:1")


def test_what_they_allow_by_default() -> None:
    """As AWS (aws-esm: Parameters)."""
    connector, other = KinesisConnector(), DynamoDBConnector()
    for traits in (connector.traits(KinesisOptions(stream="s")), other.traits(DynamoDBOptions(table="t"))):
        assert (traits.kind, traits.default_batch_size, traits.maximum_batch_size) == ("stream", 100, 10_000)
        assert (traits.default_batching_window, traits.maximum_batching_window, traits.aws_parallelization_factor) == (0.0, 300.0, 10)
        assert traits.refused_by_aws == ()


def test_what_aws_would_refuse() -> None:
    refused = KinesisConnector().traits(KinesisOptions(stream="s", deaggregate=True, partial="listed")).refused_by_aws
    assert [each.split()[0] for each in refused] == ["deaggregate", "partial"]
    assert len(DynamoDBConnector().traits(DynamoDBOptions(table="t", partial="listed")).refused_by_aws) == 1


def test_their_policy_is_block_below_the_retention_that_is_assumed() -> None:
    settings = MappingSettings("m", "m", "f", Batching(100), FailureSettings(), 1)
    connector, other = KinesisConnector(), DynamoDBConnector()
    assert connector.policy(KinesisOptions(stream="s"), settings) == Block.of(settings, "cut", 86400.0)
    assert other.policy(DynamoDBOptions(table="t", partial="listed"), settings) == Block.of(settings, "listed", 86400.0)
    assert "24 hours" in connector.traits(KinesisOptions(stream="s")).assumed[0]
    assert other.traits(DynamoDBOptions(table="t")).assumed == (), "nobody can change it"


def test_naming_the_connectors_imports_no_vendor() -> None:
    code = (
        "import sys, connectors.kinesis as k, connectors.dynamodb_streams as d;"
        " k.KinesisConnector().traits(k.KinesisOptions(stream='s')); d.DynamoDBConnector().traits(d.DynamoDBOptions(table='t'));"
        " print([m for m in sys.modules if 'boto' in m or m == 'aiohttp'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "[]"
