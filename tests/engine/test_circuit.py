"""A function that fails whatever it is given: few invocations, no attempt spent, and everything handled once it is well."""

from __future__ import annotations

import asyncio
from collections import Counter

from connectors.sqs.format import SqsFormat
from connectors.sqs.lane import SqsLane
from connectors.sqs.queue import Queue as SqsQueue
from poller.failures.journal import Selection
from poller.model import Fault
from poller.settings import Backoff, BreakerSettings
from poller.testing.fakes import FakeQueueLane, Gate
from poller.testing.sqs import FakeSqs
from tests.engine.scenes import (
    DONE,
    KEY,
    Queue,
    Running,
    Scene,
    Script,
    Stream,
    at,
    block,
    failing,
    now,
    over_queue,
    over_stream,
    redeliver,
    virtually,
)

OUTAGE = Fault("error", "ConnectionError", "no route to the database")
BREAKER = BreakerSettings()


def broken_until(moment: float, *poison: str) -> Script:
    """A function that fails for everything until then; afterwards for what is poison."""
    return Script(lambda names: (0.01, OUTAGE if now() < moment or set(poison) & set(names) else DONE))


def handled(script: Script, since: float) -> list[str]:
    return [name for call in script.calls if call.at >= since for name in call.names]


def is_open(scene: Scene) -> bool:
    return scene.circuit.open


def keyed(count: int) -> Stream:
    stream = Stream()
    for number in range(count):
        stream.add(f"m{number}", key=f"key {number}")
    return stream


@virtually
async def test_a_stream_waits_out_an_outage_of_an_hour_and_gives_up_nothing() -> None:
    script = broken_until(3000.0)
    scene = Scene(script, size=10, width=8, concurrency=8, retries=1, breaker=BREAKER)
    await over_stream(scene, keyed(200))
    await at(4.0)
    begun = len(script.calls)
    assert begun <= 8 + 4 and is_open(scene)
    await at(3000.0)
    probes = script.times[begun:]
    assert [round(probe) for probe in probes[:5]] == [5, 15, 35, 75, 135]
    assert len(probes) <= 5 + 3000 / 60 and scene.counters.opened == 1
    await at(3100.0)
    assert not is_open(scene)
    assert Counter(handled(script, 3000.0)) == Counter(f"m{number}" for number in range(200))
    assert scene.store.journal.kept == [] and scene.counters.discards == 0


@virtually
async def test_messages_of_a_queue_are_received_once_for_the_outage_and_once_to_be_handled() -> None:
    script, queue = broken_until(1000.0), Queue(visibility=30.0)
    scene = Scene(script, size=2, width=6, concurrency=6, breaker=BREAKER)
    queue.put(*(f"m{number}" for number in range(100)))
    over_queue(scene, queue, redeliver(maximum_receives=3))
    await at(900.0)
    assert is_open(scene) and len(script.calls) <= 6 + 20
    assert len(queue.messages) == 100
    await at(1200.0)
    assert queue.messages == [] and len(queue.deleted) == 100
    assert scene.store.journal.kept == []
    assert max(queue.receives.values()) <= 2, "but for what was held: that was received once"


@virtually
async def test_messages_that_wait_for_their_batch_are_free_for_other_workers() -> None:
    script, queue = broken_until(1000.0), Queue(visibility=300.0)
    queue.put(*(f"m{number}" for number in range(13)))
    running = over_queue(Scene(script, size=2, width=6, window=60.0, concurrency=6, breaker=BREAKER), queue)
    await at(1.0)
    assert running.lane.strands.waiting == 0
    assert [message.name for message in queue.messages if message.visible_at <= queue.clock()] == ["m12"]


@virtually
async def test_a_message_at_its_limit_is_held_not_given_back() -> None:
    script, queue = broken_until(300.0), Queue(visibility=30.0)
    scene = Scene(script, size=1, width=6, concurrency=6, breaker=BREAKER)
    queue.put(*(f"m{number}" for number in range(20)))
    over_queue(scene, queue, redeliver(maximum_receives=1))
    await at(290.0)
    assert is_open(scene)
    gone = [name for _, names in scene.store.journal.kept for name in names]
    await at(600.0)
    assert len(queue.deleted) == 20
    assert len(gone) < 5 and [name for _, names in scene.store.journal.kept for name in names] == gone, "what failed before it opened"


