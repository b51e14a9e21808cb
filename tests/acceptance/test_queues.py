"""Queues under load and under failure: nothing is received twice without need, and what always fails ends where it belongs."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.acceptance.harness import Site
from tests.acceptance.queues import Queue, Sqs

pytestmark = pytest.mark.slow

REPORTING = ["ReportBatchItemFailures"]


@pytest.mark.servers
def test_poison_messages_end_in_the_dead_letter_queue_and_in_the_journal(site: Site, sqs: Sqs) -> None:
    poison = {json.dumps({"do": "fail", "n": n}) for n in range(0, 500, 75)}
    good = {f"m{n}" for n in range(500 - len(poison))}
    assert len(poison) == 7
    dead = sqs.create()
    orders = sqs.create(redrive=(dead, 3), visibility=2)
    site.write(
        site.function(handler="app.py:report", concurrency=4),
        site.mapping("orders", sqs.source(orders), function_response_types=REPORTING),
    )
    sqs.send(orders, sorted(good | poison))
    with site.daemon() as daemon:
        daemon.until(lambda: sqs.counts(dead) == (7, 0) and sqs.empty(orders), 60, "all messages have left the queue")
        daemon.stop()
    assert site.bodies("ended").keys() == good
    assert {site.bodies("begun")[each] for each in poison} == {3}
    assert set(sqs.take(dead)) == poison
    rows = [row.entry for row in site.journal()]
    assert {json.loads(record.json)["body"] for row in rows for record in row.records} == poison
    assert sum(len(row.records) for row in rows) == 7
    assert {(row.kept, row.reason, row.attempts, row.fault and row.fault.type) for row in rows} == {
        ("queue-dlq", "MaximumReceiveCountExceeded", 3, "ReportedFailure")
    }


def test_a_busy_function_gets_full_batches_of_messages_received_once(site: Site, queue: Callable[..., Queue]) -> None:
    """A message that waits for a slot is not received again meanwhile, nor does a batch go out before it is full."""
    orders = queue(visibility=2)
    site.write(site.function(concurrency=1, environment={"SLOW": "0.6"}), site.mapping("orders", orders.source, batch_size=10))
    bodies = [f"m{n}" for n in range(80)]
    orders.fill(bodies)
    with site.daemon() as daemon:
        daemon.until(lambda: site.handled(*bodies))
        daemon.until(lambda: orders.left() == 0)
        daemon.stop()
    batches = site.testimony("begun")
    assert [len(each.bodies) for each in batches] == [10] * 8
    assert {count for each in batches for count in each.receives} == {1}


def test_a_function_may_outlive_the_visibility_timeout(site: Site, queue: Callable[..., Queue]) -> None:
    orders = queue(visibility=3)
    site.write(site.function(concurrency=4, timeout="20s", environment={"SLOW": "7"}), site.mapping("orders", orders.source))
    orders.fill(["m1", "m2"])
    with site.daemon() as daemon:
        daemon.until(lambda: site.handled("m1", "m2"))
        daemon.until(lambda: orders.left() == 0)
        daemon.stop()
    assert site.bodies("begun") == {"m1": 1, "m2": 1}
    assert not site.journal()


def test_a_failing_group_holds_up_no_other(site: Site, queue: Callable[..., Queue]) -> None:
    """200 groups of two messages each; one message of one group always fails. Its visibility timeout is longer than this test may take."""
    orders = queue(fifo=True, visibility=120)
    site.write(
        site.function(handler="app.py:report", concurrency=4),
        site.mapping("orders", orders.source, function_response_types=REPORTING),
    )
    fail = json.dumps({"do": "fail"})
    groups = [f"g{n}" for n in range(200)]
    first = {group: f"{group} first" for group in groups} | {"g100": fail}
    orders.fill([first[group] for group in groups] + [f"{group} second" for group in groups], groups * 2)
    others = [text for group in groups if group != "g100" for text in (first[group], f"{group} second")]
    with site.daemon() as daemon:
        daemon.until(lambda: site.handled(*others) and orders.left() == 1, 60, "all other groups are done")
        daemon.stop()
    begun = site.bodies("begun")
    assert {begun[body] for body in others} == {1}
    assert begun[fail] == 1
    order = {body: at for at, body in enumerate(body for each in site.testimony("ended") for body in each.bodies)}
    assert all(order[first[group]] < order[f"{group} second"] for group in groups if group != "g100")


def test_messages_may_hold_anything(site: Site, queue: Callable[..., Queue]) -> None:
    orders = queue()
    site.write(site.function(), site.mapping("orders", orders.source))
    bodies = ["not JSON", '{"broken": ', "null", "[1, 2]", '"text"', "\u00e9\u4e16\U0001f600", "line\nline\ttab", "0"]
    orders.fill(bodies)
    with site.daemon() as daemon:
        daemon.until(lambda: site.handled(*bodies))
        daemon.until(lambda: orders.left() == 0)
        daemon.stop()
    assert site.bodies("ended") == dict.fromkeys(bodies, 1)
    assert not site.journal()
