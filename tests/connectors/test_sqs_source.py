"""The connector: options, opening, the queue's policy, `check --live`."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from connectors.sqs import SqsConnector, SqsOptions, connector
from connectors.sqs.queue import Where, queue, where
from connectors.sqs.source import connections, receives
from poller.errors import ConfigError, NotConnected, SourceError
from poller.policy import Redeliver
from poller.protocols import Lane, Source, Store
from poller.settings import Backoff, Batching, Connector, Context, FailureSettings, MappingSettings
from poller.testing.sqs import FakeSqs


def settings(size: int = 10, width: int = 4, safe: bool = True, **failure: Any) -> MappingSettings:
    return MappingSettings("orders", "orders", "handle", Batching(size), FailureSettings(**failure), width, safe)


def context(mapping: MappingSettings) -> Context:
    return Context(mapping, cast("Store", None), "worker-1", lambda: 0.0, Path(), Path())


class Connected:
    """A connector of a fake SQS, and what it was connected with."""

    def __init__(self, sqs: FakeSqs) -> None:
        self.sqs = sqs
        self.asked: list[tuple[SqsOptions, int]] = []
        self.connector = SqsConnector(self._connect)

    async def _connect(self, options: SqsOptions, connections: int) -> FakeSqs:
        self.asked.append((options, connections))
        return self.sqs

    async def open(self, queue: str = "orders", mapping: MappingSettings | None = None, **options: Any) -> Any:
        return await self.connector.open(SqsOptions(queue=queue, **options), context(mapping or settings()))


# --- options ----------------------------------------------------------------------------------------------------------------------------


def test_naming_the_connector_imports_no_vendor() -> None:
    code = "import sys, connectors.sqs as s; s.connector.traits(s.SqsOptions(queue='q')); print([m for m in sys.modules if 'boto' in m])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_the_connector_keeps_the_protocols() -> None:
    _: Connector = connector
    assert connector.options is SqsOptions


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("orders", Where("orders")),
        ("orders.fifo", Where("orders.fifo")),
        ("arn:aws:sqs:eu-west-1:123456789012:orders", Where("orders", region="eu-west-1", owner="123456789012")),
        ("arn:aws-cn:sqs:cn-north-1:123456789012:orders.fifo", Where("orders.fifo", region="cn-north-1", owner="123456789012")),
        (
            "https://sqs.eu-west-1.amazonaws.com/123456789012/orders",
            Where("orders", "https://sqs.eu-west-1.amazonaws.com/123456789012/orders", "eu-west-1"),
        ),
        (
            "https://eu-west-1.queue.amazonaws.com/1/orders",
            Where("orders", "https://eu-west-1.queue.amazonaws.com/1/orders", "eu-west-1"),
        ),
        ("http://127.0.0.1:9324/000000000000/orders", Where("orders", "http://127.0.0.1:9324/000000000000/orders")),
    ],
)
def test_a_queue_may_be_named_in_three_ways(text: str, found: Where) -> None:
    assert where(text) == found


@pytest.mark.parametrize("text", ["", "or ders", "a" * 81, "arn:aws:sns:eu-west-1:1:topic", "http://host", "x.fifo.fifo"])
def test_anything_else_is_no_queue(text: str) -> None:
    with pytest.raises(ValueError, match="is no SQS queue"):
        where(text)


def test_traits() -> None:
    standard = connector.traits(SqsOptions(queue="orders"))
    assert (standard.kind, standard.default_batch_size, standard.maximum_batch_size, standard.fifo) == ("queue", 10, 10_000, False)
    assert (standard.default_batching_window, standard.maximum_batching_window) == (0.0, 300.0)
    fifo = connector.traits(SqsOptions(queue="orders.fifo", release_failed_groups=True))
    assert (fifo.default_batch_size, fifo.maximum_batch_size, fifo.maximum_batching_window, fifo.fifo) == (10, 10, 0.0, True)


def test_contradictions_are_all_told_at_once() -> None:
    options = SqsOptions(
        queue="arn:aws:sqs:eu-west-1:123456789012:orders",
        region="us-east-1",
        release_failed_groups=True,
        wait_time="21s",
        role_arn="admin",
        endpoint="localhost:9324",
    )
    with pytest.raises(ConfigError) as raised:
        connector.traits(options)
    assert [problem.split(" ")[0] for problem in raised.value.problems] == [
        "wait_time",
        "release_failed_groups",
        "region",
        "role_arn",
        "endpoint",
    ]


@pytest.mark.parametrize("wait", ["0s", "500ms", "21s", "soon", "1500ms"])
def test_wait_times_sqs_does_not_know(wait: str) -> None:
    with pytest.raises(ConfigError, match="wait_time"):
        connector.traits(SqsOptions(queue="orders", wait_time=wait))


def test_unknown_options_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="queu"):
        msgspec.convert({"queue": "orders", "queu": "x"}, SqsOptions)


def test_the_pool_holds_every_receive_and_more() -> None:
    for width in (1, 4, 1000):
        for size in (1, 10, 100, 10_000):
            mapping = settings(size=size, width=width)
            assert connections(mapping) >= receives(mapping) + min(width, 64) + 1
            assert 1 <= receives(mapping) <= 32


# --- opening ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["orders", "arn:aws:sqs:us-east-1:123456789012:orders", "https://sqs.us-east-1.amazonaws.com/1/orders"])
async def test_opening_asks_the_queue(named: str) -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders")
    connected = Connected(sqs)
    source: Source = await connected.open(named)
    assert source.identity == queue.arn
    assert connected.asked[0][1] == connections(settings())
    assert len(sqs.made("queue_url")) == (0 if named.startswith("https") else 1)
    lanes = [lane async for lane in source.lanes()]
    lane: Lane = lanes[0]
    assert (len(lanes), lane.name, lane.strands.assign, lane.strands.width) == (1, "orders", "any", 4)
    await lane.aclose()
    await source.aclose()
    assert sqs.closed == 1


async def test_a_missing_queue_closes_the_client() -> None:
    sqs = FakeSqs()
    with pytest.raises(NotConnected) as raised:
        await Connected(sqs).open("orders")
    assert raised.value.permanent
    assert sqs.closed == 1


async def test_an_answer_that_names_another_kind_of_queue_is_refused() -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders.fifo")
    queue.name = "orders"  # what its attributes say from now on
    with pytest.raises(SourceError, match="another queue"):
        await Connected(sqs).open("https://sqs.us-east-1.amazonaws.com/123456789012/orders.fifo")
    assert sqs.closed == 1


@pytest.mark.parametrize(
    "attributes", [{}, {"QueueArn": "arn", "VisibilityTimeout": "30"}, {"QueueArn": "a:b:c:d:e:f", "VisibilityTimeout": "x"}]
)
def test_what_is_no_sqs_is_told(attributes: dict[str, str]) -> None:
    with pytest.raises(SourceError, match="check `endpoint`"):
        queue("http://127.0.0.1/q", attributes)


@pytest.mark.parametrize(
    ("mapping", "redrive", "expected"),
    [
        (settings(), None, Redeliver(None, None, None, False, fallback=10)),
        (settings(safe=False), None, Redeliver(None, None, None, False)),
        (settings(), 5, Redeliver(None, 5, None, False, fallback=10)),
        (settings(maximum_receive_count=3), 5, Redeliver(3, 5, None, False, fallback=10)),
        (settings(safe=False, backoff=Backoff(2, 9), backoff_set=True), 5, Redeliver(None, 5, Backoff(2, 9), False)),
        (settings(safe=False, backoff=Backoff(2, 9)), 5, Redeliver(None, 5, None, False)),
    ],
)
async def test_the_policy(mapping: MappingSettings, redrive: int | None, expected: Redeliver) -> None:
    sqs = FakeSqs()
    sqs.create("dead")
    sqs.create("orders", redrive=None if redrive is None else ("dead", redrive))
    source = await Connected(sqs).open(mapping=mapping)
    assert source.policy == expected
    await source.aclose()
    told = connector.policy(SqsOptions(queue="orders"), mapping)
    assert replace(told, redrive_count=redrive) == expected, "the queue's own limit is all that the connector does not know unopened"


ARN = "arn:aws:sqs:eu-west-1:123456789012:orders"
URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/orders"
OLD_URL = "https://eu-west-1.queue.amazonaws.com/123456789012/orders"
EMQ = "http://127.0.0.1:9324"


def identity(queue: str, **options: str) -> str:
    return connector.traits(SqsOptions(queue=queue, **options)).identity  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "spellings",
    [
        (identity(ARN), identity(ARN, region="eu-west-1"), identity(ARN, profile="work"), identity(URL), identity(OLD_URL)),
        (identity("orders"), identity("orders", wait_time="9s")),
        (identity("orders", region="eu-west-1"), identity("orders", region="eu-west-1", wait_time="9s")),
        (identity("orders", endpoint=EMQ), identity("orders", endpoint=f"{EMQ}/")),
        (identity(f"{EMQ}/000000000000/orders"), identity(f"{EMQ}/000000000000/orders", wait_time="9s")),
    ],
)
def test_one_queue_has_one_identity_however_it_is_named(spellings: tuple[str, ...]) -> None:
    assert len({*spellings}) == 1


def test_what_may_be_another_queue_has_another_identity() -> None:
    """Of a name, only AWS can tell which account's queue it is, and in which region."""
    different = [
        identity(ARN),
        identity(ARN.replace("123456789012", "210987654321")),
        identity(ARN.replace("eu-west-1", "us-east-1")),
        identity(f"{ARN}.fifo"),
        identity(ARN, endpoint=EMQ),
        identity("orders"),
        identity("orders", region="eu-west-1"),
        identity("orders", region="eu-west-1", profile="work"),
        identity("orders", profile="work"),
        identity("orders", role_arn="arn:aws:iam::123456789012:role/poller"),
        identity("orders", endpoint=EMQ),
        identity(f"{EMQ}/000000000000/orders"),
        identity(f"{EMQ}/000000000000/orders", profile="work"),
        identity("http://127.0.0.1:9325/000000000000/orders"),
    ]
    assert len({*different}) == len(different)


