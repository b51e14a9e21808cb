"""The queue's lane: waiting, settling, heartbeat, and other processes."""

import asyncio
import subprocess
import sys
import textwrap
import time
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from connectors.local import QueueOptions, Redrive, queue_connector
from connectors.local.database import Database
from poller.errors import ConfigError, NotConnected, SourceError
from poller.feed import Feed, Item
from poller.model import Ack, Batch, Discard, Failure, Release, Retry
from poller.settings import Backoff, Batching, Context, FailureSettings, MappingSettings

ROOT = Path(__file__).parents[2]


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def context(state: Path, clock=time.time) -> Context:
    mapping = MappingSettings("m", "m", "f", Batching(10), FailureSettings(), width=2)
    return Context(mapping, SimpleNamespace(), "worker", clock, state, state)


@asynccontextmanager
async def lane_of(options: QueueOptions, where: Context):
    source = await queue_connector.open(options, where)
    try:
        (lane,) = [lane async for lane in source.lanes()]
        yield lane
    finally:
        await source.aclose()


async def put(state: Path, options: QueueOptions, *bodies: str, group: str | None = None, clock=time.time) -> int:
    place = SimpleNamespace(state=state, clock=clock)
    return await queue_connector.put(options, place, [Item(body.encode(), group) for body in bodies])


async def fetch(lane, limit=10):
    async with asyncio.timeout(10):
        return (await lane.fetch(limit)).records


async def settle(lane, records, *actions):
    await lane.settle(Batch(records, lane.format), actions)


async def rows(state: Path, columns="body, receives, visible"):
    async with Database.shared(state) as database:
        return await database.read(lambda connection: connection.execute(f"SELECT {columns} FROM messages ORDER BY id").fetchall())


async def eventually(condition, seconds=10.0):
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.01)


def child(state: Path, body: str, **popen) -> subprocess.Popen[str]:
    script = "import asyncio, sys, time\nfrom pathlib import Path\nfrom types import SimpleNamespace\n"
    script += "from connectors.local import QueueOptions, queue_connector\nfrom poller.feed import Item\n"
    script += "state = Path(sys.argv[1])\nplace = SimpleNamespace(state=state, clock=time.time)\n" + textwrap.dedent(body)
    return subprocess.Popen([sys.executable, "-c", script, str(state)], cwd=ROOT, text=True, stdout=subprocess.PIPE, **popen)


ORDERS = QueueOptions(name="orders")
LINE = QueueOptions(name="line", fifo=True)


async def test_put_then_fetch_then_ack(tmp_path):
    assert await put(tmp_path, ORDERS, "a", "b") == 2
    async with lane_of(ORDERS, context(tmp_path)) as lane:
        records = await fetch(lane)
        assert [record.body for record in records] == ["a", "b"]
        assert repr(lane) == "<QueueLane orders [open, 2 held]>"
        await settle(lane, records, Ack(records))
        await settle(lane, records, Ack(records))
        assert repr(lane) == "<QueueLane orders [open, 0 held]>"
    assert await rows(tmp_path) == []


async def test_the_identity_moves_with_the_file(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    source = await queue_connector.open(ORDERS, context(first))
    await source.aclose()
    await source.aclose()
    first.rename(second)
    again = await queue_connector.open(ORDERS, context(second))
    await again.aclose()
    assert again.identity == source.identity and source.identity.startswith("local-queue:") and source.identity.endswith(":orders")
    other = await queue_connector.open(ORDERS, context(tmp_path / "third"))
    await other.aclose()
    assert other.identity != source.identity


async def test_the_file_is_its_owners_alone(tmp_path):
    async with lane_of(ORDERS, context(tmp_path)):
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.glob("local.db*")}
    assert modes["local.db"] == 0o600 and set(modes.values()) == {0o600}


async def test_a_waiting_fetch_is_woken_by_a_put(tmp_path):
    async with lane_of(ORDERS, context(tmp_path)) as lane:
        fetching = asyncio.create_task(fetch(lane))
        await eventually(lambda: asyncio.sleep(0, lane._database.bells._waiters == 1))
        started = time.monotonic()
        await put(tmp_path, ORDERS, "a")
        assert [record.body for record in await fetching] == ["a"]
        assert time.monotonic() - started < 2, "not the end of the long poll"


async def test_a_waiting_fetch_is_woken_by_another_processs_put(tmp_path):
    async with lane_of(ORDERS, context(tmp_path)) as lane:
        fetching = asyncio.create_task(fetch(lane))
        await eventually(lambda: asyncio.sleep(0, lane._database.bells._waiters == 1))
        process = child(tmp_path, "print(asyncio.run(queue_connector.put(QueueOptions(name='orders'), place, [Item(b'from afar')])))")
        assert [record.body for record in await fetching] == ["from afar"]
        assert (await asyncio.to_thread(process.communicate))[0] == "1\n"


