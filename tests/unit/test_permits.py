"""Permits: never more than the limit at once, first come first served, and none lost, whoever gives up waiting and when."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.errors import HandlerError
from poller.functions import Function, Permits
from poller.model import Call, Fault, Response, Returned
from poller.protocols import Event
from poller.settings import FunctionSettings
from poller.testing.clock import run_virtually
from poller.testing.fakes import FakeEvent
from poller.testing.laws import require
from poller.testing.oracle import Broken
from poller.testing.strategies import counter_test, laws

REACHED = Counter[str]()


class Queue:
    """Tasks that want a permit, by number."""

    def __init__(self, permits: Permits) -> None:
        self.permits = permits
        self.served: list[int] = []
        self.tasks: dict[int, asyncio.Task[None]] = {}

    async def _wait(self, number: int) -> None:
        await self.permits.wait()
        self.served.append(number)

    def join(self, number: int) -> asyncio.Task[None]:
        self.tasks[number] = asyncio.get_running_loop().create_task(self._wait(number))
        return self.tasks[number]


async def settled() -> None:
    """Until every task that can run has run: each hand-over takes a turn of the loop or two."""
    for _ in range(5):
        await asyncio.sleep(0)


# --- the law ------------------------------------------------------------------------------------------------------------------------------

STEPS = ("take", "join", "join", "give", "give", "cancel", "cancel first", "turn", "turn")


def law_of_permits(permits: type[Permits]) -> None:
    """Takes, waits, gives and cancellations in any order, some within one turn of the loop, against a plain count and a queue."""

    @laws(400)
    @given(st.integers(1, 3), st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 5)), max_size=40))
    def holds(limit: int, steps: list[tuple[str, int]]) -> None:
        run_virtually(Run(permits(limit), limit).live(steps))

    holds()


class Run:
    """One order of events. `held` permits are out; `waiting` are in the order in which they must be served."""

    def __init__(self, permits: Permits, limit: int) -> None:
        self.permits, self.limit = permits, limit
        self.queue = Queue(permits)
        self.held = 0
        self.seen = 0
        self.number = 0
        self.waiting: deque[int] = deque()

    async def live(self, steps: list[tuple[str, int]]) -> None:
        for step, choice in steps:
            await self.step(step, choice)
        await self.turn()
        while self.held:
            self.permits.give()
            self.held -= 1
            await self.turn()
        require(not self.waiting, f"{self.waiting} wait for ever")
        require((self.permits.in_use, self.permits.free) == (0, self.limit), f"all are given back: {self.permits!r}")

    async def step(self, step: str, choice: int) -> None:
        match step:
            case "take":
                self.take()
            case "join":
                await self.turn()
                self.number += 1
                self.queue.join(self.number)
                self.waiting.append(self.number)
                await self.turn()
            case "give" if self.held:
                self.permits.give()
                self.held -= 1
            case "cancel" | "cancel first" if self.waiting:
                # Without a turn of the loop since the last give, the first of them may hold a permit that it does not know of.
                number = self.waiting[0 if step == "cancel first" else choice % len(self.waiting)]
                self.waiting.remove(number)
                self.queue.tasks[number].cancel()
                REACHED["cancelled"] += 1
            case "turn":
                await self.turn()

    def take(self) -> None:
        if len(self.queue.served) == self.seen and self.permits.take():
            require(not self.waiting, f"{self.waiting} wait, and one who came later has a permit")
            self.held += 1
            REACHED["taken"] += 1

    async def turn(self) -> None:
        await settled()
        for number in self.queue.served[self.seen :]:
            require(bool(self.waiting) and number == self.waiting[0], f"{number} is served, and {self.waiting} came first")
            self.waiting.popleft()
            self.held += 1
            REACHED["served"] += 1
        self.seen = len(self.queue.served)
        for number, task in self.queue.tasks.items():
            if task.done() and not task.cancelled():
                require(task.exception() is None, f"{number} failed: {task.exception()!r}")
        require(self.held <= self.limit, f"{self.held} of {self.limit} permits are out")
        require(self.held == self.limit or not self.waiting, f"{self.held} of {self.limit} are out, and {self.waiting} wait")
        require(self.permits.in_use == self.held, f"{self.held} are out: {self.permits!r}")
        require(self.permits.waiting == len(self.waiting), f"{len(self.waiting)} wait: {self.permits!r}")


def test_the_law_of_permits() -> None:
    law_of_permits(Permits)


class Unlimited(Permits):
    """Gives whoever asks."""

    def take(self) -> bool:
        self.in_use += 1
        return True


class Unfair(Permits):
    """Serves who came last."""

    def give(self) -> None:
        self._waiting.reverse()
        super().give()
        self._waiting.reverse()


class Pushing(Permits):
    """Lets who asks overtake who waits."""

    def give(self) -> None:
        self.in_use -= 1
        if self._waiting and self._waiting[0].done():
            self._waiting.popleft()

    async def wait(self) -> None:
        while not self.take():
            await asyncio.sleep(0)


class Losing(Permits):
    """Loses the permit of who was cancelled after it was granted."""

    async def wait(self) -> None:
        if self.take():
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter


@pytest.mark.parametrize("broken", [Unlimited, Unfair, Pushing, Losing])
@pytest.mark.counterpart
def test_the_law_of_permits_finds_out(broken: type[Permits]) -> None:
    with pytest.raises(Broken), counter_test():
        law_of_permits(broken)


# --- tables -------------------------------------------------------------------------------------------------------------------------------


async def test_first_come_first_served() -> None:
    permits = Permits(1)
    await permits.wait()
    queue = Queue(permits)
    for number in (1, 2, 3):
        queue.join(number)
    await settled()
    assert (permits.waiting, permits.free) == (3, 0)
    for number in (1, 2, 3):
        permits.give()
        assert not permits.take(), "a permit goes straight to who waits"
        await settled()
        assert queue.served[-1] == number
    permits.give()
    assert (permits.in_use, permits.free) == (0, 1)


async def test_who_gives_up_waiting_leaves_the_queue() -> None:
    permits = Permits(1)
    permits.take()
    queue = Queue(permits)
    gone, stays = queue.join(1), queue.join(2)
    await settled()
    gone.cancel()
    await settled()
    assert gone.cancelled() and permits.waiting == 1
    permits.give()
    await stays
    assert queue.served == [2]


async def test_who_is_cancelled_with_a_permit_in_hand_passes_it_on() -> None:
    permits = Permits(1)
    permits.take()
    queue = Queue(permits)
    gone, stays = queue.join(1), queue.join(2)
    await settled()
    permits.give()  # to the first, which does not know it yet
    gone.cancel()
    await stays
    assert gone.cancelled() and queue.served == [2] and permits.in_use == 1


async def test_a_permit_that_comes_while_who_waits_is_being_cancelled_is_not_lost() -> None:
    """Both within one turn of the loop: a lane is left, and in the same moment an invocation ends."""
    permits = Permits(1)
    permits.take()
    queue = Queue(permits)
    gone = queue.join(1)
    await settled()
    gone.cancel()
    permits.give()
    await asyncio.wait((gone,))
    assert gone.cancelled(), f"it is cancelled, and nothing else: {gone!r}"
    assert permits.take()


@pytest.mark.parametrize("limit", [1, 3])
async def test_never_more_than_the_limit_at_once(limit: int) -> None:
    permits, running, most = Permits(limit), 0, 0

    async def work() -> None:
        nonlocal running, most
        await permits.wait()
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        permits.give()

    await asyncio.gather(*[work() for _ in range(20)])
    assert (most, permits.in_use, permits.waiting) == (limit, 0, 0)


class Handler:
    def __init__(self, answer: Callable[[], Awaitable[Response]]) -> None:
        self._answer = answer

    async def invoke(self, event: Event, call: Call) -> Response:
        return await self._answer()

    async def aclose(self) -> None:
        return None


async def invoked(answer: Callable[[], Awaitable[Response]], folder: object) -> Response:
    function = Function(FunctionSettings("orders", "app.handle", folder, concurrency=2), Handler(answer))  # type: ignore[arg-type]
    assert (function.name, function.permits.limit) == ("orders", 2)
    return await function.invoke(FakeEvent([]), Call("id", 0.0, 3.0))


async def test_a_function_answers_what_its_handler_does(tmp_path: object) -> None:
    async def answer() -> Response:
        return Returned(b"1")

    assert await invoked(answer, tmp_path) == Returned(b"1")


async def test_a_bug_of_a_handler_is_a_failed_attempt(tmp_path: object, caplog: pytest.LogCaptureFixture) -> None:
    async def answer() -> Response:
        raise KeyError("slot")

    fault = await invoked(answer, tmp_path)
    assert isinstance(fault, Fault) and (fault.kind, fault.type) == ("error", "Handler.KeyError")
    assert [record.getMessage() for record in caplog.records] == ["the handler of function orders failed"]


@pytest.mark.parametrize("error", [HandlerError("no such interpreter"), asyncio.CancelledError()])
async def test_what_is_no_attempt_goes_through(tmp_path: object, error: BaseException) -> None:
    async def answer() -> Response:
        raise error

    with pytest.raises(type(error)):
        await invoked(answer, tmp_path)


def test_the_law_of_permits_reached_everything(tell: Callable[[str], None]) -> None:
    if not REACHED:
        pytest.skip("the law did not run")
    tell("permits: " + ", ".join(f"{what} {count}" for what, count in sorted(REACHED.items())))
    assert all(REACHED[what] for what in ("taken", "served", "cancelled"))
