"""What may go wrong outside of us: topics, offsets, commits and brokers. None of it ends a mapping, and nothing is lost."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from aiokafka import AIOKafkaConsumer, OffsetAndMetadata, TopicPartition
from aiokafka.errors import GroupAuthorizationFailedError
from aiokafka.protocol.group import HeartbeatRequest, HeartbeatResponse_v0

from connectors.kafka.commits import restored
from poller.settings import Backoff, FailureSettings
from tests.integration.kafka_workers import LIMIT, Held, Mapping, Script, Worker, failing, handled, until
from tests.servers.fixtures import _running
from tests.servers.kafka.broker import Kafka, dead_after, node, quiet_port, replication
from tests.servers.kafka.client import KafkaClient, Message
from tests.servers.kafka.cluster import KafkaCluster

pytestmark = pytest.mark.servers


def values(count: int, partition: int = 0) -> list[Message]:
    return [Message(b"x", b"k%d" % (n % 5), partition) for n in range(count)]


async def commit(bootstrap: str, mapping: Mapping, topic: str, offset: int, metadata: str = "") -> None:
    """As Kafka's own tools do while nobody runs."""
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=mapping.group, enable_auto_commit=False) as tool:
        tool.assign([TopicPartition(topic, 0)])
        await tool.commit({TopicPartition(topic, 0): OffsetAndMetadata(offset, metadata)})


async def committed(client: KafkaClient, mapping: Mapping, topic: str) -> OffsetAndMetadata:
    return (await client.committed(mapping.group))[TopicPartition(topic, 0)]


# --- topics -----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker that makes what topics a client merely names, and takes little metadata with a commit."""
    folder, port = tmp_path_factory.mktemp("kafka-odd"), quiet_port()
    settings = {**node(1, port, [quiet_port()]), **replication(1, 1), **dead_after(9)}
    broker = Kafka(folder, port, {**settings, "auto.create.topics.enable": "true", "offset.metadata.max.bytes": "100"})
    broker.format()
    with _running(broker) as running:
        yield running


async def test_a_topic_that_is_missing_is_waited_for_and_not_made(odd: Kafka) -> None:
    async with KafkaClient(odd.bootstrap) as client:
        other = await client.create_topic()
        script, mapping = Script(), Mapping(odd.bootstrap, "later", other)
        async with Worker(mapping, script) as worker:
            await worker.until(lambda: worker.counters.polling_errors >= 2)
            assert worker.state == "reconnecting"
            assert "topic 'later' does not exist" in worker.runner.last_error
            assert "later" not in await client._admin.list_topics()
            await client.create_topic("later")
            await client.produce("later", values(3))
            await worker.handled(3)
            assert worker.state == "running"


async def test_a_topic_that_is_deleted_stays_so_and_is_read_when_it_is_made_again(odd: Kafka) -> None:
    async with KafkaClient(odd.bootstrap) as client:
        topic, other = await client.create_topic(), await client.create_topic()
        await client.produce(topic, values(5))
        script, mapping = Script(), Mapping(odd.bootstrap, topic, other)
        async with Worker(mapping, script) as worker:
            await worker.handled(5)
            await client._admin.delete_topics([topic])
            async with asyncio.timeout(LIMIT):
                while topic in await client._admin.list_topics():
                    await asyncio.sleep(0.02)
            await worker.refresh()
            await worker.until(lambda: worker.state == "reconnecting")
            assert f"topic {topic!r} does not exist any more" in worker.runner.last_error
            await client.produce(other, values(5))
            await worker.handled(10)  # the others go on
            assert topic not in await client._admin.list_topics()
            await client.create_topic(topic)
            await client.produce(topic, values(3))
            await worker.refresh()
            await worker.handled(13)
            await worker.steady(2)
    assert [offset for lane, offset in script.seen if lane == f"{topic}-0"] == [0, 1, 2, 3, 4, 0, 1, 2]


async def test_a_topic_that_was_made_anew_meanwhile_is_read_from_its_beginning(
    kafka: Kafka, kafka_client: KafkaClient, caplog: pytest.LogCaptureFixture
) -> None:
    """So soon that no look at the topics shows it."""
    topic = await kafka_client.create_topic()
    await kafka_client.produce(topic, values(5))
    script, mapping = Script(), Mapping(kafka.bootstrap, topic)
    async with Worker(mapping, script) as worker:
        await worker.handled(5)
        await kafka_client.delete_topic(topic)
        await kafka_client.create_topic(topic)
        await kafka_client.produce(topic, values(3))
        await worker.handled(8)
    assert [offset for _, offset in script.seen] == [0, 1, 2, 3, 4, 0, 1, 2]
    assert (await committed(kafka_client, mapping, topic)).offset == 3


