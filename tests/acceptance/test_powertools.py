"""Powertools for AWS Lambda (Python): what its batch processors and data classes are given, and what they answer, is as on AWS.

The functions (functions/powertools_*.py) are written as its documentation has them. They import nothing of this project.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord

from connectors.kafka.format import KafkaFormat
from handlers import python
from poller.model import Batch, Call, Discard, Outcome, Response, Returned
from poller.outcome import interpret
from poller.policy import Block
from poller.protocols import Event, Format, Handler
from poller.settings import Backoff, FunctionSettings
from poller.testing.laws import retries_of
from tests.acceptance.harness import FUNCTIONS, Site
from tests.acceptance.queues import Queue
from tests.servers.kafka.broker import Kafka
from tests.servers.kafka.client import Blocking, Message

REPORTING = ["ReportBatchItemFailures"]


def order(n: int, do: str = "") -> str:
    return json.dumps({"n": n, "do": do} if do else {"n": n})


# --- queues ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("handler", ["handle", "handle_async", "handle_with_context_manager"])
def test_a_batch_processor_reports_what_failed_and_only_that_comes_again(site: Site, queue: Callable[..., Queue], handler: str) -> None:
    orders = queue(visibility=3)
    site.write(
        site.function(code=FUNCTIONS, handler=f"powertools_sqs.{handler}", concurrency=2),
        site.mapping("orders", orders.source, function_response_types=REPORTING, maximum_receive_count=3),
    )
    good, once, poison = [order(n) for n in range(16)], [order(n, "fail-once") for n in (16, 17)], [order(18, "fail")]
    orders.fill([*good, *once, *poison])
    with site.daemon() as daemon:
        daemon.until(lambda: site.handled(*good, *once) and len(site.journal()) == 1)
        daemon.until(lambda: orders.left() == 0)
        daemon.stop()
    assert site.bodies("ended") == dict.fromkeys([*good, *once], 1)
    begun = site.bodies("begun")
    assert {begun[body] for body in good} == {1}
    assert {begun[body] for body in once} == {2}
    assert begun[poison[0]] == 3
    (row,) = site.journal()
    assert [json.loads(record.json)["body"] for record in row.entry.records] == poison
    # A batch of which all failed is an error of the function: the processor raises then.
    assert row.entry.fault is not None and row.entry.fault.type in {"BatchProcessingError", "ReportedFailure"}
    assert (row.entry.reason, row.entry.attempts) == ("MaximumReceiveCountExceeded", 3)


@pytest.mark.slow
@pytest.mark.parametrize(("handler", "held_up"), [("handle_in_order", True), ("handle_group_by_group", False)])
def test_the_fifo_processor_keeps_the_order_of_a_group(site: Site, queue: Callable[..., Queue], handler: str, held_up: bool) -> None:
    """It stops at the first failure (or at that of a group), and names what it did not come to: all of it comes again, in order."""
    orders = queue(fifo=True, visibility=3)
    site.write(
        site.function(code=FUNCTIONS, handler=f"powertools_sqs.{handler}", concurrency=1),
        site.mapping("orders", orders.source, function_response_types=REPORTING),
    )
    groups = {"a": [order(0), order(1, "fail-once"), order(2), order(3)], "b": [order(10), order(11)], "c": [order(20), order(21)]}
    bodies = [body for group in groups.values() for body in group]
    orders.fill(bodies, [name for name, group in groups.items() for _ in group])
    with site.daemon() as daemon:
        daemon.until(lambda: site.handled(*bodies))
        daemon.until(lambda: orders.left() == 0)
        daemon.stop()
    assert site.bodies("ended") == dict.fromkeys(bodies, 1), "each is handled once"
    ended = [body for each in site.testimony("ended") for body in each.bodies]
    for group in groups.values():
        assert [body for body in ended if body in group] == group
    begun = site.bodies("begun")
    assert all(begun[body] == 2 for body in groups["a"][1:])
    assert begun[groups["a"][0]] == 1
    assert not site.journal()
    assert site.testimony("begun")[0].bodies == bodies, "one batch of all groups at first"
    assert {begun[body] for body in groups["b"] + groups["c"]} == {2 if held_up else 1}


# --- Kafka ------------------------------------------------------------------------------------------------------------------------------

FORMAT: Format = KafkaFormat("b1:9092,b2:9092", "orders", 3)


def record(offset: int, value: bytes | None, key: bytes | None = None, headers: Sequence[tuple[str, bytes]] = ()) -> Any:
    made: Any = ConsumerRecord
    sizes = (-1 if each is None else len(each) for each in (key, value))
    return made("orders", 3, offset, 1763686800123, 0, key, value, None, *sizes, tuple(headers))


class Called:
    """A function in processes of its own."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def respond(self, event: Event) -> Response:
        call = Call(str(uuid.uuid4()), time.time() + 20.0, 20.0)
        async with asyncio.timeout(30.0):
            return await self._handler.invoke(event, call)

    async def result(self, *records: Any) -> Any:
        response = await self.respond(FORMAT.event(records))
        assert isinstance(response, Returned), response
        return json.loads(response.payload)


