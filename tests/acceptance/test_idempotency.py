"""Idempotency windows over kill -9: what was acknowledged durably does not run again, and a rewind runs it again all the same."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from sqlite3 import connect

import pytest

from tests.acceptance.daemon_program import Options
from tests.acceptance.harness import Site
from tests.acceptance.queues import Queue
from tests.acceptance.topics import Topic
from tests.servers.kafka.broker import Kafka
from tests.servers.kafka.client import Blocking

pytestmark = pytest.mark.slow

OWNER = "worker"
"""All lives have one here: a life with a name of its own waits ten seconds for the lease of the one before."""

SIZE = 5
BODIES = [f"m{n}" for n in range(8 * SIZE)]


def doomed(site: Site, point: str, count: int) -> None:
    """A life that kills itself there."""
    with site.daemon(options=Options(point=point, count=count, owner=OWNER)) as daemon:
        assert daemon.wait() == -signal.SIGKILL, daemon.log


def live(site: Site, done: Callable[[], bool]) -> float:
    """A life until then, with how many records it passed over."""
    with site.daemon(options=Options(owner=OWNER)) as daemon:
        daemon.until(done, what="all is done")
        skipped = daemon.metric("poller_skipped_event_total")
        daemon.stop()
    return skipped


def poller(site: Site, *arguments: str) -> str:
    command = [sys.executable, "-m", "poller", *arguments, "-c", str(site.folder / "poller.toml")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=site.folder, check=False, timeout=60, stdin=subprocess.DEVNULL)
    return result.stdout + result.stderr


def remembered(site: Site) -> int:
    """How many records the store says that it knows."""
    with closing(connect(site.store)) as store:
        return int(store.execute("SELECT count(*) FROM acknowledged").fetchone()[0])


def test_a_stream_killed_behind_the_put_runs_nothing_twice(site: Site) -> None:
    """The batch that was put is not settled, so it is read again; with it most of what was, for checkpoints are saved once a second."""
    source: dict[str, object] = {"type": "local-stream", "name": "orders"}
    site.write(site.function(concurrency=1), site.mapping("orders", source, batch_size=SIZE, idempotency_window="1h"))
    site.put("orders", *BODIES)
    doomed(site, "acknowledged", 4)
    assert site.bodies("ended") == dict.fromkeys(BODIES[: 4 * SIZE], 1)
    # Killed before the put, the window cannot know: this batch alone runs twice, and all that was put before is passed over.
    doomed(site, "acknowledging", 3)
    again = BODIES[6 * SIZE : 7 * SIZE]
    live(site, lambda: site.handled(*BODIES))
    once = {body: 2 if body in again else 1 for body in BODIES}
    assert site.bodies("begun") == once

    told = poller(site, "rewind", "orders", "--to", "TRIM_HORIZON")
    assert "what its idempotency window remembers would be forgotten, of every lane" in told
    poller(site, "rewind", "orders", "--to", "TRIM_HORIZON", "--yes")
    with site.daemon(options=Options(owner=OWNER)) as daemon:
        daemon.until(lambda: site.bodies("ended") == {body: count + 1 for body, count in once.items()}, what="all is done once more")
        daemon.until(lambda: remembered(site) == len(BODIES), what="all is remembered")
        assert "orders was not paused" in poller(site, "resume", "orders", "--forget")
        assert remembered(site) == 0
        daemon.stop()


def test_a_queue_killed_before_the_delete_delivers_again_and_nothing_runs_twice(site: Site, queue: Callable[..., Queue]) -> None:
    orders = queue(visibility=3)
    site.write(site.function(concurrency=1), site.mapping("orders", orders.source, batch_size=SIZE, idempotency_window="1h"))
    orders.fill(BODIES)
    doomed(site, "acknowledged", 3)
    assert live(site, lambda: orders.left() == 0) == SIZE
    assert site.bodies("begun") == dict.fromkeys(BODIES, 1)


@pytest.mark.servers
def test_a_topic_killed_before_the_commit_runs_nothing_twice(site: Site, kafka: Kafka, kafka_blocking: Blocking) -> None:
    topic = Topic(kafka_blocking, kafka.bootstrap)
    site.write(site.function(concurrency=1), site.mapping("orders", topic.source, batch_size=SIZE, idempotency_window="1h"))
    topic.fill(BODIES)
    doomed(site, "acknowledged", 4)
    assert live(site, topic.done) > 0
    assert site.bodies("begun") == dict.fromkeys(BODIES, 1)
    assert "`poller resume orders --forget`" in poller(site, "rewind", "orders", "--to", "TRIM_HORIZON", "--yes")
    # Set back by hand, it runs again what it is told to forget.
    poller(site, "pause", "orders")
    kafka_blocking.run(kafka_blocking.client.commit(topic.name, topic.name, {0: 3 * SIZE}))
    assert "goes on" in poller(site, "resume", "orders", "--forget")
    live(site, topic.done)
    assert site.bodies("begun") == {body: 2 if n >= 3 * SIZE else 1 for n, body in enumerate(BODIES)}