# --- offsets ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", ["TRIM_HORIZON", "LATEST"])
async def test_what_retention_removed_unread_is_counted_and_said(
    kafka: Kafka, kafka_client: KafkaClient, caplog: pytest.LogCaptureFixture, position: str
) -> None:
    topic = await kafka_client.create_topic()
    await kafka_client.produce(topic, values(10))
    script, mapping = Script(), Mapping(kafka.bootstrap, topic, starting_position=position)
    await commit(kafka.bootstrap, mapping, topic, 2)
    await kafka_client.delete_records(topic, {0: 6})
    async with Worker(mapping, script) as worker:
        await worker.until(lambda: worker.counters.tally.expired)
        await kafka_client.produce(topic, values(1))
        await worker.handled(5 if position == "TRIM_HORIZON" else 1)
        assert worker.counters.tally.expired == 4
        assert (worker.counters.lost_lanes, worker.counters.reconnects) == (0, 0)
    assert [offset for _, offset in script.seen] == ([6, 7, 8, 9, 10] if position == "TRIM_HORIZON" else [10])
    (line,) = (record.getMessage() for record in caplog.records if record.levelname == "ERROR")
    assert f"{topic}-0: 4 offsets from 2 on were removed by the topic's retention before they were read" in line
    assert (await committed(kafka_client, mapping, topic)).offset == 11


async def test_an_offset_above_the_end_is_said_and_the_partition_begun_anew(
    kafka: Kafka, kafka_client: KafkaClient, caplog: pytest.LogCaptureFixture
) -> None:
    topic = await kafka_client.create_topic()
    await kafka_client.produce(topic, values(5))
    script, mapping = Script(), Mapping(kafka.bootstrap, topic)
    await commit(kafka.bootstrap, mapping, topic, 100)
    async with Worker(mapping, script) as worker:
        await worker.handled(5)
    assert [offset for _, offset in script.seen] == [0, 1, 2, 3, 4]
    assert any("the partition ends before 100, where it was read" in record.getMessage() for record in caplog.records)
    assert (await committed(kafka_client, mapping, topic)).offset == 5


async def test_an_offset_set_by_hand_wins(kafka: Kafka, kafka_client: KafkaClient, caplog: pytest.LogCaptureFixture) -> None:
    """Attempts begin afresh: who goes back to a record wants it to be tried."""
    topic = await kafka_client.create_topic()
    await kafka_client.produce(topic, values(10))
    mapping = Mapping(kafka.bootstrap, topic, size=1)
    mapping.failure = FailureSettings(maximum_retry_attempts=5, bisect=False, backoff=Backoff(3600.0, 3600.0))
    script = failing(7)
    async with Worker(mapping, script) as worker:
        await worker.handled(7)
        await worker.until(lambda: worker.counters.retries)
    kept = await committed(kafka_client, mapping, topic)
    assert (kept.offset, restored(*kept).progress.spans[0].attempts) == (7, 1)
    for metadata in ("", kept.metadata):  # tools clear it, or leave it as it was
        await commit(kafka.bootstrap, mapping, topic, 4, metadata)
        again = failing(7)
        async with Worker(mapping, again, "b") as worker:
            await worker.handled(3)
            await worker.until(lambda: worker.counters.retries)
        assert [offset for _, offset in again.seen] == [4, 5, 6, 7]
        assert restored(*await committed(kafka_client, mapping, topic)).progress.spans[0].attempts == 1
    assert any("was changed by hand" in record.getMessage() for record in caplog.records)


