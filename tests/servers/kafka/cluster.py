"""Several brokers that keep every record three times, or as often as there are brokers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.servers.kafka.broker import Kafka, dead_after, node, quiet_port, replication

_SETTINGS = {
    # Who leads is settled sooner than by default, for the controller and for the partitions of a dead broker.
    "controller.quorum.fetch.timeout.ms": "1000",
    "controller.quorum.election.timeout.ms": "500",
    "controller.quorum.election.backoff.max.ms": "500",
    # A broker that is paused does not hang up: the others must stop waiting for its answer (default: 30 seconds).
    "controller.socket.timeout.ms": "1000",
    "replica.socket.timeout.ms": "1000",
    **dead_after(2),
}


class KafkaCluster:
    """Its brokers have the node ids 1, 2, 3. `bootstrap` names all of them."""

    def __init__(self, folder: Path, count: int = 3) -> None:
        """Formatted but not started."""
        ports, controllers = [quiet_port() for _ in range(count)], [quiet_port() for _ in range(count)]
        copies = replication(min(3, count), min(2, count))
        self.brokers: list[Kafka] = []
        for number, port in enumerate(ports, 1):
            home = folder / str(number)
            home.mkdir()
            self.brokers.append(Kafka(home, port, {**node(number, port, controllers), **copies, **_SETTINGS}))
        self.bootstrap = ",".join(broker.bootstrap for broker in self.brokers)
        self._all(Kafka.format)

    def broker(self, number: int) -> Kafka:
        """By its node id."""
        return self.brokers[number - 1]

    def start(self) -> None:
        """Seconds: all of them at once, for none is let in before most are there."""
        self._all(Kafka.start)

    def heal(self) -> None:
        self._all(Kafka.heal)

    def kill(self) -> None:
        self._all(Kafka.kill)

    def _all(self, do: Callable[[Kafka], None]) -> None:
        with ThreadPoolExecutor(len(self.brokers)) as threads:
            for done in [threads.submit(do, broker) for broker in self.brokers]:
                done.result()
