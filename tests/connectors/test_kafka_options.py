"""The options of the Kafka connector: what they allow, what they contradict, and how a configuration reads them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from connectors.kafka import connector
from connectors.kafka.options import KafkaOptions, Sasl, Tls, msk_region
from connectors.starting import epoch, origin
from poller.config import Config, load
from poller.errors import ConfigError
from poller.policy import Block
from poller.registry import Registry
from poller.settings import Backoff, Batching, Connector, FailureSettings, MappingSettings

BROKERS = ["broker1:9092", "broker2:9092"]
LOGIN: dict[str, Any] = {"username": "alice", "password": "s3cret"}
GRANT: dict[str, Any] = {"token_endpoint": "https://login.example.com/token", "client_id": "poller", "client_secret": "s3cret"}


def options(**changes):
    return KafkaOptions(**{"bootstrap_servers": BROKERS, "topic": "orders", **changes})


def wrong(**changes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        connector.traits(options(**changes))
    return caught.value.problems


def test_naming_the_connector_imports_no_vendor():
    code = (
        "import sys, connectors.kafka as k; k.connector.traits(k.KafkaOptions(bootstrap_servers=['b:1'], topic='t'));"
        " print([m for m in sys.modules if 'kafka' in m and not m.startswith('connectors.') or 'boto' in m or m == 'aiohttp'])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_the_connector_keeps_the_protocols():
    _: Connector = connector
    assert connector.options is KafkaOptions


# --- what is allowed ------------------------------------------------------------------------------------------------------------------


def test_a_topic_is_a_stream_with_the_defaults_of_aws():
    traits = connector.traits(options())
    assert (traits.kind, traits.default_batch_size, traits.default_batching_window, traits.fifo) == ("stream", 100, 0.5, False)
    assert options().starting_position == "TRIM_HORIZON" and options().isolation_level == "read_committed"


def test_one_topic_or_several():
    assert options().names == ("orders",)
    assert options(topic=None, topics=["a", "b"]).names == ("a", "b")


def test_the_group_is_the_mappings_own():
    assert options().group_of("m1") == "poller-m1"
    assert options(group="shared").group_of("m1") == "shared"


def test_the_policy_is_block_with_the_meaning_of_partial_failures():
    failure = FailureSettings(3, 60.0, False, True, None, Backoff(2.0, 4.0))
    settings = MappingSettings("m", "m", "f", Batching(10), failure, 1)
    assert connector.policy(options(), settings) == Block(3, 60.0, False, Backoff(2.0, 4.0), "listed")
    assert connector.policy(options(partial="cut"), settings) == Block(3, 60.0, False, Backoff(2.0, 4.0), "cut")


@pytest.mark.parametrize(
    "changes",
    [
        {"bootstrap_servers": ["[::1]:9092", "10.0.0.1:9092", "b-1.demo.abc.c2.kafka.eu-west-1.amazonaws.com:9098"]},
        {"group_instance_id": "host-1.orders"},
        {"starting_position": "AT_TIMESTAMP", "starting_position_timestamp": "2026-01-31T08:00:00Z"},
        {"session_timeout": "6s", "drain_limit": "0s", "rack": "eu-west-1a"},
        {"tls": Tls()},
        {"tls": Tls(ca="ca.pem", certificate="me.pem", key="me.key", key_password="x", verify_hostname=False)},
        {"sasl": Sasl(mechanism="PLAIN", **LOGIN)},
        {"sasl": Sasl(mechanism="SCRAM-SHA-512", **LOGIN), "tls": Tls()},
        {"sasl": Sasl(mechanism="OAUTHBEARER", **GRANT, scope="kafka", audience="a", extensions={"logicalCluster": "lkc-1"})},
        {"sasl": Sasl(mechanism="OAUTHBEARER", token="t", extensions={"logicalCluster": "lkc-1"})},
        {"sasl": Sasl(mechanism="AWS_MSK_IAM")},
        {"sasl": Sasl(mechanism="AWS_MSK_IAM", region="eu-west-1", profile="p", role_arn="arn:aws:iam::1:role/r")},
    ],
)
def test_what_is_allowed(changes):
    connector.traits(options(**changes))


def test_each_worker_of_a_daemon_is_a_static_member_of_its_own():
    static = options(group_instance_id="host-1")
    assert [static.instance_of(worker) for worker in (0, 1, 2)] == ["host-1", "host-1-1", "host-1-2"]
    assert options().instance_of(2) is None


def test_iam_means_tls():
    assert options().encrypted is None
    assert options(sasl=Sasl(mechanism="PLAIN", **LOGIN)).encrypted is None
    assert options(sasl=Sasl(mechanism="AWS_MSK_IAM")).encrypted == Tls()
    assert options(sasl=Sasl(mechanism="AWS_MSK_IAM"), tls=Tls(ca="x")).encrypted == Tls(ca="x")


# --- what is not ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"bootstrap_servers": []}, "bootstrap_servers is empty"),
        ({"bootstrap_servers": ["broker1"]}, "'broker1' is no host and port"),
        ({"bootstrap_servers": ["broker1:0"]}, "no host and port"),
        ({"bootstrap_servers": ["broker1:65536"]}, "no host and port"),
        ({"bootstrap_servers": ["a:9092,b:9092"]}, "no host and port"),
        ({"bootstrap_servers": ["SASL_SSL://a:9092"]}, "no host and port"),
        ({"bootstrap_servers": ["::1:9092"]}, "no host and port"),
        ({"topic": None}, "exactly one"),
        ({"topics": ["b"]}, "exactly one"),
        ({"topic": None, "topics": ["b", "b"]}, "named twice"),
        ({"topic": "or ders"}, "'or ders'"),
        ({"topic": ".."}, "'..'"),
        ({"topic": "x" * 250}, "1 to 249"),
        ({"group": " "}, "group is empty"),
        ({"group_instance_id": "a b"}, "group_instance_id"),
        ({"starting_position": "AT_TIMESTAMP"}, "give both, or neither"),
        ({"starting_position_timestamp": 1.0}, "give both, or neither"),
        ({"starting_position": "AT_TIMESTAMP", "starting_position_timestamp": "soon"}, "is no time"),
        ({"session_timeout": "1s"}, "session_timeout = '1s': must be 3s to 30m"),
        ({"session_timeout": "20"}, "session_timeout: '20' is no duration"),
        ({"drain_limit": "16m"}, "drain_limit = '16m': must be 0s to 15m"),
        ({"tls": Tls(key="k")}, "tls.key belongs to a certificate"),
        ({"tls": Tls(key_password="k")}, "tls.key_password belongs to a certificate"),
        ({"sasl": Sasl(mechanism="PLAIN", username="alice")}, "sasl.password is missing; PLAIN needs password and username"),
        ({"sasl": Sasl(mechanism="SCRAM-SHA-256", **LOGIN, token="t")}, "sasl.token is not used by SCRAM-SHA-256"),
        ({"sasl": Sasl(mechanism="OAUTHBEARER")}, "sasl.token_endpoint is missing"),
        ({"sasl": Sasl(mechanism="OAUTHBEARER", **GRANT, token="t")}, "sasl.client_secret is not used by OAUTHBEARER with a token"),
        ({"sasl": Sasl(mechanism="OAUTHBEARER", token="t", scope="s")}, "sasl.scope is not used by OAUTHBEARER with a token"),
        ({"sasl": Sasl(mechanism="OAUTHBEARER", **{**GRANT, "token_endpoint": "login"})}, "write a URL"),
        ({"sasl": Sasl(mechanism="AWS_MSK_IAM", **LOGIN)}, "sasl.username is not used by AWS_MSK_IAM"),
        ({"sasl": Sasl(mechanism="AWS_MSK_IAM", role_arn="admin")}, "write the role's ARN"),
        (
            {
                "sasl": Sasl(mechanism="AWS_MSK_IAM", region="eu-west-1"),
                "bootstrap_servers": ["b-1.x.y.c2.kafka.us-east-1.amazonaws.com:9098"],
            },
            "the brokers are in us-east-1",
        ),
    ],
)
def test_what_is_not_allowed(changes, says):
    assert any(says in problem for problem in wrong(**changes)), wrong(**changes)


def test_everything_is_said_at_once_and_no_secret():
    found = wrong(
        bootstrap_servers=["x"], topic=None, session_timeout="1h", tls=Tls(key="k"), sasl=Sasl(mechanism="AWS_MSK_IAM", **LOGIN, region="r")
    )
    assert len(found) == 6
    assert "s3cret" not in "\n".join(found)


@pytest.mark.parametrize(
    ("server", "region"),
    [
        ("b-1.demo.abc123.c2.kafka.eu-west-1.amazonaws.com:9098", "eu-west-1"),
        ("boot-x.c1.kafka-serverless.us-east-1.amazonaws.com:9098", "us-east-1"),
        ("b-1.demo.abc123.c2.kafka.cn-north-1.amazonaws.com.cn:9098", "cn-north-1"),
        ("b-1.kafka.eu-west-1.amazonaws.com.evil.example:9098", None),
        ("broker1:9092", None),
    ],
)
def test_the_name_of_a_broker_tells_its_region(server, region):
    assert msk_region(server) == region


# --- where to begin -------------------------------------------------------------------------------------------------------------------


def test_a_starting_time():
    assert epoch("2026-01-31T08:00:00Z") == epoch(1769846400) == epoch("1769846400") == 1769846400.0
    assert origin("TRIM_HORIZON", None, 5.0) == "TRIM_HORIZON"
    assert origin("LATEST", None, 5.0) == "LATEST 5.0"
    assert origin("AT_TIMESTAMP", 4, 5.0) == "AT_TIMESTAMP 4"
    with pytest.raises(ValueError, match="in the future"):
        origin("AT_TIMESTAMP", 6.0, 5.0)


# --- in a configuration ---------------------------------------------------------------------------------------------------------------

HEAD = """
[functions.f]
handler = "app.py:handle"
[mappings.m]
function = "f"
{mapping}
[mappings.m.source]
type = "kafka"
bootstrap_servers = ["broker1:9092"]
{source}
"""


def read(folder: Path, source: str, mapping: str = "", environ: dict[str, str] | None = None) -> Config:
    (folder / "app.py").touch()
    (folder / "poller.toml").write_text(HEAD.format(source=source, mapping=mapping))
    return load(folder / "poller.toml", Registry(), environ or {})


def refusal(folder: Path, source: str, mapping: str = "") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(folder, source, mapping, {"PASSWORD": "s3cret"})
    return caught.value.problems


def test_a_mapping_of_a_topic(tmp_path):
    config = read(
        tmp_path,
        """
        topic = "orders"
        tls = { ca = "ca.pem" }
        sasl = { mechanism = "SCRAM-SHA-512", username = "alice", password = "env:PASSWORD" }
        """,
        environ={"PASSWORD": "s3cret"},
    )
    mapping = config.mappings["m"]
    assert (mapping.settings.batching.size, mapping.settings.batching.window, mapping.settings.width) == (100, 0.5, 1)
    assert mapping.options.sasl.password == "s3cret"
    assert "s3cret" not in repr(mapping.options)
    assert mapping.options.sasl.password.reference == "env:PASSWORD"


def test_problems_stand_at_their_lines(tmp_path):
    found = refusal(
        tmp_path,
        """
