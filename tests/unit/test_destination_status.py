"""What is shown of destinations: on the page, in /readyz, in the metrics, and of several workers once."""

from __future__ import annotations

import asyncio
import json

from poller.admin.health import pages
from poller.cli.status import page
from poller.metrics import MappingCounters, exposition
from poller.status import DaemonStatus, DestinationStatus, MappingStatus
from poller.workers.totals import total
from tests.unit.test_metrics import sample
from tests.unit.test_workers_totals import own, seen, told

LATE = DestinationStatus(
    mapping="orders", name="https://hook", waiting=1200, oldest=940.0, attempts=7, last_error="no route\x1b[2J", damaged=2
)
FINE = DestinationStatus(mapping="orders", name="file:done")
LOST = DestinationStatus(mapping="old-id", name="kafka://gone", waiting=3, oldest=10.0, configured=False)


def status() -> DaemonStatus:
    mapping = MappingStatus(name="orders", state="running", counters=MappingCounters(delivered=9, delivery_failures=7))
    return DaemonStatus(ready=True, mappings=[mapping], destinations=[LATE, FINE, LOST])


def test_the_page_says_what_waits_and_why() -> None:
    lines = page(status(), 1000.0).splitlines()
    (start,) = [number for number, line in enumerate(lines) if line.startswith("DESTINATION")]
    words = [line.split() for line in lines[start + 1 : start + 7]]
    assert (words[0][:3], words[0][-1]) == (["https://hook", "orders", "1,200"], "7")
    assert lines[start + 2].startswith("    no route") and "\x1b" not in lines[start + 2]
    assert lines[start + 3] == (
        "    2 of them cannot be read, and are set aside; to give these up: poller outbox drop https://hook --mapping orders --damaged"
    )
    assert words[3][:3] == ["file:done", "orders", "0"]
    assert words[4][:3] == ["kafka://gone", "old-id", "3"]
    assert lines[start + 6] == (
        "    the configuration names it no more: what waits is kept until it does; to give it up: "
        "poller outbox drop kafka://gone --mapping old-id"
    )


def test_a_destination_that_fails_is_told_and_is_no_reason_to_be_taken_out_of_service() -> None:
    async def told() -> DaemonStatus:
        return status()

    async def asked() -> tuple[int, dict[str, object]]:
        answer = await pages(told, lambda: 1000.0)["/readyz"]()
        return answer.status, json.loads(answer.body)

    code, body = asyncio.run(asked())
    assert (code, body["ready"]) == (200, True)
    # Its error is not for a page that anyone may read.
    assert body["destinations"] == [{"mapping": "orders", "destination": "https://hook", "waiting": 1200, "oldest": 940.0, "damaged": 2}]


def test_the_metrics() -> None:
    text = exposition(status())
    labels = {"mapping": "orders", "destination": "https://hook"}
    assert sample(text, "poller_destination_waiting", **labels) == 1200
    assert sample(text, "poller_destination_failing", **labels) == 1
    assert sample(text, "poller_destination_damaged", **labels) == 2
    assert sample(text, "poller_destination_oldest_timestamp_seconds", **labels) == 940
    assert sample(text, "poller_destination_delivered_event_total", mapping="orders") == 9
    assert sample(text, "poller_destination_delivery_failures_total", mapping="orders") == 7


def test_of_several_workers_the_outbox_is_shown_once() -> None:
    both = total(own(), [seen(1, told(destinations=[LATE])), seen(2, told(destinations=[LATE]))])
    assert both.destinations == [LATE]
    away = total(own(), [seen(1, told(destinations=[], store_error="away")), seen(2, told(destinations=[LATE]))])
    assert away.destinations == [LATE]
