"""Where the records of a lane are that were fetched and are not settled. Pure: the lane makes it, the runner fills and empties it.

A strand is one serial run of batches. `assign` says which strand takes a record:
- "any": one open batch for all; when cut it goes to a free strand (SQS standard queues);
- "hash": `crc32(key) % width`, no key: token modulo width; the same after a restart (streams);
- "free": a key keeps its strand while it has work there, else it takes the least loaded one (FIFO queues).

Law 9 (tests/unit/test_strands.py): one key, one strand; never two batches of a strand in flight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from typing import Literal, TypeAlias
from zlib import crc32

from poller.batching import cut
from poller.model import Batch, Cause, Record, Span
from poller.protocols import Facts, Format
from poller.settings import Batching

Assign: TypeAlias = Literal["any", "hash", "free"]

CAPACITY = 100_000
"""How many records a lane holds at most; then it reads no more."""


def hashed(key: bytes | None, token: int, width: int) -> int:
    """The strand of a record of a "hash" lane."""
    return (crc32(key) if key is not None else token) % width


def _numbers(facts: Facts, width: int) -> list[int]:
    """`hashed` for every record."""
    keys = facts.keys()
    if None in keys:
        return [hashed(key, token, width) for key, token in zip(keys, facts.tokens(), strict=True)]
    return [crc32(key) % width for key in keys]  # type: ignore[arg-type]  # no None among them


class Strand:
    """One strand: what waits in order (`resumed` spans first, then `records`), and what is in flight."""

    __slots__ = ("flight", "flight_bytes", "keys", "number", "records", "resumed", "since", "sizes")

    def __init__(self, number: int) -> None:
        self.number = number
        self.records: list[Record] = []
        self.sizes: list[int] = []
        self.since = 0.0
        self.resumed: deque[tuple[Sequence[Record], Span]] = deque()
        self.flight: Sequence[Record] | None = None
        self.flight_bytes = 0
        self.keys: dict[bytes | None, int] = {}

    @property
    def load(self) -> int:
        """How many records are here, in flight included."""
        return len(self.records) + (len(self.flight) if self.flight is not None else 0)

    def __repr__(self) -> str:
        flight = "idle" if self.flight is None else f"{len(self.flight)} in flight"
        return f"<Strand {self.number} [{flight}, {len(self.records)} waiting, {len(self.resumed)} spans]>"


class Strands:
    """The strands of one lane. Times are the loop's."""

    windowed = False
    """Whether its records are in tumbling windows, and its functions return their state (tumbling.py)."""

    def __init__(self, width: int, assign: Assign, capacity: int = CAPACITY) -> None:
        if width < 1:
            raise ValueError(f"a lane has at least one strand, not {width}")
        self.width = width
        self.assign: Assign = assign
        self.capacity = capacity
        self.received = 0
        """Records ever taken or skipped, in whole: a lane sees by it whether what it handed out has arrived."""
        self.held = 0
        self.held_bytes = 0
        self.draining = False
        self._strands = [Strand(n) for n in range(width)]
        self._homes: dict[bytes | None, Strand] = {}
        # "any": the one open batch, which belongs to no strand yet.
        self._open = Strand(-1) if assign == "any" else None
        self._idle = deque(self._strands) if assign == "any" else deque()

    def __repr__(self) -> str:
        busy = sum(strand.flight is not None for strand in self._strands)
        return f"<Strands {self.assign} x{self.width} [{self.held} held, {busy} busy]>"

    def __iter__(self) -> Iterator[Strand]:
        return iter(self._strands)

    @property
    def waiting(self) -> int:
        """Records that no batch has taken yet."""
        return self.held - sum(len(strand.flight) for strand in self._strands if strand.flight is not None)

    @property
    def empty(self) -> bool:
        return self.held == 0

    def laden(self, strand: Strand) -> bool:
        """Whether it has over twice its share of what is here: in the end, all wait for it."""
        return len(strand.records) > 8 and len(strand.records) * self.width > 2 * self.held

    @property
    def over(self) -> bool:
        """Whether what is here, or is not coming any more, ends a tumbling window."""
        return False

    # --- in ---------------------------------------------------------------------------------------------------------------------

    def add(self, records: Sequence[Record], facts: Facts, now: float) -> None:
        """Take fetched records, in order."""
        sizes = facts.sizes()
        self.held += len(records)
        self.held_bytes += sum(sizes)
        if self._open is not None:
            self._append(self._open, records, sizes, now)
        elif self.assign == "hash":
            self._add_hashed(records, sizes, facts, now)
        else:
            self._add_free(records, sizes, facts.keys(), now)
        self.received += len(records)

    def skip(self, count: int) -> None:
        """So many records of a fetch have arrived and were filtered out: nothing of them is left to do."""
        self.received += count

    def resume(self, span: Span, records: Sequence[Record], sizes: Sequence[int]) -> None:
        """Take exactly a span's records, to be run as one batch before anything later of its strand."""
        self.held += len(records)
        self.held_bytes += sum(sizes)
        self._strands[span.strand % self.width].resumed.append((records, span))
        self.received += len(records)

    @staticmethod
    def _append(strand: Strand, records: Sequence[Record], sizes: Sequence[int], now: float) -> None:
        if not strand.records:
            strand.since = now
        strand.records.extend(records)
        strand.sizes.extend(sizes)

    def _add_hashed(self, records: Sequence[Record], sizes: Sequence[int], facts: Facts, now: float) -> None:
        if self.width == 1:
            self._append(self._strands[0], records, sizes, now)
            return
        strands, numbers = self._strands, _numbers(facts, self.width)
        if self.width > len(records):  # then most strands get nothing
            for number, record, size in zip(numbers, records, sizes, strict=True):
                strand = strands[number]
                if not strand.records:
                    strand.since = now
                strand.records.append(record)
                strand.sizes.append(size)
            return
        for strand in strands:
            if not strand.records:
                strand.since = now  # of no account where nothing comes now
        # Bound once: this is the one loop over single records that every wide lane pays for.
        take = [(strand.records.append, strand.sizes.append) for strand in strands]
        for number, record, size in zip(numbers, records, sizes, strict=True):
            take_record, take_size = take[number]
            take_record(record)
            take_size(size)

    def _add_free(self, records: Sequence[Record], sizes: Sequence[int], keys: Sequence[bytes | None], now: float) -> None:
        for record, size, key in zip(records, sizes, keys, strict=True):
            strand = self._homes.get(key)
            if strand is None:
                strand = self._homes[key] = min(self._strands, key=lambda each: each.load)
            strand.keys[key] = strand.keys.get(key, 0) + 1
            self._append(strand, (record,), (size,), now)

    # --- out --------------------------------------------------------------------------------------------------------------------

    def ready(self, batching: Batching, now: float) -> list[Strand]:
        """Strands that could start a batch now. "any": at most one, the next free strand for the open batch."""
        if self._open is not None:
            return [self._idle[0]] if self._idle and self._can_cut(self._open, batching, now) else []
        # Looked at here already: of a thousand strands most have a batch in flight.
        return [strand for strand in self._strands if strand.flight is None and self.can_cut(strand, batching, now)]

    def can_cut(self, strand: Strand, batching: Batching, now: float) -> bool:
        """Whether this strand has no batch in flight and could cut one."""
        if strand.flight is not None:
            return False
        return self._can_cut(self._open or strand, batching, now)

    def next_waits(self, strand: Strand, batching: Batching, now: float) -> bool:
        """Whether this strand could cut another batch if that in flight were done, and it is no span ("hash" lanes)."""
        return not strand.resumed and self._can_cut(strand, batching, now)

    def _can_cut(self, strand: Strand, batching: Batching, now: float) -> bool:
        if strand.resumed:
            return True
        if not strand.records:
            return False
        # The cheap tests first: most batches are full, or have no window.
        if len(strand.records) >= batching.size or self._closing(strand, batching, now) is not None:
            return True
        return cut(strand.sizes, batching, None, self.held_bytes) is not None

    def _closing(self, strand: Strand, batching: Batching, now: float) -> Cause | None:
        # The same sum as in `due`: a difference would round otherwise, and a timer set for `due` find nothing to do.
        return "window" if now >= strand.since + batching.window else "drain" if self.draining else None

    def due(self, batching: Batching, now: float) -> float | None:
        """When the next window ends. Those that have ended already started a batch, or wait for a permit."""
        open_ = self._strands if self._open is None else (self._open,)
        times = [strand.since + batching.window for strand in open_ if strand.records and strand.flight is None]
        return min((time for time in times if time > now), default=None)

    def take(self, strand: Strand, batching: Batching, format: Format, now: float) -> tuple[Batch, Span | None] | None:
        """Cut the next batch of `strand`; it is in flight until `finish`. With a span when it goes on from an earlier life.

        None when there is nothing to cut: another strand took the open batch meanwhile.
        """
        if strand.resumed:
            records, span = strand.resumed.popleft()
            strand.flight = records
            strand.flight_bytes = sum(format.facts(records).sizes())
            return Batch(records, format, strand.number, "retry", span.attempts + 1), span
        origin = self._open or strand
        closing = None if len(origin.records) >= batching.size else self._closing(origin, batching, now)
        end = cut(origin.sizes, batching, closing, self.held_bytes)
        if end is None:
            return None
        count, cause = end
        return self._cut(origin, strand, count, cause, format, now), None

    def _cut(self, origin: Strand, strand: Strand, count: int, cause: Cause, format: Format, now: float) -> Batch:
        if count == len(origin.records):
            records, origin.records = origin.records, []
            sizes, origin.sizes = origin.sizes, []
        else:
            records, sizes = origin.records[:count], origin.sizes[:count]
            del origin.records[:count], origin.sizes[:count]
            origin.since = now  # what is left is a new open batch
        strand.flight = records
        strand.flight_bytes = sum(sizes)
        if self._open is not None:
            self._idle.remove(strand)
        return Batch(records, format, strand.number, cause)

    def finish(self, strand: Strand, keys: Sequence[bytes | None] = ()) -> None:
        """The batch in flight is settled. `keys`: of its records, for a "free" lane, so that groups without work lose their home."""
        flight, strand.flight = strand.flight, None
        if flight is None:
            return
        self.held -= len(flight)
        self.held_bytes -= strand.flight_bytes
        if self._open is not None:
            self._idle.append(strand)
        for key in keys:
            self._leave(strand, key)

    def recall(self, keys: Collection[bytes | None], format: Format) -> list[Record]:
        """Take out what waits of these keys ("free" lanes): what came before it was released, and must not be overtaken."""
        recalled: list[Record] = []
        for strand in {id(home): home for key in keys if (home := self._homes.get(key)) is not None}.values():
            columns = zip(strand.records, strand.sizes, format.facts(strand.records).keys(), strict=True)
            strand.records, strand.sizes, waiting = [], [], list(columns)
            for record, size, key in waiting:
                if key not in keys:
                    strand.records.append(record)
                    strand.sizes.append(size)
                    continue
                recalled.append(record)
                self.held -= 1
                self.held_bytes -= size
                self._leave(strand, key)
        return recalled

    def recall_all(self, format: Format) -> list[Record]:
        """Take out everything that waits (queues), the messages of a key in their order."""
        if self._open is None:
            return self.recall(frozenset(self._homes), format)
        recalled, self._open.records = self._open.records, []
        sizes, self._open.sizes = self._open.sizes, []
        self.held -= len(recalled)
        self.held_bytes -= sum(sizes)
        return recalled

    def _leave(self, strand: Strand, key: bytes | None) -> None:
        left = strand.keys[key] - 1
        if left:
            strand.keys[key] = left
        else:
            del strand.keys[key], self._homes[key]

    def heads(self) -> Iterator[tuple[int, Record]]:
        """For each strand with work: its number and its first record that may be unsettled."""
        for strand in self._strands:
            if strand.flight is not None:
                yield strand.number, strand.flight[0]
            elif strand.resumed:
                yield strand.number, strand.resumed[0][0][0]
            elif strand.records:
                yield strand.number, strand.records[0]