topic = "orders"
session_timeout = "1s"
sasl = { mechanism = "PLAIN", password = "env:PASSWORD" }
""",
    )
    assert [problem.split(" ", 1)[1].split("]")[0] for problem in found] == [
        "[mappings.m.source.session_timeout",
        "[mappings.m.source.sasl",
    ]
    assert "s3cret" not in "\n".join(found)


def test_a_misspelt_key_is_found(tmp_path):
    assert 'did you mean "group"?' in "\n".join(refusal(tmp_path, 'topic = "t"\ngroup_id = "x"'))
    assert "mechanism" in "\n".join(refusal(tmp_path, 'topic = "t"\nsasl = { mechanism = "GSSAPI" }'))


AWS = 'defaults = "aws"\nmaximum_retry_attempts = 3\n'


def test_limits_of_aws_hold_where_a_file_means_aws(tmp_path):
    source = 'topics = ["a", "b"]\ngroup = "' + "g" * 201 + '"\n'
    assert read(tmp_path, source, "parallelization_factor = 4").mappings["m"].settings.width == 4
    found = refusal(tmp_path, source, AWS + "parallelization_factor = 4")
    assert len(found) == 3
    assert any("[mappings.m.parallelization_factor]" in each and "1 for this source" in each for each in found)
    assert any("[mappings.m.source.topics]" in each and "exactly one on AWS" in each for each in found)
    assert any("[mappings.m.source.group]" in each and "up to 200" in each for each in found)


def test_what_aws_takes_is_taken(tmp_path):
    """Its default window of 500 ms can be had by nobody who writes one: to leave it out is allowed, and to write it out."""
    for written in ("", 'maximum_batching_window = "500ms"', 'maximum_batching_window = "0s"', "batch_size = 10000"):
        read(tmp_path, 'topic = "a"', AWS + written)
    assert "whole seconds" in refusal(tmp_path, 'topic = "a"', AWS + 'maximum_batching_window = "700ms"')[0]
