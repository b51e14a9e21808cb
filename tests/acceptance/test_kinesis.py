"""Kinesis with the daemon as a process: AWS's event, poison records, a stop in the middle, and shards that split and merge meanwhile."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from typing import Any

import pytest

from tests.acceptance.harness import Site
from tests.acceptance.shards import Stream

pytestmark = [pytest.mark.slow, pytest.mark.servers]

FAIL = json.dumps({"do": "fail"})
SOON: dict[str, Any] = {"retry_backoff": {"initial": "10ms", "maximum": "20ms"}, "maximum_retry_attempts": 1}


def in_order(bodies: Sequence[str]) -> None:
    """Of each key ("key number") in the order of its numbers."""
    seen: dict[str, int] = {}
    for key, number in (body.split() for body in bodies):
        assert int(number) > seen.get(key, -1), f"{key} {number} comes after {seen[key]}"
        seen[key] = int(number)


def test_a_poison_record_is_kept_and_the_next_daemon_goes_on_without_repeats(site: Site, kinesis_local: str) -> None:
    orders = Stream(kinesis_local, 2)
    site.write(site.function(concurrency=2), site.mapping("orders", orders.source, batch_size=10, **SOON))
    good, later = [f"m{n}" for n in range(60)], [f"later{n}" for n in range(20)]
    placed = orders.fill([*good[:30], FAIL, *good[30:]])
    with site.daemon() as daemon:
        daemon.until(lambda: site.handled(*good) and len(site.journal()) == 1)
        assert daemon.readyz() == (True, "")
        daemon.stop()
    orders.fill(later)
    with site.daemon() as daemon:
        daemon.until(lambda: site.handled(*later))
        daemon.stop()
    assert site.bodies("ended") == dict.fromkeys([*good, *later], 1)
    (row,) = site.journal()
    shard, number = placed[30]
    assert (row.entry.lane, row.entry.reason, row.entry.attempts) == (shard, "RetryAttemptsExhausted", 2)
    (kept,) = row.entry.records
    element = json.loads(kept.json)
    arrival = element["kinesis"].pop("approximateArrivalTimestamp")
    assert isinstance(arrival, float) and arrival > 1.7e9
    arn = f"arn:aws:kinesis:us-east-1:{element['eventSourceARN'].split(':')[4]}:stream/{orders.name}"
    assert re.fullmatch(r"arn:aws:iam::\d{12}:role/[\w-]+", element.pop("invokeIdentityArn"))
    assert element == {
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": FAIL,
            "sequenceNumber": number,
            "data": base64.b64encode(FAIL.encode()).decode(),
        },
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": f"{shard}:{number}",
        "eventName": "aws:kinesis:record",
        "awsRegion": "us-east-1",
        "eventSourceARN": arn,
    }


def test_shards_split_and_merge_while_they_are_read(site: Site, kinesis_local: str) -> None:
    """All records once, those of a key in order, over two generations of children; a restart in the middle."""
    orders = Stream(kinesis_local, 2)
    site.write(site.function(concurrency=4), site.mapping("orders", orders.source, batch_size=10, parallelization_factor=2))
    keys, put = [f"k{n}" for n in range(12)], list[str]()

    def fill() -> None:
        bodies = [f"{key} {len(put) // len(keys) + n}" for n in range(5) for key in keys]
        orders.fill(bodies, [body.split()[0] for body in bodies])
        put.extend(bodies)

    with site.daemon() as daemon:
        fill()
        first, second = orders.run(lambda client: client.open_shards(orders.name))
        children = orders.run(lambda client: client.split(orders.name, first))
        fill()
        daemon.until(lambda: site.handled(*put))
        orders.run(lambda client: client.merge(orders.name, children[1], second))
        fill()
        daemon.stop()
    fill()
    with site.daemon() as daemon:
        orders.run(lambda client: client.update_shard_count(orders.name, 4))
        fill()
        daemon.until(lambda: site.handled(*put))
        daemon.stop()
    assert site.bodies("ended") == dict.fromkeys(put, 1)
    in_order([body for each in site.testimony("ended") for body in each.bodies])


def test_a_mapping_that_begins_at_the_latest_record_gets_what_comes_after_it_began(site: Site, kinesis_local: str) -> None:
    orders = Stream(kinesis_local, starting_position="LATEST")
    site.write(site.function(), site.mapping("orders", orders.source))
    orders.fill(["before"])
    with site.daemon() as daemon:
        daemon.until(lambda: daemon.readyz()[0])
        orders.fill(["after"])
        daemon.until(lambda: site.handled("after"))
        daemon.stop()
    assert site.bodies("begun") == {"after": 1}
