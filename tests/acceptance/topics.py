"""Topics as a test needs them: the source of the mapping "orders", filled and looked at from outside the daemons, and what a function
that is called with very many of their records testifies (functions/offsets/app.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import msgspec

from poller.failures.journal import Row
from tests.servers.kafka.client import Blocking, Message

Place = tuple[int, int]
"""A record: partition and offset."""


class Topic:
    """A new topic, read by a group of its name. `source` are more keys of the mapping's source."""

    def __init__(self, kafka: Blocking, bootstrap: str, partitions: int = 1, **source: object) -> None:
        self._kafka = kafka
        self.name = kafka.run(kafka.client.create_topic(partitions=partitions))
        servers = bootstrap.split(",")
        own = {"type": "kafka", "bootstrap_servers": servers, "topic": self.name, "group": self.name, "session_timeout": "3s"}
        self.source: dict[str, object] = {**own, **source}

    def fill(self, records: Iterable[Message | str]) -> list[Place]:
        """In order; where each came to be."""
        messages = (Message(each.encode(), partition=0) if isinstance(each, str) else each for each in records)
        return self._kafka.run(self._kafka.client.produce(self.name, messages))

    def ends(self) -> dict[int, int]:
        return self._kafka.run(self._kafka.client.end_offsets(self.name))

    def committed(self) -> dict[int, int]:
        """What the group has committed, by partition."""
        found = self._kafka.run(self._kafka.client.committed(self.name))
        return {partition.partition: kept.offset for partition, kept in found.items() if partition.topic == self.name}

    def done(self) -> bool:
        """Whether all is committed that was ever produced."""
        return self.committed() == self.ends()

    def members(self) -> int:
        return len(self._kafka.run(self._kafka.client.members(self.name)))


class Line(msgspec.Struct):
    """One line of functions/offsets. `daemon`: its process; `time`: epoch seconds."""

    what: str
    request: str
    time: float
    daemon: int
    partition: int
    offsets: list[int]

    @property
    def records(self) -> list[Place]:
        return [(self.partition, offset) for offset in self.offsets]


def lines(out: Path) -> list[Line]:
    """In the order they were written."""
    return [msgspec.json.decode(line, type=Line) for line in out.read_bytes().splitlines()]


def begun(found: Iterable[Line]) -> Counter[Place]:
    """How often each record was in an invocation."""
    return Counter(record for line in found if line.what == "begun" for record in line.records)


def ended(found: Iterable[Line]) -> Counter[Place]:
    """How often each record was in an invocation that went well."""
    return Counter(record for line in found if line.what == "ended" for record in line.records)


def batches(found: Iterable[Line]) -> Counter[tuple[Place, ...]]:
    """How often each batch was begun."""
    return Counter(tuple(line.records) for line in found if line.what == "begun")


def kept(rows: Iterable[Row]) -> list[Place]:
    """The records of these failures, each of which must hold one."""
    return [_place(row) for row in rows]


def _place(row: Row) -> Place:
    (record,) = row.entry.records
    found = msgspec.json.decode(record.json)
    return found["partition"], found["offset"]


def in_order(found: Iterable[Line], keys: int) -> None:
    """Within a daemon, records of one key (offsets that are equal modulo `keys`) are invoked in order, seen for the first time each; and
    never two batches of a key at once.
    """
    testimony = list(found)
    over = {line.request: line.time for line in testimony if line.what != "begun"}
    seen = set[tuple[int, Place]]()
    newest: dict[tuple[int, int, int], int] = {}
    busy: dict[tuple[int, int, int], float] = {}
    for line in testimony:
        if line.what != "begun":
            continue
        for record in line.records:
            own = line.daemon, line.partition, record[1] % keys
            assert line.time >= busy.get(own, 0.0), f"two batches at once have records of the key of {record}: {line}"
            if (line.daemon, record) not in seen:
                assert record[1] > newest.get(own, -1), f"{record} comes after {newest[own]}: {line}"
                newest[own] = record[1]
                seen.add((line.daemon, record))
        for record in line.records:
            # Without an end it was cut off with its daemon, or with its lane.
            busy[line.daemon, line.partition, record[1] % keys] = over.get(line.request, 0.0)
