"""SIGTERM while busy: what runs is waited for, nothing is begun twice, and the next daemon goes on where this one stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from poller.feed import Item
from tests.acceptance.harness import Site
from tests.acceptance.queues import LocalQueue, SqsQueue

pytestmark = pytest.mark.slow

HANG_ONCE = json.dumps({"do": "hang-once"})


class LocalStream:
    """A stream of two shards, filled as the queues are."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.source: dict[str, object] = {"type": "local-stream", "name": "orders", "shards": 2}

    def fill(self, bodies: Sequence[str], groups: Sequence[str] = ()) -> None:
        self._site.put("orders", *(Item(body.encode(), key=group) for body, group in zip(bodies, groups, strict=True)))


Source = LocalQueue | SqsQueue | LocalStream


@pytest.fixture(params=["queue", "fifo", "stream", pytest.param("sqs", marks=pytest.mark.servers)])
def source(request: pytest.FixtureRequest, site: Site) -> Source:
    """Visibility timeouts are so long that what had to wait for one would miss every deadline here."""
    match request.param:
        case "stream":
            return LocalStream(site)
        case "sqs":
            return SqsQueue(site, request.getfixturevalue("sqs"), visibility=600)
        case kind:
            return LocalQueue(site, fifo=kind == "fifo", visibility=600)


def limits(source: Source) -> dict[str, Any]:
    """Not one attempt may be lost, where the source lets us count them."""
    return {"maximum_retry_attempts": 0, "parallelization_factor": 2} if isinstance(source, LocalStream) else {}


def test_a_busy_daemon_stops_in_order(site: Site, source: Source) -> None:
    site.write(
        site.function(concurrency=2, environment={"SLOW": "0.3"}),
        site.mapping("orders", source.source, batch_size=5, **limits(source)),
    )
    bodies = [f"m{n}" for n in range(80)]
    source.fill(bodies, [f"g{n % 20}" for n in range(80)])
    with site.daemon() as daemon:
        daemon.until(lambda: len(site.testimony("begun")) >= 2)
        daemon.stop()
    stopped = site.bodies("begun")
    assert site.bodies("ended") == stopped
    assert len(stopped) <= 50  # two batches ran, one waited: nobody takes what cannot run soon
    with site.daemon() as daemon:
        daemon.until(lambda: site.handled(*bodies))
        daemon.stop()
    assert site.bodies("begun") == dict.fromkeys(bodies, 1)
    assert not site.journal()


def test_what_outlives_the_grace_is_ended_and_runs_again(site: Site, source: Source) -> None:
    site.write(
        site.function(concurrency=1, timeout="60s"),
        site.mapping("orders", source.source, batch_size=1, **limits(source)),
        shutdown_grace="1s",
    )
    source.fill([HANG_ONCE], ["g"])
    with site.daemon() as daemon:
        daemon.until(lambda: site.bodies("begun")[HANG_ONCE])
        others = [f"m{n}" for n in range(4)]
        source.fill(others, ["g", "g", "h", "h"])
        daemon.stop(15)
    assert not site.testimony("ended")
    with site.daemon() as daemon:
        daemon.until(lambda: site.handled(HANG_ONCE, *others))
        daemon.stop()
    assert site.bodies("begun") == {HANG_ONCE: 2, **dict.fromkeys(others, 1)}
    assert not site.journal()
