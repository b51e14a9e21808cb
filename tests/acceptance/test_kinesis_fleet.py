"""Three daemons on one store share a stream whose shards split and merge, while daemons are killed and paused."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from random import Random
from threading import Timer

import msgspec
import pytest

from poller.config import load
from poller.daemon import open_configured_store
from poller.failures.journal import Row, Selection
from poller.registry import Registry
from poller.testing.oracle import poison_bound
from tests.acceptance.harness import FUNCTIONS, DaemonProcess, Site, until
from tests.acceptance.shards import Stream
from tests.acceptance.standing import pause_between_writes
from tests.acceptance.topics import Line, batches, begun, ended, in_order
from tests.servers.postgresql import PostgreSQL

pytestmark = [pytest.mark.slow, pytest.mark.servers, pytest.mark.longest]

SIZE, RETRIES, WIDTH, EVERY = 100, 2, 2, 1_000
KEYS = 51
"""Records whose numbers are equal modulo this have one partition key: in each of their shards they are in order."""

BLOWS = ("kill", "split", "long pause", "kill", "merge", "short pause", "split", "long pause", "kill") * 2
"""Over a minute; a long pause goes on under the blows that follow. A quarter of the records come before the first blow, the others in
chunks, one after each."""

MINUTE = 60.0

LEASE = 10.0
SHORT, LONG = LEASE / 4, LEASE * 1.25
"""Seconds of a pause: within a lease, and so long that another daemon has read on for a while."""

SLOW = 0.05
UNSAVED = 2.5
"""Seconds that an invocation takes; seconds of work that may not be saved yet when a daemon is hit (saves come every second, but on a
machine that does all this at once)."""


def poison(number: int) -> bool:
    """One in a thousand, each at another place of its batch."""
    return number % EVERY == number // EVERY * 37 % EVERY


def number_of(row: Row) -> int:
    """Of a failure's only record."""
    (record,) = row.entry.records
    return int(base64.b64decode(msgspec.json.decode(record.json)["kinesis"]["data"]).split()[0])


def in_order_whoever_begins(testimony: Sequence[Line]) -> None:
    """Over all daemons and shards: no record is begun before the earlier ones of its key have been. Who takes a lane over goes on from what
    was saved, or before; who lost it had begun all that comes before what he holds; and children wait for their parents.
    """
    seen, newest = set[int](), dict[int, int]()
    for line in testimony:
        for number in line.offsets if line.what == "begun" else ():
            if number not in seen:
                assert number > newest.get(number % KEYS, -1), f"{number} comes after {newest[number % KEYS]}: {line}"
                newest[number % KEYS] = number
                seen.add(number)


class Tail:
    """The lines of the functions as they come: what was read is not read again, however often someone looks."""

    def __init__(self, site: Site) -> None:
        self._file = site.out
        self._read = 0
        self.lines: list[Line] = []
        self._handled = set[int]()

    def look(self) -> list[Line]:
        with self._file.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        text = text[: text.rfind(b"\n") + 1]
        self._read += len(text)
        fresh = [msgspec.json.decode(line, type=Line) for line in text.splitlines()]
        self.lines += fresh
        self._handled.update(number for line in fresh if line.what == "ended" for number in line.offsets)
        return self.lines

    def handled(self, numbers: set[int]) -> bool:
        """Whether an invocation with each of these has ended well."""
        self.look()
        return numbers <= self._handled


