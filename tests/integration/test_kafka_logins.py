"""Every login against a real broker, through aiokafka; and what a person is told when it does not work."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka import errors as kafka

from connectors.kafka import connector
from connectors.kafka.destination import TopicOptions, kind
from connectors.kafka.logins import login, reach
from connectors.kafka.options import KafkaOptions, Sasl, Tls
from poller.config.secrets import Secret
from poller.errors import NotConnected
from poller.protocols import Store
from poller.settings import Batching, Context, FailureSettings, MappingSettings
from poller.testing.destinations import context, make_delivery
from tests.servers.kafka.broker import Kafka
from tests.servers.kafka.client import KafkaClient
from tests.servers.kafka.secure import KEY_PASSWORD, PASSWORD, USER, KafkaSecure

pytestmark = [pytest.mark.servers, pytest.mark.usefixtures("goodbyes")]

BASE = Path("/nowhere")


def trusting(secure: KafkaSecure, **changes: Any) -> Tls:
    return Tls(**{"ca": str(secure.ca), **changes})


def known(mechanism: Any, password: str = PASSWORD, username: str = USER) -> Sasl:
    return Sasl(mechanism=mechanism, username=username, password=password)


def bearer(token: str) -> Sasl:
    return Sasl(mechanism="OAUTHBEARER", token=token)


def options(server: str, topic: str = "orders", **changes: Any) -> KafkaOptions:
    return KafkaOptions(**{"bootstrap_servers": [server], "topic": topic, **changes})


@pytest.fixture
async def topic(kafka_secure: KafkaSecure) -> AsyncIterator[str]:
    async with KafkaClient(kafka_secure.bootstrap) as client:
        yield await client.create_topic()


async def goes_round(made: KafkaOptions, topic: str, base: Path = BASE) -> None:
    """A producer and a consumer with this login: a record goes there and back."""
    arguments = await login(made, base)
    assert await reach(made, arguments) == made.bootstrap_servers[0]
    async with AIOKafkaProducer(**arguments) as producer, AIOKafkaConsumer(**arguments, group_id=None) as consumer:
        sent = await producer.send_and_wait(topic, b"hello", partition=0)
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        consumer.seek(partition, sent.offset)
        assert (await consumer.getone()).value == b"hello"


async def refusal(made: KafkaOptions, base: Path = BASE) -> NotConnected:
    arguments = await login(made, base)
    with pytest.raises(NotConnected) as caught:
        await reach(made, arguments)
    return caught.value


# --- logins that are good -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_password(kafka_secure, topic, mechanism):
    await goes_round(options(kafka_secure.sasl, tls=trusting(kafka_secure), sasl=known(mechanism)), topic)


async def test_a_token(kafka_secure, topic):
    await goes_round(options(kafka_secure.sasl, tls=trusting(kafka_secure), sasl=bearer(kafka_secure.issuer.token())), topic)


async def test_a_token_of_a_file_that_is_renewed(kafka_secure, topic, tmp_path):
    made = options(kafka_secure.sasl, tls=trusting(kafka_secure), sasl=bearer(Secret("of yesterday", "file:token")))
    (tmp_path / "token").write_text(kafka_secure.issuer.token(seconds=-60))
    assert "did not accept the token" in str(await refusal(made, tmp_path))
    (tmp_path / "token").write_text(kafka_secure.issuer.token())
    await goes_round(made, topic, tmp_path)


@pytest.mark.parametrize("locked", [False, True])
async def test_a_certificate(kafka_secure, topic, locked):
    mine = kafka_secure.client
    key = {"key": str(mine.encrypted_key), "key_password": KEY_PASSWORD} if locked else {"key": str(mine.key)}
    await goes_round(options(kafka_secure.ssl, tls=trusting(kafka_secure, certificate=str(mine.certificate), **key)), topic)


async def test_any_host_with_a_certificate_of_the_authority(kafka_secure):
    made = options(kafka_secure.sasl.replace("127.0.0.1", "localhost"), tls=trusting(kafka_secure), sasl=known("PLAIN"))
    told = await refusal(made)
    assert "not valid for 'localhost'" in str(told) and "tls.verify_hostname = false" in str(told) and told.permanent
    made = options(*made.bootstrap_servers, tls=trusting(kafka_secure, verify_hostname=False), sasl=known("PLAIN"))
    await reach(made, await login(made, BASE))


async def test_one_server_of_several_is_enough(kafka_secure):
    made = options("127.0.0.1:1", bootstrap_servers=["127.0.0.1:1", kafka_secure.bootstrap])
    assert await reach(made, await login(made, BASE)) == kafka_secure.bootstrap


async def test_a_destination_logs_in_as_a_source_does(kafka_secure, topic):
    to = f"kafka://{kafka_secure.sasl}/{topic}"
    for password in ("wrong-secret", PASSWORD):
        made = TopicOptions(tls=trusting(kafka_secure), sasl=known("SCRAM-SHA-512", password))
        destination = await kind.open(to, made, context(folder=BASE))
        try:
            if password == PASSWORD:
                await destination.send(make_delivery())
                assert [finding.level for finding in await kind.probe(to, made, context(folder=BASE))] == ["ok"]
            else:
                with pytest.raises(NotConnected, match="login refused") as caught:
                    await destination.send(make_delivery())
                assert caught.value.permanent and password not in str(caught.value)
        finally:
            await destination.aclose()
    async with KafkaClient(kafka_secure.bootstrap) as client:
        assert len(await client.read(topic, 2)) == 2


# --- logins that are not --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize(("user", "password"), [(USER, "wrong-secret"), ("mallory", PASSWORD)])
async def test_a_wrong_password(kafka_secure, mechanism, user, password):
    told = await refusal(options(kafka_secure.sasl, tls=trusting(kafka_secure), sasl=known(mechanism, password, user)))
    assert str(told).startswith(f"Kafka topic orders at {kafka_secure.sasl}: login refused ({mechanism} as {user}): Authentication failed")
    assert "check sasl.username and sasl.password" in str(told)
    assert password not in str(told) and told.permanent


@pytest.mark.parametrize("wrong", ["issuer", "expired", "audience", "nonsense"])
async def test_a_wrong_token(kafka_secure, wrong):
    """aiokafka alone would take each of them for good, and a cluster without brokers for the truth."""
    token = {
        "issuer": kafka_secure.wrong_issuer.token(),
        "expired": kafka_secure.issuer.token(seconds=-60),
        "audience": kafka_secure.issuer.token(audience="another"),
        "nonsense": "nonsense-secret",
    }[wrong]
    made = options(kafka_secure.sasl, tls=trusting(kafka_secure), sasl=bearer(token))
    told = await refusal(made)
    assert "login refused (OAUTHBEARER): the broker did not accept the token (invalid_token); check" in str(told)
    assert token not in str(told) and told.permanent
    consumer = AIOKafkaConsumer(**await login(made, BASE))
    with pytest.raises(kafka.KafkaConnectionError):
        await consumer.start()
    await consumer.stop()


@pytest.mark.parametrize(
    ("listener", "changes", "says", "permanent"),
    [
        ("sasl", {"tls": "wrong_ca", "sasl": True}, "(unable to get local issuer certificate); tls.ca is not the authority", True),
        ("sasl", {"tls": "system", "sasl": True}, "is not trusted (unable to get local issuer certificate); set tls.ca", True),
        ("ssl", {"tls": "ca"}, "asks for a certificate of ours", True),
        ("ssl", {"tls": "stranger"}, "does not accept our certificate", True),
        ("sasl", {"tls": "ca"}, "perhaps it wants a login on this port (then set sasl)", False),
        ("sasl", {"sasl": True}, "perhaps it wants TLS on this port (then set tls)", False),
        ("ssl", {}, "perhaps it wants TLS on this port (then set tls)", False),
        ("bootstrap", {"tls": "ca"}, "perhaps it speaks none on this port (then leave tls out)", False),
        ("bootstrap", {"sasl": True}, "takes no login at all on this port", True),
    ],
)  # fmt: skip
async def test_the_wrong_door(kafka_secure, listener, changes, says, permanent):
    stranger = kafka_secure.stranger
    tls = {
        "ca": trusting(kafka_secure),
        "wrong_ca": Tls(ca=str(kafka_secure.wrong_ca)),
        "system": Tls(),
        "stranger": trusting(kafka_secure, certificate=str(stranger.certificate), key=str(stranger.key)),
    }
    server = getattr(kafka_secure, listener)
    told = await refusal(options(server, tls=tls.get(changes.get("tls", "")), sasl=known("PLAIN") if "sasl" in changes else None))
    assert str(told).startswith(f"Kafka topic orders at {server}: ")
    assert says in str(told) and told.permanent is permanent


# --- check --live ---------------------------------------------------------------------------------------------------------------------


async def found(made: KafkaOptions, timeout: float = 3.0, **failure: Any) -> list[tuple[str, str]]:
    mapping = MappingSettings("m", "m", "f", Batching(10), FailureSettings(**failure), 1)
    context = Context(mapping, cast("Store", None), "check", time.time, BASE, BASE)
    return [(each.level, each.text) for each in await connector.probe(made, context, timeout)]


async def test_a_topic_and_its_group(kafka: Kafka, kafka_client: KafkaClient):
    topic, group = await kafka_client.create_topic(partitions=2), f"group-of-{time.monotonic_ns()}"
    made = options(kafka.bootstrap, topic, group=group, starting_position="LATEST")
    assert await found(made, maximum_record_age=60.0) == [
        ("ok", f"{kafka.bootstrap} lets us in (no login, no TLS)"),
        ("ok", f"topic {topic!r} is there, has 2 partitions, and we may read it"),
        ("ok", f"group {group!r} has no members now, and may be described (joining it was not tried: it would move partitions)"),
        (
            "ok",
            '2 partitions without committed offsets: starting_position = "LATEST" passes over what is there before the first start'
            " (up to 0 records now)",
        ),
        ("ok", f"topic {topic!r}: timestamps are the producers' (CreateTime); maximum_record_age go by their clocks"),
    ]
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for number in range(3):
            await producer.send_and_wait(topic, b"%d" % number, partition=0)
    assert (await found(made))[-1][0] == "warning"
    async with AIOKafkaConsumer(topic, bootstrap_servers=kafka.bootstrap, group_id=group, client_id="someone") as consumer:
        await consumer.commit({TopicPartition(topic, 0): 1})
        told = await found(made)
    assert told[2][0] == "warning" and f"group {group!r} is shared with someone (127.0.0.1)" in told[2][1]
    assert told[3] == ("ok", f"group {group!r} goes on where it stopped on 1 partition, 2 behind the end")
    assert told[4][1].startswith("1 partition without committed offsets")


async def test_a_topic_that_is_not_there_is_not_made(kafka: Kafka, kafka_client: KafkaClient):
    (_, (level, text)) = await found(options(kafka.bootstrap, "no-such-topic"))
    assert level == "error" and "'no-such-topic'" in text and "create it" in text


async def test_nobody_is_there():
    ((level, text),) = await found(options("127.0.0.1:1"))
    assert level == "error" and "nobody listens there" in text


async def test_a_login_and_what_is_wrong_with_it(kafka_secure: KafkaSecure, topic: str):
    told = await found(
        options(kafka_secure.sasl, topic, tls=trusting(kafka_secure, verify_hostname=False), sasl=known("PLAIN")), timeout=60.0
    )
    assert told[0] == ("ok", f"{kafka_secure.sasl} lets us in (PLAIN as {USER}, TLS)")
    assert [level for level, _ in told] == ["ok", "warning", "warning", "ok", "ok", "ok"]
    assert "verify_hostname" in told[1][1] and "drain_limit" in told[2][1]
    ((level, text),) = await found(options(kafka_secure.sasl, topic, tls=trusting(kafka_secure), sasl=known("PLAIN", "wrong-secret")))
    assert level == "error" and "login refused (PLAIN as alice)" in text and "wrong-secret" not in text
