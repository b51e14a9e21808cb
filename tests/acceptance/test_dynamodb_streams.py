"""A table's stream with the daemon as a process: AWS's event, poison records, a stop in the middle, and the stream turned off and on."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.acceptance.harness import Site
from tests.acceptance.shards import Table

pytestmark = [pytest.mark.slow, pytest.mark.servers]

FAIL = json.dumps({"do": "fail"})
SOON: dict[str, Any] = {"retry_backoff": {"initial": "10ms", "maximum": "20ms"}, "maximum_retry_attempts": 1}


def test_a_poison_record_is_kept_and_the_next_daemon_goes_on_without_repeats(site: Site, dynamodb: str) -> None:
    orders = Table(dynamodb)
    site.write(site.function(), site.mapping("orders", orders.source, batch_size=10, **SOON))
    good, later = [f"m{n}" for n in range(40)], [f"later{n}" for n in range(20)]
    orders.fill([*good[:20], FAIL, *good[20:]])
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
    assert (row.entry.reason, row.entry.attempts) == ("RetryAttemptsExhausted", 2)
    (kept,) = row.entry.records
    element = json.loads(kept.json)
    assert re.fullmatch(r"[0-9a-f-]+", element.pop("eventID"))
    change = element["dynamodb"]
    assert change.pop("ApproximateCreationDateTime") > 1.7e9
    assert change.pop("SequenceNumber").isdigit() and change.pop("SizeBytes") > 0
    stream = orders.run(lambda client: client.stream(orders.name))
    assert element == {
        "eventName": "INSERT",
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "ddblocal",
        "dynamodb": {
            "Keys": {"id": {"S": FAIL}},
            "NewImage": {"id": {"S": FAIL}, "body": {"S": FAIL}},
            "StreamViewType": "NEW_AND_OLD_IMAGES",
        },
        "eventSourceARN": stream,
    }


def test_a_stream_that_is_turned_off_and_on_goes_on_with_the_next_one(site: Site, dynamodb: str) -> None:
    """What the first one still has comes before; each record names its own stream; nothing is repeated."""
    orders = Table(dynamodb)
    site.write(site.function(environment={"SLOW": "0.2"}), site.mapping("orders", orders.source, batch_size=5, **SOON))
    first, second, third = ([f"{name} {n}" for n in range(20)] for name in ("first", "second", "third"))
    orders.fill([*first, FAIL])
    with site.daemon() as daemon:
        daemon.until(lambda: bool(site.bodies("begun")))
        before = orders.run(lambda client: client.stream(orders.name))
        orders.run(lambda client: client.disable(orders.name))
        after = orders.run(lambda client: client.enable(orders.name))
        orders.fill([*second, json.dumps({"do": "fail", "n": 2})])
        daemon.until(lambda: site.handled(*second), 60)
        daemon.stop()
        assert f"{after} is read from its beginning" in daemon.log
    orders.fill(third)
    with site.daemon() as daemon:
        daemon.until(lambda: site.handled(*third))
        daemon.stop()
    assert [body for each in site.testimony("ended") for body in each.bodies] == [*first, *second, *third]
    told = [json.loads(record.json)["eventSourceARN"] for row in site.journal() for record in row.entry.records]
    assert told == [before, after]
