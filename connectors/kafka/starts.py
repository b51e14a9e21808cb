"""Where a partition without a commit of the group begins.

LATEST means: what was there when the mapping first ran is not read, and everything that came later is. So the ends are noted when the
source is opened, before it joins the group, and the commits remember how many partitions there were: one that was added later (also while
nobody was running) is read from its beginning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition

from connectors.kafka.commits import lane_name, restored
from connectors.kafka.metadata import Note
from connectors.kafka.options import KafkaOptions
from connectors.starting import epoch
from poller.progress import Progress

log = logging.getLogger("poller.kafka")


_NOTES: Mapping[Note, str] = {
    "none": "the group's offset was committed by something else than poller; going on from it",
    "foreign": "the group's offset was committed by something else than poller; going on from it",
    "moved": "the group's offset was changed by hand; going on from it, with fresh attempts",
    "damaged": "what poller kept beside the group's offset is damaged: going on from the offset, and some records may run again",
}


class Starts:
    """`partitions`: how many each topic had when the source was opened; `ends`: theirs at that moment, if LATEST needs them."""

    def __init__(self, consumer: AIOKafkaConsumer, options: KafkaOptions, width: int, partitions: Mapping[str, int]) -> None:
        self._consumer = consumer
        self._options = options
        self._width = width
        self._partitions = dict(partitions)
        self._ends: Mapping[TopicPartition, int] = {}
        self.newer = set[TopicPartition]()
        """Of those asked for last: committed by a newer version of poller, whose attempts this one cannot read."""

    async def note(self) -> None:
        """The moment that LATEST is counted from. Raises KafkaError."""
        if self._options.starting_position == "LATEST":
            every = [TopicPartition(topic, number) for topic, count in self._partitions.items() for number in range(count)]
            self._ends = await self._consumer.end_offsets(every)

    async def of(
        self, wanted: Iterable[TopicPartition], committed: Mapping[TopicPartition, tuple[int, str]]
    ) -> dict[TopicPartition, Progress]:
        """`committed`: all that the group has committed in the topics. Raises KafkaError."""
        found: dict[TopicPartition, Progress] = {}
        fresh = list[TopicPartition]()
        self.newer.clear()
        for partition in wanted:
            if partition not in committed:
                fresh.append(partition)
                continue
            name, kept = lane_name(partition), restored(*committed[partition])
            if kept.note == "newer":
                self.newer.add(partition)
                continue
            if kept.note in _NOTES:
                log.warning("%s: %s", name, _NOTES[kept.note], extra={"lane": name})
            found[partition] = kept.progress
        if fresh:
            positions, origins = await self._first(fresh), self._origins(committed)
            late = [partition for partition in fresh if partition.partition >= origins[partition.topic]]
            if self._options.starting_position == "LATEST" and late:
                positions |= await self._consumer.beginning_offsets(late)
            for partition in fresh:
                origin: str = self._options.starting_position
                origin += f" {origins[partition.topic]}" if origin == "LATEST" else ""
                found[partition] = Progress(origin, self._width, frontier=positions[partition])
        return found

    def _origins(self, committed: Mapping[TopicPartition, tuple[int, str]]) -> dict[str, int]:
        """How many partitions each topic had when the group first read it."""
        counts = dict(self._partitions)
        for partition, kept in committed.items():
            word, _, count = restored(*kept).progress.origin.partition(" ")
            if word == "LATEST" and count.isdecimal():
                counts[partition.topic] = min(counts.get(partition.topic, int(count)), int(count))
        return counts

    async def _first(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        consumer, where = self._consumer, self._options.starting_position
        if where == "TRIM_HORIZON":
            return dict(await consumer.beginning_offsets(partitions))
        ends = dict(await consumer.end_offsets(partitions))
        if where == "LATEST":
            return ends | {partition: self._ends[partition] for partition in partitions if partition in self._ends}
        moment = self._options.starting_position_timestamp
        assert moment is not None, "the options have been checked"
        times = await consumer.offsets_for_times(dict.fromkeys(partitions, int(epoch(moment) * 1000)))
        return ends | {partition: found.offset for partition, found in times.items() if found is not None}

    async def elsewhere(self, partition: TopicPartition) -> tuple[int, int]:
        """Where to go on when a position is out of range, and where the partition begins now. Raises KafkaError."""
        horizon = (await self._consumer.beginning_offsets([partition]))[partition]
        if self._options.starting_position != "LATEST":
            # AT_TIMESTAMP too: all that is left is later than what was read before.
            return horizon, horizon
        return (await self._consumer.end_offsets([partition]))[partition], horizon
