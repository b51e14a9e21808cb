"""Workers of one group come and go: what stays goes on, what moves is handed over, and nobody works on what is another's."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter

import pytest
from aiokafka.protocol.group import LeaveGroupRequest

from poller.model import Response
from poller.settings import Backoff, FailureSettings
from tests.integration.kafka_workers import DONE, FAULT, Called, Held, Mapping, Script, Worker, handled, until
from tests.servers.kafka.broker import Kafka
from tests.servers.kafka.client import KafkaClient, Message

pytestmark = pytest.mark.servers


def each(partitions: int, count: int = 1) -> list[Message]:
    return [Message(b"x", partition=number) for number in range(partitions) for _ in range(count)]


def rebalances(worker: Worker) -> int:
    return worker.counters.tally.rebalances


async def throw_out(client: KafkaClient, worker: Worker) -> None:
    """As an administrator removes a member: it learns of it by its next heartbeat."""
    membership = worker.source._membership
    node = await client._admin.find_coordinator(membership.group_id)
    answer = await client._admin._send_request(LeaveGroupRequest(membership.group_id, membership.member_id), node)
    assert answer.error_code == 0


# --- what stays and what moves ----------------------------------------------------------------------------------------------------------


async def test_what_stays_goes_on_and_what_moves_takes_its_attempt_along(kafka: Kafka, kafka_client: KafkaClient) -> None:
    """Both functions outlive the drain limit. The one whose partition stays ends well; the other is ended, and counts as begun."""
    topic = await kafka_client.create_topic(partitions=2)
    await kafka_client.produce(topic, each(2))
    script, mapping = Held(), Mapping(kafka.bootstrap, topic, drain_limit="0.2s")
    mapping.failure = FailureSettings(maximum_retry_attempts=0)
    async with Worker(mapping, script, "a") as a:
        await script.called(2)
        before = a.lanes
        async with Worker(mapping, script, "b") as b:
            await b.steady(1)
            await a.steady(1)
            ((stays, lane),) = a.lanes.items()
            (moved,) = b.lanes
            assert lane is before[stays]
            await b.until(lambda: b.counters.kept == 1)
            script.release()
            await a.until(lambda: a.counters.done == 1)
            assert a.counters.lost_lanes == 1
    assert {call.lane: call.ended for call in script.calls} == {stays: True, moved: False}
    assert len(script.calls) == 2
    (entry,) = await mapping.journal()
    assert (entry.lane, entry.attempts, entry.fault and entry.fault.kind) == (moved, 1, "lost")


async def test_a_partition_moves_as_soon_as_the_last_function_has_ended(kafka: Kafka, kafka_client: KafkaClient) -> None:
    topic = await kafka_client.create_topic(partitions=2)
    await kafka_client.produce(topic, each(2, 2))
    script, mapping = Held(), Mapping(kafka.bootstrap, topic, size=1)
    async with Worker(mapping, script, "a") as a:
        await script.called(2)
        async with Worker(mapping, script, "b") as b:
            await a.until(lambda: not a.source._membership.steady)
            released = time.monotonic()
            script.release()
            await handled((a, b), 4)
            (first,) = (call for call in script.calls if call.worker == "b")
            assert first.at - released < 1.0
            assert a.counters.lost_lanes == 1
    assert sorted(Counter(script.seen).values()) == [1, 1, 1, 1]


async def test_a_worker_that_stops_hands_over_at_once(kafka: Kafka, kafka_client: KafkaClient) -> None:
    topic = await kafka_client.create_topic(partitions=2)
    script, mapping = Script(), Mapping(kafka.bootstrap, topic)
    async with Worker(mapping, script, "a") as a:
        await a.steady(2)
        async with Worker(mapping, script, "b") as b:
            await b.steady(1)
            await a.steady(1)
            assert b.lanes.keys() | a.lanes.keys() == {f"{topic}-0", f"{topic}-1"}
            stopped = time.monotonic()
        await kafka_client.produce(topic, each(2))
        await a.handled(2)
        assert max(call.at for call in script.calls) - stopped < 5.0
        assert (a.counters.lost_lanes, b.counters.lost_lanes) == (1, 0)  # that which b was given, when it came


async def test_three_workers_share_and_keep_what_they_have(kafka: Kafka, kafka_client: KafkaClient) -> None:
    topic = await kafka_client.create_topic(partitions=6)
    everything = {f"{topic}-{number}" for number in range(6)}
    script, mapping = Script(), Mapping(kafka.bootstrap, topic)
    workers = [Worker(mapping, script, name) for name in "abc"]
    a, b, c = workers
    async with a:
        await a.steady(6)
        async with b:
            await b.steady(3)
            async with c:
                for worker in workers:
                    await worker.steady(2)
                assert {lane for worker in workers for lane in worker.lanes} == everything
                await kafka_client.produce(topic, each(6, 50))
                await handled(workers, 300)
                before = {lane: id(held) for worker in (a, b) for lane, held in worker.lanes.items()}
            await a.steady(3)
            await b.steady(3)
            after = {lane: id(held) for worker in (a, b) for lane, held in worker.lanes.items()}
            assert set(after) == everything
            assert before.items() <= after.items()  # the very same lanes: none of them moved, or was opened again
            await kafka_client.produce(topic, each(6, 50))
            await handled(workers, 600)
        await a.steady(6)
    assert set(Counter(script.seen).values()) == {1}
    assert len(script.seen) == 600


async def test_new_partitions_are_shared(kafka: Kafka, kafka_client: KafkaClient) -> None:
    topic = await kafka_client.create_topic(partitions=2)
    script, mapping = Script(), Mapping(kafka.bootstrap, topic)
    async with Worker(mapping, script, "a") as a, Worker(mapping, script, "b") as b:
        await a.steady(1)
        await b.steady(1)
        await kafka_client.add_partitions(topic, 6)
        await kafka_client.produce(topic, each(6))
        await asyncio.gather(a.refresh(), b.refresh())
        await handled((a, b), 6)
        await a.steady(3)
        await b.steady(3)
    assert set(Counter(script.seen).values()) == {1}


# --- attempts ---------------------------------------------------------------------------------------------------------------------------


async def test_attempts_stay_counted_over_ten_rebalances(kafka: Kafka, kafka_client: KafkaClient) -> None:
    """5 retries are 6 invocations, and one that nobody could count: that which ran when the first worker died."""
    topic = await kafka_client.create_topic()
    await kafka_client.produce(topic, [b"poison"])
    ends = asyncio.Event()

    async def answer(called: Called) -> Response:
        await ends.wait()
        return FAULT

    script, mapping = Script(answer), Mapping(kafka.bootstrap, topic, drain_limit="0.1s", session_timeout="6s")
    mapping.failure = FailureSettings(maximum_retry_attempts=5, bisect=False, backoff=Backoff(0.01, 0.05))
    old = await Worker(mapping, script, "w0").__aenter__()
    workers = [old]
    for number in range(1, 6):
        await script.called(number)
        new = await Worker(mapping, script, f"w{number}").__aenter__()
        workers.append(new)
        await new.steady(0)
        await old.owns(f"{topic}-0")  # its function runs on
        assert len(script.calls) == number
        await old.crash()
        old = new
    ends.set()
    await old.until(lambda: old.counters.kept == 1)
    await old.stop()
    assert sum(map(rebalances, workers)) >= 10
    assert 6 <= len(script.calls) <= 7
    (entry,) = await mapping.journal()
    assert entry.attempts == 6


# --- membership -------------------------------------------------------------------------------------------------------------------------


async def test_a_function_that_outlasts_the_session_keeps_its_place(kafka: Kafka, kafka_client: KafkaClient) -> None:
    topic, session = await kafka_client.create_topic(), 3.0
    await kafka_client.produce(topic, [b"x"])
    script, mapping = Held(), Mapping(kafka.bootstrap, topic, session_timeout=f"{session}s")
    async with Worker(mapping, script) as worker:
        await script.called(1)
        membership, began = worker.source._membership, time.monotonic()
        await worker.until(lambda: membership.trusted_until > began + 3 * session)
        assert membership._max_poll_interval == math.inf  # so no function is ever too long
        script.release()
        await worker.handled(1)
        assert (rebalances(worker), worker.counters.lost_lanes, len(script.calls)) == (1, 0, 1)


async def test_a_member_thrown_out_goes_on_if_nobody_came_instead(kafka: Kafka, kafka_client: KafkaClient) -> None:
    topic = await kafka_client.create_topic()
    await kafka_client.produce(topic, each(1, 3))
    script, mapping = Held(), Mapping(kafka.bootstrap, topic, size=1, drain_limit="0.2s")
    async with Worker(mapping, script) as worker:
        await script.called(1)
        lanes = worker.lanes
        await throw_out(kafka_client, worker)
        await worker.until(lambda: rebalances(worker) == 2 and worker.source._membership.steady)
        assert worker.lanes == lanes
        script.release()
        await worker.handled(3)
    assert [call.offsets for call in script.calls] == [(0,), (1,), (2,)]


async def test_a_member_thrown_out_is_back_at_once(kafka: Kafka, kafka_client: KafkaClient) -> None:
    """Nothing that it could save would be taken any more, so it does not try, and waits for no function."""
    topic = await kafka_client.create_topic()
    await kafka_client.produce(topic, [b"x"])
    script, mapping = Held(), Mapping(kafka.bootstrap, topic, drain_limit="30s")
    async with Worker(mapping, script) as worker:
        await script.called(1)
        await worker.saved()  # so that it learns by a heartbeat, and not by a commit
        await throw_out(kafka_client, worker)
        thrown = time.monotonic()
        await worker.until(lambda: rebalances(worker) == 2 and worker.source._membership.steady)
        assert time.monotonic() - thrown < 10.0
        assert (len(worker.lanes), script.calls[0].ended) == (1, None)
        script.release()
        await worker.handled(1)


async def test_a_member_thrown_out_while_it_waits_for_its_functions_is_back_at_once(kafka: Kafka, kafka_client: KafkaClient) -> None:
    topic = await kafka_client.create_topic(partitions=2)
    await kafka_client.produce(topic, each(2))
    held, mapping = Held(), Mapping(kafka.bootstrap, topic, drain_limit="120s")
    async with Worker(mapping, held, "a") as a:
        await held.called(2)
        async with Worker(mapping, Script(), "b") as b:
            await a.until(lambda: not a.source._membership.steady)
            await throw_out(kafka_client, a)
            await a.steady(1)
            await b.steady(1)
            assert a.counters.lost_lanes >= 1
            held.release()
            await b.handled(1)


async def test_a_partition_that_comes_back_is_begun_where_the_other_left_it(kafka: Kafka, kafka_client: KafkaClient) -> None:
    """Its worker never heard that it was another's meanwhile, and is given it again."""
    topic = await kafka_client.create_topic()
    await kafka_client.produce(topic, each(1, 4))
    held, script, mapping = Held(), Script(), Mapping(kafka.bootstrap, topic, size=2)
    async with Worker(mapping, held, "a") as a:
        await held.called(1)
        await a.saved()
        membership = a.source._membership
        await membership._stop_heartbeat_task()
        await throw_out(kafka_client, a)
        async with Worker(mapping, script, "b") as b:
            await b.handled(4)
        membership._start_heartbeat_task()
        await a.until(lambda: a.counters.lost_lanes == 1 and a.lanes)
        held.release()
        await kafka_client.produce(topic, each(1))
        await a.handled(1)
    assert [(call.offsets, call.ended) for call in held.calls] == [((0, 1), False), ((4,), True)]
    assert [call.offsets for call in script.calls] == [(0, 1), (2, 3)]


