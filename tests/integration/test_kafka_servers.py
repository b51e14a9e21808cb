"""The Kafka servers of the other tests are what they say: they keep data, take faults, fail over, and know who may log in."""

from __future__ import annotations

import asyncio
import ssl
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, OffsetAndMetadata, TopicPartition
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaError, TopicAlreadyExistsError

from tests.servers.kafka.broker import Kafka
from tests.servers.kafka.client import Blocking, KafkaClient, Message
from tests.servers.kafka.cluster import KafkaCluster
from tests.servers.kafka.secure import KEY_PASSWORD, PASSWORD, USER, Identity, KafkaSecure

pytestmark = [pytest.mark.servers, pytest.mark.usefixtures("goodbyes")]


async def test_topics_and_records(kafka_client: KafkaClient) -> None:
    topic = await kafka_client.create_topic(partitions=2)
    with pytest.raises(TopicAlreadyExistsError):
        await kafka_client.create_topic(topic)
    headers = (("trace", b"\x80"),)
    message = Message(None, b"k", partition=1, timestamp=1000, headers=headers)  # 1970: nothing is too old to be kept
    assert await kafka_client.produce(topic, [Message(b"a", partition=0), Message(b"b", partition=0), message]) == [(0, 0), (0, 1), (1, 0)]
    records = {(record.partition, record.offset): record for record in await kafka_client.read(topic, 3)}
    assert [records[0, n].value for n in (0, 1)] == [b"a", b"b"]
    found = records[1, 0]
    assert (found.key, found.value, found.timestamp, found.headers) == (b"k", None, 1000, headers)
    assert await kafka_client.end_offsets(topic) == {0: 2, 1: 1}
    await kafka_client.delete_records(topic, {0: 1})
    assert {record.value for record in await kafka_client.read(topic, 2)} == {b"b", None}
    await kafka_client.add_partitions(topic, 3)
    assert await kafka_client.produce(topic, [Message(b"c", partition=2)]) == [(2, 0)]
    await kafka_client.delete_topic(topic)
    await kafka_client.create_topic(topic)
    assert await kafka_client.end_offsets(topic) == {0: 0}


async def test_large_compressed_and_transactional_records(kafka_client: KafkaClient) -> None:
    topic = await kafka_client.create_topic()
    large = bytes(7 * 1024 * 1024)
    await kafka_client.produce(topic, [large], compression_type="zstd", max_request_size=2 * len(large))
    await kafka_client.produce(topic, [b"1", b"2"], transactional_id=uuid.uuid4().hex)
    assert [record.value for record in await kafka_client.read(topic, 3)] == [large, b"1", b"2"]
    async with asyncio.timeout(20):
        while await kafka_client.end_offsets(topic) != {0: 4}:  # the transaction's end takes an offset, a moment after its records
            await asyncio.sleep(0.02)


async def test_groups(kafka: Kafka, kafka_client: KafkaClient) -> None:
    topic, group = await kafka_client.create_topic(partitions=2), uuid.uuid4().hex
    partition = TopicPartition(topic, 1)
    options = {"bootstrap_servers": kafka.bootstrap, "group_id": group, "client_id": "reader", "enable_auto_commit": False}
    async with asyncio.timeout(20), AIOKafkaConsumer(topic, **options, auto_offset_reset="earliest") as consumer:
        await kafka_client.produce(topic, [Message(b"a", partition=1)])
        assert (await consumer.getone()).value == b"a"
        assert await kafka_client.members(group) == ["reader"]
        await consumer.commit({partition: OffsetAndMetadata(1, "what is done")})
    assert await kafka_client.committed(group) == {partition: OffsetAndMetadata(1, "what is done")}
    assert await kafka_client.members(group) == []
    assert await kafka_client.committed(uuid.uuid4().hex) == {}


def test_without_a_loop(kafka_blocking: Blocking) -> None:
    client, run = kafka_blocking.client, kafka_blocking.run
    topic = run(client.create_topic())
    run(client.produce(topic, (b"%d" % n for n in range(1000))))
    assert run(client.end_offsets(topic)) == {0: 1000}


