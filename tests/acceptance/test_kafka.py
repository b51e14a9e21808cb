"""Kafka with the daemon as a process: what `explain` predicts, kill -9, rebalances, stops, and functions that take long."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import pytest

from poller.cli.explaining import explained
from poller.config import load
from poller.registry import Registry
from tests.acceptance.daemon_program import Options
from tests.acceptance.harness import FUNCTIONS, DaemonProcess, Site, until
from tests.acceptance.topics import Place, Topic, begun, ended, in_order, kept, lines
from tests.servers.kafka.broker import Kafka
from tests.servers.kafka.client import Blocking, Message

pytestmark = [pytest.mark.slow, pytest.mark.servers]

REBALANCES = "poller_rebalance_total"


@pytest.fixture
def topic(kafka: Kafka, kafka_blocking: Blocking) -> Callable[..., Topic]:
    """Makes a topic: how many partitions, and keys of the source."""

    def make(partitions: int = 1, **source: object) -> Topic:
        return Topic(kafka_blocking, kafka.bootstrap, partitions, **source)

    return make


def member(site: Site, topic: Topic, file: str, **mapping: Any) -> None:
    """The configuration of one of several daemons: each has a store of its own. `function`: more keys of the function."""
    function = mapping.pop("function", {})
    site.write(
        site.function(timeout="60s", **function),
        site.mapping("orders", topic.source, **mapping),
        file=f"{file}.toml",
        store=f"sqlite:{site.folder / file}.db",
    )


def rows(site: Site, *files: str) -> list[Any]:
    """Of the journals of these daemons."""
    found = list[Any]()
    for file in files:
        each = Site(site.folder)
        each.store = site.folder / f"{file}.db"
        found += each.journal()
    return found


# --- what `explain` predicts ----------------------------------------------------------------------------------------------------------

EVERY, SIZE = 1_000, 100


def poison(offset: int) -> bool:
    """One in a thousand, each at another place of its batch."""
    return offset % EVERY == offset // EVERY * 37 % EVERY


def predicted(config: Path, partitions: int, count: int) -> Counter[Place]:
    """How often `poller explain` says that each record is in an invocation, where every batch is full."""
    loaded, registry = load(config, Registry(), os.environ), Registry()
    found = Counter[Place]()
    for first in range(0, count, SIZE):
        often: Sequence[int] = [1] * SIZE
        for place in range(SIZE):
            if poison(first + place):  # one at most
                often = explained(loaded, registry, "orders", place + 1, None, None).explanation.invocations
        found.update({(partition, first + n): times for partition in range(partitions) for n, times in enumerate(often)})
    return found


def test_poison_records_cost_what_is_predicted_and_nothing_else_is_kept(site: Site, topic: Callable[..., Topic]) -> None:
    partitions, count = 4, 25_000
    orders = topic(partitions)
    values = [b"poison" if poison(offset) else b"good" for offset in range(count)]
    orders.fill(Message(value, partition=partition) for value in values for partition in range(partitions))
    site.write(
        site.function(code=FUNCTIONS / "offsets", concurrency=partitions),
        site.mapping(
            "orders",
            orders.source,
            batch_size=SIZE,
            maximum_batching_window="60s",  # every batch is full
            maximum_retry_attempts=2,
            bisect_batch_on_function_error=True,
            retry_backoff={"initial": "10ms", "maximum": "20ms"},
        ),
    )
    with site.daemon() as daemon:
        daemon.until(orders.done, 120, "all is committed")
        assert daemon.readyz() == (True, "")
        daemon.stop()
    assert orders.committed() == dict.fromkeys(range(partitions), count)
    journal, testimony = site.journal(), lines(site.out)
    poisoned = {(partition, offset) for partition in range(partitions) for offset in range(count) if poison(offset)}
    assert len(poisoned) == partitions * count // EVERY
    assert sorted(kept(journal)) == sorted(poisoned)
    assert {(row.state, row.entry.reason, row.entry.attempts) for row in journal} == {("kept", "RetryAttemptsExhausted", 3)}
    assert begun(testimony) == predicted(site.folder / "poller.toml", partitions, count)
    good = {(partition, offset) for partition in range(partitions) for offset in range(count)} - poisoned
    assert ended(testimony) == dict.fromkeys(good, 1)
    in_order(testimony, 1)


# --- attempts over kill -9, and over rebalances ---------------------------------------------------------------------------------------

RETRIES = 5
BATCH = 6
FAIL = json.dumps({"do": "fail"})
BEFORE = [f"before {n}" for n in range(BATCH)]
BESIDE = [f"beside {n}" for n in range(1, BATCH)]
AFTER = [f"after {n}" for n in range(BATCH)]

ALWAYS: dict[str, Any] = {
    "circuit_breaker": False,  # every batch has a record that fails
    "batch_size": BATCH,
    "maximum_batching_window": "100ms",
    "maximum_retry_attempts": RETRIES,
    "bisect_batch_on_function_error": False,
    "retry_backoff": {"initial": "50ms", "maximum": "50ms"},
}


def prepare(site: Site, orders: Topic, kill: str = "", slow: float = 0.0) -> None:
    """Three full batches wait; the second one has a poison record."""
    environment = {"KILL": kill, "SLOW": str(slow)}
    site.write(site.function(environment=environment, concurrency=1), site.mapping("orders", orders.source, **ALWAYS))
    middle = BATCH // 2
    orders.fill([*BEFORE, *BESIDE[:middle], FAIL, *BESIDE[middle:], *AFTER])


def live(site: Site, orders: Topic, options: Options, later: str) -> bool:
    """One life, in which one more record comes: until the daemon is killed (False), or has handled that record and was stopped."""
    orders.fill([later])
    with site.daemon(options=options) as daemon:
        until(lambda: daemon.ended or site.handled(later), what=f"killed, or {later} is handled:\n{daemon.log}")
        if not daemon.ended:
            daemon.terminate()  # and it may be killed now
        status = daemon.wait()
        assert status in {0, -signal.SIGKILL}, daemon.log
        return status == 0


def check(site: Site, orders: Topic, later: int) -> None:
    """Law 11, one row, and all else handled and committed."""
    assert 1 <= site.bodies("begun")[FAIL] <= RETRIES + 2
    (row,) = site.journal()
    assert (row.state, row.entry.reason, len(row.entry.records)) == ("kept", "RetryAttemptsExhausted", BATCH)
    assert site.bodies("ended").keys() == {*BEFORE, *AFTER, *(f"later {n}" for n in range(later))}
    assert orders.done()


@pytest.mark.parametrize("kill", ["1", "2,3,5", "1,2,3,4,5,6,7,8"])
def test_killed_while_invoking(site: Site, topic: Callable[..., Topic], kill: str) -> None:
    """The function kills the daemon that invokes it: no outcome is ever known. A static member is let in again at once."""
    orders = topic(group_instance_id="one")
    prepare(site, orders, kill)
    kills = [number for number in kill.split(",") if int(number) <= RETRIES + 2]
    for n in range(len(kills)):
        assert not live(site, orders, Options(), f"later {n}")
    assert live(site, orders, Options(), f"later {len(kills)}")
    check(site, orders, len(kills) + 1)


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment(site: Site, topic: Callable[..., Topic], seed: int, tell: Callable[[str], None]) -> None:
    random = Random(seed)
    orders = topic(group_instance_id="one")
    prepare(site, orders, slow=0.1)
    survived = [live(site, orders, Options(after=random.uniform(0.1, 1.0), seed=n + 1), f"later {n}") for n in range(4)]
    assert live(site, orders, Options(), "later 4")
    check(site, orders, 5)
    tell(f"kafka, killed at any moment, seed {seed}: {survived.count(False)} of 4 were; {site.bodies('begun')[FAIL]} invocations")


def test_killed_without_a_name_of_its_own(site: Site, topic: Callable[..., Topic]) -> None:
    """The group keeps the dead member's partitions until the session timeout."""
    orders = topic()
    prepare(site, orders, "2,4")
    assert [live(site, orders, Options(), f"later {n}") for n in range(3)] == [False, False, True]
    check(site, orders, 3)


