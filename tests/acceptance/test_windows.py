"""Tumbling windows over kill -9: every record is in the state of exactly one window, once, whenever the daemon dies."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from tests.acceptance.daemon_program import Options
from tests.acceptance.harness import FUNCTIONS, Site
from tests.acceptance.shards import Stream

pytestmark = pytest.mark.slow

LIVES = (0.3, 0.9, 1.4, 0.6, 1.1)
"""Seconds after which the daemon is killed."""


def finals(site: Site) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in site.out.read_bytes().rpartition(b"\n")[0].splitlines()]
    return [line for line in lines if line["final"]]


def counted(site: Site) -> list[str]:
    """What is in windows that have ended, each window once."""
    windows = {(line["window"]["start"], tuple(line["given"])) for line in finals(site)}
    return sorted(body for _, given in windows for body in given)


def test_every_record_is_counted_in_one_window(site: Site) -> None:
    site.write(
        site.function(code=FUNCTIONS / "windows", environment={"SLOW": "0.02"}),
        site.mapping("orders", {"type": "local-stream", "name": "orders"}, batch_size=2, tumbling_window="1s"),
    )
    put = list[str]()
    for life, seconds in enumerate(LIVES):
        bodies = [f"{life} {n}" for n in range(15)]
        put += bodies
        site.put("orders", *bodies)
        with site.daemon(options=Options(after=seconds, owner="worker")) as daemon:
            assert daemon.wait() == -signal.SIGKILL, daemon.log
    with site.daemon(options=Options(owner="worker")) as daemon:
        daemon.until(lambda: len(counted(site)) >= len(put), what="every record is in a window that has ended")
        daemon.stop()
    assert counted(site) == sorted(put)
    assert len({line["window"]["start"] for line in finals(site)}) == len({tuple(line["given"]) for line in finals(site)})
    line = finals(site)[0]
    assert (line["bodies"], line["early"], line["shard"]) == ([], False, "shardId-000000000000")
    assert line["source"] == "arn:aws:kinesis:local:000000000000:stream/orders"
    assert site.journal() == []


@pytest.mark.servers
def test_shards_end_with_their_windows_and_children_start_fresh(site: Site, kinesis_local: str) -> None:
    orders = Stream(kinesis_local, 1)
    site.write(
        site.function(code=FUNCTIONS / "windows", environment={"SLOW": "0.02"}),
        site.mapping("orders", orders.source, batch_size=4, tumbling_window="2s"),
    )
    put = [f"{n}" for n in range(20)]
    orders.fill(put)
    with site.daemon(options=Options(after=0.8, owner="worker")) as daemon:
        assert daemon.wait() == -signal.SIGKILL, daemon.log
    with site.daemon(options=Options(owner="worker")) as daemon:
        orders.run(lambda client: client.split(orders.name, "shardId-000000000000"))
        put += (later := [f"later {n}" for n in range(20)])
        orders.fill(later)
        daemon.until(lambda: len(counted(site)) >= len(put), what="every record is in a window that has ended")
        daemon.stop()
    assert counted(site) == sorted(put)
    assert len({line["shard"] for line in finals(site)}) == 3
    assert {line["source"].rpartition("/")[2] for line in finals(site)} == {orders.name}
    assert site.journal() == []
