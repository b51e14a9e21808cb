"""One timer for the deadlines of all functions on the loop: each is woken at its own time, and nobody who is done before."""

from __future__ import annotations

import asyncio
import time

import pytest

from handlers.deadlines import Deadlines


async def woken(seconds: list[float], removed: tuple[int, ...] = (), wait: float = 0.2) -> dict[int, float]:
    """After how long each was woken, by number."""
    deadlines, began, found = Deadlines(), time.monotonic(), dict[int, float]()
    loop = asyncio.get_running_loop()
    for number, each in enumerate(seconds):
        waiter: asyncio.Future[None] = loop.create_future()
        waiter.add_done_callback(lambda _, number=number: found.setdefault(number, time.monotonic() - began))  # type: ignore[misc]
        deadlines.add(waiter, each)
        if number in removed:
            deadlines.remove(waiter)
    await asyncio.sleep(wait)
    return found


@pytest.mark.parametrize("seconds", [[0.02, 0.05, 0.08], [0.08, 0.05, 0.02], [0.05, 0.08, 0.02], [-1.0, 0.05]], ids=str)
async def test_each_is_woken_at_its_own_time(seconds: list[float]) -> None:
    found = await woken(seconds)
    assert sorted(found) == list(range(len(seconds)))
    assert all(found[number] >= each for number, each in enumerate(seconds))
    assert sorted(found, key=lambda number: found[number]) == sorted(found, key=lambda number: seconds[number])


async def test_who_is_done_before_is_not_woken() -> None:
    assert list(await woken([0.02, 0.04, 30.0], removed=(0,))) == [1]


async def test_it_goes_on_after_it_found_nothing_to_do() -> None:
    deadlines, loop = Deadlines(), asyncio.get_running_loop()
    for _ in range(3):
        waiter: asyncio.Future[None] = loop.create_future()
        deadlines.add(waiter, 0.01)
        deadlines.remove(waiter)
        await asyncio.sleep(0.02)
        assert not waiter.done()
        deadlines.add(waiter, 0.01)
        await asyncio.wait_for(waiter, 5.0)
        deadlines.remove(waiter)


async def test_who_stopped_waiting_by_itself_is_left_alone() -> None:
    deadlines = Deadlines()
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    deadlines.add(waiter, 0.01)
    waiter.cancel()
    await asyncio.sleep(0.03)
    assert waiter.cancelled()