async def test_foreign_damaged_and_newer_metadata(kafka: Kafka, kafka_client: KafkaClient, caplog: pytest.LogCaptureFixture) -> None:
    topic, mapping = await kafka_client.create_topic(), Mapping(kafka.bootstrap)
    mapping = Mapping(kafka.bootstrap, topic, size=5)
    await kafka_client.produce(topic, values(10))
    async with Worker(mapping, Script()) as worker:
        await worker.handled(10)
    ours = (await committed(kafka_client, mapping, topic)).metadata
    damaged = ours[:12] + ("A" if ours[12] != "A" else "B") + ours[13:]
    for metadata, said in (("~{whatever}", "something else than poller"), (damaged, "is damaged")):
        caplog.clear()
        await commit(kafka.bootstrap, mapping, topic, 5, metadata)
        script = Script()
        async with Worker(mapping, script) as worker:
            await worker.handled(5)
        assert [offset for _, offset in script.seen] == [5, 6, 7, 8, 9]
        assert [said in record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [True]
    newer = "poller9:AAAA~1"
    await commit(kafka.bootstrap, mapping, topic, 5, newer)
    caplog.clear()
    async with Worker(mapping, script) as worker:
        await worker.until(lambda: any("a newer version of poller" in record.getMessage() for record in caplog.records))
        assert not worker.lanes
    assert await committed(kafka_client, mapping, topic) == OffsetAndMetadata(5, newer)  # nothing of it was overwritten
    await commit(kafka.bootstrap, mapping, topic, 8)
    async with Worker(mapping, script) as worker:
        await worker.handled(2)


async def test_commits_that_are_refused_say_so_and_nothing_runs_uncounted(odd: Kafka, caplog: pytest.LogCaptureFixture) -> None:
    """This broker takes 100 bytes with a commit; 50 attempts that go on apart need more."""
    async with KafkaClient(odd.bootstrap) as client:
        topic = await client.create_topic()
        await client.produce(topic, [Message(b"x", b"k%d" % n) for n in range(50)])
        script, mapping = failing(), Mapping(odd.bootstrap, topic, size=1, width=200)
        async with Worker(mapping, script) as worker:
            await worker.until(lambda: worker.runner.store_error)
            assert f"the offset of {topic}-0 is not committed in group {mapping.group!r}" in worker.runner.store_error
            assert "offset.metadata.max.bytes" in worker.runner.store_error
            await worker.until(lambda: worker.counters.save_errors > 60)
            assert max(Counter(script.seen).values()) == 1
            assert worker.state == "running"
            await worker.stop(0.1)


async def test_heartbeats_that_are_refused_are_said_and_sent_again(kafka: Kafka, kafka_client: KafkaClient) -> None:
    """As by an access list that someone changed, and changes back."""
    topic = await kafka_client.create_topic()
    await kafka_client.produce(topic, values(10))
    script, mapping = Held(), Mapping(kafka.bootstrap, topic, size=5, session_timeout="1.5s")
    async with Worker(mapping, script) as worker:
        await script.called(1)
        await worker.saved()
        membership, lanes = worker.source._membership, worker.lanes
        send = membership._send_req

        async def refuse(request: object) -> object:
            refused = HeartbeatResponse_v0(error_code=GroupAuthorizationFailedError.errno)
            return refused if isinstance(request, HeartbeatRequest) else await send(request)

        membership._send_req = refuse
        await worker.until(lambda: worker.state == "reconnecting" and not membership.steady)
        assert "not allowed: consumer group" in worker.runner.last_error
        membership._send_req = send
        script.release()
        await worker.handled(10)
        assert worker.lanes == lanes
    assert [call.offsets for call in script.calls] == [(0, 1, 2, 3, 4), (5, 6, 7, 8, 9)]


async def test_a_client_that_has_given_up_on_its_group_is_made_anew(kafka: Kafka, kafka_client: KafkaClient) -> None:
    topic = await kafka_client.create_topic()
    await kafka_client.produce(topic, values(5))
    script, mapping = Script(), Mapping(kafka.bootstrap, topic)
    async with Worker(mapping, script) as worker:
        await worker.handled(5)
        await worker.saved()
        worker.source._membership._coordination_task.cancel()  # as a bug of the client would end it
        await worker.until(lambda: worker.counters.reconnects == 1)
        await kafka_client.produce(topic, values(5))
        await worker.handled(10)
    assert set(Counter(script.seen).values()) == {1}


# --- brokers ----------------------------------------------------------------------------------------------------------------------------


async def test_a_broker_that_was_killed_and_comes_back_is_gone_on_with(kafka_own: Kafka) -> None:
    async with KafkaClient(kafka_own.bootstrap) as client:
        topic = await client.create_topic(partitions=2)
        await client.produce(topic, [*values(10), *values(10, 1)])
        script, mapping = Held(), Mapping(kafka_own.bootstrap, topic, size=5)
        async with Worker(mapping, script) as worker:
            await script.called(2)
            await worker.saved()
            lanes = worker.lanes
            kafka_own.kill()
            await asyncio.to_thread(kafka_own.start)
            script.release()
            await worker.handled(20)
            await client.produce(topic, values(5))
            await worker.handled(25)
            assert worker.lanes == lanes  # nobody else was there
            assert worker.counters.reconnects == 0
    assert set(Counter(script.seen).values()) == {1}


async def test_a_broker_that_stands_still_past_the_session_is_gone_on_with(kafka_own: Kafka) -> None:
    session = 1.5
    async with KafkaClient(kafka_own.bootstrap) as client:
        topic = await client.create_topic(partitions=2)
        script, mapping = Held(), Mapping(kafka_own.bootstrap, topic, size=5, session_timeout=f"{session}s")
        async with Worker(mapping, script, "a") as a, Worker(mapping, script, "b") as b:
            await a.steady(1)
            await b.steady(1)
            await client.produce(topic, [*values(10), *values(10, 1)])
            await script.called(2)
            kafka_own.pause()
            paused = time.monotonic()
            await until(lambda: not a.source._membership.steady and not b.source._membership.steady, (a, b))
            script.release()  # what they hold besides may not begin now: perhaps it is another's
            await until(lambda: time.monotonic() > paused + 2 * session)
            assert len(script.calls) == 2
            kafka_own.resume()
            # Who lost a lane has counted what he had settled of it: so not by their counters.
            await until(lambda: len({*script.seen}) == 20, (a, b))
            await client.produce(topic, [*values(5), *values(5, 1)])
            await until(lambda: len({*script.seen}) == 30, (a, b))
    # Who was thrown out may have lost what ran then: it runs once more.
    often = Counter(script.seen)
    assert len(often) == 30 and max(often.values()) <= 2
    assert all(times == 1 or offset < 5 for (_, offset), times in often.items())


async def test_a_coordinator_that_dies_with_the_leader_is_replaced(kafka_cluster: KafkaCluster) -> None:
    async with KafkaClient(kafka_cluster.bootstrap) as client:
        topic = await client.create_topic(partitions=3)
        script, mapping = Script(), Mapping(kafka_cluster.bootstrap, topic)
        async with Worker(mapping, script, "a") as a, Worker(mapping, script, "b") as b:
            await until(lambda: len(a.lanes) + len(b.lanes) == 3 and a.lanes and b.lanes, (a, b))
            await client.produce(topic, [message for partition in range(3) for message in values(100, partition)])
            await handled((a, b), 300)
            await a.saved()
            await b.saved()
            dead = await client.coordinator(mapping.group)
            led = [partition for partition in range(3) if await client.leader(topic, partition) == dead]
            kafka_cluster.broker(dead).kill()
            await client.produce(topic, [message for partition in range(3) for message in values(100, partition)])
            await handled((a, b), 600)
            assert await client.coordinator(mapping.group) != dead
            assert led
            assert a.counters.reconnects + b.counters.reconnects == 0
            async with asyncio.timeout(LIMIT):
                while {kept.offset for kept in (await client.committed(mapping.group)).values()} != {200}:
                    await asyncio.sleep(0.05)
    assert len(set(script.seen)) == 600


async def test_a_mapping_that_starts_before_its_broker_waits_for_it(kafka_own: Kafka) -> None:
    async with KafkaClient(kafka_own.bootstrap) as client:
        topic = await client.create_topic()
        await client.produce(topic, values(5))
    kafka_own.kill()
    script, mapping = Script(), Mapping(kafka_own.bootstrap, topic)
    async with Worker(mapping, script) as worker:
        await worker.until(lambda: worker.counters.polling_errors)
        assert kafka_own.bootstrap in worker.runner.last_error
        await asyncio.to_thread(kafka_own.start)
        await worker.handled(5)


async def test_a_worker_stops_also_while_its_broker_is_gone(kafka_own: Kafka) -> None:
    """What it could not save runs again: nothing is lost, and the stop is not held up for ever."""
    async with KafkaClient(kafka_own.bootstrap) as client:
        topic = await client.create_topic()
        await client.produce(topic, values(5))
        script, mapping = Held(), Mapping(kafka_own.bootstrap, topic)
        async with Worker(mapping, script) as worker:
            await script.called(1)
            await worker.saved()
            kafka_own.kill()
            script.release()
            await worker.handled(5)
            stopped = time.monotonic()
        assert time.monotonic() - stopped < 25.0
        await asyncio.to_thread(kafka_own.start)
        async with Worker(mapping, script, "b") as again:
            await again.handled(5)