async def test_a_killed_broker_keeps_its_data(kafka_own: Kafka) -> None:
    async with KafkaClient(kafka_own.bootstrap) as client:
        topic = await client.create_topic()
        await client.produce(topic, [b"before"])
        kafka_own.kill()
        later = asyncio.create_task(client.produce(topic, [b"after"]))
        await asyncio.to_thread(kafka_own.restart)
        assert await later == [(0, 1)]
        assert [record.value for record in await client.read(topic, 2)] == [b"before", b"after"]


async def test_a_paused_broker_answers_later(kafka_own: Kafka) -> None:
    """Nor did it end with the thread of the test before that started it."""
    async with KafkaClient(kafka_own.bootstrap) as client:
        topic = await client.create_topic()
        kafka_own.pause()
        sent = asyncio.create_task(client.produce(topic, [b"a"]))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(sent), 0.5)
        kafka_own.resume()
        assert await sent == [(0, 0)]
    await asyncio.to_thread(kafka_own.stop)
    assert "Shutdown complete" in kafka_own.logs


async def test_the_next_test_finds_it_running(kafka_own: Kafka) -> None:
    async with KafkaClient(kafka_own.bootstrap) as client:
        await client.create_topic()
    kafka_own.pause()


async def test_so_does_the_one_after(kafka_own: Kafka) -> None:
    async with KafkaClient(kafka_own.bootstrap) as client:
        await client.create_topic()


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Kafka.kill, Kafka.pause])
async def test_another_broker_leads_when_the_leader_is_gone(kafka_cluster: KafkaCluster, fault: Callable[[Kafka], None]) -> None:
    async with KafkaClient(kafka_cluster.bootstrap) as client:
        topic = await client.create_topic()
        await client.produce(topic, [b"before"])
        leader = await client.leader(topic)
        fault(kafka_cluster.broker(leader))
        assert await client.produce(topic, [b"after"]) == [(0, 1)]
        assert await client.leader(topic) not in {leader, -1}
        assert [record.value for record in await client.read(topic, 2)] == [b"before", b"after"]


class Token(AbstractTokenProvider):  # type: ignore[misc]
    def __init__(self, text: str) -> None:
        self.text = text

    async def token(self) -> str:
        return self.text


def trusting(ca: Path, client: Identity | None = None, encrypted: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    if client is not None:
        context.load_cert_chain(client.certificate, client.encrypted_key if encrypted else client.key, KEY_PASSWORD)
    return context


async def enter(bootstrap: str, context: ssl.SSLContext, **login: object) -> None:
    """As far as what only those may do who are in."""
    protocol = "SASL_SSL" if login else "SSL"
    async with KafkaClient(bootstrap, security_protocol=protocol, ssl_context=context, **login) as client:
        await client.create_topic()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_passwords(kafka_secure: KafkaSecure, mechanism: str) -> None:
    login = {"sasl_mechanism": mechanism, "sasl_plain_username": USER}
    context = trusting(kafka_secure.ca)
    await enter(kafka_secure.sasl, context, **login, sasl_plain_password=PASSWORD)
    with pytest.raises(KafkaError):
        await enter(kafka_secure.sasl, context, **login, sasl_plain_password="guessed")


async def test_tokens(kafka_secure: KafkaSecure) -> None:
    good = kafka_secure.issuer
    context = trusting(kafka_secure.ca)
    await enter(kafka_secure.sasl, context, sasl_mechanism="OAUTHBEARER", sasl_oauth_token_provider=Token(good.token()))
    for bad in (good.token(seconds=-60), good.token(audience="another"), kafka_secure.wrong_issuer.token()):
        with pytest.raises(KafkaError):
            await enter(kafka_secure.sasl, context, sasl_mechanism="OAUTHBEARER", sasl_oauth_token_provider=Token(bad))


async def test_certificates(kafka_secure: KafkaSecure) -> None:
    for encrypted in (False, True):
        await enter(kafka_secure.ssl, trusting(kafka_secure.ca, kafka_secure.client, encrypted))
    elsewhere = kafka_secure.ssl.replace("127.0.0.1", "localhost")
    for address, context in (
        (kafka_secure.ssl, trusting(kafka_secure.ca)),
        (kafka_secure.ssl, trusting(kafka_secure.ca, kafka_secure.stranger)),
        (kafka_secure.ssl, trusting(kafka_secure.wrong_ca, kafka_secure.client)),
        (elsewhere, trusting(kafka_secure.ca, kafka_secure.client)),
    ):
        with pytest.raises(KafkaError):
            await enter(address, context)
