"""What it costs to ask whether an event matches a pattern: CPU, on events that are parsed already.

The first pattern is the one that most people have, and has a limit; the others are stated. Half of the events match. Beside the first is
the same question as Python that somebody wrote for it, which knows what the event looks like.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.comparison import Comparison, Limit, Reading, Side
from benchmarks.usage import settle_down
from poller.filters import compile_filters

KINDS = ("order", "refund", "order", "invoice")

PATTERNS: dict[str, list[str]] = {
    "one value": ['{"value": {"kind": ["order"]}}'],
    "five operators": [
        """{"value": {"kind": [{"prefix": "ord"}, {"equals-ignore-case": "INVOICE "}], "amount": [{"numeric": [">", 10, "<=", 9e9]}],
        "state": [{"anything-but": ["new", "old"]}], "note": [{"exists": false}]}}"""
    ],
    "an array of ten": ['{"value": {"items": {"sku": [{"wildcard": "A*7"}], "amount": [{"numeric": [">=", 7]}]}}}'],
    "the fifth of five": [f'{{"value": {{"kind": ["{kind}"]}}}}' for kind in ("a", "b", "c", "d", "order")],
}


def event(number: int) -> dict[str, Any]:
    """What filters see of a record of a topic."""
    items = [{"sku": f"A-{place}", "amount": place if number % 2 else 0} for place in range(10)]
    value = {"kind": KINDS[number % 4], "id": number, "amount": 99.5, "state": "paid", "items": items}
    return {"topic": "orders", "partition": number % 4, "offset": number, "timestamp": 1763686800000, "value": value}


def _by_hand(event: dict[str, Any]) -> bool:
    return event["value"].get("kind") in {"order"}


def _measured(matches: Callable[[dict[str, Any]], bool], asked: int) -> Reading:
    """Microseconds of CPU an event. Raises SystemExit unless half of them match."""
    events = [event(number) for number in range(1000)]
    found = sum(map(matches, events))
    if found != len(events) // 2:
        raise SystemExit(f"{found} of {len(events)} events match: this is not what is meant")
    settle_down()
    began = time.process_time()
    for _ in range(asked // len(events)):
        for each in events:
            matches(each)
    return Reading((time.process_time() - began) / (asked // len(events) * len(events)) * 1e6)


def ours(asked: int, name: str) -> Reading:
    return _measured(compile_filters(PATTERNS[name]).matches, asked)


def by_hand(asked: int) -> Reading:
    return _measured(_by_hand, asked)


SIDES = {"ours": ours, "by_hand": by_hand}


def comparisons(quick: bool) -> list[Comparison]:
    asked = 20_000 if quick else 400_000
    made = [Comparison(f"a filter: {name}", "us", Side("filters", "ours", {"asked": asked, "name": name})) for name in PATTERNS]
    first = made[0]
    hand = Side("filters", "by_hand", {"asked": asked})
    return [Comparison(first.name, first.unit, first.ours, hand, Limit("figure", at_most=2), "by hand"), *made[1:]]
