"""Three daemons in one group, each with a store of its own, while daemons are killed and paused, and the broker that leads too."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from random import Random

import pytest

from poller.testing.oracle import poison_bound
from tests.acceptance.harness import FUNCTIONS, DaemonProcess, Site, until
from tests.acceptance.topics import Line, Place, Topic, batches, begun, ended, in_order, kept, lines
from tests.servers.kafka.client import Blocking, Message
from tests.servers.kafka.cluster import KafkaCluster

pytestmark = [pytest.mark.slow, pytest.mark.servers, pytest.mark.longest]

PARTITIONS, COUNT, EVERY = 4, 25_000, 1_000
SIZE, RETRIES, WIDTH = 100, 2, 2
KEYS = 51
"""Records whose offsets are equal modulo this have one key (odd: neither keys nor offsets fall on strands by themselves)."""

SESSION = 3.0
BLOWS = ("kill", "short pause", "kill", "long pause", "broker", "kill", "long pause", "short pause", "kill", "long pause", "kill")
"""Each a few seconds after the one before. A long pause is longer than a session: the group gives the daemon's partitions away. Half of
the records are there before the first blow, the others come one chunk after each."""

SLOW = 0.1
UNCOMMITTED = 1.0
"""Seconds that an invocation takes; seconds of work that may not be committed yet when a daemon is hit (commits come every 100 ms, but on a
machine that does all this at once)."""


def poison(offset: int) -> bool:
    """One in a thousand, each at another place of its batch."""
    return offset % EVERY == offset // EVERY * 37 % EVERY


def messages(first: int, last: int) -> Iterator[Message]:
    """Records `first`..`last` of every partition."""
    for offset in range(first, last):
        value, key = b"poison" if poison(offset) else b"good", f"key {offset % KEYS}".encode()
        for partition in range(PARTITIONS):
            yield Message(value, key, partition)


class Fleet:
    """The daemons by name; who was killed is started anew. `lost`: which process may have lost its partitions, from when until when."""

    def __init__(self, folder: Path, orders: Topic, stack: ExitStack) -> None:
        self.out = folder / "testimony"
        self.lost: list[tuple[int, float, float]] = []
        self._stack = stack
        self._sites = {name: self._site(folder / name, orders) for name in ("a", "b", "c")}
        self._daemons = {name: self._start(name) for name in self._sites}

    def _site(self, folder: Path, orders: Topic) -> Site:
        folder.mkdir()
        site = Site(folder)
        site.out = self.out
        site.write(
            site.function(code=FUNCTIONS / "offsets", concurrency=4, environment={"SLOW": str(SLOW)}),
            site.mapping(
                "orders",
                orders.source,
                batch_size=SIZE,
                parallelization_factor=WIDTH,
                maximum_retry_attempts=RETRIES,
                bisect_batch_on_function_error=True,
                retry_backoff={"initial": "10ms", "maximum": "20ms"},
            ),
        )
        return site

    def _start(self, name: str) -> DaemonProcess:
        return self._stack.enter_context(self._sites[name].daemon())

    def kill(self, name: str) -> None:
        self._lose(name)
        self._daemons[name].kill()
        self._daemons[name] = self._start(name)

    def pause(self, name: str, seconds: float) -> None:
        if seconds > SESSION:
            self._lose(name)
        self._daemons[name].pause()
        time.sleep(seconds)
        self._daemons[name].resume()

    def all_lose(self) -> None:
        """While a broker fails over, coordinators answer neither commits nor heartbeats: sessions may end, and until then all go on."""
        for name in self._daemons:
            self._lose(name, SESSION)

    def _lose(self, name: str, seconds: float = 0.0) -> None:
        now = time.time()
        self.lost.append((self._daemons[name].pid, now - UNCOMMITTED, now + seconds + 2 * SLOW))

    def stop(self) -> None:
        for daemon in self._daemons.values():
            daemon.stop()

    def kept(self) -> list[Place]:
        return [place for site in self._sites.values() for place in kept(site.journal())]

    def logs(self) -> str:
        return "\n\n".join(daemon.log[-3000:] for daemon in self._daemons.values())

    def at_stake(self, testimony: list[Line]) -> int:
        """How many records were handled by daemons that were about to lose them, perhaps before they were committed."""
        return sum(
            len(line.offsets)
            for line in testimony
            if line.what == "ended" and any(line.daemon == pid and first < line.time < last for pid, first, last in self.lost)
        )


def strike(blow: str, fleet: Fleet, name: str, cluster: KafkaCluster, leader: int) -> None:
    match blow:
        case "short pause":
            fleet.pause(name, SESSION / 3)
        case "long pause":
            fleet.pause(name, SESSION * 1.5)
        case "broker":
            fleet.all_lose()
            cluster.broker(leader).kill()
            fleet.kill(name)
        case _:
            fleet.kill(name)


def test_nothing_is_lost_while_daemons_and_the_leading_broker_fall(
    tmp_path: Path, kafka_cluster: KafkaCluster, tell: Callable[[str], None]
) -> None:
    random, chunk = Random(4), COUNT // (len(BLOWS) * 2)
    with closing(Blocking(kafka_cluster.bootstrap)) as kafka, ExitStack() as stack:
        orders = Topic(kafka, kafka_cluster.bootstrap, PARTITIONS, session_timeout=f"{SESSION:.0f}s")
        filled = COUNT - chunk * len(BLOWS)
        orders.fill(messages(0, filled))
        fleet = Fleet(tmp_path, orders, stack)
        until(lambda: len(orders.committed()) == PARTITIONS, what=f"they run:\n{fleet.logs()}")
        for blow in BLOWS:
            time.sleep(random.uniform(1.0, 4.0))  # not for an event: a blow comes whenever it comes
            strike(blow, fleet, random.choice("abc"), kafka_cluster, kafka.run(kafka.client.leader(orders.name)))
            orders.fill(messages(filled, filled + chunk))
            filled += chunk
        assert not orders.done(), "they were idle when the last blow came"
        until(orders.done, 90, f"all is committed:\n{fleet.logs()}")
        fleet.stop()
        assert orders.committed() == dict.fromkeys(range(PARTITIONS), COUNT)
    testimony, places = lines(fleet.out), {(partition, offset) for partition in range(PARTITIONS) for offset in range(COUNT)}
    poisoned = {place for place in places if poison(place[1])}
    handled, often, journal = ended(testimony), begun(testimony), fleet.kept()
    twice, at_stake = handled.total() - len(handled), fleet.at_stake(testimony)
    kinds = Counter(often[place] for place in poisoned)
    tell(f"kafka fleet: {twice} of {len(handled)} records handled again ({at_stake} were at stake); poison: {dict(sorted(kinds.items()))}")
    assert handled.keys() == places - poisoned
    assert set(journal) == poisoned
    assert len(journal) <= len(poisoned) + len(fleet.lost)  # each daemon has a journal of its own
    assert max(batches(testimony).values()) <= RETRIES + 2
    assert max(often.values()) <= poison_bound(SIZE, RETRIES)
    assert twice <= at_stake
    in_order(testimony, KEYS)