async def test_a_waiting_fetch_is_woken_when_a_timeout_ends(tmp_path):
    await put(tmp_path, ORDERS, "a")
    async with lane_of(ORDERS, context(tmp_path)) as lane:
        records = await fetch(lane)
        await settle(lane, records, Release(records, 0.2))
        started = time.monotonic()
        (again,) = await fetch(lane)
        assert again.receives == 2 and 0.1 < time.monotonic() - started < 3


async def test_leaving_ends_the_wait(tmp_path):
    async with lane_of(ORDERS, context(tmp_path)) as lane:
        fetching = asyncio.create_task(fetch(lane))
        await eventually(lambda: asyncio.sleep(0, lane._database.bells._waiters == 1))
        lane.leaving.set_result(0.0)
        started = time.monotonic()
        assert list(await fetching) == []
        assert time.monotonic() - started < 2


async def test_release_without_delay_waits_for_the_timeout_of_the_receive(tmp_path):
    clock = Clock()
    await put(tmp_path, ORDERS, "a", "b", clock=clock)
    async with lane_of(ORDERS, context(tmp_path, clock)) as lane:
        records, received = await fetch(lane), clock.now
        clock.now += 10
        await lane._extend()
        await settle(lane, records, Release(records[:1]))
        clock.now += 100
        await settle(lane, records, Release(records[1:]))
        assert await rows(tmp_path) == [("a", 1, received + 30), ("b", 1, received + 110)]


async def test_a_discard_is_done_and_a_retry_stays_held(tmp_path):
    clock = Clock()
    await put(tmp_path, ORDERS, "a", "b", clock=clock)
    async with lane_of(ORDERS, context(tmp_path, clock)) as lane:
        records = await fetch(lane)
        failure = Failure(records[:1], "MaximumReceiveCountExceeded", 1)
        await settle(lane, records, Discard(failure), Retry(Batch(records[1:], lane.format), 5.0))
        clock.now += 20
        await lane._extend()
        assert await rows(tmp_path) == [("b", 1, clock.now + 30)]
    assert await rows(tmp_path) == [("b", 1, clock.now)], "closing gives back at once what is held"


async def test_the_heartbeat_hides_what_is_held(tmp_path):
    clock = Clock()
    options = QueueOptions(name="orders", visibility_timeout="100ms")
    await put(tmp_path, options, "a", clock=clock)
    async with lane_of(options, context(tmp_path, clock)) as lane:
        await fetch(lane)
        clock.now += 1000

        async def hidden():
            return (await rows(tmp_path, "visible")) == [(clock.now + 0.1,)]

        await eventually(hidden)


async def test_a_heartbeat_behind_a_release_does_not_hide_it_again(tmp_path):
    await put(tmp_path, ORDERS, "a")
    clock = Clock()
    clock.now += 1
    async with lane_of(ORDERS, context(tmp_path, clock)) as lane:
        records = await fetch(lane)
        # Both are asked for before either is written.
        await asyncio.gather(settle(lane, records, Release(records, 0.0)), lane._extend())
        assert await rows(tmp_path) == [("a", 1, clock.now)]


async def test_an_expired_receipt_changes_nothing_for_the_new_holder(tmp_path):
    clock = Clock()
    await put(tmp_path, ORDERS, "a", clock=clock)
    async with lane_of(ORDERS, context(tmp_path, clock)) as first, lane_of(ORDERS, context(tmp_path, clock)) as second:
        mine = await fetch(first)
        clock.now += 31
        theirs = await fetch(second)
        await settle(first, mine, Ack(mine))
        assert [row[:2] for row in await rows(tmp_path)] == [("a", 2)]
        await settle(second, theirs, Ack(theirs))
    assert await rows(tmp_path) == []


async def test_redrive_moves_and_wakes_the_dead_letter_queues_lane(tmp_path):
    clock = Clock()
    options = QueueOptions(name="orders", redrive=Redrive(queue="dead", maximum_receive_count=1))
    dead = QueueOptions(name="dead")
    await put(tmp_path, options, "poison", clock=clock)
    async with lane_of(options, context(tmp_path, clock)) as lane, lane_of(dead, context(tmp_path, clock)) as letters:
        records = await fetch(lane)
        await settle(lane, records, Release(records, 0.0))
        lane.leaving.set_result(0.0)
        fetching = asyncio.create_task(fetch(letters))
        assert list(await fetch(lane)) == []
        (moved,) = await fetching
        assert (moved.body, moved.origin) == ("poison", "arn:aws:sqs:local:000000000000:orders")


