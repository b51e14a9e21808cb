"""Destinations over kill -9: one that is away holds up no lane, and whenever the daemon dies, each failure and success arrives."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.acceptance.daemon_program import Options
from tests.acceptance.harness import DaemonProcess, Site, until

pytestmark = pytest.mark.slow

OWNER = "worker"
"""All lives have one: a life with a name of its own waits ten seconds for the leases of the one before."""

FAILING = [json.dumps({"do": "fail", "n": n}) for n in range(6)]
FINE = [f"fine {n}" for n in range(6)]


class Receiver:
    """A web server at one port, which listens or does not. `arrived`: what was posted, by path."""

    def __init__(self) -> None:
        self.arrived: dict[str, list[dict[str, object]]] = {"/failures": [], "/successes": []}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def ids(self, path: str) -> Counter[str]:
        return Counter(str(each["id"]) for each in self.arrived[path])

    @contextmanager
    def listening(self) -> Iterator[None]:
        arrived = self.arrived

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                arrived[self.path].append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(202)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...

        ThreadingHTTPServer.allow_reuse_address = True
        with ThreadingHTTPServer(("127.0.0.1", self._port), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            try:
                yield
            finally:
                server.shutdown()
                thread.join()


def prepare(site: Site, receiver: Receiver) -> None:
    site.write(
        site.function(),
        site.mapping(
            "orders",
            {"type": "local-stream", "name": "orders"},
            batch_size=1,
            # More than the attempts that die with a life.
            maximum_retry_attempts=5,
            retry_backoff={"initial": "10ms", "maximum": "10ms"},
            on_failure=f"{receiver.url}/failures",
            on_success={"to": f"{receiver.url}/successes"},
        ),
    )
    site.put("orders", *[each for pair in zip(FAILING, FINE, strict=True) for each in pair])


def killed(daemon: DaemonProcess) -> None:
    until(lambda: daemon.ended, what="killed")
    assert daemon.wait() == -signal.SIGKILL, daemon.log


def test_everything_arrives_whenever_the_daemon_dies(site: Site) -> None:
    receiver = Receiver()
    prepare(site, receiver)
    for point in ("kept", "posting"):
        with site.daemon(options=Options(owner=OWNER, point=point, count=2)) as daemon:
            killed(daemon)
    with site.daemon(options=Options(owner=OWNER)) as daemon:
        # The lane goes on to its end, whatever the destinations do; and the daemon is ready, and says what waits.
        daemon.until(lambda: site.handled(*FINE))
        daemon.until(lambda: daemon.metric("poller_destination_waiting") == 12.0)
        daemon.until(lambda: daemon.metric("poller_destination_failing") == 2.0)
        assert daemon.readyz() == (True, "")
        assert daemon.metric("poller_destination_delivered_event_total") == 0
        assert daemon.metric("poller_dropped_event_total") == 0
        daemon.kill()
    assert len(site.journal()) == 6
    with receiver.listening():
        with site.daemon(options=Options(owner=OWNER, point="delivering", count=3)) as daemon:
            killed(daemon)
        with site.daemon(options=Options(owner=OWNER)) as daemon:
            daemon.until(lambda: daemon.address and daemon.metric("poller_destination_waiting") == 0.0)
            daemon.stop()
    failures, successes = receiver.ids("/failures"), receiver.ids("/successes")
    assert failures.keys() == {row.entry.id for row in site.journal()}
    assert len(successes) == 6 and not successes.keys() & failures.keys()
    # What had arrived when the daemon died before it could note that, and so perhaps what was under way beside it, has arrived twice.
    assert 13 <= failures.total() + successes.total() <= 12 + 8