async def test_groups_are_released_only_if_asked() -> None:
    sqs = FakeSqs()
    sqs.create("orders.fifo")
    for asked in (True, False):
        source = await Connected(sqs).open("orders.fifo", release_failed_groups=asked)
        assert source.policy.groups is asked


# --- check --live -----------------------------------------------------------------------------------------------------------------------


async def probed(sqs: FakeSqs, timeout: float = 3.0, **failure: Any) -> list[tuple[str, str]]:
    findings = await Connected(sqs).connector.probe(SqsOptions(queue="orders"), context(settings(**failure)), timeout)
    return [(finding.level, finding.text) for finding in findings]


async def test_a_good_queue() -> None:
    sqs = FakeSqs()
    sqs.create("dead")
    queue = sqs.create("orders", redrive=("dead", 5))
    sqs.send(queue, "m1")
    findings = await probed(sqs)
    assert [level for level, _ in findings] == ["ok", "ok", "ok"]
    assert "dead" in findings[2][1]
    assert (sqs.made("receive"), queue.messages[0].receives, sqs.closed) == ([], 0, 1)  # nothing was taken


async def test_a_function_that_outlives_the_visibility_timeout() -> None:
    sqs = FakeSqs()
    sqs.create("orders", visibility=30)
    findings = await probed(sqs, timeout=60)
    assert [level for level, _ in findings] == ["ok", "warning", "ok"]
    assert "extended" in findings[1][1]


async def test_no_limit_at_all() -> None:
    sqs = FakeSqs()
    sqs.create("orders")
    connected, aws = Connected(sqs), settings(safe=False)
    findings = await connected.connector.probe(SqsOptions(queue="orders"), context(aws), 3.0)
    assert findings[-1].level == "warning"
    assert "for ever" in findings[-1].text


async def test_missing_permissions() -> None:
    sqs = FakeSqs()
    sqs.create("orders")
    sqs.fail("change_visibility", NotConnected("AccessDenied", permanent=True))
    sqs.fail("delete", NotConnected("AccessDenied", permanent=True))
    findings = await probed(sqs)
    assert [level for level, _ in findings] == ["ok", "error", "warning", "ok", "ok"]


async def test_a_missing_queue() -> None:
    sqs = FakeSqs()
    findings = await probed(sqs)
    assert [level for level, _ in findings] == ["error"]
    assert sqs.closed == 1
