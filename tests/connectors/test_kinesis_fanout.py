"""Enhanced fan-out: laws of what was pushed, and the reader over a scripted client on a virtual clock."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.kinesis import pushes
from connectors.kinesis.client import LIMITS, KinesisRecord, Pushed
from connectors.kinesis.fanout import FanOut
from connectors.kinesis.format import KinesisFormat
from connectors.kinesis.pushes import AWAY, MOST_BYTES, MOST_RECORDS, PATIENCE, Again, Inbox, Poll, Subscriptions
from connectors.sharded.dialect import Dialect
from connectors.sharded.sequence import TRIM_HORIZON, Start, after_all, token
from connectors.sharded.shards import Expired, Gone, Refused, Throttled, Trimmed
from poller.errors import LaneEnded, NotConnected, SourceError
from poller.ordered import Reader
from poller.progress import ORIGIN
from poller.testing.clock import run_virtually
from poller.testing.strategies import counter_test, laws

CONSUMER = "arn:aws:kinesis:us-east-1:123456789012:stream/orders/consumer/c:1"


def record(sequence: int, sub: int = 0, data: str = "eA==") -> KinesisRecord:
    return KinesisRecord(str(sequence), float(sequence), "k", data, "s", sub, sub > 0)


# --- laws -----------------------------------------------------------------------------------------------------------------------------


FORMAT = KinesisFormat("arn:aws:kinesis:us-east-1:123456789012:stream/orders", "role")


@dataclass
class Stream:
    """A shard: sequence numbers that grow, and how many user records each holds (0: it is taken as it came)."""

    held: list[tuple[int, int]]

    def expand(self, records: Sequence[KinesisRecord]) -> list[KinesisRecord]:
        users = dict(self.held)
        return [record(int(each.sequence), sub) for each in records for sub in range(1, users[int(each.sequence)] + 1)]

    def tokens(self) -> list[int]:
        return [token(sequence, sub) for sequence, users in self.held for sub in (range(1, users + 1) if users else [0])]

    def rest(self, begin: Start) -> list[int]:
        """The sequence numbers that a subscription brings."""
        numbers = [sequence for sequence, _ in self.held]
        match begin:
            case Start("AT_TIMESTAMP", time=float(moment)):
                return [number for number in numbers if number >= moment]
            case Start("AT_SEQUENCE_NUMBER", str(text)):
                return [number for number in numbers if number >= int(text)]
            case Start("AFTER_SEQUENCE_NUMBER", str(text)):
                return [number for number in numbers if number > int(text)]
        return numbers


sequences = st.lists(st.integers(1, 60), min_size=1, max_size=12, unique=True).map(sorted)
streams = st.booleans().flatmap(
    lambda whole: sequences.flatmap(
        lambda numbers: st.tuples(*[st.just((number, 0)) if whole else st.tuples(st.just(number), st.integers(1, 3)) for number in numbers])
    )
)
steps = st.lists(st.tuples(st.sampled_from(["event", "event", "idle", "lost", "over", "take"]), st.integers(1, 4)), max_size=30)


def nothing_lost_nothing_twice(kind: type[Inbox]) -> None:
    """The law: whatever is pushed, repeated and cut off, what is taken is what the shard holds from the position on, once, in order."""

    @laws(500)
    @given(streams, steps, st.data())
    def law(held: Sequence[tuple[int, int]], doings: list[tuple[str, int]], data: st.DataObject) -> None:
        stream = Stream(list(held))
        tokens = stream.tokens()
        expand = stream.expand if held[0][1] else None
        after = [after_all(each) for each in tokens] if expand else []
        position = data.draw(st.sampled_from([ORIGIN, *tokens, *(each + 1 for each in tokens), *after]))
        origin = data.draw(st.sampled_from(["TRIM_HORIZON", "AT_TIMESTAMP 20.0"])) if position == ORIGIN else "TRIM_HORIZON"
        inbox, taken = kind(FORMAT, position, origin, expand), list[int]()
        wanted = [each for each in tokens if each >= (token(20) if origin.startswith("AT") else position)]

        def take(limit: int) -> None:
            records, reached = inbox.take(limit)
            assert len(records) <= limit
            taken.extend(token(each.sequence, each.sub) for each in records)
            assert reached == inbox.position
            assert not [each for each in wanted[: len(taken)] if each >= reached] and not [
                each for each in wanted[len(taken) :] if each < reached
            ]

        def subscribe() -> tuple[list[int], int]:
            begin, before = inbox.start, list[int]()
            first = 19 if begin.time else 0
            if begin.sequence is not None:  # where a line breaks, what is below may come again
                before = stream.rest(TRIM_HORIZON)[: -len(stream.rest(begin)) or None][-data.draw(st.integers(1, 3)) :]
                before = before if data.draw(st.booleans()) and (taken or inbox.waiting or not origin.startswith("AT")) else []
            return [*before, *stream.rest(begin)], int(begin.sequence or first)

        rest, given_at = subscribe()
        for doing, amount in [*doings, ("over", 1), ("event", 60), *[("take", 500)] * 13]:
            match doing:
                case "event":
                    sent, rest = rest[:amount], rest[amount:]
                    if sent:
                        given_at = sent[-1]
                        inbox.add([record(number) for number in sent], str(sent[-1]), 0.0)
                case "idle":
                    # As AWS: on past nothing; or, as some that speak Kinesis, where the subscription began.
                    reached = data.draw(st.integers(given_at, max(given_at, (rest[0] - 1) if rest else 70)))
                    inbox.add([], str(reached), 0.0)
                case "over" | "lost":  # an event is lost with its line
                    rest, given_at = subscribe()
                case "take":
                    take(amount)
            assert (inbox.bytes == 0) == (inbox.waiting == 0)
            assert inbox.doubt is None
        assert taken == wanted
        assert not inbox.waiting

    law()


def test_nothing_is_lost_and_nothing_comes_twice() -> None:
    nothing_lost_nothing_twice(Inbox)


class Repeating(Inbox):
    """Takes what comes for what was not there yet."""

    @property
    def start(self) -> Start:
        return TRIM_HORIZON

    def add(self, records: Sequence[KinesisRecord], continuation: str | None, behind: float) -> None:
        self._came = -1
        super().add(records, continuation, behind)


class Trusting(Inbox):
    """Goes on after a continuation that says only where the subscription began."""

    @property
    def start(self) -> Start:
        return Start("AFTER_SEQUENCE_NUMBER", str(self._continuation)) if self._continuation else super().start


class Forgetful(Inbox):
    """Forgets what waits when a subscription is over."""

    @property
    def start(self) -> Start:
        self._waiting.clear()
        self.bytes = 0
        return super().start


@pytest.mark.parametrize("broken", [Repeating, Trusting, Forgetful])
def test_the_law_rejects(broken: type[Inbox]) -> None:
    with counter_test(), pytest.raises(AssertionError):
        nothing_lost_nothing_twice(broken)


def test_what_is_missing_where_it_was_to_begin_is_doubted() -> None:
    for position in (token(5), token(5) + 1):
        inbox = Inbox(FORMAT, position, "TRIM_HORIZON")
        assert inbox.start == Start("AT_SEQUENCE_NUMBER", "5")
        inbox.add([], "4", 0.0)
        inbox.add([record(7)], "7", 0.0)
        assert (inbox.doubt, inbox.take(10)) == ("trimmed", ([], position))
    inbox = Inbox(FORMAT, ORIGIN, "TRIM_HORIZON")
    inbox.add([record(7)], "7", 0.0)
    assert inbox.doubt is None
    inbox.add([], None, 0.0)
    assert inbox.doubt == "ended"


@laws(200)
@given(st.lists(st.tuples(st.integers(0, 30), st.booleans(), st.sampled_from([None, Throttled("", 5.0), NotConnected("")])), max_size=30))
def test_calls_are_a_second_apart_and_five_after_one_that_succeeded(past: list[tuple[int, bool, Any]]) -> None:
    """And after so many that brought nothing the shard is polled; then a call that brings nothing is enough."""
    subscriptions, began, fruitless = Subscriptions(), 100.0, 0
    for lasted, brought, why in past:
        now = began + lasted
        following = subscriptions.after(began, now, brought, why)
        fruitless = 0 if brought else fruitless + 1
        match following:
            case Again(at):
                assert at >= now
                assert at >= began + (5.0 if brought else 1.0)
                assert at >= now + 5.0 or not isinstance(why, Throttled)
                assert fruitless < PATIENCE
                began = at
            case Poll(until):
                assert fruitless >= PATIENCE
                assert until == now + AWAY
                began = until


@pytest.mark.parametrize(
    "why", [Gone("x"), Trimmed("x"), Expired("x"), NotConnected("x", permanent=True), SourceError("x")], ids=lambda why: type(why).__name__
)
def test_where_calls_do_not_help_the_shard_is_polled_at_once(why: Any) -> None:
    assert Subscriptions().after(0.0, 1.0, True, why) == Poll(1.0 + AWAY, why)


# --- the reader -----------------------------------------------------------------------------------------------------------------------

Event = Pushed | Refused | Exception | float | Callable[[Start], Pushed]
"""What a subscription brings: a float is a pause in seconds, an exception the end of the line, a function knows where it began."""


@dataclass
class Client:
    """Each subscription brings what `subscriptions` says; the last one is the one of all that follow. `asked`: when, and from where."""

    subscriptions: list[Sequence[Event]]
    asked: list[tuple[float, Start]] = field(default_factory=list)
    open: int = 0
    sent: int = 0

    async def subscribe(self, consumer_arn: str, shard: str, start: Start) -> AsyncGenerator[Pushed | Refused, None]:
        assert (consumer_arn, shard) == (CONSUMER, "s")
        events = self.subscriptions[min(len(self.asked), len(self.subscriptions) - 1)]
        self.asked.append((now(), start))
        self.open += 1
        try:
            for event in events:
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, float):
                    await asyncio.sleep(event)
                else:
                    self.sent += 1
                    yield event(start) if callable(event) else event
        finally:
            self.open -= 1


class Polling:
    """The other reader: gives a record a read from its position on, up to `last`, where the shard ends."""

    name = "s"

    def __init__(self) -> None:
        self.reads: list[int] = []
        self.last = 10**9
        self.closed = 0
        self.forgot = 0

    async def read(self, position: int, origin: str, limit: int) -> tuple[Sequence[KinesisRecord], int]:
        self.reads.append(position)
        await asyncio.sleep(1.0)
        number = (max(position, 0) >> 25) + 1
        if number > self.last:
            raise LaneEnded("s")
        return [record(number)], token(number) + 1

    def forget(self) -> None:
        self.forgot += 1

    async def head(self) -> tuple[int, float] | None:
        return 99, 99.0

    async def aclose(self) -> None:
        self.closed += 1


def now() -> float:
    return asyncio.get_running_loop().time()


def pushed(*sequences: int, continuation: str | None = "", behind: float = 0.0, data: str = "eA==") -> Pushed:
    following = str(sequences[-1]) if continuation == "" else continuation
    return Pushed([record(each, data=data) for each in sequences], following, behind)


def after_its_beginning(*sequences: int) -> Callable[[Start], Pushed]:
    """The record where the subscription begins is still there, and comes before these."""
    return lambda start: pushed(int(start.sequence or 0), *sequences)


END = Pushed([], None, 0.0)
FOREVER: Sequence[Event] = [3600.0]


class Life:
    """A reader, read as a lane reads it."""

    def __init__(self, *subscriptions: Sequence[Event], expand: Any = None, position: int = ORIGIN, origin: str = "TRIM_HORIZON") -> None:
        self.client = Client(list(subscriptions))
        self.polling = Polling()
        dialect: Any = Dialect("orders", cast("Any", self.client), FORMAT, LIMITS, expand=expand)
        self.fan_out = FanOut(self.client, CONSUMER, dialect, now)
        self.reader: Reader = self.fan_out.wrap(cast("Any", self.polling))
        self.position, self.origin = position, origin
        self.found: list[str] = []

    async def read(self, limit: int = 500) -> list[str]:
        began = now()
        records, self.position = await self.reader.read(self.position, self.origin, limit)
        assert now() - began < 2.5, "a read waits about a second, or two where it turns to polling"
        found = [f"{each.sequence}.{each.sub}" if each.sub else each.sequence for each in records]
        assert len(found) <= limit
        self.found += found
        return found

    async def until(self, true: Callable[[], object]) -> None:
        async with asyncio.timeout(3600):
            while not true():
                await self.read()

    async def close(self) -> None:
        await self.reader.aclose()
        await self.reader.aclose()
        assert self.client.open == 0
        assert self.polling.closed


def virtually(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        run_virtually(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@virtually
async def test_a_subscription_that_is_over_is_renewed_where_it_stopped() -> None:
    first: Sequence[Event] = [pushed(1, 2), 100.0, pushed(continuation="7"), 200.0]
    life = Life(first, [pushed(8), *FOREVER], position=token(1) + 1, origin="x")
    await life.until(lambda: "8" in life.found)
    assert life.found == ["2", "8"]
    assert [start for _, start in life.client.asked] == [Start("AT_SEQUENCE_NUMBER", "1"), Start("AFTER_SEQUENCE_NUMBER", "7")]
    began, renewed = (at for at, _ in life.client.asked)
    assert renewed - began == pytest.approx(300.0, abs=0.1), "at once"
    await life.close()


@virtually
async def test_a_line_that_breaks_early_is_renewed_after_five_seconds() -> None:
    broken: Sequence[Event] = [pushed(1), 1.0, NotConnected("the line broke")]
    life = Life(broken, [pushed(2), *FOREVER], origin="AT_TIMESTAMP 5.0")
    await life.until(lambda: "2" in life.found)
    (began, first), (renewed, second) = life.client.asked
    assert (first, second) == (Start("AT_TIMESTAMP", time=5.0), Start("AFTER_SEQUENCE_NUMBER", "1"))
    assert renewed - began == pytest.approx(5.0, abs=0.1)
    assert life.polling.reads == []
    await life.close()


@virtually
async def test_a_subscription_that_is_taken_over_is_taken_back_after_five_seconds() -> None:
    life = Life([pushed(1), 60.0, Throttled("taken over", 5.0)], [pushed(2), *FOREVER])
    await life.until(lambda: "2" in life.found)
    assert life.client.asked[1][0] - life.client.asked[0][0] == pytest.approx(65.0, abs=0.1)
    await life.close()


@virtually
async def test_a_shard_that_others_hold_is_asked_for_every_five_seconds_and_then_polled() -> None:
    life = Life([Throttled("in use", 5.0)])
    await life.until(lambda: life.polling.reads)
    times = [at for at, _ in life.client.asked]
    assert len(times) == PATIENCE
    assert [round(later - one) for one, later in pairwise(times)] == [5] * (PATIENCE - 1)
    await life.until(lambda: len(life.client.asked) > PATIENCE)
    await life.read()
    assert life.client.asked[-1][0] - times[-1] == pytest.approx(AWAY, abs=2.0)
    assert len(life.client.asked) == PATIENCE + 1, "once is enough when it was so before"
    await life.close()


@virtually
async def test_the_end_of_a_shard_is_confirmed_by_a_read_once_all_is_taken() -> None:
    life = Life([pushed(1, 2, 3), END])
    life.polling.last = 3
    assert await life.read(2) == ["1", "2"]
    assert await life.read(2) == ["3"]
    for _ in range(2):
        with pytest.raises(LaneEnded):
            await life.read()
    assert len(life.client.asked) == 1
    assert life.polling.reads == [token(3) + 1] * 2
    await life.close()


@virtually
async def test_an_end_that_is_none_is_read_on_from() -> None:
    life = Life([pushed(1, 2, continuation=None)])
    assert await life.read() == ["1", "2"]
    assert await life.read() == ["3"], "there was more"
    assert life.polling.reads == [token(2) + 1]
    await life.close()


@virtually
async def test_where_records_are_missing_a_read_decides_and_then_the_shard_is_pushed_again() -> None:
    life = Life([pushed(5, 6), *FOREVER], [0.5, after_its_beginning(900), *FOREVER], position=token(2) + 1)
    await life.until(lambda: "900" in life.found)
    assert life.polling.reads[0] == token(2) + 1
    (began, first), (again, second) = life.client.asked
    assert first == Start("AT_SEQUENCE_NUMBER", "2")
    assert again - began == pytest.approx(5.0, abs=2.0)
    assert second == Start("AT_SEQUENCE_NUMBER", life.found[-2])
    await life.close()


@virtually
async def test_what_is_refused_is_polled_and_tried_again() -> None:
    life = Life([pushed(1), Gone("no such consumer")], [Gone("no such consumer")], [after_its_beginning(9_000), *FOREVER])
    await life.until(lambda: "9000" in life.found)
    assert [round(later[0] - one[0]) for one, later in pairwise(life.client.asked)] == [300, 300]
    assert life.client.asked[-1][1] == Start("AT_SEQUENCE_NUMBER", life.found[-2])
    assert life.found == [str(number) for number in range(1, len(life.found))] + ["9000"], "whoever read it"
    assert life.polling.forgot == 3
    assert await life.reader.head() == (ORIGIN, 9_000.0)
    await life.close()


def test_being_polled_is_said_once_and_so_is_the_end_of_it(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        life = Life([Gone("no such consumer")], [Gone("no such consumer")], [after_its_beginning(9_000), *FOREVER])
        await life.until(lambda: "9000" in life.found)
        await life.close()

    caplog.set_level(logging.INFO, "poller.kinesis")
    run_virtually(main())
    said = [each.getMessage() for each in caplog.records if each.name == "poller.kinesis"]
    assert len(said) == 2
    assert "s of arn:aws:kinesis" in said[0] and "polled, not pushed (no such consumer); tried again every 300 s" in said[0]
    assert "pushed again" in said[1]


@virtually
async def test_a_slow_lane_holds_the_line_back() -> None:
    events = [pushed(*range(n * 100 + 1, n * 100 + 101)) for n in range(200)]
    life = Life([*events, *FOREVER])
    await life.read(1)
    await asyncio.sleep(30)
    most = MOST_RECORDS // 100 + 1
    assert life.client.sent <= most
    for _ in range(20):
        await life.read(100)
        await asyncio.sleep(1)
    assert life.client.sent <= most + 20
    await life.until(lambda: len(life.found) == 20_000)
    assert life.found == [str(n) for n in range(1, 20_001)]
    await life.close()


@virtually
async def test_large_records_hold_it_back_sooner() -> None:
    data = "x" * (1 << 20)
    life = Life([*[pushed(n, data=data) for n in range(1, 40)], *FOREVER])
    await life.read(1)
    await asyncio.sleep(30)
    assert life.client.sent <= MOST_BYTES // len(data) + 2
    await life.close()


@virtually
async def test_who_reads_elsewhere_is_subscribed_anew() -> None:
    life = Life([pushed(1, 2, 3), *FOREVER], [pushed(1, 2, 3), *FOREVER])
    await life.read(3)
    life.position = token(1) + 1
    assert await life.read() == ["2", "3"]
    assert life.client.asked[1][1] == Start("AT_SEQUENCE_NUMBER", "1")
    assert life.client.open == 1
    await life.close()


@virtually
async def test_aggregates_are_taken_apart_and_a_position_within_one_is_kept() -> None:
    def expand(records: Sequence[KinesisRecord]) -> list[KinesisRecord]:
        return [record(int(each.sequence), sub) for each in records for sub in (1, 2, 3)]

    life = Life([pushed(4, 5), *FOREVER], expand=expand, position=token(4, 2) + 1)
    await life.until(lambda: len(life.found) == 4)
    assert life.found == ["4.3", "5.1", "5.2", "5.3"]
    assert life.client.asked[0][1] == Start("AT_SEQUENCE_NUMBER", "4")
    await life.close()


@virtually
async def test_nothing_is_asked_for_before_the_first_read_and_an_empty_read_waits() -> None:
    life = Life([Pushed([], "0", 0.0), *FOREVER])
    await asyncio.sleep(10)
    assert life.client.asked == []
    assert await life.reader.head() == (99, 99.0), "nothing is subscribed to"
    began = now()
    assert await life.read() == []
    assert now() - began == pytest.approx(1.0, abs=0.1)
    assert life.client.asked[0][1] == TRIM_HORIZON
    assert life.position == ORIGIN
    await life.close()


@virtually
async def test_what_nobody_foresaw_comes_out_of_the_read() -> None:
    life = Life([ValueError("a bug")])
    for _ in range(2):
        with pytest.raises(ValueError, match="a bug"):
            await life.read()
    await life.close()


@virtually
async def test_closing_at_any_moment_leaves_nothing_open() -> None:
    for moment in count():
        events: Sequence[Event] = [0.3, pushed(1), 0.3, pushed(2), 0.3, Gone("x")]
        life = Life(events)
        reading = asyncio.create_task(life.until(lambda: False))
        await asyncio.sleep(moment * 0.1)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await life.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        if life.polling.reads:
            break
    assert moment > 5


def test_the_limits_are_those_of_kinesis() -> None:
    assert (pushes.APART, pushes.MOMENT) == (5.0, 1.0)