@asynccontextmanager
async def function(name: str, out: Path) -> AsyncIterator[Called]:
    settings = FunctionSettings("orders", f"powertools_kafka.{name}", FUNCTIONS, timeout=20.0, environment=(("OUT", str(out)),))
    handler = python.connect(settings, lambda *_: None)
    try:
        yield Called(handler)
    finally:
        await handler.aclose()


async def test_the_data_class_reads_every_field(tmp_path: Path) -> None:
    async with function("look", tmp_path / "out") as called:
        seen = await called.result(
            record(7, b"plain", b"key", [("trace", b"\x00\x7f\x80\xff"), ("Empty", b"")]),
            record(9, None, b"gone"),
            record(10, "\u00e9".encode()),
        )
    common = {"topic": "orders", "partition": 3, "timestamp": 1763686800123, "timestamp_type": "CREATE_TIME"}
    assert seen == {
        "source": "SelfManagedKafka",
        "arn": None,
        "servers": ["b1:9092", "b2:9092"],
        "records": [
            {**common, "offset": 7, "key": "key", "value": "plain", "headers": {"trace": "007f80ff", "empty": ""}},
            {**common, "offset": 9, "key": "gone", "value": None, "headers": {}},
            {**common, "offset": 10, "key": None, "value": "\u00e9", "headers": {}},
        ],
    }


async def test_the_consumer_decorator_reads_keys_values_and_headers(tmp_path: Path) -> None:
    async with function("consume", tmp_path / "out") as called:
        seen = await called.result(record(7, b'{"n": 1}', b"key", [("trace", b"\xff")]), record(8, b"[2]"))
    assert seen == [["key", '{"n": 1}', {"trace": "ff"}], [None, "[2]", {}]]


async def test_the_batch_processor_names_records_as_we_do(tmp_path: Path) -> None:
    """All the way down: exactly the named ones are retried, and what always fails is given up alone."""
    policy = Block(2, None, True, Backoff(0.0, 0.0), "listed")
    out = tmp_path / "out"
    out.touch()
    bodies = [order(n) for n in range(5)] + [order(5, "fail-once"), order(6, "fail"), order(7)]
    done: list[list[int]] = []
    given_up: list[tuple[list[int], int]] = []
    batches = [Batch([record(100 + n, body.encode()) for n, body in enumerate(bodies)], FORMAT)]
    outcomes: list[Outcome] = []
    async with function("handle", out) as called:
        while batches:
            batch = batches.pop()
            event = FORMAT.event(batch.records)
            done.append([each.offset for each in batch.records])
            outcomes.append(interpret(await called.respond(event), event, reporting=True))
            actions = policy.decide(batch, outcomes[-1], 0.0, 0.5)
            given_up += [([each.offset for each in a.failure.records], a.failure.attempts) for a in actions if isinstance(a, Discard)]
            batches += reversed([retry.batch for retry in retries_of(actions)])
    assert done == [list(range(100, 108)), [105, 106], [106], [106], [106]]
    assert given_up == [([106], 3)]
    assert [type(each).__name__ for each in outcomes] == ["Partial", "Partial", "Fault", "Fault", "Fault"]


@pytest.mark.slow
@pytest.mark.servers
def test_a_batch_processor_on_a_topic(site: Site, kafka: Kafka, kafka_blocking: Blocking) -> None:
    """The same through the daemon and a broker: 4 partitions, some records fail once, one always."""
    topic = kafka_blocking.run(kafka_blocking.client.create_topic(partitions=4))
    site.write(
        site.function(code=FUNCTIONS, handler="powertools_kafka.handle", concurrency=2),
        site.mapping(
            "orders",
            {"type": "kafka", "bootstrap_servers": [kafka.bootstrap], "topic": topic},
            batch_size=10,
            maximum_retry_attempts=2,
            retry_backoff={"initial": "10ms", "maximum": "50ms"},
            function_response_types=REPORTING,
        ),
    )
    deeds = dict.fromkeys(range(3, 60, 7), "fail-once") | {40: "fail"}
    bodies = [order(n, deeds.get(n, "")) for n in range(60)]
    messages = [Message(body.encode(), b"k%d" % (n % 5)) for n, body in enumerate(bodies)]
    kafka_blocking.run(kafka_blocking.client.produce(topic, messages))
    with site.daemon() as daemon:
        daemon.until(lambda: len(site.journal()) == 1 and site.handled(*(body for n, body in enumerate(bodies) if n != 40)))
        daemon.stop()
    assert site.bodies("ended") == {body: 1 for n, body in enumerate(bodies) if n != 40}, "what is named comes again, and nothing else"
    (row,) = site.journal()
    (kept,) = row.entry.records
    assert base64.b64decode(json.loads(kept.json)["value"]).decode() == bodies[40]
    assert row.entry.reason == "RetryAttemptsExhausted"