def rebalanced(daemon: DaemonProcess, before: float) -> None:
    """Wait until the group has shared its partitions anew, as often as twice is not."""
    daemon.until(lambda: daemon.metric(REBALANCES) == before + 1, what=f"rebalance {before + 1:.0f}")


def test_a_batch_that_always_fails_keeps_its_count_over_ten_rebalances(site: Site, topic: Callable[..., Topic]) -> None:
    """Its attempts run on, while another daemon comes and goes that gets nothing of the one partition."""
    in_turn, turns = json.dumps({"do": "fail-in-turn"}), site.folder / "turns"
    turns.touch()
    orders = topic(drain_limit="100ms", session_timeout="20s")
    for file in ("one", "two"):
        member(site, orders, file, function={"environment": {"TURNS": str(turns)}}, **ALWAYS)
    orders.fill([*BEFORE, in_turn, *BESIDE, *AFTER])
    with site.daemon("one.toml") as one:
        one.until(lambda: site.bodies("begun")[in_turn] == 1)
        for n in range(5):
            rebalances = one.metric(REBALANCES)
            with site.daemon("two.toml") as two:
                rebalanced(one, rebalances)
                two.until(lambda: two.metric(REBALANCES) == 1 and two.readyz()[0])
                two.stop()
            rebalanced(one, rebalances + 1)
            turns.write_text("x" * (n + 1))
            one.until(lambda n=n: site.bodies("begun")[in_turn] == n + 2)  # type: ignore[misc]
        turns.write_text("x" * (RETRIES + 1))
        one.until(lambda: site.handled(*AFTER) and orders.done())
        assert one.metric(REBALANCES) == 11
        one.stop()
    assert site.bodies("begun") == {**dict.fromkeys([*BEFORE, *AFTER], 1), **dict.fromkeys([in_turn, *BESIDE], RETRIES + 1)}
    (row,) = rows(site, "one", "two")
    assert (row.entry.reason, row.entry.attempts, len(row.entry.records)) == ("RetryAttemptsExhausted", RETRIES + 1, BATCH)


