"""Two daemons on one PostgreSQL: they share a stream and a journal, and one goes on when the other is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from poller.feed import Item
from tests.acceptance.harness import PATIENCE, DaemonProcess, Site
from tests.servers.postgresql import PostgreSQL

pytestmark = [pytest.mark.slow, pytest.mark.servers]

STREAM: dict[str, object] = {"type": "local-stream", "name": "clicks", "shards": 4}
POISON = json.dumps({"do": "fail", "n": 1})
POLLER = Path(sys.executable).parent / "poller"


def poller(site: Site, url: str, *arguments: str) -> str:
    done = subprocess.run(
        [str(POLLER), *arguments],
        cwd=site.folder,
        env={**os.environ, "DATABASE": url},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0 and "hunter2" not in done.stdout + done.stderr, done.stderr
    return done.stdout


def clicks(first: int, last: int) -> list[str]:
    return [f"c{n}" for n in range(first, last)]


def put(site: Site, bodies: list[str], url: str) -> None:
    os.environ["DATABASE"] = url
    try:
        site.put("clicks", *(Item(body.encode(), key=body) for body in bodies), file="one.toml")
    finally:
        del os.environ["DATABASE"]


def test_one_is_killed_and_the_other_goes_on_and_the_failures_are_in_one_journal(site: Site, postgresql: PostgreSQL) -> None:
    # The server believes everybody; the password is here to be kept secret.
    url = postgresql.database().replace("poller@", "poller:hunter2@")
    for file in ("one.toml", "two.toml"):
        site.write(
            site.function(concurrency=4),
            # One a batch: killed between the row and the save, the poison record is read again, and must not take others with it then.
            site.mapping("clicks", STREAM, batch_size=1, maximum_retry_attempts=0),
            file=file,
            store="env:DATABASE",
        )
    (site.folder / "mended.py").write_text("def handle(event, context):\n    return None\n")
    site.write(
        site.function(handler="mended.py:handle", code=site.folder),
        site.mapping("clicks", STREAM, batch_size=5),
        file="mended.toml",
        store="env:DATABASE",
    )
    with site.daemon("one.toml", DATABASE=url) as one, site.daemon("two.toml", DATABASE=url) as two:
        one.until(lambda: one.readyz()[0] and two.readyz()[0])
        put(site, clicks(0, 100), url)
        two.until(lambda: site.handled(*clicks(0, 100)))
        put(site, [POISON], url)
        two.until(lambda: _listed(site, url), what="the failure is in the journal")
        # The one that has lanes: whose lease must run out before another reads them.
        killed, left = (one, two) if _busy(site, one) else (two, one)
        killed.kill()
        put(site, clicks(100, 200), url)
        left.until(lambda: site.handled(*clicks(100, 200)), PATIENCE, "what the other left is read")
        left.stop()
        assert "hunter2" not in one.log + two.log
    begun = site.bodies("begun")
    assert begun.keys() == {*clicks(0, 200), POISON}
    assert begun[POISON] in (1, 2)  # once more if it was killed between the row and the save that follows it; yet it is one row
    (row,) = _listed(site, url)
    assert (row["mapping"], row["error"]["message"]) == ("clicks", "as asked")
    assert poller(site, url, "replay", "-c", "mended.toml") == "1 failure replayed\n"
    assert _listed(site, url) == []


def _busy(site: Site, daemon: DaemonProcess) -> bool:
    return any(each.daemon == daemon.pid for each in site.testimony("begun"))


def _listed(site: Site, url: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in poller(site, url, "failures", "list", "--json", "-c", "one.toml").splitlines()]
