"""When a daemon is ready: the table of the promise "every lane has made progress or has nothing to read"."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import msgspec
import pytest

from poller.metrics import MappingCounters
from poller.status import DaemonStatus, HeadSpan, LaneStatus, MappingStatus, judged, ready

NOW = 1_000_000.0


def lane(**fields: Any) -> LaneStatus:
    return LaneStatus(**{"name": "shard-1", "state": "running", "opened_at": NOW - 5000, "read_at": NOW - 1, **fields})


def mapping(*lanes: LaneStatus, **fields: Any) -> MappingStatus:
    return MappingStatus(**{"name": "orders", "state": "running", "lanes": list(lanes), **fields})


READY = {
    "just read, empty": lane(read_at=NOW - 59),
    "read the very limit ago": lane(read_at=NOW - 60),
    "opened, not read yet": lane(state="opening", opened_at=NOW - 59, read_at=None),
    "settles what it holds": lane(held=10, held_since=NOW - 5000, progressed_at=NOW - 59, read_at=NOW - 5000),
    "holds records since just now, idle for hours before": lane(held=10, held_since=NOW - 1, progressed_at=NOW - 9000),
    "has just settled its last, read long ago": lane(held=0, progressed_at=NOW - 1, read_at=NOW - 500),
    "reconnects for a moment": lane(state="reconnecting", read_at=NOW - 30),
    "ended": lane(state="ended", read_at=NOW - 5000),
    "lost": lane(state="lost", held=5, held_since=NOW - 5000),
    "leaving": lane(state="leaving", held=5, held_since=NOW - 5000),
    "another daemon's": lane(state="elsewhere", read_at=None, opened_at=None),
    "the clock was set back": lane(held=1, held_since=NOW + 500, read_at=NOW + 500),
}

STUCK = {
    "not read": (lane(read_at=NOW - 61), "has not been read for 61 s"),
    "never read": (lane(state="opening", opened_at=NOW - 61, read_at=None), "has not been read for 61 s"),
    "nothing known": (lane(read_at=None, opened_at=None), "has not been read yet"),
    "reads on, settles nothing": (
        lane(held=10, held_since=NOW - 61, read_at=NOW),
        "holds 10 records and has settled none for 61 s",
    ),
    "settled long ago": (lane(held=1, held_since=NOW - 5000, progressed_at=NOW - 100), "holds 1 records and has settled none for 100 s"),
    "reconnecting": (lane(state="reconnecting", read_at=NOW - 90, last_error="refused"), "has not been read for 90 s; refused"),
    "failed": (lane(state="failed", last_error="no such shard"), "failed; no such shard"),
    "retries one batch": (
        lane(
            held=2,
            held_since=NOW - 200,
            head_span=HeadSpan(first="49590", records=2, attempts=7, last_error="ValueError: card 4111", not_before=NOW + 20),
        ),
        "holds 2 records and has settled none for 200 s; 2 from 49590 failed 7 times with ValueError, next attempt in 20 s",
    ),
}


@pytest.mark.parametrize("state", READY.values(), ids=READY)
def test_ready(state: LaneStatus) -> None:
    assert ready(DaemonStatus(mappings=[mapping(state)]), NOW) == (True, [])


@pytest.mark.parametrize(("state", "reason"), STUCK.values(), ids=STUCK)
def test_stuck(state: LaneStatus, reason: str) -> None:
    verdict, reasons = ready(DaemonStatus(mappings=[mapping(lane(name="well"), state)]), NOW)
    assert not verdict
    assert [(it.mapping, it.lane, it.reason) for it in reasons] == [("orders", "shard-1", reason)]
    assert str(reasons[0]) == f"orders/shard-1: {reason}"


@pytest.mark.parametrize(("timeout", "window", "patience"), [(3, 0, 60), (29, 0, 60), (30, 10, 70), (900, 300, 2100)])
def test_patience_follows_the_functions_timeout_and_the_window(timeout: float, window: float, patience: float) -> None:
    def verdict(held_for: float) -> bool:
        busy = lane(held=1, held_since=NOW - held_for)
        return ready(DaemonStatus(mappings=[mapping(busy, timeout=timeout, window=window)]), NOW)[0]

    assert verdict(patience)
    assert not verdict(patience + 1)


@pytest.mark.parametrize(
    ("state", "reasons"),
    [
        (mapping(), []),
        (mapping(state="starting"), ["orders: starting"]),
        (mapping(state="stopping"), ["orders: stopping"]),
        (mapping(lane(state="ended"), state="stopped"), []),
        (mapping(state="failed", last_error="no such queue"), ["orders: failed; no such queue"]),
        (mapping(state="reconnecting", last_error="refused"), ["orders: reconnecting; refused"]),
        (mapping(lane(state="lost"), state="reconnecting"), ["orders: reconnecting"]),
        (mapping(lane(), state="reconnecting"), []),
        (mapping(lane(state="failed"), state="failed", enabled=False), []),
    ],
)
def test_mappings(state: MappingStatus, reasons: list[str]) -> None:
    assert [str(it) for it in ready(DaemonStatus(mappings=[state]), NOW)[1]] == reasons


def test_a_daemon_that_stops_or_has_no_store_is_not_ready() -> None:
    verdict, reasons = ready(DaemonStatus(stopping=True, store_error="disk full", mappings=[mapping(lane())]), NOW)
    assert not verdict
    assert [str(it) for it in reasons] == ["stopping", "the store cannot be used: disk full"]


def test_judged_fills_in_and_leaves_the_original_alone() -> None:
    status = DaemonStatus(
        mappings=[mapping(lane(name="well"), lane(name="stuck", read_at=NOW - 99)), mapping(lane(state="failed"), enabled=False)]
    )
    before = msgspec.json.encode(status)
    verdict = judged(status, NOW)
    assert msgspec.json.encode(status) == before
    assert not verdict.ready
    assert [(it.name, it.ready, it.reason) for it in verdict.mappings[0].lanes] == [
        ("well", True, ""),
        ("stuck", False, "has not been read for 99 s"),
    ]
    assert verdict.mappings[1].lanes[0].ready


def test_a_status_travels_as_json() -> None:
    counters = MappingCounters(polled=3)
    counters.observe(0.5)
    status = DaemonStatus(version="1", mappings=[mapping(lane(head_span=HeadSpan(attempts=2)), counters=counters)])
    back = msgspec.json.decode(msgspec.json.encode(status), type=DaemonStatus)
    assert back == status
    assert asdict(back.mappings[0].counters) == asdict(counters)
