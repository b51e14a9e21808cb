"""One shard, read by position: laws of `ShardReader` over a service that expires, throttles, trims and closes as it likes."""

from __future__ import annotations

import asyncio
import logging
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.kinesis.aggregation import expanded
from connectors.sharded.reader import ShardReader
from connectors.sharded.sequence import apart, place, token
from connectors.sharded.shards import Expired, Gone, Refused, Throttled, Trimmed
from connectors.sharded.slices import Slices
from poller.errors import LaneEnded, NotConnected
from poller.progress import ORIGIN
from poller.testing.clock import EPOCH, run_virtually
from poller.testing.strategies import counter_test, laws
from tests.connectors.scripted_shards import FORMAT, Service, context, numbers, reader, record
from tests.connectors.test_kinesis_aggregation import Put, aggregate, message

# --- the law --------------------------------------------------------------------------------------------------------------------------

STEPS = ("put", "put", "put", "read", "read", "read", "read", "expire", "throttle", "fail", "again", "restart")


def aggregated(number: int, count: int) -> Any:
    return record(number, aggregate(message([Put("k", b"%d" % n) for n in range(count)])))


class Run:
    """A shard that is read while things happen to it; `given` is what a lane would have by now."""

    def __init__(self, slices: Callable[..., Slices[Any]], service: Service, deaggregate: bool, draw: Callable[[Any], Any]) -> None:
        self._slices, self._service, self._deaggregate, self._draw = slices, service, deaggregate, draw
        self.kept, self.context = service.add("s"), context()
        self.expected, self.given = list[tuple[int, int]](), list[tuple[int, int]]()
        self._refusals = list[Any]()
        service.refuse = lambda _operation, _what: self._refusals.pop() if self._refusals else None
        self._position = self._before = ORIGIN
        self.restart()

    def restart(self) -> None:
        self._reader = reader(self._service, of=self.context, expand=expanded if self._deaggregate else None)
        self._reader._slices = self._slices(FORMAT)

    def put(self) -> None:
        number, count = 10 * len(self.kept.records) + 5, self._draw(st.sampled_from((0, 0, 1, 5, 12)))
        self.kept.records.append(aggregated(number, count) if count else record(number))
        self.expected += [(number, sub) for sub in range(1, max(count, 1) + 1)] if self._deaggregate else [(number, 0)]

    async def read(self) -> None:
        limit = self._draw(st.integers(1, 9))
        try:
            records, following = await self._reader.read(self._position, "TRIM_HORIZON", limit)
        except NotConnected:
            return
        tokens = FORMAT.facts(records).tokens()
        assert len(records) <= limit
        assert all(self._position <= each < following for each in tokens)
        assert self._position == ORIGIN or apart(self._position) is self._deaggregate
        self.given += numbers(records)
        self._before, self._position = self._position, following

    def expire(self) -> None:
        self._service.epoch += 1

    def throttle(self) -> None:
        self._refusals.append(Throttled("slow", 0.5))

    def fail(self) -> None:
        self._refusals.append(NotConnected("broken line"))

    def again(self) -> None:
        """What was handed out last did not arrive."""
        self._position = self._before
        self.given = [each for each in self.given if token(*each) < self._position]

    async def rest(self) -> None:
        self.kept.closed = True
        async with asyncio.timeout(3600):
            while True:
                await self.read()


def give_every_record_once(slices: Callable[..., Slices[Any]], examples: int = 150) -> None:
    """The law: from any position, whatever happens on the way, all records that are kept come once, in order, and the end is the end."""

    @laws(examples)
    @given(st.lists(st.sampled_from(STEPS), max_size=40), st.integers(1, 7), st.booleans(), st.booleans(), st.data())
    def law(steps: list[str], most: int, deaggregate: bool, silent: bool, data: st.DataObject) -> None:
        async def main() -> None:
            run = Run(slices, Service(silent, most), deaggregate, data.draw)
            for step in steps:
                done = getattr(run, step)()
                if done is not None:
                    await done
            with pytest.raises(LaneEnded):
                await run.rest()
            assert run.given == run.expected
            assert run.context.tally.expired == 0, "nothing was trimmed"

        run_virtually(main())

    law()


def test_every_record_is_given_once() -> None:
    give_every_record_once(Slices)


