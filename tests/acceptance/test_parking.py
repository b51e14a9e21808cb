"""Parking over kill -9: whenever the daemon dies, no later record of a key runs before the one that failed; a replay runs them in order."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from poller.feed import Item
from poller.testing.laws import require
from tests.acceptance.daemon_program import Options
from tests.acceptance.harness import Site
from tests.acceptance.queues import Queue
from tests.acceptance.test_pause import mapping, poller

pytestmark = pytest.mark.slow

POISON = json.dumps({"do": "fail-until-fixed", "n": "a1"})
KEYS = "abcd"


def body(key: str, number: int) -> str:
    return POISON if (key, number) == ("a", 1) else f"{key}{number}"


Fill = Callable[[Sequence[str], Sequence[str]], None]
"""Puts bodies, each with its key."""


def put(fill: Fill, numbers: Sequence[int]) -> list[str]:
    """A record of each key for each number. Returns what is not of the key that fails."""
    keys = [key for _ in numbers for key in KEYS]
    bodies = [body(key, number) for number in numbers for key in KEYS]
    fill(bodies, keys)
    return [text for key, text in zip(keys, bodies, strict=True) if key != "a"]


def begun(site: Site, key: str) -> list[int]:
    """Numbers of all records of a key that were begun, as they were."""
    numbers = {body(key, number): number for number in range(100)}
    return [numbers[text] for each in site.testimony("begun") for text in each.bodies if text in numbers]


def configure(site: Site, source: dict[str, object], **keys: Any) -> None:
    unfixed = site.folder / "unfixed"
    unfixed.touch()
    environment = {"UNFIXED": str(unfixed)}
    site.write(site.function(environment=environment), site.mapping("orders", source, on_failure_order="park", **keys))


def states(site: Site) -> list[tuple[str, int]]:
    """State and number of records of every row of the key."""
    return [(row.state, len(row.entry.records)) for row in site.journal()]


def parked(site: Site) -> int:
    return sum(count for state, count in states(site) if state == "parked")


def in_order(site: Site, last: int) -> None:
    """All of the key were begun; and nothing behind the one that failed before it was replayed, nor out of its order."""
    order = begun(site, "a")
    second = order.index(2)
    require(set(order) == set(range(last + 1)), f"not all were begun: {order}")
    require(set(order[:second]) == {0, 1} and order[second - 1 :] == sorted(order[second - 1 :]), f"begun in this order: {order}")


def replayed_in_order(site: Site, fill: Fill, last: int) -> None:
    """Fixed, one replay runs what is held and what is parked meanwhile; then the key is free."""
    (site.folder / "unfixed").unlink()
    put(fill, [last - 1])
    shown = poller(site, "replay", "--mapping", "orders")
    assert "failed again" not in shown, shown
    put(fill, [last])


def test_a_key_keeps_its_order_whenever_the_daemon_dies(site: Site) -> None:
    stream: dict[str, object] = {"type": "local-stream", "name": "orders"}
    # What another strand ran when the daemon was killed has failed once: three lives must not spend it.
    backoff = {"initial": "10ms", "maximum": "10ms"}
    configure(site, stream, batch_size=4, maximum_retry_attempts=3, retry_backoff=backoff, parallelization_factor=2)

    def fill(bodies: Sequence[str], keys: Sequence[str]) -> None:
        site.put("orders", *(Item(text.encode(), key=key) for key, text in zip(keys, bodies, strict=True)))

    others = put(fill, range(5))
    for point in ("kept", "parking", "parked"):
        with site.daemon(options=Options(point=point, owner="worker")) as daemon:
            assert daemon.wait() == -signal.SIGKILL
    others += put(fill, range(5, 8))
    with site.daemon(options=Options(owner="worker")) as daemon:
        daemon.until(lambda: site.handled("a0", *others), what="other keys go on")
        daemon.until(lambda: parked(site) == 6, what="later records of the key are parked")
        assert states(site)[0] == ("kept", 1)
        assert set(begun(site, "a")) == {0, 1}
        assert mapping(site)["counters"]["parked"] > 0 and daemon.metric("poller_parked_event_total") > 0
        listed = poller(site, "failures", "list", "--state", "parked", "--json").splitlines()
        assert {json.loads(line)["reason"] for line in listed} == {"Parked"}
        replayed_in_order(site, fill, 9)
        daemon.until(lambda: site.handled("a9", "b9"))
        daemon.stop()
    assert {state for state, _ in states(site)} == {"replayed"}
    in_order(site, 9)
    for key in "bcd":
        first = list(dict.fromkeys(begun(site, key)))
        require(first == sorted(first), f"{key}: {first}")


def test_a_message_group_keeps_its_order(site: Site, queue: Callable[..., Queue]) -> None:
    orders = queue(fifo=True, visibility=1)
    configure(site, orders.source, batch_size=1, maximum_receive_count=2)
    others = put(orders.fill, range(4))
    with site.daemon(options=Options(point="kept", owner="worker")) as daemon:
        assert daemon.wait() == -signal.SIGKILL
    with site.daemon(options=Options(owner="worker")) as daemon:
        daemon.until(lambda: any(state == "kept" for state, _ in states(site)))
        others += put(orders.fill, range(4, 6))
        daemon.until(lambda: site.handled("a0", *others))
        daemon.until(lambda: parked(site) == 4)
        replayed_in_order(site, orders.fill, 7)
        daemon.until(lambda: site.handled("a7", "b7"))
        daemon.stop()
    assert {state for state, _ in states(site)} == {"replayed"}
    in_order(site, 7)
