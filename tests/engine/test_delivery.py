"""Couriers on the virtual clock: all arrives, in order where it can, whatever crashes, and a destination that is away costs little.

POLLER_SEEDS says how many runs (default 30).
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from poller.errors import NotConnected
from poller.failures.courier import PAGE, UNREADABLE_SECONDS, Courier
from poller.failures.delivery import AT_ONCE, delay, lanes
from poller.failures.entry import successes
from poller.failures.journal import Delivery
from poller.testing.clock import run_virtually
from poller.testing.journals import make_entry
from poller.testing.postal import PostalWorld, deliver, mapping, now

SEEDS = int(os.environ.get("POLLER_SEEDS", "30"))


def play(scene: Callable[[PostalWorld], Any], **options: Any) -> PostalWorld:
    world = PostalWorld(1, **options)
    run_virtually(scene(world))
    return world


def test_everything_arrives_and_nothing_else() -> None:
    met: Counter[str] = Counter()
    for seed in range(SEEDS):
        try:
            met += deliver(seed).counts
        except BaseException as error:
            error.add_note(f"seed {seed}: replay with poller.testing.postal.deliver({seed})")
            raise
    # The runs were no idle ones.
    assert {"crashes", "settle refused", "settle answer lost", "append answer lost", "due refused", "renew refused"} <= met.keys()


class Hasty(Courier):
    """Settles before it sends: what a crash or a refusal leaves in between never arrives."""

    async def _send(self, page: Any) -> None:
        for each in page:
            await self._office.outbox.settle(each.number, None)
        await super()._send(page)


class Forgetful(Courier):
    """Takes what is refused for good for delivered."""

    async def _settle(self, delivery: Delivery, error: NotConnected | None) -> None:
        await super()._settle(delivery, None if error is not None and error.permanent else error)


@pytest.mark.parametrize("broken", [Hasty, Forgetful])
@pytest.mark.counterpart
def test_a_broken_courier_is_rejected(broken: type[Courier]) -> None:
    def runs() -> None:
        for seed in range(SEEDS):
            deliver(seed, broken)

    with pytest.raises(AssertionError, match="never arrived"):
        runs()


def test_an_hour_away_costs_few_attempts_and_no_order() -> None:
    pages: list[int] = []

    async def scene(world: PostalWorld) -> None:
        receiver = world.receivers["post:0"]
        receiver.down = True
        due = world.store.outbox.due

        async def counted(*arguments: Any) -> Any:
            page = await due(*arguments)
            pages.append(len(page))
            return page

        world.store.outbox.due = counted  # type: ignore[method-assign,assignment]
        life = await world.live()
        for n in range(1000):
            await world.fail(f"f{n}", "abc"[n % 3], life)
            await asyncio.sleep(3.6)
        tries = len(receiver.tried)
        assert 10 < tries < 60  # 1 s doubling to 5 min, and not a thousand at once
        receiver.down = False
        assert await world.emptied(400.0) < 330.0  # the last pause, and what sending takes
        await life.couriers.aclose()
        for lane in "abc":
            assert [each.id for each in receiver.arrived if each.entry.lane == lane] == [
                f"f{n}" for n in range(1000) if "abc"[n % 3] == lane
            ]

    world = play(scene, destinations=1)
    assert max(pages) <= PAGE  # memory holds a page, however much waits
    assert world.counters.delivered == 1000 and world.counters.delivery_failures < 60


def test_a_receiver_that_asks_to_be_tried_at_once_is_not() -> None:
    async def scene(world: PostalWorld) -> None:
        (receiver,) = world.receivers.values()
        receiver.down, receiver.after = True, 0.0
        life = await world.live()
        await world.fail("f", life=life)
        await asyncio.sleep(60.0)
        assert 10 < len(receiver.tried) <= 61
        await life.couriers.aclose()

    play(scene, destinations=1)


def test_what_one_receiver_refuses_holds_up_nothing_else() -> None:
    async def scene(world: PostalWorld) -> None:
        away, picky = world.receivers.values()
        away.down, picky.refuses = True, frozenset(("f0", "f7"))
        life = await world.live()
        for n in range(30):
            await world.fail(f"f{n}", life=life)
        await asyncio.sleep(60.0)
        assert picky.ids == [f"f{n}" for n in range(30) if n not in (0, 7)]
        assert away.arrived == []
        waiting = {line.destination: line for line in await world.store.outbox.waiting()}
        assert (waiting["post:0"].count, waiting["post:0"].error) == (30, "it is away")
        assert (waiting["post:1"].count, waiting["post:1"].error) == (2, "it is refused")
        away.down, picky.refuses = False, frozenset()
        await world.emptied(1000.0)
        await life.couriers.aclose()
        world.check()

    play(scene)


def test_one_that_fails_for_ever_without_being_refused_lets_others_pass() -> None:
    async def scene(world: PostalWorld) -> None:
        (receiver,) = world.receivers.values()
        receiver.chokes = frozenset(("f0",))
        life = await world.live()
        for n in range(20):
            await world.fail(f"f{n}", life=life)
        await asyncio.sleep(300.0)
        assert receiver.ids == [f"f{n}" for n in range(1, 20)]
        assert receiver.tried.count("f0") < 15
        await life.couriers.aclose()

    play(scene, destinations=1)


def test_one_that_cannot_be_read_is_set_aside_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(world: PostalWorld) -> None:
        (receiver,) = world.receivers.values()
        for n in range(PAGE + 3):
            await world.fail(f"f{n}")
        # A whole page, and more, of what cannot be read stands before the rest.
        for n in range(PAGE + 1):
            world.store.outbox.damage(f"f{n}")
        life = await world.live()
        await asyncio.sleep(60.0)
        assert receiver.ids == [f"f{PAGE + 1}", f"f{PAGE + 2}"]
        (line,) = await world.store.outbox.waiting()
        assert (line.count, line.damaged, line.attempts, line.error) == (PAGE + 1, PAGE + 1, 0, "")
        assert sum("is set aside" in each.getMessage() for each in caplog.records) == PAGE + 1
        # A later version can read them.
        for n in range(PAGE + 1):
            world.store.outbox.damage(f"f{n}", unreadable=False)
        await world.emptied(UNREADABLE_SECONDS + 60.0)
        await life.couriers.aclose()
        world.check()

    play(scene, destinations=1)


def test_one_worker_delivers_and_another_goes_on_when_it_has_crashed() -> None:
    async def scene(world: PostalWorld) -> None:
        (receiver,) = world.receivers.values()
        first, second = await world.live(), await world.live()
        for n in range(20):
            await world.fail(f"f{n}", life=first)
        await world.emptied(20.0)
        assert receiver.ids == [f"f{n}" for n in range(20)]  # once each, though both look
        await world.fail("g", life=first)
        await asyncio.sleep(0.001)
        await first.crash()
        await world.emptied(12.0)  # a lease, and a look
        await second.couriers.aclose()
        world.check()

    play(scene, destinations=1)


def test_a_stop_lets_what_is_sent_arrive_and_keeps_the_rest() -> None:
    async def scene(world: PostalWorld) -> None:
        (receiver,) = world.receivers.values()
        receiver.held = asyncio.Event()
        life = await world.live()
        for n in range(5):
            await world.fail(f"f{n}", life=life)
        await asyncio.sleep(1.0)
        assert receiver.tried
        asyncio.get_running_loop().call_later(3.0, receiver.held.set)
        await life.couriers.aclose(10.0)
        arrived = receiver.ids
        assert arrived and {line.count for line in await world.store.outbox.waiting()} <= {5 - len(arrived)}
        receiver.held.clear()
        hung = await world.live()
        await asyncio.sleep(2.0)
        began = asyncio.get_running_loop().time()
        await hung.couriers.aclose(5.0)
        assert asyncio.get_running_loop().time() - began < 5.1
        receiver.held.set()
        last = await world.live()
        await world.emptied(60.0)
        await last.couriers.aclose()
        world.check()

    play(scene, destinations=1)


def test_who_has_lost_its_lease_while_a_send_hung_sends_nothing_that_comes_after() -> None:
    async def scene(world: PostalWorld) -> None:
        (receiver,) = world.receivers.values()
        first = await world.live()
        receiver.held = asyncio.Event()
        for n in range(5):
            await world.fail(f"f{n}", life=first)
        await asyncio.sleep(1.0)
        first.line.cut_until = asyncio.get_running_loop().time() + 15.0  # its lease runs out
        second = await world.live()
        await asyncio.sleep(14.0)
        assert receiver.tried == ["f0", "f0"]
        receiver.held.set()
        await world.emptied(60.0)
        assert receiver.tried == ["f0", "f0", "f1", "f2", "f3", "f4"]
        await first.couriers.aclose()
        await second.couriers.aclose()
        world.check()

    play(scene, destinations=1)


def test_a_stop_begins_nothing_more() -> None:
    async def scene(world: PostalWorld) -> None:
        (receiver,) = world.receivers.values()
        receiver.held = asyncio.Event()
        life = await world.live()
        for n in range(5):
            await world.fail(f"f{n}", life=life)
        await asyncio.sleep(1.0)
        asyncio.get_running_loop().call_later(3.0, receiver.held.set)
        await life.couriers.aclose(10.0)
        assert receiver.tried == receiver.ids == ["f0"]

    play(scene, destinations=1)


def test_nothing_is_open_while_a_destination_fails_and_an_idle_courier_stops_at_once() -> None:
    async def scene(world: PostalWorld) -> None:
        (receiver,) = world.receivers.values()
        receiver.down = True
        life = await world.live()
        await world.fail("f", life=life)
        await asyncio.sleep(20.0)
        assert receiver.tried and life.kind.open_now == 0  # a connection that is broken stays so
        receiver.down = False
        await world.emptied(100.0)
        await asyncio.sleep(20.0)
        began = asyncio.get_running_loop().time()
        await life.couriers.aclose(30.0)
        assert asyncio.get_running_loop().time() - began < 0.1

    play(scene, destinations=1)


def test_a_clock_that_is_behind_keeps_nothing_waiting() -> None:
    async def scene(world: PostalWorld) -> None:
        entry = make_entry("f", "f", time=now() + 3600.0, destinations=tuple(world.receivers))  # another host's clock, or this one's before
        world.expected.add("f")
        await world.store.journal.append([entry])
        await world.store.outbox.put(successes(replace(entry, id="s"), b"null"))
        world.expected.add("s")
        life = await world.live()
        await world.emptied(60.0)
        await life.couriers.aclose()
        assert all(len(receiver.arrived) == 2 for receiver in world.receivers.values())

    play(scene)


def test_a_stop_during_a_reload_lets_no_courier_begin_behind_its_back() -> None:
    async def scene(world: PostalWorld) -> None:
        for receiver in world.receivers.values():
            receiver.held = asyncio.Event()
        life = await world.live()
        await world.fail("f", life=life)
        await asyncio.sleep(1.0)
        async with asyncio.TaskGroup() as group:
            group.create_task(life.couriers.adopt([mapping("post:1")], 30.0))
            await asyncio.sleep(1.0)
            await life.couriers.aclose(5.0)
        assert [task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()} if "courier" in task.get_name()] == []

    play(scene)


def test_what_waits_for_a_destination_that_is_configured_no_more_is_kept_until_it_is_again() -> None:
    async def scene(world: PostalWorld) -> None:
        for receiver in world.receivers.values():
            receiver.down = True
        life = await world.live()
        await world.fail("f", life=life)
        await asyncio.sleep(5.0)
        await life.couriers.adopt([mapping("post:0")], 1.0)
        for receiver in world.receivers.values():
            receiver.down = False
        await asyncio.sleep(100.0)
        assert [line.destination for line in await world.store.outbox.waiting()] == ["post:1"]
        await life.couriers.adopt([], 1.0)
        await life.couriers.adopt([world.mapping], 1.0)
        await world.emptied(100.0)
        await life.couriers.aclose()
        world.check()

    play(scene)


def test_nothing_is_asked_of_the_store_without_destinations_and_one_thing_a_second_otherwise() -> None:
    async def scene(world: PostalWorld) -> None:
        life = await world.live()
        await asyncio.sleep(100.0)
        assert {name: count for name, count in world.counts.items() if count} == {"waiting done": pytest.approx(100, abs=2)}
        await life.couriers.adopt([], 1.0)
        world.counts.clear()
        await asyncio.sleep(100.0)
        assert not world.counts
        await life.couriers.aclose()

    play(scene)


def test_a_destination_that_cannot_be_opened_says_so_and_is_tried_again() -> None:
    async def scene(world: PostalWorld) -> None:
        broken = [True]
        life = await world.live(fails=lambda: broken[0])
        await world.fail("f", life=life)
        await asyncio.sleep(10.0)
        (line,) = await world.store.outbox.waiting()
        assert line.error == "it cannot be opened" and 2 <= line.attempts <= 5
        broken[0] = False
        await world.emptied(100.0)
        await life.couriers.aclose()

    play(scene, destinations=1)


class Stumbling(Courier):
    """Fails in a way that nobody foresaw, the first time."""

    _stumbled = False

    async def _send(self, page: Any) -> None:
        if not self._stumbled:
            self._stumbled = True
            raise KeyError("a bug")
        await super()._send(page)


def test_a_courier_that_fails_goes_on() -> None:
    async def scene(world: PostalWorld) -> None:
        life = await world.live()
        await world.fail("f", life=life)
        assert 25.0 < await world.emptied(60.0) < 35.0
        await life.couriers.aclose()
        assert life.kind.open_now == 0
        world.check()

    play(scene, courier=Stumbling)


def test_lanes_keep_their_order_and_the_oldest_comes_first() -> None:
    entries = [make_entry(str(n), lane=lane) for n, lane in enumerate("abacb")]
    found = lanes([Delivery(n, each.id, "x", "failure", each) for n, each in enumerate(entries)])
    assert [[each.id for each in lane] for lane in found] == [["0", "2"], ["1", "4"], ["3"]]


def test_waits_double_and_a_person_is_waited_for_longer() -> None:
    waits = [delay(NotConnected(""), n, 1.0) for n in range(1, 12)]
    assert waits[:4] == [1.0, 2.0, 4.0, 8.0] and waits[-1] == 300.0
    assert delay(NotConnected("", permanent=True), 1, 1.0) > 20.0 > delay(NotConnected("", retry_after=7.0, permanent=True), 9, 1.0)
    assert AT_ONCE <= PAGE  # a page keeps all sends busy