def test_batches_that_always_fail_move_with_their_count(site: Site, topic: Callable[..., Topic], tell: Callable[[str], None]) -> None:
    """Of two partitions one moves at each of ten rebalances, whatever attempt its batch is at."""
    orders, count = topic(2), 22
    for file in ("one", "two"):
        member(site, orders, file, function={"environment": {"SLOW": "0.1"}}, **ALWAYS)
    fails = {(p, n): json.dumps({"do": "fail", "n": [p, n]}) for p in range(2) for n in range(count)}
    for (p, n), fail in fails.items():
        orders.fill(Message(text.encode(), partition=p) for text in [*(f"{p} {n} {i}" for i in range(1, BATCH)), fail])
    last = [f"last {p}" for p in range(2)]
    orders.fill(Message(text.encode(), partition=p) for p, text in enumerate(last))
    with site.daemon("one.toml") as one:
        one.until(lambda: one.metric(REBALANCES) == 1 and len(site.testimony("begun")) > 2)
        for _ in range(5):
            rebalances, begun_before = one.metric(REBALANCES), len(site.testimony("begun"))
            with site.daemon("two.toml") as two:
                rebalanced(one, rebalances)
                two.until(lambda pid=two.pid: sum(each.daemon == pid for each in site.testimony("begun")) >= 2)  # type: ignore[misc]
                two.stop()
            rebalanced(one, rebalances + 1)
            assert len(site.testimony("begun")) > begun_before
        assert not orders.done(), "the batches came to their end before the rebalances did"
        one.until(orders.done, 60)
        one.stop()
    found = site.bodies("begun")
    often = Counter(found[fail] for fail in fails.values())
    tell(f"kafka, batches that always fail over 10 rebalances: {dict(often)} (invocations: batches), {RETRIES} retries")
    assert max(often) <= RETRIES + 2
    assert min(often) >= RETRIES + 1
    journal = rows(site, "one", "two")
    assert len(journal) == len(fails)
    assert {row.entry.lane for row in journal} == {f"{orders.name}-0", f"{orders.name}-1"}
    assert {(row.entry.reason, len(row.entry.records)) for row in journal} == {("RetryAttemptsExhausted", BATCH)}
    assert {each: found[each] for each in last} == dict.fromkeys(last, 1)


# --- stops, and functions that take long ----------------------------------------------------------------------------------------------


