"""Where we differ from AWS on purpose, as far as no other test shows it. FIDELITY.md lists all of them."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path

from handlers import python
from poller.mapping import MappingRunner
from poller.protocols import Source
from poller.testing.fakes import FakeRecord, FakeStream
from poller.testing.handlers import Features, HandlerContract
from tests.engine.scenes import FAULT, Queue, Scene, Script, at, over_queue, reporting, source_of, taking, virtually, wall


@virtually
async def test_errors_of_the_function_do_not_lower_the_concurrency() -> None:
    """AWS's pollers slow down. Here a message that fails costs the others nothing; what slows it down is its own wait."""
    script, queue = Script(lambda _: (1.0, FAULT)), Queue(visibility=1000.0)
    over_queue(Scene(script, size=1, concurrency=5, width=5), queue)
    queue.put(*(f"m{number}" for number in range(40)))
    await at(6.5)
    assert Counter(map(int, script.times)) == dict.fromkeys(range(7), 5)


@virtually
async def test_nor_do_partial_failures() -> None:
    """The same as on AWS."""
    script, queue = reporting(*(f"m{number}" for number in range(40))), Queue(visibility=1000.0)
    answer = script.answer
    script.answer = lambda names: (1.0, answer(names)[1])
    over_queue(Scene(script, size=1, concurrency=5, width=5, reporting=True), queue)
    queue.put(*(f"m{number}" for number in range(40)))
    await at(6.5)
    assert Counter(map(int, script.times)) == dict.fromkeys(range(7), 5)


@virtually
async def test_a_batch_is_of_one_lane_whatever_waits_in_others() -> None:
    """AWS's batches of Kafka may mix partitions: one that fails holds up all of them. Kafka's lanes are partitions."""
    names = {lane: [f"{lane}{number}" for number in range(5)] for lane in "abc"}
    records = {lane: [FakeRecord(n, name, b"k", wall()) for n, name in enumerate(given)] for lane, given in names.items()}
    script = taking(1.0)
    scene = Scene(script, size=100, concurrency=1, window=1.0)
    source = source_of(scene, FakeStream(records))

    async def open_source() -> Source:
        return source

    mapping = MappingRunner(scene.work(source.policy), open_source)
    running = asyncio.create_task(mapping.run())
    await script.called(3)
    mapping.stop(asyncio.get_running_loop().time() + 10.0)
    await running
    assert sorted(script.names) == sorted(map(tuple, names.values()))


class Process(HandlerContract):
    features = Features(python.connect)


async def test_what_a_function_leaves_running_goes_on(tmp_path: Path) -> None:
    """Lambda freezes it until the next invocation."""
    source = """
        import threading
        answered = threading.Event()
        def later(pipe):
            answered.wait()
            with open(pipe, "w") as out:
                out.write("done")
        def handle(event, context):
            threading.Thread(target=later, args=(event["pipe"],), daemon=True).start()
            threading.Timer(0.1, answered.set).start()  # when the answer is long written
    """
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with Process().bench(tmp_path, source) as bench:
        assert await bench.result({"pipe": str(pipe)}) is None
        async with asyncio.timeout(20):
            assert await asyncio.to_thread(pipe.read_text) == "done"
