"""`poller pause` and `resume`: durable, for every daemon on the store, with the daemon running and without."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.acceptance.harness import PATIENCE, Site

pytestmark = pytest.mark.slow

FIRST = json.dumps({"do": "wait"})


def poller(site: Site, *arguments: str, code: int = 0) -> str:
    """What a command prints; with another exit code than 0, on stderr too."""
    command = [sys.executable, "-m", "poller", *arguments, "-c", str(site.folder / "poller.toml")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=site.folder, check=False, timeout=60)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout if code == 0 else result.stdout + result.stderr


def mapping(site: Site) -> dict[str, Any]:
    """What `status` says of it."""
    (found,) = json.loads(poller(site, "status", "--json"))["mappings"]
    return dict(found)


@pytest.fixture(params=["local-stream", "local-queue"])
def orders(request: pytest.FixtureRequest, site: Site) -> Site:
    gate = {"GATE": str(site.folder / "gate")}
    site.write(site.function(environment=gate, timeout="60s"), site.mapping("orders", {"type": request.param, "name": "orders"}))
    return site


def test_a_pause_outlives_the_daemon_and_what_ran_is_finished(orders: Site) -> None:
    orders.put("orders", FIRST)
    with orders.daemon() as daemon:
        daemon.until(lambda: orders.testimony("begun"))
        assert "orders is paused since" in poller(orders, "pause", "orders")
        daemon.until(lambda: mapping(orders)["state"] == "pausing", what="what runs is waited for")
        (orders.folder / "gate").touch()
        daemon.until(lambda: mapping(orders)["state"] == "paused")
        assert orders.bodies("ended") == {FIRST: 1}
        assert mapping(orders)["lanes"] == [] or mapping(orders)["lanes"][0]["state"] == "free"
        orders.put("orders", "second")
        status, page = daemon._page("/readyz")
        assert (status, json.loads(page)) == (200, {"ready": True, "reasons": [], "paused": ["orders"]}), "nobody wants it to make progress"
        daemon.kill()
    with orders.daemon() as daemon:
        daemon.until(lambda: "paused by" in daemon.log)
        assert "to go on: poller resume orders" in poller(orders, "status")
        daemon.until(lambda: mapping(orders)["state"] == "paused")
        assert not orders.bodies("begun")["second"]
        assert "orders goes on; it was paused since" in poller(orders, "resume", "orders")
        daemon.until(lambda: orders.handled("second"))
        assert mapping(orders)["state"] == "running"
        daemon.stop()
    assert orders.bodies("begun") == {FIRST: 1, "second": 1}


def test_two_daemons_obey_what_was_asked_for_before_they_ran(site: Site) -> None:
    source: dict[str, object] = {"type": "local-stream", "name": "orders", "shards": 2}
    for file in ("poller.toml", "other.toml"):
        site.write(site.function(), site.mapping("orders", source), file=file)
    first, again = (json.loads(poller(site, "pause", "orders", "--json"))["paused"] for _ in range(2))
    assert first == again and first["since"] > 0, "once more changes nothing"
    site.put("orders", "m1")
    with site.daemon() as first, site.daemon("other.toml") as second:
        for daemon in (first, second):
            daemon.until(lambda daemon=daemon: "paused by" in daemon.log, PATIENCE)  # type: ignore[misc]
        assert not site.testimony("begun")
        poller(site, "resume", "orders")
        first.until(lambda: site.handled("m1"))
        second.until(lambda: "resumed" in second.log)
        assert poller(site, "resume", "orders") == "orders was not paused\n"
        first.stop()
        second.stop()
    assert "no mapping 'nobody', only orders" in poller(site, "pause", "nobody", code=2)
