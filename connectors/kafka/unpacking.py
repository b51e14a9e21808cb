"""The records of one answer of a broker, as many at a time as are asked for.

aiokafka's own `PartitionRecords` gives them one by one, each through two generators and as a `ConsumerRecord` of eleven fields: more than
half of what it takes to decode them. Here they are what its decoder makes of a batch, as they are; what a record does not know, topic and
partition, the lane does. Which batches count (control batches, aborted transactions, checksums) is as aiokafka has it; a test compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import dropwhile, islice

from aiokafka import errors as kafka
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch

from connectors.kafka.format import Record


class Unpacked:
    """Stands where the client's `PartitionRecords` stood, of which nothing was taken yet."""

    def __init__(self, records: PartitionRecords) -> None:
        self.next_fetch_offset: int = records.next_fetch_offset
        """The position after what was taken, also past offsets without a record. aiokafka asks for it by this name."""
        self.over = False
        """There are no more."""
        self._of = records
        self._batch: Iterator[Record] = iter(())
        self._after = self.next_fetch_offset
        """The offset after the batch that is begun."""
        self._damage: Exception | None = None

    def __repr__(self) -> str:
        return f"<Unpacked, next {self.next_fetch_offset}{', over' if self.over else ''}>"

    def take(self, limit: int) -> list[Record]:
        """At most `limit`, in order; fewer when there are no more, or the next batch is damaged.

        Raises KafkaError for that batch when nothing was left before it.
        """
        found: list[Record] = []
        while missing := limit - len(found):
            found += (records := list(islice(self._batch, missing)))
            if len(records) < missing:
                self.next_fetch_offset = self._after
                self._batch = iter(())  # asked once more after its end, a batch reads past it
                if not self._begin(bool(found)):
                    return found
        self.next_fetch_offset = found[-1].offset + 1
        return found

    def _begin(self, found: bool) -> bool:
        """The next batch that counts, if there is one."""
        try:
            if self._damage is not None:
                raise self._damage
            batch = self._next()
            self.over = batch is None
            if batch is None:
                return False
            # The position may lie inside a batch, which comes whole.
            position = self.next_fetch_offset
            self._batch, self._after = dropwhile(lambda record: record.offset < position, batch), batch.next_offset
        except Exception as error:
            if not found:
                raise
            self._damage = error
            return False
        return True

    def _next(self) -> DefaultRecordBatch | LegacyRecordBatch | None:
        """What `PartitionRecords` does with its own."""
        of = self._of
        while of._records.has_next():
            batch = of._records.next_batch()
            if of._check_crcs and not batch.validate_crc():
                raise kafka.CorruptRecordException(f"{of._tp.topic}-{of._tp.partition}: the checksum of a batch is wrong")
            aborted = of._isolation_level == READ_COMMITTED and batch.producer_id is not None and self._aborted(batch)
            if not (aborted or batch.is_control_batch):
                return batch
            self.next_fetch_offset = self._after = batch.next_offset
        return None

    def _aborted(self, batch: DefaultRecordBatch) -> bool:
        of, producer = self._of, batch.producer_id
        of._consume_aborted_up_to(batch.base_offset)
        if batch.is_control_batch and of._contains_abort_marker(batch):
            of._aborted_producers.discard(producer)
        return batch.is_transactional and producer in of._aborted_producers
