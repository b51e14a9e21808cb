"""Workers of one daemon on Kafka: members of one group, each under a name of its own."""

from __future__ import annotations

import os
import signal

import pytest

from tests.acceptance.harness import Site
from tests.acceptance.supervised import supervised
from tests.acceptance.topics import Topic
from tests.servers.kafka.broker import Kafka
from tests.servers.kafka.client import Blocking, Message

pytestmark = [pytest.mark.slow, pytest.mark.servers]


def test_workers_share_the_partitions_and_a_killed_one_comes_back_under_its_name(
    site: Site, kafka: Kafka, kafka_blocking: Blocking
) -> None:
    topic = Topic(kafka_blocking, kafka.bootstrap, 4, group_instance_id="host")
    site.write(site.function(concurrency=4), site.mapping("orders", topic.source, batch_size=10), workers=2)

    def fill(word: str) -> list[str]:
        bodies = [f"{word}{n}" for n in range(40)]
        topic.fill(Message(body.encode(), partition=n % 4) for n, body in enumerate(bodies))
        return bodies

    with supervised(site) as daemon:
        workers = daemon.workers()
        daemon.until(lambda: topic.members() == 2, what="two members, not one that throws the other out")
        daemon.until(lambda: sorted(lane.worker for lane in daemon.status().mappings[0].lanes) == [1, 1, 2, 2], what="two partitions each")
        before = fill("before")
        daemon.until(lambda: site.handled(*before))
        assert {each.daemon for each in site.testimony("ended")} == {*workers}
        os.kill(workers[1], signal.SIGKILL)
        after = fill("after")
        daemon.until(lambda: site.handled(*after))
        daemon.until(lambda: topic.members() == 2)
        daemon.until(lambda: daemon.status().workers[1].restarts == 1 and daemon.readyz()[0])
        daemon.stop()
    assert topic.done()
    assert not site.journal()
    assert "thrown out" not in daemon.log
