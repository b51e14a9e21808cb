"""What becomes of batches arrives at a file, at the embedded queue, at a function and over HTTP, by the daemon as a process."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.harness import Site

pytestmark = pytest.mark.slow

FAILING = json.dumps({"do": "fail"})
AUDIT = """
import json, os
def handler(event, context):
    with open(os.environ["OUT"] + "-audit", "a") as out:
        out.write(json.dumps(event) + "\\n")
"""


class Hook(BaseHTTPRequestHandler):
    """Busy at first."""

    taken: list[tuple[str, Any]]
    busy: int

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        type(self).busy -= 1
        self.send_response(503 if self.busy >= 0 else 204)
        if self.busy >= 0:
            self.send_header("Retry-After", "0")
        else:
            self.taken.append((self.headers["Idempotency-Key"], body))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def hook() -> Iterator[tuple[str, type[Hook]]]:
    handler = type("Busy", (Hook,), {"taken": [], "busy": 2})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/failures", handler
        finally:
            server.shutdown()
            thread.join()


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_failures_and_successes_arrive_wherever_they_are_sent(site: Site, tmp_path: Path) -> None:
    (tmp_path / "audit.py").write_text(AUDIT)
    with hook() as (address, seen):
        site.write(
            site.function(),
            site.function("audit", "audit.handler", tmp_path),
            site.mapping(
                "orders",
                {"type": "local-stream", "name": "orders"},
                batch_size=1,
                maximum_retry_attempts=0,
                on_failure=["file:failures.jsonl", "local-queue:dead", "function:audit", {"to": address, "timeout": "5s"}],
                on_success={"to": "file:done.jsonl", "keep": 3},
            ),
            site.mapping("dead", {"type": "local-queue", "name": "dead"}),
        )
        site.put("orders", FAILING, "good")
        with site.daemon() as daemon:
            told, audited = site.folder / "failures.jsonl", Path(f"{site.out}-audit")
            daemon.until(lambda: lines(told) and lines(audited) and seen.taken and lines(site.folder / "done.jsonl"), 60)
            dead = daemon.until(lambda: [body for body in site.bodies("ended") if "KinesisBatchInfo" in body])
            daemon.stop()
    (row,) = site.journal()
    ((key, posted),) = seen.taken
    (failure,) = lines(told)
    assert key == row.entry.id == failure["id"]
    assert failure["error"]["message"] == "as asked"
    assert posted == failure == json.loads(dead[0])
    assert lines(audited) == [failure]
    (done,) = lines(site.folder / "done.jsonl")
    assert done["requestContext"]["condition"] == "Success"
    assert len(done["requestPayload"]["Records"]) == 1