async def test_a_worker_that_stood_still_past_its_session_begins_nothing(kafka: Kafka, kafka_client: KafkaClient) -> None:
    """It runs in a thread of its own, on a loop that a function holds up."""
    topic = await kafka_client.create_topic()
    await kafka_client.produce(topic, each(1, 4))
    held, goes_on, ends = threading.Event(), threading.Event(), threading.Event()

    async def stand_still(called: Called) -> Response:
        held.set()
        goes_on.wait(30)
        return DONE

    mapping = Mapping(kafka.bootstrap, topic, size=2, session_timeout="1s")
    stalled = Script(stand_still)

    async def play() -> int:
        async with Worker(mapping, stalled, "a") as a:
            await until(lambda: ends.is_set() and a.counters.lost_lanes == 1)
            return rebalances(a)

    playing = asyncio.create_task(asyncio.to_thread(asyncio.run, play()))
    await asyncio.to_thread(held.wait, 30)
    script = Script()
    async with Worker(mapping, script, "b") as b:
        await b.handled(4)
        goes_on.set()
        ends.set()
        assert await playing >= 2  # it is in the group again
        await b.until(lambda: rebalances(b) >= 3)
        await b.owns(f"{topic}-0")
    assert stalled.seen == [(f"{topic}-0", 0), (f"{topic}-0", 1)]
    assert script.seen == [(f"{topic}-0", offset) for offset in range(4)]


