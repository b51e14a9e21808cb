"""Law 9: one key, one strand; never two batches of a strand in flight. And: what is held is counted, in records and bytes.

A state machine fills and empties `Strands` as a runner does, beside a plain model: who waits in which order, and what is in flight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any
from zlib import crc32

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from poller.model import Batch, Record, Span
from poller.protocols import Facts, Format
from poller.settings import Batching
from poller.strands import Assign, Strand, Strands, hashed
from poller.testing.fakes import FORMAT, FakeRecord
from poller.testing.laws import require
from poller.testing.oracle import Broken
from poller.testing.strategies import SHARE, counter_test, laws

REACHED = Counter[str]()

Make = Callable[[int, Assign], Strands]
Key = bytes | None

KEYS = (None, b"a", b"b", b"c", b"d")


class Model(RuleBasedStateMachine):
    """What the strands must agree with."""

    make: Make = Strands

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.token = 0
        self.flights: dict[int, list[FakeRecord]] = {}
        self.resumed: dict[int, list[list[FakeRecord]]] = {}
        self.waiting: list[FakeRecord] = []
        self.homes: dict[Key, int] = {}

    @initialize(
        assign=st.sampled_from(("any", "hash", "free")),
        width=st.integers(1, 4),
        size=st.integers(1, 4),
        window=st.sampled_from((0.0, 0.0, 5.0)),
    )
    def open(self, assign: Assign, width: int, size: int, window: float) -> None:
        self.assign, self.width = assign, width
        self.strands = type(self).make(width, assign)
        self.batching = Batching(size, window)

    # --- what the model knows ---------------------------------------------------------------------------------------------------

    def place(self, record: FakeRecord) -> int:
        """The strand of a record of a "hash" lane."""
        return (crc32(record.key) if record.key is not None else record.token) % self.width

    def records(self, keys: Sequence[Key]) -> list[FakeRecord]:
        made = [FakeRecord(self.token + i, f"r{self.token + i}", key, 0.0, 10 + i) for i, key in enumerate(keys, 1)]
        self.token += len(keys)
        return made

    def load(self, number: int) -> int:
        waits = sum(self.homes.get(record.key) == number for record in self.waiting)
        return waits + len(self.flights.get(number, ()))

    def everything(self) -> list[FakeRecord]:
        flying = [record for flight in self.flights.values() for record in flight]
        return [*flying, *(record for spans in self.resumed.values() for span in spans for record in span), *self.waiting]

    def next_of(self, number: int) -> list[FakeRecord]:
        """What waits, in order, of what strand `number` may take."""
        if self.assign == "any":
            return self.waiting
        if self.assign == "hash":
            return [record for record in self.waiting if self.place(record) == number]
        return [record for record in self.waiting if self.homes[record.key] == number]

    # --- what a runner does -----------------------------------------------------------------------------------------------------

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=6))
    def fetch(self, keys: list[Key]) -> None:
        for record in self.records(keys) if self.assign == "free" else ():
            self.settle_down(record)
        if self.assign != "free":
            records = self.records(keys)
            self.strands.add(records, FORMAT.facts(records), self.now)
            self.waiting += records

    def settle_down(self, record: FakeRecord) -> None:
        """A key without work goes to a strand with the least of it; a key with work stays."""
        loads = {number: self.load(number) for number in range(self.width)}
        self.strands.add([record], FORMAT.facts([record]), self.now)
        (home,) = [strand.number for strand in self.strands if record in strand.records]
        if record.key in self.homes:
            REACHED["a key stays"] += 1
            require(self.homes[record.key] == home, f"law 9: {record.key!r} has work on {self.homes[record.key]}, and goes to {home}")
        else:
            require(loads[home] == min(loads.values()), f"{record.key!r} goes to {home}; loads {loads}")
        self.homes[record.key] = home
        self.waiting.append(record)

    @precondition(lambda self: self.assign == "hash")
    @rule(number=st.integers(0, 3), count=st.integers(1, 6), attempts=st.integers(0, 3))
    def resume(self, number: int, count: int, attempts: int) -> None:
        """Spans come before anything else of their strand."""
        number %= self.width
        if self.next_of(number) or number in self.flights:
            return
        records = self.records([None] * count)
        span = Span(number, records[0].token, records[-1].token, records[-1].token + 1, attempts)
        self.strands.resume(span, records, FORMAT.facts(records).sizes())
        self.resumed.setdefault(number, []).append(records)

    @rule(seconds=st.sampled_from((1.0, 5.0)))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.strands.ready(self.batching, self.now))
    @rule(which=st.integers(0, 3))
    def start(self, which: int) -> None:
        ready = self.strands.ready(self.batching, self.now)
        strand = ready[which % len(ready)]
        require(strand.number not in self.flights, f"law 9: strand {strand.number} has a batch in flight, and could start another")
        taken = self.strands.take(strand, self.batching, FORMAT, self.now)
        require(taken is not None, f"strand {strand.number} is ready, and has nothing")
        assert taken is not None
        batch, span = taken
        records = list(batch.records)
        if self.resumed.get(strand.number):
            expected = self.resumed[strand.number].pop(0)
            REACHED["hash: a span is resumed"] += 1
            require(records == expected and span is not None, f"{expected} go on first, not {records}")
            require(batch.attempt == (span.attempts + 1 if span else 0), "a span's attempts count on")
        else:
            expected = self.next_of(strand.number)[: len(records)]
            require(records == expected and span is None, f"next on strand {strand.number} is {expected}, not {records}")
            require(len(records) <= self.batching.size, f"{len(records)} records in a batch of {self.batching.size}")
            self.waiting = [record for record in self.waiting if record not in records]
        self.never_twice(batch, strand)
        self.flights[strand.number] = records

    def never_twice(self, batch: Batch, strand: Strand) -> None:
        REACHED[f"{self.assign}: {len(self.flights) + 1} in flight"] += 1
        require(batch.strand == strand.number, f"a batch of strand {strand.number} says {batch.strand}")
        if self.assign == "any":
            return
        keys = {record.key for record in batch.records} - ({None} if self.assign == "hash" else set())
        for number, flight in self.flights.items():
            both = keys & {record.key for record in flight}
            require(not both, f"law 9: {both} are in flight on strands {number} and {strand.number}")

    @precondition(lambda self: self.flights)
    @rule(which=st.integers(0, 3))
    def finish(self, which: int) -> None:
        number = sorted(self.flights)[which % len(self.flights)]
        flight = self.flights.pop(number)
        (strand,) = [strand for strand in self.strands if strand.number == number]
        self.strands.finish(strand, FORMAT.facts(flight).keys() if self.assign == "free" else ())
        self.forget({record.key for record in flight})

    def forget(self, keys: set[Key]) -> None:
        """Keys without work lose their home."""
        busy = {record.key for record in self.everything()}
        for key in keys - busy:
            self.homes.pop(key, None)

    @precondition(lambda self: self.assign == "free" and self.flights)
    @rule(which=st.integers(0, 3), some=st.sets(st.integers(0, 3), min_size=1))
    def recall(self, which: int, some: set[int]) -> None:
        """Some of a batch in flight is released: what waits of its keys goes back with it."""
        flight = self.flights[sorted(self.flights)[which % len(self.flights)]]
        keys = {record.key for i, record in enumerate(flight) if i in some}
        later = [record for record in self.waiting if record.key in keys]
        recalled = self.strands.recall(keys, FORMAT)
        REACHED["free: recalled"] += bool(recalled)
        require(sorted(recalled) == sorted(later), f"{later} wait of {keys}, and {recalled} are recalled")
        own = {key: [record for record in recalled if record.key == key] for key in keys}
        require(all(records == sorted(records) for records in own.values()), f"recalled out of order: {recalled}")
        self.waiting = [record for record in self.waiting if record.key not in keys]

    # --- what always holds ------------------------------------------------------------------------------------------------------

    @invariant()
    def counts(self) -> None:
        records, flying = self.everything(), sum(map(len, self.flights.values()))
        strands = self.strands
        require(strands.held == len(records), f"{len(records)} records are held, counted as {strands.held}")
        require(
            strands.held_bytes == sum(r.size for r in records), f"{sum(r.size for r in records)} bytes, counted as {strands.held_bytes}"
        )
        require(strands.waiting == len(records) - flying, f"{len(records) - flying} wait, counted as {strands.waiting}")
        require(strands.empty == (not records), "empty is empty")

    @invariant()
    def stays_ready(self) -> None:
        """What is full or due, on a strand without a flight, is ready; nothing else is."""
        for strand in self.strands:
            require(
                strand.number not in self.flights or not self.strands.can_cut(strand, self.batching, self.now),
                f"law 9: strand {strand.number} is busy, and can cut",
            )
        free = [number for number in range(self.width) if number not in self.flights]
        full = [n for n in free if self.resumed.get(n) or len(self.next_of(n)) >= self.batching.size]
        ready = {strand.number for strand in self.strands.ready(self.batching, self.now)}
        if self.assign == "any":
            require(bool(ready) or not full, "a full batch and a free strand, and none is ready")
        else:
            require(ready >= set(full), f"{full} are full, and ready are {ready}")

    @invariant()
    def has_heads(self) -> None:
        """Where a save puts the positions of a "hash" lane."""
        if self.assign != "hash":
            return
        first = dict[int, int]()
        for number in range(self.width):
            spans = [record for span in self.resumed.get(number, ()) for record in span]
            tokens = [record.token for record in (*self.flights.get(number, ()), *spans, *self.next_of(number))]
            if tokens:
                first[number] = min(tokens)
        heads = {number: record.token for number, record in self.strands.heads()}
        require(heads == first, f"first unsettled are {first}, not {heads}")


def law_9(make: Make, examples: int) -> None:
    machine = type("Machine", (Model,), {"make": staticmethod(make)})
    run_state_machine_as_test(machine, settings=laws(examples))


def test_law_9() -> None:
    law_9(Strands, 150)


# --- counter-tests ------------------------------------------------------------------------------------------------------------------


class Scattering(Strands):
    """Hashes by token, whatever the key."""

    def _add_hashed(self, records: Sequence[Record], sizes: Sequence[int], facts: Facts, now: float) -> None:
        for record, size in zip(records, sizes, strict=True):
            self._append(self._strands[record.token % self.width], [record], [size], now)


class Eager(Strands):
    """Does not wait for the batch in flight."""

    def can_cut(self, strand: Strand, batching: Batching, now: float) -> bool:
        return self._can_cut(self._open or strand, batching, now)


class Wandering(Strands):
    """Sends each record of a group to the least loaded strand."""

    def _add_free(self, records: Sequence[Record], sizes: Sequence[int], keys: Sequence[Key], now: float) -> None:
        self._homes.clear()
        super()._add_free(records, sizes, keys, now)


class Evicting(Strands):
    """A finished batch takes the homes of its groups along, though more of them waits."""

    def _leave(self, strand: Strand, key: Key) -> None:
        self._homes.pop(key, None)
        strand.keys.pop(key, None)


class Piling(Strands):
    """Gives every group to the first strand."""

    def _add_free(self, records: Sequence[Record], sizes: Sequence[int], keys: Sequence[Key], now: float) -> None:
        self._homes.update((key, self._strands[0]) for key in keys if key not in self._homes)
        super()._add_free(records, sizes, keys, now)


class Leaking(Strands):
    """Forgets the bytes of what is settled."""

    def finish(self, strand: Strand, keys: Sequence[Key] = ()) -> None:
        before = self.held_bytes
        super().finish(strand, keys)
        self.held_bytes = before


class Keeping(Strands):
    """Recalls nothing."""

    def recall(self, keys: Collection[Key], format: Format) -> list[Record]:
        return []


class Overtaking(Strands):
    """Runs what is new before what an earlier life left."""

    def take(self, strand: Strand, batching: Batching, format: Format, now: float) -> tuple[Batch, Span | None] | None:
        spans = strand.resumed.copy()
        if strand.records:
            strand.resumed.clear()
        try:
            return super().take(strand, batching, format, now)
        finally:
            if strand.records or len(spans) > len(strand.resumed) + 1:
                strand.resumed = spans


class Reversing(Strands):
    """Takes the newest first."""

    def add(self, records: Sequence[Record], facts: Facts, now: float) -> None:
        backwards = records[::-1]
        super().add(backwards, FORMAT.facts(backwards), now)


@pytest.mark.parametrize(
    "make", [Scattering, Eager, Wandering, Evicting, Piling, Leaking, Keeping, Overtaking, Reversing], ids=lambda make: make.__name__
)
@pytest.mark.counterpart
def test_law_9_finds_out(make: Make) -> None:
    with pytest.raises((Broken, KeyError)) as caught, counter_test():
        law_9(make, 500)
    assert isinstance(caught.value, Broken) or make is Evicting, "found out by the law, not by an accident"


# --- tables -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "token", "width", "strand"),
    [
        (b"order-1", 0, 1, 0),
        (b"order-1", 0, 8, 7),
        (b"order-1", 99, 8, 7),
        (b"order-2", 0, 8, 5),
        (b"", 7, 8, 0),
        (None, 7, 8, 7),
        (None, 8, 8, 0),
    ],
)
def test_a_hash_is_the_same_after_every_restart(key: Key, token: int, width: int, strand: int) -> None:
    """Written down: progress that was saved by one process is read by another, perhaps of the next version."""
    assert hashed(key, token, width) == strand


@pytest.mark.parametrize("width", [0, -1])
def test_a_lane_has_a_strand(width: int) -> None:
    with pytest.raises(ValueError, match="at least one strand"):
        Strands(width, "any")


def fetched(strands: Strands, *keys: Key) -> list[FakeRecord]:
    records = [FakeRecord(i, f"r{i}", key, 0.0) for i, key in enumerate(keys)]
    strands.add(records, FORMAT.facts(records), 0.0)
    return records


def started(strands: Strands, size: int = 1) -> dict[int, str]:
    """Start what can be started: {strand: keys of its batch}."""
    batches = dict[int, str]()
    while ready := strands.ready(Batching(size), 0.0):
        taken = strands.take(ready[0], Batching(size), FORMAT, 0.0)
        assert taken is not None
        batches[ready[0].number] = b"".join(record.key for record in taken[0].records).decode()
    return batches


def test_a_slow_group_holds_up_nobody() -> None:
    strands = Strands(2, "free")
    fetched(strands, b"slow", b"x", b"slow", b"y")
    assert started(strands) == {0: "slow", 1: "x"}
    slow, fast = strands
    strands.finish(fast, [b"x"])
    assert started(strands) == {1: "y"}, "y did not go behind the slow group"
    assert [record.key for record in slow.records] == [b"slow"]


def test_an_unkeyed_lane_has_one_open_batch_for_whoever_is_free() -> None:
    strands = Strands(3, "any")
    fetched(strands, *[b"k"] * 5)
    assert started(strands, size=2) == {0: "kk", 1: "kk", 2: "k"}
    fetched(strands, b"k")
    assert started(strands) == {}, "every strand is busy"


def test_a_resumed_span_counts_its_bytes() -> None:
    strands = Strands(1, "hash")
    records = [FakeRecord(i, f"r{i}", None, 0.0, 50) for i in (3, 5)]
    strands.resume(Span(0, 3, 5, 6, 2), records, [50, 50])
    assert (strands.held, strands.held_bytes) == (2, 100)
    (strand,) = strands
    taken = strands.take(strand, Batching(1), FORMAT, 0.0)
    assert taken is not None
    assert (len(taken[0]), taken[0].attempt, taken[0].cause) == (2, 3, "retry"), "one batch, whatever its size is now"
    strands.finish(strand)
    assert (strands.held, strands.held_bytes) == (0, 0)


def test_nobody_else_takes_an_open_batch_that_is_gone() -> None:
    strands = Strands(2, "any")
    fetched(strands, b"k")
    first, second = strands
    assert strands.take(first, Batching(1), FORMAT, 0.0) is not None
    assert strands.take(second, Batching(1), FORMAT, 0.0) is None


def test_law_9_came_across_everything(tell: Callable[[str], None]) -> None:
    if not REACHED:
        pytest.skip("the law did not run")
    tell("strands: " + ", ".join(f"{what} {count}" for what, count in sorted(REACHED.items())))
    if SHARE < 1:
        pytest.skip("too few examples to come across everything")
    wanted: dict[str, Any] = {f"{assign}: {count} in flight" for assign in ("any", "hash", "free") for count in (1, 2, 3)}  # type: ignore[assignment]
    assert sorted(what for what in (*wanted, "hash: a span is resumed", "free: recalled", "a key stays") if not REACHED[what]) == []