async def test_fifo_groups_run_side_by_side_and_in_order(tmp_path):
    await put(tmp_path, LINE, "a1", "a2", group="a")
    await put(tmp_path, LINE, "b1", group="b")
    async with lane_of(LINE, context(tmp_path)) as lane:
        assert lane.strands.assign == "free"
        (first,) = await fetch(lane, 1)
        (other,) = await fetch(lane)
        assert (first.body, other.body) == ("a1", "b1")
        waiting = asyncio.create_task(fetch(lane))
        await settle(lane, [first], Ack([first]))
        assert [record.body for record in await waiting] == ["a2"]


RECEIVE_ALL = """
async def main():
    mapping = MappingSettings("m", "m", "f", Batching(10), FailureSettings(), 1)
    context = Context(mapping, SimpleNamespace(), "w", time.time, state, state)
    source = await queue_connector.open(QueueOptions(name="orders"), context)
    async for lane in source.lanes():
        records = (await lane.fetch(7)).records
        sys.stdout.write("ready\\n"); sys.stdout.flush(); sys.stdin.readline()
        while True:
            if any(record.body == "end" for record in records) or not records:
                break
            sys.stdout.write("".join(record.body + "\\n" for record in records))
            await lane.settle(Batch(records, lane.format), [Ack(records)])
            records = (await lane.fetch(7)).records
    await source.aclose()
from poller.model import Ack, Batch
from poller.settings import Batching, Context, FailureSettings, MappingSettings
asyncio.run(main())
"""


async def test_two_processes_never_receive_the_same_message(tmp_path):
    await put(tmp_path, ORDERS, *(str(n) for n in range(600)))
    processes = [child(tmp_path, RECEIVE_ALL, stdin=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()

    async def drained():
        return not await rows(tmp_path)

    await eventually(drained, 30)
    await put(tmp_path, ORDERS, *(["end"] * 14))
    seen = [(await asyncio.to_thread(process.communicate))[0].split() for process in processes]
    assert sorted(seen[0] + seen[1], key=int) == [str(n) for n in range(600)]
    assert all(seen), "both had some, held at the same time"


async def test_the_kind_of_a_queue_cannot_change(tmp_path):
    await put(tmp_path, ORDERS, "a")
    with pytest.raises(SourceError, match="is a standard queue and cannot become a FIFO queue"):
        await queue_connector.open(QueueOptions(name="orders", fifo=True), context(tmp_path))
    async with Database.shared(tmp_path) as database:
        assert database.bells._waiters == 0


async def test_a_file_of_another_program_is_refused_with_a_sentence(tmp_path):
    (tmp_path / "local.db").write_text("not a database, but long enough to be looked at as if it were one" * 20)
    with pytest.raises(NotConnected, match=r"local\.db") as raised:
        await queue_connector.open(ORDERS, context(tmp_path))
    assert raised.value.permanent


async def test_probe_makes_nothing_and_says_what_is_there(tmp_path):
    where = context(tmp_path)
    assert [finding.level for finding in await queue_connector.probe(ORDERS, where, 3.0)] == ["ok"]
    assert list(tmp_path.iterdir()) == []
    await put(tmp_path, ORDERS, "a", "b")
    assert (await queue_connector.probe(ORDERS, where, 3.0))[-1].text == "local queue 'orders' holds 2 messages"
    assert [finding.level for finding in await queue_connector.probe(ORDERS, where, 60.0)] == ["warning", "ok"]
    findings = await queue_connector.probe(QueueOptions(name="orders", fifo=True), where, 3.0)
    assert findings[-1].level == "error"


def test_traits_and_options_that_cannot_be():
    assert queue_connector.traits(ORDERS).maximum_batch_size == 10_000
    fifo = queue_connector.traits(LINE)
    assert (fifo.maximum_batch_size, fifo.maximum_batching_window, fifo.fifo) == (10, 0.0, True)
    with pytest.raises(ConfigError) as raised:
        queue_connector.traits(
            QueueOptions(
                name="a/b",
                visibility_timeout="0s",
                retention="soon",
                redrive=Redrive(queue="a/b", maximum_receive_count=0),
                release_failed_groups=True,
            )
        )
    assert len(raised.value.problems) == 7
    assert isinstance(queue_connector, Feed)


def test_the_policy_is_safe_where_nobody_sets_a_limit():
    redriven = QueueOptions(name="q", redrive=Redrive(queue="d", maximum_receive_count=5))
    own = FailureSettings(maximum_receive_count=3, backoff=Backoff(2.0), backoff_set=True)

    def made(options, failure, safe):
        policy = queue_connector.policy(options, MappingSettings("m", "m", "f", Batching(10), failure, 1, safe))
        return policy.limit, policy.redrive_count, policy.backoff

    assert made(ORDERS, FailureSettings(), True) == (10, None, None)
    assert made(ORDERS, FailureSettings(), False) == (None, None, None)
    assert made(redriven, FailureSettings(), True) == (None, 5, None)
    assert made(redriven, own, True) == (3, 5, Backoff(2.0))
