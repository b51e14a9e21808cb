"""What the daemon needs is away for a while: its source, or the space to write. It says so, loses nothing, and goes on by itself."""

from __future__ import annotations

import json
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.acceptance.harness import DaemonProcess, Site, until
from tests.acceptance.queues import Sqs
from tests.servers.fixtures import ELASTICMQ
from tests.servers.process import free_port, jars, running

pytestmark = [pytest.mark.slow, pytest.mark.longest]

FAIL = json.dumps({"do": "fail"})

# --- the source -----------------------------------------------------------------------------------------------------------------------


@contextmanager
def elasticmq(folder: Path, port: int) -> Iterator[Sqs]:
    """An SQS that comes and goes at a port; it has a queue "orders", and forgets its messages when it goes."""
    folder.mkdir(exist_ok=True)
    (folder / "emq.conf").write_text(ELASTICMQ.format(port=port) + "queues { orders { defaultVisibilityTimeout = 5 seconds } }\n")
    sqs = Sqs(f"http://127.0.0.1:{port}")

    def answers() -> bool:
        with suppress(Exception):
            sqs.counts("orders")
            return True
        return False

    command = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Dconfig.file={folder}/emq.conf"]
    with running([*command, "-cp", jars("elasticmq"), "org.elasticmq.server.Main"], folder, answers):
        yield sqs
    sqs.close()


@pytest.mark.servers
def test_sqs_may_be_away_and_a_queue_may_be_missing(site: Site) -> None:
    """In one test, because a queue that is missing is looked for once a minute: that waits for a person."""
    folder, port = site.folder / "elasticmq", free_port()
    source: dict[str, object] = {"type": "sqs", "region": "us-east-1", "endpoint": f"http://127.0.0.1:{port}", "wait_time": "1s"}
    site.write(
        site.function(concurrency=2, environment={"SLOW": "0.2"}),
        site.mapping("orders", {**source, "queue": "orders"}, batch_size=1),
        site.mapping("late", {**source, "queue": "late"}),
    )
    with site.daemon() as daemon:
        assert f"http://127.0.0.1:{port}" in daemon.complaint("orders: reconnecting", "late: reconnecting")
        with elasticmq(folder, port) as sqs:
            sqs.send("orders", [f"o{n}" for n in range(40)])
            daemon.until(lambda: site.handled("o0"))
            assert "orders: " not in daemon.complaint("late: reconnecting", "there is no such thing")
        # Gone in the middle of work. What was invoked ends; what SQS forgot is gone with it.
        with elasticmq(folder, port) as sqs:
            sqs.send("orders", ["again"])
            daemon.until(lambda: site.handled("again"), 60)
            sqs.create(name="late")
            sqs.send("late", ["l1"])
            daemon.until(lambda: site.handled("l1"), 90)
            daemon.until(lambda: daemon.readyz() == (True, ""))
            until(lambda: sqs.empty("orders") and sqs.empty("late"))
        daemon.stop()  # and it needs no SQS to stop in order
    assert site.bodies("ended") == site.bodies("begun")
    assert not site.journal()


# --- space ----------------------------------------------------------------------------------------------------------------------------


class Disk:
    """A small file system of its own under the store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)], capture_output=True, check=False)
        if mounted.returncode:
            pytest.skip("only root can mount")

    def fill(self, daemon: DaemonProcess) -> None:
        with (self._folder / "filler").open("wb", buffering=0) as filler:
            for size in (65536, 1):
                with suppress(OSError):
                    while filler.write(b"x" * size):
                        pass

    def empty(self, daemon: DaemonProcess) -> None:
        (self._folder / "filler").unlink()

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self._folder)], check=True)


class Limit:
    """A file size limit: what a user without a file system of their own meets. The daemon's log fails with it."""

    def __init__(self, folder: Path) -> None:
        self._before = (0, 0)

    def fill(self, daemon: DaemonProcess) -> None:
        self._before = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    def empty(self, daemon: DaemonProcess) -> None:
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, self._before)

    def close(self) -> None:
        """It ends with the daemon."""


@pytest.fixture(params=[Disk, Limit])
def space(request: pytest.FixtureRequest, site: Site) -> Iterator[Disk | Limit]:
    made: Disk | Limit = request.param(site.store.parent)
    yield made
    made.close()


@pytest.mark.parametrize("long", [False, True], ids=["for a moment", "until leases run out"])
def test_a_full_disk_holds_discards_back(site: Site, space: Disk | Limit, long: bool) -> None:
    in_turn, turns = json.dumps({"do": "fail-in-turn"}), site.folder / "turns"
    turns.touch()
    site.write(
        site.function(concurrency=1, environment={"TURNS": str(turns)}),
        site.mapping("orders", {"type": "local-stream", "name": "orders"}, batch_size=1, maximum_retry_attempts=0),
    )
    site.put("orders", "before", in_turn, "after")
    with site.daemon() as daemon:
        daemon.until(lambda: site.bodies("begun")[in_turn])
        space.fill(daemon)  # while it runs
        turns.write_text("x" * 9)  # now it fails
        daemon.complaint("the store cannot be used", "poller.db")
        if long:
            daemon.complaint("orders: reconnecting")
        assert not site.bodies("begun")["after"]
        space.empty(daemon)
        daemon.until(lambda: site.handled("after"))
        daemon.until(lambda: daemon.readyz() == (True, ""))
        daemon.stop()
    (row,) = site.journal()
    assert row.entry.reason == "RetryAttemptsExhausted"
    assert site.bodies("begun")[in_turn] <= 2
    assert site.bodies("ended").keys() == {"before", "after"}


@pytest.mark.servers
def test_a_full_disk_holds_no_success_back(site: Site, sqs: Sqs, space: Disk | Limit) -> None:
    """A queue that needs no space of ours: what is done is deleted, what is given up waits, hidden, until it can be kept."""
    orders = sqs.create(visibility=6)
    site.write(
        site.function(concurrency=1),  # started before the disk is full: a file size limit is inherited
        site.mapping("orders", sqs.source(orders), batch_size=1, maximum_concurrency=2, maximum_receive_count=1),
    )
    good = [f"m{n}" for n in range(20)]
    with site.daemon() as daemon:
        sqs.send(orders, ["before"])
        daemon.until(lambda: site.handled("before") and daemon.readyz()[0])
        space.fill(daemon)
        sqs.send(orders, [FAIL, *good])
        daemon.complaint("the store cannot be used", "poller.db")
        daemon.until(lambda: site.handled(*good) and sqs.counts(orders) == (0, 1))
        space.empty(daemon)
        daemon.until(lambda: sqs.empty(orders))
        daemon.until(lambda: daemon.readyz() == (True, ""))
        daemon.stop()
    (row,) = site.journal()
    assert (row.entry.reason, row.entry.kept) == ("MaximumReceiveCountExceeded", "failure")
    assert site.bodies("begun") == dict.fromkeys(["before", FAIL, *good], 1)