def owners(site: Site, until: float = inf) -> dict[str, int]:
    """Who began last with a partition, up to then; bodies begin with the partition."""
    return {each.bodies[0].split()[0]: each.daemon for each in site.testimony("begun") if each.time <= until}


@pytest.mark.alone
def test_a_stop_hands_its_partitions_over_within_a_second(site: Site, topic: Callable[..., Topic], tell: Callable[[str], None]) -> None:
    """With the session timeout that everyone has: nobody waits for it."""
    partitions, count = 4, 200
    orders = topic(partitions, session_timeout="20s")
    for file in ("one", "two"):
        function = {"environment": {"SLOW": "0.1"}, "concurrency": partitions}
        member(site, orders, file, function=function, batch_size=5, maximum_batching_window="0s", maximum_retry_attempts=0)
    bodies = [(partition, f"{partition} {n}") for n in range(count) for partition in range(partitions)]
    orders.fill(Message(body.encode(), partition=partition) for partition, body in bodies)
    with site.daemon("one.toml") as one, site.daemon("two.toml") as two:
        half = [one.pid] * 2 + [two.pid] * 2
        one.until(lambda: sorted(owners(site).values()) == sorted(half))
        one.stop()
        assert not orders.done()
        two.until(orders.done)
        two.stop()
    assert site.bodies("begun") == site.bodies("ended") == {body: 1 for _, body in bodies}
    assert not rows(site, "one", "two")
    last = max(each.time for each in site.testimony("ended") if each.daemon == one.pid)
    owner = owners(site, last)
    first: dict[str, float] = {}
    for each in site.testimony("begun"):
        partition = each.bodies[0].split()[0]
        if each.time > last and owner[partition] == one.pid:
            first.setdefault(partition, each.time)
    late = [time - last for time in first.values()]
    assert len(late) == 2
    tell(f"kafka, hand-over after the last running invocation: {max(late):.2f} s")
    assert max(late) < 1.0


def test_a_function_may_take_longer_than_the_session(site: Site, topic: Callable[..., Topic]) -> None:
    """Three session timeouts, with no other traffic; six minutes are no other case: the group's only sign of life are heartbeats, which a
    task of their own sends, and nothing in the daemon counts the time since somebody polled (there is no poll interval).
    """
    orders = topic(2, session_timeout="3s")
    for file in ("one", "two"):
        member(site, orders, file, function={"environment": {"SLOW": "9"}}, maximum_batching_window="0s", maximum_retry_attempts=0)
    with site.daemon("one.toml") as one:
        rebalanced(one, 0)
        with site.daemon("two.toml") as two:
            rebalanced(one, 1)
            rebalanced(two, 0)
            orders.fill([Message(b"m", partition=partition) for partition in range(2)])
            one.until(lambda: site.bodies("ended")["m"] == 2 and orders.done())
            assert (one.metric(REBALANCES), two.metric(REBALANCES)) == (2, 1)
            assert one.readyz() == two.readyz() == (True, "")
            one.stop()
            two.stop()
    assert {each.daemon for each in site.testimony("begun")} == {one.pid, two.pid}
    assert site.bodies("begun") == {"m": 2}
    assert not rows(site, "one", "two")


def test_a_stop_while_no_broker_answers(site: Site, kafka_own: Kafka) -> None:
    """What runs is waited for, what cannot be committed is not waited for long, and the daemon ends as it always does."""
    with closing(Blocking(kafka_own.bootstrap)) as kafka:
        orders = Topic(kafka, kafka_own.bootstrap)
        waits, gate = json.dumps({"do": "wait"}), site.folder / "gate"
        site.write(
            site.function(environment={"GATE": str(gate)}),
            site.mapping("orders", orders.source, batch_size=1, maximum_batching_window="0s"),
        )
        orders.fill(["m0", waits])
        with site.daemon() as daemon:
            daemon.until(lambda: orders.committed() == {0: 1} and site.bodies("begun")[waits])
            kafka_own.kill()
            daemon.terminate()
            gate.touch()
            assert daemon.wait() == 0, daemon.log
    assert site.bodies("ended") == {"m0": 1, waits: 1}
    assert "Traceback" not in daemon.log
