"""`workers = 2`: one daemon to the outside, whose work is done by processes; they may die, and it is still one daemon."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from poller.feed import Item
from poller.model import LaneKey
from poller.stores.sqlite import open_store
from tests.acceptance.harness import Site, until
from tests.acceptance.supervised import all_gone, below, gone, lines, supervised
from tests.servers.process import halt

pytestmark = pytest.mark.slow

QUEUE: dict[str, object] = {"type": "local-queue", "name": "orders", "visibility_timeout": "3s"}
STREAM: dict[str, object] = {"type": "local-stream", "name": "clicks", "shards": 4}
FAIL = json.dumps({"do": "fail"})
HANG = json.dumps({"do": "hang"})
HANG_ONCE = json.dumps({"do": "hang-once"})


def prepare(site: Site, concurrency: int = 4, slow: str = "0.02", workers: int = 2, **daemon: Any) -> None:
    site.write(
        site.function(concurrency=concurrency, environment={"SLOW": slow}, timeout="60s"),
        site.mapping("orders", QUEUE, batch_size=2),
        site.mapping("clicks", STREAM, batch_size=5, maximum_retry_attempts=0),
        workers=workers,
        **daemon,
    )


def keyed(bodies: list[str]) -> list[Item]:
    return [Item(body.encode(), key=body) for body in bodies]


def half_done(site: Site) -> bool:
    """Whether it is saved of a shard that records are done while earlier ones are not."""

    async def read() -> bool:
        store = await open_store(site.store)
        try:
            keys = [LaneKey("clicks", source, f"shardId-{n:012}") for source in await store.checkpoints.sources("clicks") for n in range(4)]
            saved = [await store.checkpoints.load(key) for key in keys]
            return any(progress is not None and progress.positions for progress in saved)
        finally:
            await store.aclose()

    return asyncio.run(read())


def test_a_worker_killed_under_load_is_started_again_and_nothing_is_lost(site: Site) -> None:
    prepare(site)
    orders, clicks = [f"o{n}" for n in range(300)], [f"c{n}" for n in range(200)]
    with supervised(site) as daemon:
        workers = daemon.workers()
        site.put("clicks", *keyed([HANG_ONCE]))
        daemon.until(lambda: site.bodies("begun")[HANG_ONCE])
        fallen = site.testimony("begun")[0].daemon
        number = 1 + workers.index(fallen)
        site.put("clicks", *keyed(clicks))
        daemon.until(lambda: half_done(site), what="there is a save without the record that hangs")
        site.put("orders", *orders)
        daemon.until(lambda: {each.daemon for each in site.testimony("begun") if each.bodies[0] in orders} == {*workers}, what="both work")
        os.kill(fallen, signal.SIGKILL)
        daemon.complaint(f"worker {number} is", "killed by SIGKILL")  # down, or starting again
        daemon.until(lambda: site.handled(HANG_ONCE, *orders, *clicks))
        (other,) = {*workers} - {fallen}
        assert other in daemon.workers()
        daemon.until(lambda: daemon.readyz()[0])
        assert [each.restarts for each in daemon.status().workers] == [int(pid == fallen) for pid in workers]
        assert daemon.metric("poller_worker_restarts_total") == 1
        (error,) = [line for line in lines(daemon.log) if line["level"] == "ERROR"]
        assert error["message"] == f"worker {number} has ended: killed by SIGKILL; it is started again in 1 s"
        processes = below(daemon.pid)
        assert len(processes) >= 4  # two workers, and functions
        daemon.stop()
        assert gone(processes)
    assert not site.journal()


def test_what_is_told_is_of_all_workers_and_reload_and_replay_reach_them(site: Site) -> None:
    prepare(site, concurrency=3, slow="0.1")
    orders = [f"o{n}" for n in range(100)]
    with supervised(site) as daemon:
        daemon.workers()
        site.put("orders", *orders)
        site.put("clicks", *keyed([FAIL]))
        daemon.until(lambda: site.handled(*orders) and site.journal())
        daemon.until(lambda: daemon.metric("poller_done_event_total") == 100, what="counters of all workers")
        # A lane on its way from one worker to the other is nobody's for a moment.
        shards = {f"shardId-{n:012}" for n in range(4)}
        daemon.until(lambda: {lane.name for lane in daemon.status().mappings[1].lanes if lane.worker} == shards, what="all are read")
        status = daemon.status()
        assert [each.permits for each in status.functions] == [3]
        queue, stream = status.mappings
        assert [(lane.name, lane.worker) for lane in queue.lanes] == [("orders", 1), ("orders", 2)]
        assert (queue.counters.deleted, stream.counters.kept, status.journal.kept) == (100, 1, 1)
        assert len({each.daemon for each in site.testimony("begun")}) == 2

        # A replay is run by one of them; so are failures shown without asking anyone.
        assert "RetryAttemptsExhausted" in daemon.run("failures", "list").stdout
        replayed = daemon.run("replay", "--json")
        assert json.loads(replayed.stdout)["failed_again"] == 1, replayed.stderr
        assert "worker 1" in daemon.run("status").stdout

        # A bad file changes nothing anywhere, a good one is followed by both.
        good = (site.folder / "poller.toml").read_text()
        before = daemon.workers()
        (site.folder / "poller.toml").write_text(good.replace("batch_size = 2", "batch_size = 0"))
        assert "batch_size" in daemon.run("reload").stderr
        (site.folder / "poller.toml").write_text(good.replace("workers = 2", "workers = 3"))
        daemon.hang_up()
        daemon.until(lambda: "workers changed; that takes a restart" in daemon.log)
        (site.folder / "poller.toml").write_text(good.replace("concurrency = 3", "concurrency = 1"))
        assert daemon.run("reload").returncode == 0
        assert [each.permits for each in daemon.status().functions] == [1]
        site.put("orders", "after")
        daemon.until(lambda: site.handled("after"))
        assert site.testimony("ended")[-1].daemon == before[0]  # the only one that runs the function now
        assert daemon.workers() == before
        daemon.until(lambda: daemon.readyz()[0])
        daemon.stop()


def test_sigkill_of_the_supervisor_leaves_no_process(site: Site) -> None:
    prepare(site)
    with supervised(site) as daemon:
        workers = daemon.workers()
        site.put("orders", *[HANG] * 16)
        daemon.until(lambda: {each.daemon for each in site.testimony("begun")} == {*workers}, what="both run a function")
        processes = below(daemon.pid)
        assert processes > {*workers}
        daemon.kill()
        all_gone(processes)


def test_a_second_signal_ends_all_at_once(site: Site) -> None:
    prepare(site, shutdown_grace="60s")
    with supervised(site) as daemon:
        workers = daemon.workers()
        site.put("orders", *[HANG] * 16)
        daemon.until(lambda: {each.daemon for each in site.testimony("begun")} == {*workers}, what="both run a function")
        processes = below(daemon.pid)
        daemon.terminate()
        daemon.until(lambda: daemon.log.count("SIGTERM: stopping") == 3, what="supervisor and workers are stopping")
        daemon.terminate()
        assert daemon.wait(10.0) == 128 + signal.SIGTERM
        assert gone(processes)


def test_a_stop_in_which_a_worker_dies_is_not_told_as_one_in_order(site: Site) -> None:
    prepare(site, shutdown_grace="1s")
    with supervised(site) as daemon:
        first, second = daemon.workers()
        site.put("orders", *[HANG] * 16)
        daemon.until(lambda: {each.daemon for each in site.testimony("begun")} == {first, second}, what="both run a function")
        processes = below(daemon.pid)
        halt(second)  # so that it cannot have stopped already
        daemon.terminate()
        daemon.until(lambda: daemon.log.count("SIGTERM: stopping") == 2, what="the supervisor and the first worker are stopping")
        os.kill(second, signal.SIGKILL)
        assert daemon.wait() == 1, daemon.log
        (error,) = [line["message"] for line in lines(daemon.log) if line["level"] == "ERROR"]
        assert error == "stopped, but not in order: worker 2: killed by SIGKILL; what it ran comes again, as after a crash"
        assert gone(processes)


def test_a_worker_that_never_starts_is_a_reason_not_to_be_ready(site: Site) -> None:
    prepare(site)
    site.store.parent.mkdir()
    site.store.write_bytes(b"This is not a database. " * 1000)
    with supervised(site) as daemon:
        pages = until(lambda: next((each["message"] for each in lines(daemon.log) if "worker 1 has ended" in each["message"]), ""))
        assert "damaged, or no database" in pages
        # Also between two tries, when it is starting.
        for _ in range(20):
            status = daemon.status()
            assert not status.ready
            assert any("worker 1 is" in str(each) and str(site.store) in str(each) for each in status.reasons), status.reasons
        assert "damaged, or no database" in daemon.run("status").stdout
        site.store.unlink()
        daemon.workers()  # they come up by themselves
        daemon.until(lambda: daemon.readyz()[0])
        daemon.stop()


def test_the_service_manager_hears_of_the_whole_and_a_worker_that_hangs_is_replaced(site: Site, tmp_path: Path) -> None:
    prepare(site)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        heard = list[str]()

        def listen() -> None:
            """All the time: who is not heard is held up."""
            while message := manager.recv(4096).decode():
                heard.append(message)

        def hear(text: str, since: int = 0) -> str:
            return until(lambda: next((each for each in heard[since:] if text in each), ""), what=f"it says {text}")

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        with supervised(site, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="6000000") as daemon:
            hear("READY=1")
            first, second = daemon.workers()
            hear("WATCHDOG=1")
            assert "2 mappings in 2 workers" in hear("STATUS=ready")
            halt(first)
            daemon.until(lambda: daemon.status().workers[0].restarts == 1)
            assert daemon.workers()[1] == second
            assert "worker 1 has not answered for" in daemon.log
            hear("WATCHDOG=1", since=len(heard))
            daemon.stop()
            hear("STOPPING=1")
        manager.shutdown(socket.SHUT_RD)
        listener.join()
        assert gone({first, second})