class Fleet:
    """The daemons by name; who was killed is started anew. `hit`: which process may have lost its lanes, from when until when."""

    def __init__(self, site: Site, store: str, orders: Stream, stack: ExitStack) -> None:
        self.hit: list[tuple[int, float, float]] = []
        self.tail = Tail(site)
        self._site, self._stack = site, stack
        self._ever: list[DaemonProcess] = []
        self._paused: dict[str, Timer] = {}
        for name in ("a", "b", "c"):
            site.write(
                site.function(code=FUNCTIONS / "numbers", concurrency=4, environment={"SLOW": str(SLOW)}),
                site.mapping(
                    "orders",
                    orders.source,
                    batch_size=SIZE,
                    parallelization_factor=WIDTH,
                    maximum_retry_attempts=RETRIES,
                    bisect_batch_on_function_error=True,
                    retry_backoff={"initial": "10ms", "maximum": "20ms"},
                ),
                file=f"{name}.toml",
                store=store,
            )
        self._daemons = {name: self._start(name) for name in ("a", "b", "c")}
        stack.callback(self._end_pauses)

    def _start(self, name: str) -> DaemonProcess:
        daemon = self._stack.enter_context(self._site.daemon(f"{name}.toml"))
        self._ever.append(daemon)
        return daemon

    def share(self, orders: Filling, count: int) -> None:
        """Each begins something; so many records are put meanwhile, a little at a time: the first to run must not have it all."""
        assert all(daemon.address for daemon in self._daemons.values())  # they run

        def all_begun() -> bool:
            if orders.count < count * 3 // 4 and self.tail.handled(orders.good()):
                orders.put(count // 50)
            return len({line.daemon for line in self.tail.look()}) == 3

        until(all_begun, what=f"they share the work:\n{self.logs()}")
        orders.put(count - orders.count)

    def running(self) -> list[str]:
        """Those that are not paused."""
        return [name for name in self._daemons if name not in self._paused or not self._paused[name].is_alive()]

    def busiest(self) -> str:
        """Who has had the most records in the last seconds, of those that run."""
        since = time.time() - 2.0
        had = Counter[int]()
        for line in self.tail.look():
            had[line.daemon] += len(line.offsets) * (line.what == "begun" and line.time > since)
        return max(self.running(), key=lambda name: had[self._daemons[name].pid])

    def kill(self, name: str) -> None:
        self._may_lose(name, 0.0)
        self._daemons[name].kill()
        self._daemons[name] = self._start(name)

    def pause(self, name: str, seconds: float) -> None:
        if seconds > LEASE:
            self._may_lose(name, seconds)
        daemon = self._daemons[name]
        if self._site.store.exists():
            pause_between_writes(daemon, self._site.store)
        else:
            daemon.pause()
        self._paused[name] = Timer(seconds, daemon.resume)
        self._paused[name].start()

    def _may_lose(self, name: str, seconds: float) -> None:
        now = time.time()
        self.hit.append((self._daemons[name].pid, now - UNSAVED, now + seconds + 2 * SLOW))

    def _end_pauses(self) -> None:
        for timer in self._paused.values():
            timer.join()

    def stop(self) -> None:
        self._end_pauses()
        for daemon in self._daemons.values():
            daemon.stop()

    def journal(self) -> Sequence[Row]:
        return asyncio.run(self._rows())

    async def _rows(self) -> Sequence[Row]:
        store = await open_configured_store(load(self._site.folder / "a.toml", Registry(), os.environ))
        try:
            return await store.journal.select(Selection(states=()))
        finally:
            await store.aclose()

    def logs(self) -> str:
        return "\n\n".join(daemon.log[-3000:] for daemon in self._daemons.values())

    def said(self, text: str) -> int:
        """How many lines of all daemons hold it."""
        return sum(daemon.log.count(text) for daemon in self._ever)

    def at_stake(self) -> int:
        """How many records were handled by daemons that were about to lose them, perhaps before that was saved."""
        return sum(
            len(line.offsets)
            for line in self.tail.look()
            if line.what == "ended" and any(line.daemon == pid and first < line.time < last for pid, first, last in self.hit)
        )


class Filling:
    """Numbered records, put in order; shards that split and merge meanwhile."""

    def __init__(self, orders: Stream, random: Random) -> None:
        self.count = 0
        self._orders, self._random = orders, random

    def put(self, count: int) -> None:
        numbers = range(self.count, self.count + count)
        self._orders.fill([f"{n} poison" if poison(n) else str(n) for n in numbers], [f"key {n % KEYS}" for n in numbers])
        self.count += count

    def good(self) -> set[int]:
        """What is no poison."""
        return {number for number in range(self.count) if not poison(number)}

    def split(self) -> None:
        shard = self._random.choice(self._orders.run(lambda client: client.open_shards(self._orders.name)))
        self._orders.run(lambda client: client.split(self._orders.name, shard))

    def merge(self) -> None:
        """Two that are neighbours."""
        shards = self._orders.run(lambda client: client.shards(self._orders.name))
        still = {
            int(each["HashKeyRange"]["StartingHashKey"]): each
            for each in shards
            if "EndingSequenceNumber" not in each["SequenceNumberRange"]
        }
        one = self._random.choice([start for start, each in still.items() if int(each["HashKeyRange"]["EndingHashKey"]) + 1 in still])
        other = int(still[one]["HashKeyRange"]["EndingHashKey"]) + 1
        self._orders.run(lambda client: client.merge(self._orders.name, still[one]["ShardId"], still[other]["ShardId"]))


def moments(random: Random) -> list[float]:
    """When each blow comes, in seconds from the first one: a few seconds apart, the last one when the minute is over."""
    apart = MINUTE / (len(BLOWS) - 1)
    return [0.0, *(apart * (number + random.uniform(-0.4, 0.4)) for number in range(1, len(BLOWS) - 1)), MINUTE]


def strike(blow: str, fleet: Fleet, orders: Filling, random: Random) -> None:
    match blow:
        case "short pause":
            fleet.pause(random.choice(fleet.running()), SHORT)
        case "long pause":
            fleet.pause(fleet.busiest(), LONG)
        case "split":
            orders.split()
        case "merge":
            orders.merge()
        case _:
            fleet.kill(random.choice(fleet.running()))


@pytest.fixture(params=["kinesis-local and SQLite", "kinesalite and PostgreSQL"])
def place(request: pytest.FixtureRequest, site: Site) -> Iterator[tuple[str, str, int, int]]:
    """Servers: the URL of a Kinesis, the store that the daemons share; the shards at first, and how many records there will be."""
    if request.param == "kinesis-local and SQLite":
        yield request.getfixturevalue("kinesis_local"), f"sqlite:{site.store}", 4, 20_000
    else:
        postgresql: PostgreSQL = request.getfixturevalue("postgresql")
        yield request.getfixturevalue("kinesalite"), postgresql.database(), 8, 100_000


def test_nothing_is_lost_while_daemons_fall_and_shards_split_and_merge(
    site: Site, place: tuple[str, str, int, int], tell: Callable[[str], None]
) -> None:
    url, store, shards, count = place
    random, stream = Random(5), Stream(url, shards)
    orders, chunk = Filling(stream, random), count * 3 // 4 // len(BLOWS)
    before = count - chunk * len(BLOWS)
    with ExitStack() as stack:
        fleet = Fleet(site, store, stream, stack)
        tail = fleet.tail
        fleet.share(orders, before)
        first = time.monotonic()
        for blow, moment in zip(BLOWS, moments(random), strict=True):
            time.sleep(max(0.0, first + moment - time.monotonic()))  # not for an event: a blow comes whenever it comes
            strike(blow, fleet, orders, random)
            orders.put(chunk)
        good = orders.good()
        assert not tail.handled(good), "they were idle when the last blow came"
        until(lambda: tail.handled(good), 60, f"all is handled:\n{fleet.logs()}")
        until(lambda: len(fleet.journal()) >= count - len(good), what=f"all poison is kept:\n{fleet.logs()}")
        fleet.stop()
        journal = fleet.journal()
        took = fleet.said("lane lost")
    testimony = tail.look()
    done, often = ended(testimony), begun(testimony)
    twice, at_stake = done.total() - len(done), fleet.at_stake()
    kinds = Counter(often[0, number] for number in range(count) if poison(number))
    tell(
        f"kinesis fleet ({shards} shards, {count} records): {twice} handled again ({at_stake} were at stake), {took} lanes lost by who was "
        f"paused; poison begun: {dict(sorted(kinds.items()))}"
    )
    assert {number for _, number in done} == good
    assert sorted(map(number_of, journal)) == sorted(set(range(count)) - good)
    assert took, "nobody was paused so long that he lost a lane"
    assert max(batches(testimony).values()) <= RETRIES + 2
    assert max(often.values()) <= poison_bound(SIZE, RETRIES)
    assert twice <= at_stake
    in_order(testimony, KEYS)
    in_order_whoever_begins(testimony)