class Forgetful(Slices[Any]):
    """Takes what is read again for new."""

    def repeat(self) -> None:
        self._floor = ORIGIN


class Careless(Slices[Any]):
    """Says that all of an aggregate was handed out with its first user records."""

    def _next(self, room: int) -> tuple[list[Any], int]:
        batch, position = super()._next(room)
        if self._users:
            number, _, _ = place(position)
            position = token(number + 1)
        return batch, position


@pytest.mark.parametrize("broken", [Forgetful, Careless])
def test_the_law_rejects_a_broken_reader(broken: Callable[..., Slices[Any]]) -> None:
    with counter_test(), pytest.raises(AssertionError):
        give_every_record_once(broken, 300)


# --- what is trimmed ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("silent", [True, False])
def test_a_position_that_was_trimmed_is_said_and_counted_once(silent: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        service, of = Service(silent), context()
        kept = service.add("s")
        kept.records += [record(number) for number in range(10)]
        shard = reader(service, of=of)
        records, position = await shard.read(ORIGIN, "TRIM_HORIZON", 3)
        kept.trimmed = 6
        shard = reader(service, of=of)
        found, position = await shard.read(position, "TRIM_HORIZON", 10)
        assert numbers([*records, *found]) == [(number, 0) for number in (0, 1, 2, 6, 7, 8, 9)]
        assert of.tally.expired == 1
        service.epoch += 1
        kept.records.append(record(20))
        assert numbers((await shard.read(position, "TRIM_HORIZON", 10))[0]) == [(20, 0)]
        assert of.tally.expired == 1

    with caplog.at_level(logging.ERROR):
        run_virtually(main())
    (line,) = caplog.messages
    assert "position 2 is older than what the stream keeps" in line


@pytest.mark.parametrize("silent", [True, False])
def test_a_position_that_is_kept_is_no_loss(silent: bool) -> None:
    async def main() -> None:
        service, of = Service(silent), context()
        kept = service.add("s")
        kept.records += [record(number) for number in range(5)]
        kept.trimmed = 2
        for position in (token(2), token(2) + 1, token(4) + 1):
            kept.closed = False
            await reader(service, of=of).read(position, "TRIM_HORIZON", 10)
        kept.closed = True
        with pytest.raises(LaneEnded):
            await reader(service, of=of).read(token(4) + 1, "TRIM_HORIZON", 10)
        assert of.tally.expired == 0

    run_virtually(main())


def test_what_is_trimmed_again_before_it_is_read_is_counted_once() -> None:
    async def main() -> None:
        service, of = Service(silent=False), context()
        kept = service.add("s")
        kept.records += [record(number) for number in range(10)]
        kept.trimmed = 6
        left = [Trimmed("trimmed")] * 3
        service.refuse = lambda operation, _: left.pop() if left and operation == "records" else None
        found = await reader(service, of=of).read(token(2) + 1, "TRIM_HORIZON", 10)
        assert numbers(list(found[0])) == [(6, 0), (7, 0), (8, 0), (9, 0)]
        assert of.tally.expired == 1

    run_virtually(main())


@pytest.mark.parametrize("refused", [Throttled("others read it too", 1.0), Expired("too old")])
def test_who_is_refused_again_and_again_says_so_and_goes_on(refused: Refused) -> None:
    async def main() -> None:
        loop, service = asyncio.get_running_loop(), Service()
        service.add("s").records.append(record(1))
        service.refuse = lambda operation, _: refused if operation == "records" else None
        shard, told = reader(service), 0
        while loop.time() < 600:
            try:
                assert await shard.read(ORIGIN, "TRIM_HORIZON", 10) == ((), ORIGIN)
            except NotConnected as error:
                told += str(error) == refused.text
        assert service.count("records") // 5 - 1 <= told <= service.count("records") // 5
        assert service.count("records") < 70 or isinstance(refused, Expired)
        service.refuse = lambda _operation, _what: None
        async with asyncio.timeout(20):
            while not (await shard.read(ORIGIN, "TRIM_HORIZON", 10))[0]:
                pass

    run_virtually(main())


def test_a_shard_that_is_gone_ends_loudly_and_a_stream_that_is_gone_does_not(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        service, of = Service(), context()
        service.add("s")
        shard = reader(service, of=of)
        service.refuse = lambda operation, _: Gone("no s") if operation != "shards" else None
        with pytest.raises(NotConnected, match="no s"):  # it is listed
            await shard.read(token(3), "TRIM_HORIZON", 10)
        service.drop("s")
        for _ in range(2):
            with pytest.raises(LaneEnded):
                await shard.read(token(3), "TRIM_HORIZON", 10)
        assert of.tally.expired == 1

        async def stream_is_gone(name: str) -> bool:
            raise NotConnected(f"the stream of {name} is gone", permanent=True)

        shard._listed = stream_is_gone
        with pytest.raises(NotConnected, match="is gone"):
            await shard.read(token(4), "TRIM_HORIZON", 10)

    with caplog.at_level(logging.ERROR):
        run_virtually(main())
    (line,) = caplog.messages
    assert "in a shard that the stream keeps no more" in line


# --- where reading begins ------------------------------------------------------------------------------------------------------------


def test_a_service_without_times_passes_over_what_came_before() -> None:
    """Its times are whole seconds, or minutes: what may have come later is given. A restart goes on passing over."""
    minute = EPOCH - EPOCH % 60
    moment = minute + 30.5
    arrivals = [minute - 60, minute + 10, minute + 29, minute, minute + 30, minute + 31, minute + 20]

    async def main() -> None:
        service, origin = Service(silent=False), f"AT_TIMESTAMP {moment!r}"
        service.add("s").records += [record(number, arrival=arrival) for number, arrival in enumerate(arrivals)]
        shard = reader(service, times=False)
        found, position = await shard.read(ORIGIN, origin, 1)
        assert numbers(found) == [(3, 0)]
        for again in (shard, reader(service, times=False)):
            rest, _ = await again.read(position, origin, 10)
            assert numbers(rest) == [(4, 0), (5, 0), (6, 0)]
        assert {start.kind for start in service.starts} == {"TRIM_HORIZON", "AFTER_SEQUENCE_NUMBER"}
        old = Service(silent=False)
        old.add("s").records += [record(number, arrival=minute - 10) for number in range(5)]
        _, position = await reader(old, times=False).read(ORIGIN, origin, 1)
        assert position == token(4) + 1, "progress is made over what is passed over"

    run_virtually(main())


def test_a_service_with_times_is_asked_for_one() -> None:
    async def main() -> None:
        service = Service()
        service.add("s").records += [record(number, arrival=float(number)) for number in range(9)]
        found, _ = await reader(service).read(ORIGIN, "AT_TIMESTAMP 6.5", 10)
        assert numbers(found) == [(7, 0), (8, 0)]

    run_virtually(main())


# --- cost -----------------------------------------------------------------------------------------------------------------------------


def test_idle_shards_cost_one_call_a_second_and_little_memory() -> None:
    async def main() -> None:
        service, of = Service(), context()
        readers = []
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for n in range(50):
            service.add(f"s{n}")
            readers.append(reader(service, f"s{n}", of))

        async def idle(shard: ShardReader[Any]) -> None:
            async with asyncio.timeout(40):
                while True:
                    assert await shard.read(ORIGIN, "TRIM_HORIZON", 500) == ((), ORIGIN)

        await asyncio.gather(*map(idle, readers), return_exceptions=True)
        calls = service.count("records")
        service.asked.clear()
        used = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert service.starts == service.starts[:50], "one iterator each"
        assert 50 * 37 <= calls <= 50 * 43
        assert used < 50 * 20_000

    run_virtually(main())


def test_lag_is_told_by_the_service() -> None:
    async def main() -> None:
        service, of = Service(most=3), context()
        kept = service.add("s")
        shard = reader(service, of=of)
        assert await shard.head() is None
        _, position = await shard.read(ORIGIN, "TRIM_HORIZON", 10)
        assert await shard.head() == (ORIGIN, 0.0)
        kept.records += [record(number, arrival=100.0 + number) for number in range(5)]
        _, position = await shard.read(position, "TRIM_HORIZON", 10)
        assert await shard.head() == (ORIGIN, 103.0), "one second behind"
        await shard.read(position, "TRIM_HORIZON", 10)
        assert await shard.head() == (ORIGIN, 104.0)

    run_virtually(main())
