"""`poller rewind` over Kinesis and a table's stream: where it is asked to, beside a daemon that reads."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime

import pytest

from tests.acceptance.harness import DaemonProcess, Site, until
from tests.acceptance.shards import Stream, Table
from tests.acceptance.test_rewind import lanes, poller, rewound

pytestmark = [pytest.mark.slow, pytest.mark.servers]


def passed(seconds: float) -> float:
    """A moment after all that was put until now."""
    moment = time.time() + seconds
    until(lambda: time.time() > moment)
    return moment


def iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat()


def handled(daemon: DaemonProcess, site: Site, *rounds: Iterable[str]) -> None:
    """Each so often as rounds name it, and no other."""
    wanted: dict[str, int] = {}
    for bodies in rounds:
        for body in bodies:
            wanted[body] = wanted.get(body, 0) + 1
    daemon.until(lambda: site.bodies("ended") == wanted, what=str(wanted))


def test_kinesis(site: Site, kinesis_local: str) -> None:
    orders = Stream(kinesis_local, 2)
    site.write(site.function(), site.mapping("orders", orders.source, batch_size=10))
    first, second = orders.run(lambda client: client.open_shards(orders.name))

    def put(shard: str, *bodies: str) -> list[str]:
        orders.run(lambda client: client.put_to(orders.name, shard, [body.encode() for body in bodies]))
        return list(bodies)

    early = put(first, "a1", "a2") + put(second, "b1")
    with site.daemon() as daemon:
        handled(daemon, site, early)
        daemon.until(lambda: lanes(site)[first]["position"].startswith("after "))
        position, moment = lanes(site)[first]["position"], passed(0.05)
        late = put(first, "a3") + put(second, "b2")
        handled(daemon, site, early, late)
        told = rewound(site, "--to", "TRIM_HORIZON")
        assert {name: lane["to"] for name, lane in told.items()} == dict.fromkeys((first, second), "TRIM_HORIZON")
        handled(daemon, site, early, late, early, late)
        assert rewound(site, "--to", position, "--lane", first)[first]["to"] == position
        handled(daemon, site, early, late, early, late, ["a3"])
        rewound(site, "--to", iso(moment))
        handled(daemon, site, early, late, early, late, ["a3"], late)
        rewound(site, "--to", "LATEST")
        later = put(first, "a4") + put(second, "b3")
        handled(daemon, site, early, late, early, late, ["a3"], late, later)
        # What is no position of this shard would be asked for again and again, and nothing else read.
        text = poller(site, "rewind", "orders", "--to", "4959", "--lane", first, "--yes", code=1)
        assert "4959" in text and first in text
        put(first, "a5")
        handled(daemon, site, early, late, early, late, ["a3"], late, later, ["a5"])
        daemon.stop()


def test_a_table(site: Site, dynamodb: str) -> None:
    items = Table(dynamodb)
    site.write(site.function(), site.mapping("orders", items.source, batch_size=10))
    early, late = ["a1", "a2"], ["a3"]
    items.fill(early)
    with site.daemon() as daemon:
        handled(daemon, site, early)
        (shard,) = lanes(site)
        daemon.until(lambda: lanes(site)[shard]["position"].startswith("after "))
        position = lanes(site)[shard]["position"]
        moment = passed(0.05)
        items.fill(late)
        handled(daemon, site, early, late)
        rewound(site, "--to", "TRIM_HORIZON")
        handled(daemon, site, early, late, early, late)
        rewound(site, "--to", position, "--lane", shard)
        handled(daemon, site, early, late, early, late, late)
        rewound(site, "--to", iso(moment))
        # This one tells whole minutes: what may have come later comes, and perhaps what came before.
        daemon.until(lambda: site.bodies("ended")["a3"] == 4)
        daemon.stop()