@virtually
async def test_poison_records_never_open_it() -> None:
    script = failing("m3", "m40", "m41")
    scene = Scene(script, size=10, width=4, concurrency=4, retries=3, breaker=BREAKER)
    stream = keyed(400)
    await over_stream(scene, stream)
    await at(600.0)
    assert scene.counters.opened == 0
    assert sorted(names for _, names in scene.store.journal.kept) == [("m3",), ("m40",), ("m41",)]
    assert not scene.circuit.alert, "it has forgotten them, and hears of no success any more"


@virtually
async def test_a_poison_record_does_not_hide_that_the_function_is_well() -> None:
    """One strand has it as its first record, and every strand probes in its turn."""
    script = broken_until(20.0, "m0")
    scene = Scene(script, size=1, width=6, concurrency=6, retries=1, backoff=Backoff(1.0, 1.0), breaker=BREAKER)
    await over_stream(scene, keyed(30))
    await at(200.0)
    assert not is_open(scene) and scene.counters.opened == 1
    assert [names for _, names in scene.store.journal.kept] == [("m0",)]
    assert len(set(handled(script, 20.0))) == 30


@virtually
async def test_a_batch_is_bisected_by_its_probes_so_one_strand_gets_past_its_poison() -> None:
    script = broken_until(600.0, "m5")
    scene = Scene(script, size=8, retries=0, breaker=BREAKER)
    await over_stream(scene, keyed(24))
    await at(599.0)
    assert is_open(scene)
    given_up = scene.counters.discards
    assert given_up == 4, "on one strand nothing else tells the function from the record"
    await at(1000.0)
    assert not is_open(scene) and scene.counters.discards == given_up + 1


@virtually
async def test_its_patience_over_attempts_count_again() -> None:
    """Else a strand whose first record is poison, and has no other to probe with, would stand still for ever."""
    script = Script(lambda _: (0.0, OUTAGE))
    settings = BreakerSettings(patience=100.0)
    scene = Scene(script, size=1, retries=1, backoff=Backoff(1.0, 1.0), breaker=settings)
    await over_stream(scene, keyed(8))
    await at(20.0)
    assert is_open(scene) and scene.counters.discards == 4
    await at(99.0)
    assert scene.counters.discards == 4
    await at(1000.0)
    assert is_open(scene) and len(scene.store.journal.kept) == 8
    assert {row.entry.attempts for row in await scene.store.journal.select(Selection())} <= {2, 3}


@virtually
async def test_what_waits_at_an_open_breaker_is_left_at_once_with_its_attempts() -> None:
    script, stream = broken_until(50.0), keyed(20)
    scene = Scene(script, size=1, width=6, concurrency=6, retries=1, breaker=BREAKER)
    first = await over_stream(scene, stream)
    await at(12.0)
    assert is_open(scene)
    assert await first.left(25.0) == 12.0
    saved = await scene.store.checkpoints.load(KEY)
    assert saved is not None and {(span.attempts, span.running) for span in saved.spans} <= {(0, False), (1, False)}
    await at(60.0)
    second = Scene(script, size=1, width=6, concurrency=6, retries=1, store=scene.store, breaker=BREAKER)
    await over_stream(second, stream, "b")
    await at(100.0)
    assert Counter(handled(script, 50.0)) == Counter(f"m{number}" for number in range(20)) and scene.store.journal.kept == []


@virtually
async def test_a_queue_left_while_it_is_open_is_given_back_and_one_batch_is_read_to_probe_with() -> None:
    script, queue = broken_until(60.0), Queue(visibility=30.0)
    scene = Scene(script, size=3, width=6, concurrency=6, breaker=BREAKER)
    queue.put(*(f"m{number}" for number in range(60)))
    first = over_queue(scene, queue)
    await at(8.0)
    assert is_open(scene)
    assert await first.left(25.0) == 8.0
    before = len(script.calls)
    Running(FakeQueueLane(queue, 6, Gate("life")), scene.work(redeliver()))
    await at(34.0)
    assert [len(call.names) for call in script.calls[before:]] == [3], "nothing is read but one batch, when a probe is due"
    await at(200.0)
    assert len(queue.deleted) == 60


