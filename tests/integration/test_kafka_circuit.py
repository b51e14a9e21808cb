"""An outage of the function on a real broker: the circuit breaker holds records back, and the group does not notice."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from poller.model import Fault, Response
from poller.settings import Backoff, BreakerSettings, FailureSettings
from tests.integration.kafka_workers import DONE, Called, Mapping, Script, Worker, until
from tests.servers.kafka.broker import Kafka
from tests.servers.kafka.client import KafkaClient, Message

pytestmark = pytest.mark.servers

SESSION = 6.0
"""Seconds: the shortest that a broker takes."""

AWAY = Fault("error", "ConnectionError", "no route to the database")


class Outage(Script):
    """Fails whatever it is given, while `away`. `done`: what it has handled."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.away = True
        self.done = Counter[tuple[str, int]]()

    async def _answer(self, called: Called) -> Response:
        if self.away:
            return AWAY
        self.done.update((called.lane, offset) for offset in called.offsets)
        return DONE


async def test_an_open_breaker_keeps_its_partitions_hands_them_over_and_loses_nothing(kafka: Kafka, kafka_client: KafkaClient) -> None:
    topic = await kafka_client.create_topic(partitions=3)

    async def produce(count: int) -> None:
        await kafka_client.produce(topic, [Message(b"x", b"%d" % number, partition=number % 3) for number in range(count)])

    script, mapping = Outage(), Mapping(kafka.bootstrap, topic, size=5, width=4, session_timeout=f"{SESSION:.0f}s")
    mapping.failure = FailureSettings(maximum_retry_attempts=1, bisect=False, backoff=Backoff(1.0, 1.0))
    mapping.breaker = BreakerSettings(initial=0.2, maximum=0.5)
    async with Worker(mapping, script, "a") as a:
        await a.steady(3)
        before = a.lanes
        await produce(300)
        await a.until(lambda: a.counters.opened)
        opened, rebalances, called = time.monotonic(), a.counters.tally.rebalances, len(script.calls)
        await produce(300)
        # Longer than the group waits for who has gone silent.
        await until(lambda: time.monotonic() - opened > SESSION + 1.0)
        assert a.work.circuit.open and a.counters.opened == 1
        assert a.counters.tally.rebalances == rebalances
        assert {name: id(lane) for name, lane in a.lanes.items()} == {name: id(lane) for name, lane in before.items()}
        assert len(script.calls) - called < 30, "probes alone run"
        # Who comes now gets its share at once: nothing runs that would have to be waited for.
        joined = time.monotonic()
        async with Worker(mapping, script, "b") as b:
            await until(lambda: a.lanes and b.opened and b.lanes)
            assert time.monotonic() - joined < 5.0
            await until(lambda: {*a.lanes, *b.lanes} == {f"{topic}-{number}" for number in range(3)})
            script.away = False
            await until(lambda: len({*script.done}) == 600, (a, b))
            assert await mapping.kept() == []
            await a.saved()
            await b.saved()
    assert {*script.done} == {(f"{topic}-{number}", offset) for number in range(3) for offset in range(200)}
    committed = await kafka_client.committed(mapping.group)
    assert sorted(each.offset for each in committed.values()) == [200, 200, 200]
