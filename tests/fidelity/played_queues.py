"""The recorded mappings of queues, each played on a broker and compared with its recording: what was invoked, with what, and when."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

from tests.fidelity.cases import Case
from tests.fidelity.parameters import configured, of, scaled
from tests.fidelity.queues import Broker, Dead, Queue, Sent, emptied, messages_of, text
from tests.fidelity.shapes import Likeness, events_in
from tests.fidelity.stage import Recorder, Stage, answer_of, receives


class Played:
    """A mapping of a case over a queue of its own."""

    def __init__(self, case: Case, queue: Queue, stage: Stage, function: Recorder) -> None:
        self.case, self.queue, self.stage, self.function = case, queue, stage, function

    @classmethod
    async def on(cls, broker: Broker, case: Case, folder: Path, sleep: float = 0.0) -> Played:
        config = case["config"]
        queue = await broker.create(config.get("queue", {}))
        table = of(case, queue.source, broker.second)
        concurrency = config.get("ReservedConcurrentExecutions", 10)
        stage = Stage(configured(folder, table, concurrency=concurrency))
        return cls(case, queue, stage, Recorder(answer_of(case), sleep * broker.second))

    def start(self) -> None:
        self.stage.run(self.function, open_source=self.queue.open)

    async def to_the_end(self) -> None:
        """Until the queue is empty, and the mapping was stopped."""
        await emptied(self.queue)
        await self.stage.stop()


def likeness(case: Case, function: Recorder) -> Likeness:
    """Every event that was recorded is like the one that the function got."""
    like, found = Likeness(), list[str]()
    for key, value in case.get("observed", {}).items():
        # "first_attempt", "second_invocation"; else all of them.
        number = {"first": 0, "second": 1}.get(key.partition("_")[0], 0)
        for event in events_in(value):
            found += like.differences(event, function.invocations[number].event, f"{key} {number}")
            number += 1
    assert found == []
    return like


async def messages(broker: Broker, case: Case, folder: Path) -> None:
    """The group "messages": the event, and that the message is gone after it."""
    played = await Played.on(broker, case, folder)
    (event,) = events_in(case["observed"])
    (element,) = event["Records"]
    given = case["input"]
    await played.queue.send(Sent(text(given.get("body", element["body"])), attributes=given.get("MessageAttributes")))
    played.start()
    await played.to_the_end()
    expect = case["expect"]
    (invocation,) = played.function.invocations
    (ours,) = invocation.elements
    likeness(case, played.function)
    if "record_keys" in expect:
        assert list(ours) == expect["record_keys"], "in this order"
        assert sorted(ours["attributes"]) == sorted(expect["attributes_keys"])
        assert ours["messageAttributes"] == expect["messageAttributes"]


async def redelivered(broker: Broker, case: Case, folder: Path) -> None:
    """The group "redelivered": failures, counted and judged by the queue."""
    played = await Played.on(broker, case, folder)
    bodies = [element["body"] for event in events_in(case.get("observed")) for element in event["Records"]]
    sent = messages_of(case, bodies[0] if bodies else None)
    await played.queue.send(*sent)
    played.start()
    if case["expect"].get("dlq_empty_after_first_attempt"):
        await played.function.ended(1)
        assert await played.queue.dead() == []
    await played.to_the_end()
    like = likeness(case, played.function)
    dead = await played.queue.dead()
    check_dead(case, dead, like)
    check_attempts(case, played.function)
    # A failed message comes again when its visibility timeout, counted from its receive, is over; not before.
    visibility = scaled(case["config"]["queue"]["VisibilityTimeout"], broker.second)
    assert visibility >= case["expect"].get("min_seconds_between_attempts", 0) * broker.second
    assert all(next_.began - one.began >= visibility - broker.early for one, next_ in pairwise(played.function.invocations))
    # Ours: what the queue moves away is in the journal too, with the reason.
    rows = await played.stage.rows()
    assert sorted(record.id for row in rows for record in row.entry.records) == sorted(each.id for each in dead)
    assert {row.entry.kept for row in rows} <= {"queue-dlq"}


def check_dead(case: Case, dead: list[Dead], like: Likeness) -> None:
    expect = case["expect"]
    count = expect.get("dlq_messages", expect.get("dlq_messages_after_second", len(expect.get("dlq_bodies", ()))))
    assert len(dead) == count
    recorded = case.get("observed", {})
    parts = recorded.get("dlq_messages") or recorded.get("dlq_response", {}).get("Messages", [])
    bodies = [text(part["Body"]) for part in parts]
    assert sorted(bodies) == sorted(each.body for each in dead if parts)
    for part, body in zip(parts, bodies, strict=True):
        assert like.differences(part["MessageId"], next(each.id for each in dead if each.body == body), "dead") == []


def check_attempts(case: Case, function: Recorder) -> None:
    expect, invocations = case["expect"], function.invocations
    if isinstance(expect.get("invocations"), int):
        assert len(invocations) == expect["invocations"]
    elif "invocations" in expect:
        assert len(invocations) == len(expect["invocations"]), "and no third one"
        for recorded, invocation in zip(expect["invocations"], invocations, strict=True):
            assert [json.loads(element["body"])["message"] for element in invocation.elements] == recorded["messages"]
            assert {receives(element) for element in invocation.elements} == {int(recorded.get("ApproximateReceiveCount", 1))}
    if seen := expect.get("ApproximateReceiveCount_seen"):
        assert [str(receives(element)) for element in function.elements] == seen
    if expect.get("whole_batch_retried"):
        assert [len(invocation.elements) for invocation in invocations] == [len(case["input"]["messages"])] * 2
    if expect.get("same_messageId"):
        assert len({element["messageId"] for element in function.elements}) == 1
    if expect.get("receiptHandle_changes"):
        assert len({element["receiptHandle"] for element in function.elements}) == len(function.elements)


async def batched(broker: Broker, case: Case, folder: Path) -> None:
    """The group "batched": how many batches, and each message once."""
    expect, given = case["expect"], case["input"]
    played = await Played.on(broker, case, folder)
    sent = messages_of(case)
    if given.get("preloaded"):
        await played.queue.send(*sent)
        played.start()
    else:
        played.start()
        await played.queue.send(*sent[:10])
        await played.queue.send(*sent[10:])
    await played.to_the_end()
    settings = played.stage.config.mappings["m"].settings
    assert settings.batching.size == expect.get("accepted_BatchSize", settings.batching.size)
    bodies = [element["body"] for element in played.function.elements]
    assert sorted(bodies) == sorted(message.body for message in sent), "each exactly once"
    assert {receives(element) for element in played.function.elements} == {1}
    assert len(bodies) == expect["records_total"]
    assert len(played.function.invocations) == expect.get("batches", len(played.function.invocations))
    limit = case["config"].get("ScalingConfig", {}).get("MaximumConcurrency")
    assert limit is None or played.function.most <= limit == settings.width


async def one_group(broker: Broker, case: Case, folder: Path) -> None:
    """The group "one group": one message after the other."""
    played = await Played.on(broker, case, folder, case["input"]["handler_sleep_s"])
    sent = messages_of(case)
    await played.queue.send(*sent)
    played.start()
    await played.to_the_end()
    assert played.function.most == case["expect"]["max_concurrent_invocations"]
    assert [element["body"] for element in played.function.elements] == [message.body for message in sent]


async def filtered(broker: Broker, case: Case, folder: Path) -> None:
    """The group "filtered messages": what matches is delivered as it was sent, the rest deleted."""
    expect, given = case["expect"], case["input"]
    played = await Played.on(broker, case, folder)
    wanted = [Sent(text(given["matching"]))]
    unwanted = [Sent(text(given["not_matching"]))] if "not_matching" in given else []
    await played.queue.send(*unwanted, *wanted)
    played.start()
    await played.to_the_end()
    assert len(played.function.invocations) == expect["invocations"]
    assert [element["body"] for element in played.function.elements] == [message.body for message in wanted]
    assert wanted[0].body == expect.get("delivered_body_is_original_string", wanted[0].body)
    likeness(case, played.function)
    assert await played.queue.dead() == [] and await played.stage.rows() == []


Play: TypeAlias = Callable[[Broker, Case, Path], Awaitable[None]]

PLAYS: dict[str, Play] = {
    "messages": messages,
    "redelivered": redelivered,
    "batched": batched,
    "one group": one_group,
    "filtered messages": filtered,
}
"""Group -> how its cases are played."""