# --- static members ---------------------------------------------------------------------------------------------------------------------


async def test_a_static_member_comes_back_unnoticed(kafka: Kafka, kafka_client: KafkaClient) -> None:
    topic = await kafka_client.create_topic(partitions=2)
    script, mapping = Held(), Mapping(kafka.bootstrap, topic)
    async with Worker(mapping, script, "b", instance="b") as b:
        async with Worker(mapping, script, "a", instance="a") as a:
            await a.steady(1)
            await b.steady(1)
            (own,) = a.lanes
            (other,) = b.lanes
            before = rebalances(b)
            await kafka_client.produce(topic, [Message(b"x", partition=int(other[-1]))])
            await script.called(1)
        await kafka_client.produce(topic, [Message(b"x", partition=int(own[-1]))])
        async with Worker(mapping, script, "a", instance="a") as again:
            await again.owns(own)
            await script.called(2)
            script.release()
            await handled((again, b), 2)
            assert rebalances(b) == before
            assert set(b.lanes) == {other}
    assert [(call.worker, call.lane) for call in script.calls] == [("b", other), ("a", own)]


async def test_of_two_with_the_same_name_one_works_and_the_other_says_so(kafka: Kafka, kafka_client: KafkaClient) -> None:
    """The later one has it, as with Kafka's own clients; the other one waits until the name is free."""
    topic = await kafka_client.create_topic()
    script, mapping = Script(), Mapping(kafka.bootstrap, topic, session_timeout="6s")
    async with Worker(mapping, script, "a", instance="same") as a:
        await a.steady(1)
        async with Worker(mapping, script, "b", instance="same") as b:
            await b.steady(1)
            await a.until(lambda: a.state == "reconnecting")
            assert "has taken the name 'same' in group" in a.runner.last_error
            for n in range(1, 11):
                await kafka_client.produce(topic, [b"x"])
                await b.handled(n)
            assert (rebalances(b), b.counters.lost_lanes, b.state) == (1, 0, "running")
            assert a.state == "reconnecting"
        await kafka_client.produce(topic, [b"x"])
        await a.handled(1)
        assert a.state == "running"
    assert [(call.worker, *call.offsets) for call in script.calls] == [*(("b", n) for n in range(10)), ("a", 10)]
