"""Fixtures of real servers, each started once a session, when the first test asks for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from tests.servers.aws import services
from tests.servers.dynamodb.client import TablesClient
from tests.servers.dynamodb.server import dynamodb_local
from tests.servers.kafka import broker
from tests.servers.kafka.broker import Kafka
from tests.servers.kafka.client import Blocking, KafkaClient, warm
from tests.servers.kafka.cluster import KafkaCluster
from tests.servers.kafka.secure import KafkaSecure
from tests.servers.kinesis.client import StreamsClient
from tests.servers.kinesis.proxy import framing
from tests.servers.kinesis.server import loaded, resharding
from tests.servers.postgresql import PostgreSQL
from tests.servers.process import answers, free_port, jars, running

KafkaServer = TypeVar("KafkaServer", Kafka, KafkaCluster)

ELASTICMQ = """
include classpath("application.conf")
node-address {{ protocol = http, host = "127.0.0.1", port = {port}, context-path = "" }}
rest-sqs {{ enabled = true, bind-port = {port}, bind-hostname = "127.0.0.1", sqs-limits = strict }}
rest-stats {{ enabled = false }}
aws {{ region = us-east-1, accountId = 123456789012 }}
queues {{}}
"""


@pytest.fixture(scope="session")
def elasticmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an SQS, in memory and empty at first: tests create queues of their own."""
    libraries = jars("elasticmq")
    folder, port = tmp_path_factory.mktemp("elasticmq"), free_port()
    (folder / "emq.conf").write_text(ELASTICMQ.format(port=port))
    url = f"http://127.0.0.1:{port}"
    command = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Dconfig.file={folder}/emq.conf"]
    with running([*command, "-cp", libraries, "org.elasticmq.server.Main"], folder, lambda: answers(f"{url}/health")):
        yield url


@contextmanager
def _running(server: KafkaServer) -> Iterator[KafkaServer]:
    try:
        server.start()
        warm(server.bootstrap)
        yield server
    finally:
        server.kill()  # its data go too


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker that all tests share: they make topics and groups of their own, and leave it running."""
    with _running(broker.plain(tmp_path_factory.mktemp("kafka"))) as shared:
        yield shared


@pytest.fixture
async def kafka_client(kafka: Kafka) -> AsyncIterator[KafkaClient]:
    """Of the shared broker, for a test on a loop."""
    async with KafkaClient(kafka.bootstrap) as client:
        yield client


@pytest.fixture
def kafka_blocking(kafka: Kafka) -> Iterator[Blocking]:
    """Of the shared broker, for a test without a loop."""
    with closing(Blocking(kafka.bootstrap)) as client:
        yield client


@pytest.fixture(scope="module")
def _kafka_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with _running(broker.plain(tmp_path_factory.mktemp("kafka-own"), silence=1.5)) as own:
        yield own


@pytest.fixture
def kafka_own(_kafka_own: Kafka) -> Kafka:
    """A broker that a test may kill, pause or stop, and leave so: the next one of its module finds it running, with the same data."""
    _kafka_own.heal()
    return _kafka_own


@pytest.fixture(scope="module")
def _kafka_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    with _running(KafkaCluster(tmp_path_factory.mktemp("kafka-cluster"))) as cluster:
        yield cluster


@pytest.fixture
def kafka_cluster(_kafka_cluster: KafkaCluster) -> KafkaCluster:
    """Three brokers, of which a test may kill or pause one, and leave it so. Six seconds for the first test of a module."""
    _kafka_cluster.heal()
    return _kafka_cluster


@pytest.fixture(scope="module")
def kafka_secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaSecure]:
    """A broker that asks for logins, with those that are good and those that are not."""
    secure = KafkaSecure(tmp_path_factory.mktemp("kafka-secure"))
    with _running(secure.broker):
        yield secure


@pytest.fixture(scope="session")
def kinesis_local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Kinesis that reshards and pushes to consumers (through a proxy that repairs its framing), empty at first."""
    folder = tmp_path_factory.mktemp("kinesis-local")
    with resharding(folder) as url, framing(folder, url) as framed:
        yield framed


@pytest.fixture(scope="session")
def kinesalite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Kinesis that is fast, and knows neither consumers nor stream ARNs, empty at first."""
    with loaded(tmp_path_factory.mktemp("kinesalite")) as url:
        yield url


@pytest.fixture(scope="session")
def dynamodb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a DynamoDB with streams, empty at first. A stream has one shard."""
    with dynamodb_local(tmp_path_factory.mktemp("dynamodb")) as url:
        yield url


@pytest.fixture
async def streams(kinesis_local: str) -> AsyncIterator[StreamsClient]:
    """Of the Kinesis that reshards."""
    async with StreamsClient(kinesis_local) as client:
        yield client


@pytest.fixture
async def load_streams(kinesalite: str) -> AsyncIterator[StreamsClient]:
    """Of the Kinesis that is fast."""
    async with StreamsClient(kinesalite) as client:
        yield client


@pytest.fixture
async def tables(dynamodb: str) -> AsyncIterator[TablesClient]:
    async with TablesClient(dynamodb) as client:
        yield client


@contextmanager
def _postgresql(folder: Path) -> Iterator[PostgreSQL]:
    server = PostgreSQL(folder)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    """A PostgreSQL that all tests share: they make databases of their own, and leave it running."""
    with _postgresql(tmp_path_factory.mktemp("postgresql")) as shared:
        yield shared


@pytest.fixture(scope="module")
def _postgresql_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    with _postgresql(tmp_path_factory.mktemp("postgresql-own")) as own:
        yield own


@pytest.fixture
def postgresql_own(_postgresql_own: PostgreSQL) -> PostgreSQL:
    """A PostgreSQL that a test may kill or pause, and leave so: the next one of its module finds it running, with the same data."""
    _postgresql_own.heal()
    return _postgresql_own


@pytest.fixture(scope="session")
def aws_services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an S3, an SNS and an EventBridge, empty at first."""
    with services(tmp_path_factory.mktemp("aws-services")) as url:
        yield url


@pytest.fixture
def aws_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of nobody, for what takes them from the environment; none is looked for elsewhere."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