@virtually
async def test_groups_keep_their_order_over_an_outage() -> None:
    script, queue = broken_until(100.0), Queue(visibility=30.0, fifo=True)
    scene = Scene(script, size=2, width=6, concurrency=6, breaker=BREAKER)
    for number in range(60):
        queue.put(f"m{number:02}", group=f"group {number % 12}")
    over_queue(scene, queue, redeliver(maximum_receives=4, groups=True))
    await at(90.0)
    assert is_open(scene)
    await at(600.0)
    assert len(queue.deleted) == 60 and scene.store.journal.kept == []
    well = handled(script, 100.0)
    for group in range(12):
        mine = [name for name in well if int(name[1:]) % 12 == group]
        assert mine == sorted(mine)


@virtually
async def test_a_person_closes_it_at_once() -> None:
    script = broken_until(10.0)
    scene = Scene(script, size=1, width=6, concurrency=6, breaker=BREAKER)
    await over_stream(scene, keyed(12))
    await at(11.0)
    shown = scene.circuit.shown(1_000.0)
    assert shown is not None
    assert (shown.state, shown.error, shown.probes) == ("open", "ConnectionError: no route to the database", 1)
    assert (round(1_000.0 - shown.since), round(shown.next_probe - 1_000.0)) == (11, 4)
    assert scene.circuit.reset("ann") and not scene.circuit.reset("ann")
    await at(12.0)
    assert len(set(handled(script, 10.0))) == 12 and scene.circuit.shown(1_000.0) is None


@virtually
async def test_nobody_else_probes_while_one_does_and_a_probe_that_is_left_is_no_answer() -> None:
    running = asyncio.Event()

    def answer(_: tuple[str, ...]) -> tuple[float, Fault]:
        if now() > 1.0:
            running.set()
        return (30.0 if now() > 1.0 else 0.0), OUTAGE

    script = Script(answer)
    scene = Scene(script, size=1, width=6, concurrency=6, breaker=BREAKER)
    lane = await over_stream(scene, keyed(12))
    await running.wait()
    before = len(script.calls)
    await at(20.0)
    shown = scene.circuit.shown(0.0)
    assert len(script.calls) == before and shown is not None and shown.state == "half-open"
    assert await lane.left(1.0) == 21.0
    shown = scene.circuit.shown(0.0)
    assert shown is not None and (shown.state, shown.probes) == ("open", 0)


@virtually
async def test_without_settings_it_never_opens() -> None:
    scene = Scene(Script(lambda _: (0.0, OUTAGE)), size=1, retries=0)
    await over_stream(scene, keyed(30))
    await at(100.0)
    assert len(scene.store.journal.kept) == 30 and scene.counters.opened == 0
    assert block(scene).maximum_retry_attempts == 0


@virtually
async def test_a_lane_of_sqs_holds_under_heartbeat_what_failed_and_lets_go_of_the_rest() -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders", visibility=20)
    for number in range(30):
        sqs.send(queue, f"order {number}")
    script = broken_until(500.0)
    scene = Scene(script, size=2, width=6, concurrency=6, breaker=BREAKER)
    found = SqsQueue(queue.url, queue.arn, queue.visibility)
    lane = SqsLane(sqs, found, SqsFormat(found.arn, found.region), 6, 2, 4, 5)
    Running(lane, scene.work(redeliver(maximum_receives=3)))
    await at(490.0)
    assert is_open(scene) and len(queue.messages) == 30
    assert 0 < lane.held <= 6 * 2
    await at(700.0)
    assert (queue.messages, lane.held, scene.store.journal.kept, lane.expired) == ([], 0, [], 0)


@virtually
async def test_what_fails_while_its_queue_is_left_does_not_wait_for_a_probe() -> None:
    script, queue = Script(lambda _: (5.0, OUTAGE)), Queue(visibility=300.0)
    queue.put(*(f"m{number}" for number in range(6)))
    running = over_queue(Scene(script, size=1, width=6, concurrency=6, breaker=BREAKER), queue)
    await at(3.0)
    assert await running.left(100.0) == 5.0
    assert sum(message.visible_at <= queue.clock() for message in queue.messages) == 2, "what was spared is given back at once"


@virtually
async def test_a_message_that_may_not_be_given_back_does_not_keep_a_queue_from_being_left() -> None:
    script, queue = broken_until(1000.0), Queue(visibility=300.0)
    queue.put(*(f"m{number}" for number in range(13)))
    running = over_queue(Scene(script, size=2, width=6, window=60.0, concurrency=6, breaker=BREAKER), queue, redeliver(maximum_receives=1))
    await at(3.0)
    assert running.lane.strands.waiting == 1
    assert await running.left(100.0) == 3.0
