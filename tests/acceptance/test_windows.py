"""Tumbling windows over kill -9: every record is in the state of exactly one window, once, whenever the daemon dies."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Sequence
from typing import Any, Protocol

import pytest

from tests.acceptance.daemon_program import Options
from tests.acceptance.harness import FUNCTIONS, Site, until
from tests.acceptance.shards import Stream, Table
from tests.servers.dynamodb.client import REGION
from tests.servers.postgresql import PostgreSQL

pytestmark = pytest.mark.slow

LIVES = (0.3, 0.9, 1.4, 0.6, 1.1)
"""Seconds after which the daemon is killed."""

STATE_BYTES = 800_000


def invocations(site: Site) -> list[dict[str, Any]]:
    return [json.loads(line) for line in site.out.read_bytes().rpartition(b"\n")[0].splitlines()]


def finals(site: Site) -> list[dict[str, Any]]:
    return [line for line in invocations(site) if line["final"]]


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


# --- other sources, other ledgers -----------------------------------------------------------------------------------------------------


class Ending(Protocol):
    """A source whose shards end when they are told."""

    source: dict[str, object]

    def fill(self, bodies: Sequence[str]) -> object: ...

    def succeed(self) -> None:
        """The open shards end, and others come after them."""


class EndingStream(Stream):
    def succeed(self) -> None:
        for shard in self.run(lambda client: client.open_shards(self.name)):
            self.run(lambda client, shard=shard: client.split(self.name, shard))  # type: ignore[misc]


class EndingTable(Table):
    def succeed(self) -> None:
        self.run(lambda client: client.disable(self.name))
        self.run(lambda client: client.enable(self.name))


@pytest.fixture(params=["DynamoDB Streams, ledger in DynamoDB", "Kinesis, store in PostgreSQL"])
def place(request: pytest.FixtureRequest) -> tuple[Ending, dict[str, Any]]:
    """A source, and where progress and states are: keys of [poller]."""
    if request.param == "DynamoDB Streams, ledger in DynamoDB":
        url = request.getfixturevalue("dynamodb")
        table = EndingTable(url)
        return table, {"leases": f"dynamodb://{table.name}-leases?region={REGION}&endpoint={url}"}
    postgresql: PostgreSQL = request.getfixturevalue("postgresql")
    return EndingStream(request.getfixturevalue("kinesis_local")), {"store": postgresql.database()}


@pytest.mark.servers
def test_a_large_state_goes_from_life_to_life(site: Site, place: tuple[Ending, dict[str, Any]]) -> None:
    """More than DynamoDB holds in an item. The first window is so long that only the end of its shard ends it; the last ones are short."""
    orders, daemon_keys = place

    def configure(width: str) -> None:
        site.write(
            site.function(code=FUNCTIONS / "windows", environment={"PADDING": str(STATE_BYTES)}),
            site.mapping("orders", orders.source, batch_size=4, tumbling_window=width),
            **daemon_keys,
        )

    configure("15m")
    until(lambda: time.time() % 900 < 840, 70, "a window that is open long enough")
    first, second, third = ([f"{name} {n}" for n in range(20)] for name in ("first", "second", "third"))
    orders.fill(first)
    with site.daemon(options=Options(owner="worker")) as daemon:
        daemon.until(lambda: sum(len(line["bodies"]) for line in invocations(site)) == len(first))
        daemon.stop()
    stopped = len(invocations(site))
    orders.fill(second)
    with site.daemon(options=Options(owner="worker")) as daemon:
        daemon.until(lambda: len(invocations(site)) >= stopped + 3)
        daemon.kill()
    orders.succeed()
    orders.fill(third)
    configure("1s")
    with site.daemon(options=Options(owner="worker")) as daemon:
        daemon.until(lambda: len(counted(site)) >= 60, what="every record is in a window that has ended")
        daemon.stop()
    assert invocations(site)[stopped]["given"] == first
    assert all(line["whole"] for line in invocations(site))
    assert finals(site)[0]["given"] == [*first, *second]
    assert counted(site) == sorted([*first, *second, *third])
    assert len({line["shard"] for line in finals(site)}) > 1
