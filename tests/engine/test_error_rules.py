"""Error rules and guided splits in the engine: what is given up, what waits, and how a mapping pauses itself."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from poller.failures.journal import Selection
from poller.mapping import MappingRunner
from poller.model import Fault
from poller.pause import Pauses, watch
from poller.policy import Redeliver
from poller.protocols import Source
from poller.settings import Backoff, BreakerSettings, ErrorRule
from poller.testing.fakes import FakeQueueSource, FakeStream, Gate
from tests.engine.scenes import DONE, FAULT, Queue, Scene, Script, Stream, at, block, now, over_stream, source_of, virtually, wall

EXPIRED = Fault("error", "AuthError", "the token has expired")
PAUSE = (ErrorRule("Auth*", "pause"),)
WHO = 'the error rule "Auth*" (AuthError: the token has expired)'


def refused_until(moment: float, *names: str) -> Script:
    """A function that may not do its work for these, until then."""
    return Script(lambda called: (0.5, EXPIRED if now() < moment and set(called) & set(names) else DONE))


class Worker:
    """A mapping as a daemon runs it, with a way to pause itself."""

    def __init__(self, scene: Scene, feed: FakeStream | Queue) -> None:
        self.pauses = Pauses(scene.store, "a", wall)
        queues = Redeliver(5, None, None, False, errors=scene.errors)
        work, look = scene.work(block(scene) if isinstance(feed, FakeStream) else queues), asyncio.Event()
        work.pause = self.pauses.putter("orders", look.set)

        async def opened() -> Source:
            return source_of(scene, feed) if isinstance(feed, FakeStream) else FakeQueueSource(feed, queues, scene.width, Gate("a"))

        self.mapping = MappingRunner(work, opened, pause_kept=lambda: self.pauses.load("orders"))
        self.task = asyncio.create_task(self.mapping.run())
        self._watch = asyncio.create_task(watch(self.mapping, self.pauses, lambda: 25.0, look))

    @property
    def state(self) -> str:
        return self.mapping.state

    async def stop(self) -> None:
        self._watch.cancel()
        self.mapping.stop(asyncio.get_running_loop().time())
        await self.task
        with suppress(asyncio.CancelledError):
            await self._watch


async def given_up(scene: Scene) -> list[tuple[tuple[str, ...], str, int]]:
    """Names, reason, attempts of every row."""
    rows = [row.entry for row in await scene.store.journal.select(Selection(states=()))]
    return [(tuple(record.id for record in entry.records), entry.reason, entry.attempts) for entry in rows]


# --- pause ----------------------------------------------------------------------------------------------------------------------------


@virtually
async def test_an_error_pauses_its_mapping_and_costs_no_attempt() -> None:
    script = refused_until(100.0, "m2", "m3")
    scene = Scene(script, size=1, retries=0, errors=PAUSE)
    worker = Worker(scene, Stream("m1", "m2", "m3"))
    await at(90)
    pause = worker.mapping.paused
    assert worker.mapping.state == "paused" and pause is not None and (pause.by, pause.until) == (WHO, 0.0)
    assert script.names == [("m1",), ("m2",)], "it begins nothing more, and does not try again by itself"
    await worker.pauses.end("orders")
    await at(99)
    assert worker.mapping.state == "paused" and script.names == [("m1",), ("m2",), ("m2",)], "resumed too soon, it pauses again"
    await at(101)
    await worker.pauses.end("orders")
    await at(130)
    assert script.names == [("m1",), ("m2",), ("m2",), ("m2",), ("m3",)] and await given_up(scene) == []
    await worker.stop()


@virtually
async def test_a_pause_outlives_the_worker_that_asked_for_it() -> None:
    script, stream = refused_until(100.0, "m1"), Stream("m1")
    scene = Scene(script, size=1, retries=0, errors=PAUSE)
    first = Worker(scene, stream)
    await at(20)
    await first.stop()
    second = Worker(scene, stream)
    await at(60)
    assert second.mapping.state == "paused" and script.names == [("m1",)]
    await second.stop()


@virtually
async def test_while_the_store_is_away_the_batch_waits_and_nothing_is_settled() -> None:
    script = refused_until(1000.0, "m1")
    scene = Scene(script, size=1, errors=PAUSE)
    worker = Worker(scene, Stream("m1", "m2"))
    await at(0.2)
    scene.store.fail(True)
    await at(60)
    assert script.names == [("m1",)] and worker.state == "running"
    scene.store.fail(False)
    await at(80)
    assert script.names == [("m1",)] and worker.state == "paused"
    await worker.stop()


@virtually
async def test_a_queue_s_message_comes_again_once_the_mapping_is_resumed() -> None:
    script, queue = refused_until(100.0, "m1"), Queue()
    queue.put("m1")
    scene = Scene(script, size=1, errors=PAUSE)
    worker = Worker(scene, queue)
    await at(99)
    assert worker.mapping.state == "paused" and script.names == [("m1",)]
    await at(101)
    await worker.pauses.end("orders")
    await at(140)
    assert script.names == [("m1",), ("m1",)] and queue.receives == {"m1": 2} and await given_up(scene) == []
    await worker.stop()


# --- discard and retry ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ruled", [True, False])
@virtually
async def test_what_is_the_record_s_fault_opens_no_circuit(ruled: bool) -> None:
    bad = [f"m{n}" for n in range(30)]
    script = Script(lambda names: (0.01, FAULT if set(bad) & set(names) else DONE))
    errors = (ErrorRule("ValueError", "discard"),) if ruled else ()
    scene, stream = Scene(script, size=1, retries=0, breaker=BreakerSettings(), errors=errors), Stream()
    for name in (*bad, "good"):
        stream.add(name, key=name)
    running = await over_stream(scene, stream)
    await at(4)
    if ruled:
        assert await given_up(scene) == [((name,), "ErrorDiscarded", 1) for name in bad] and script.names[-1] == ("good",)
    assert (scene.counters.opened, scene.circuit.open) == ((0, False) if ruled else (1, True))
    await running.left()


@virtually
async def test_a_rule_has_its_own_limit_and_backoff() -> None:
    slow = Fault("error", "Throttled", "slow down")
    script = Script(lambda names: (0.0, slow if "slow" in names else FAULT if "bad" in names else DONE))
    rule = ErrorRule("Throttled: slow*", "retry", 3, backoff=Backoff(20.0, 40.0), bisect=False)
    scene, stream = Scene(script, size=2, retries=0, backoff=Backoff(1.0, 1.0), errors=(rule,)), Stream("slow", "m1", "bad", "m2")
    running = await over_stream(scene, stream)
    await at(60)
    assert script.names[:4] == [("slow", "m1")] * 4 and script.times[:4] == [0.0, 10.0, 30.0, 50.0], "half of 20, 40, 40"
    assert script.names[4:] == [("bad", "m2"), ("bad",), ("m2",)]
    assert await given_up(scene) == [(("slow", "m1"), "RetryAttemptsExhausted", 4), (("bad",), "RetryAttemptsExhausted", 1)]
    await running.left()


# --- guided splits ----------------------------------------------------------------------------------------------------------------------


def naming(bad: str, **said: Any) -> Script:
    def answer(names: tuple[str, ...]) -> tuple[float, Any]:
        return 0.0, replace(FAULT, **(said or {"record_index": names.index(bad)})) if bad in names else DONE

    return Script(answer)


@virtually
async def test_an_error_that_names_its_record_is_split_there() -> None:
    script = naming("m6")
    scene = Scene(script, size=10, retries=1)
    running = await over_stream(scene, Stream(*(f"m{n}" for n in range(10))))
    await at(60)
    assert [len(names) for names in script.names] == [10, 6, 1, 1, 3] and script.names[2:4] == [("m6",), ("m6",)]
    assert await given_up(scene) == [(("m6",), "RetryAttemptsExhausted", 2)], "a part has attempts of its own"
    await running.left()


@virtually
async def test_a_worker_that_dies_between_the_parts_leaves_them_to_the_next() -> None:
    script = naming("m6")
    scene, stream = Scene(script, size=10, retries=3, backoff=Backoff(100.0, 100.0)), Stream(*(f"m{n}" for n in range(10)))
    running = await over_stream(scene, stream)
    await at(20)
    assert [len(names) for names in script.names] == [10, 6, 1]
    assert [(span.first, span.last, span.attempts) for span in scene.store.checkpoints.last.spans] == [(6, 6, 1), (7, 9, 0)]
    await running.left()
    running = await over_stream(scene, stream, "b")
    await at(900)
    assert [len(names) for names in script.names] == [10, 6, 1, 1, 1, 1, 3], "four attempts of the one, over both lives"
    await running.left()


@virtually
async def test_along_keys_what_belongs_together_runs_together() -> None:
    script = naming("c1", record_index=99)
    scene, stream = Scene(script, size=8, retries=0, bisect="key"), Stream()
    for name in ("a1", "a2", "a3", "b1", "a4", "c1", "c2", "c3"):
        stream.add(name, key=name[0])
    running = await over_stream(scene, stream)
    await at(60)
    assert ["".join(name[0] for name in names) for names in script.names] == ["aaabaccc", "aaaba", "ccc", "cc", "c", "c", "c"]
    assert await given_up(scene) == [(("c1",), "RetryAttemptsExhausted", 1)]
    await running.left()
