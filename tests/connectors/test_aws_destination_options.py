"""What the address and options of a destination on AWS may say; read without a vendor's library."""

from __future__ import annotations

import pytest

from connectors.aws.destination import legible
from connectors.aws.options import SendOptions
from connectors.awslambda import kind as functions
from connectors.eventbridge import kind as buses
from connectors.s3 import kind as buckets
from connectors.sns import kind as topics
from connectors.sqs import SqsOptions
from connectors.sqs import connector as sqs
from connectors.sqs.destination import kind as queues
from poller.errors import ConfigError
from poller.permissions import DestinationPermissions, Somewhere
from poller.settings import DestinationKind

QUEUE = "arn:aws:sqs:eu-west-1:123456789012:orders"

GOOD = [
    (queues, QUEUE, 1024 * 1024),
    (queues, f"{QUEUE}.fifo", 1024 * 1024),
    (queues, "arn:aws-cn:sqs:cn-north-1:123456789012:orders", 1024 * 1024),
    (topics, "arn:aws:sns:eu-west-1:123456789012:failures", 256 * 1024),
    (topics, "arn:aws:sns:eu-west-1:123456789012:failures.fifo", 256 * 1024),
    (buckets, "arn:aws:s3:::my-bucket", None),
    (buckets, "s3://my-bucket", None),
    (buckets, "s3://my-bucket/some/where/", None),
    (buses, "arn:aws:events:eu-west-1:123456789012:event-bus/default", 1022 * 1024),
    (functions, "arn:aws:lambda:eu-west-1:123456789012:function:failures", 1024 * 1024),
    (functions, "arn:aws:lambda:eu-west-1:123456789012:function:failures:$LATEST", 1024 * 1024),
]


@pytest.mark.parametrize(("kind", "to", "most"), GOOD)
def test_an_address(kind: DestinationKind, to: str, most: int | None) -> None:
    assert kind.traits(to, SendOptions()).maximum_bytes == most


BAD = [
    (queues, "https://sqs.eu-west-1.amazonaws.com/123456789012/orders", "arn:aws:sqs:<region>:<account>:<name>"),
    (queues, "arn:aws:sqs:eu-west-1:123456789012:orders.info", "arn:aws:sqs:"),
    (topics, "arn:aws:sns:eu-west-1:123456789012:failures:6b0e71bd-subscription", "arn:aws:sns:<region>:<account>:<name>"),
    (buckets, "arn:aws:s3:eu-west-1:123456789012:accesspoint/mine", "s3://<bucket>/<prefix>"),
    (buckets, "s3://My_Bucket", "arn:aws:s3:::<bucket>"),
    (buses, "arn:aws:events:eu-west-1:123456789012:rule/default", "event-bus/<name>"),
    (functions, "arn:aws:lambda:eu-west-1:123456789012:layer:failures", "function:<name>"),
]


@pytest.mark.parametrize(("kind", "to", "instead"), BAD)
def test_another_address_is_refused_with_one_that_is_allowed(kind: DestinationKind, to: str, instead: str) -> None:
    with pytest.raises(ConfigError) as raised:
        kind.traits(to, SendOptions())
    assert to in str(raised.value)
    assert instead in str(raised.value)


@pytest.mark.parametrize("kind", [queues, topics, buses, functions])
def test_all_that_is_wrong_with_the_options_is_said_at_once(kind: DestinationKind) -> None:
    to = next(to for one, to, _ in GOOD if one is kind)
    options = SendOptions(region="us-east-1", endpoint="localhost:4566", role_arn="role", timeout="soon")
    with pytest.raises(ConfigError) as raised:
        kind.traits(to, options)
    assert [problem.split(" ")[0].rstrip(":") for problem in raised.value.problems] == ["role_arn", "endpoint", "region", "timeout"]


@pytest.mark.parametrize("timeout", ["10ms", "1h"])
def test_a_timeout_that_no_call_has(timeout: str) -> None:
    with pytest.raises(ConfigError, match="100ms to 15m"):
        topics.traits("arn:aws:sns:eu-west-1:123456789012:failures", SendOptions(timeout=timeout))


def test_a_queue_is_known_as_the_source_that_it_is() -> None:
    """So that a mapping is refused whose failures come back to it."""
    source = sqs.traits(SqsOptions(queue=QUEUE)).identity
    assert queues.traits(QUEUE, SendOptions()).identity == source
    assert queues.traits(QUEUE, SendOptions(endpoint="http://127.0.0.1:9324")).identity != source
    assert queues.traits(f"{QUEUE}-dlq", SendOptions()).identity != source


@pytest.mark.parametrize(
    ("kind", "action"),
    [(queues, "sqs:SendMessage"), (topics, "sns:Publish"), (buckets, "s3:PutObject"), (buses, "events:PutEvents"),
     (functions, "lambda:InvokeFunction")],
)  # fmt: skip
def test_the_least_that_a_policy_must_allow(kind: DestinationKind, action: str) -> None:
    to = next(to for one, to, _ in GOOD if one is kind)
    assert isinstance(kind, DestinationPermissions)
    (grant,) = kind.permissions(to, SendOptions(), Somewhere()).grants
    assert grant.actions == (action,)
    assert grant.resources == (f"{to}/*" if action == "s3:PutObject" else to,)
    elsewhere = kind.permissions(to, SendOptions(endpoint="http://127.0.0.1:9324"), Somewhere())
    assert (elsewhere.grants, len(elsewhere.remarks)) == ((), 1)
    assert kind.permissions(to, SendOptions(role_arn="arn:aws:iam::123456789012:role/sender"), Somewhere()).role.endswith("/sender")


def test_two_characters_that_sqs_refuses_are_written_as_json_may() -> None:
    assert legible('{"a":"\uffff\ufffe\N{SNOWMAN}"}'.encode()) == '{"a":"\\uffff\\ufffe\N{SNOWMAN}"}'
