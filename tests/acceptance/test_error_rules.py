"""Error rules in a daemon: a function that may not do its work pauses its mapping; a record that is no good is found, and goes alone."""

from __future__ import annotations

import json

import pytest

from tests.acceptance.harness import Site
from tests.acceptance.test_pause import mapping, poller

pytestmark = pytest.mark.slow

BAD = json.dumps({"do": "fail", "n": 1})
GOOD = ("one", "two", "three", "four")


def test_a_mapping_pauses_itself_and_gives_up_only_what_is_bad(site: Site) -> None:
    broken = site.folder / "broken"
    broken.touch()
    errors = [{"match": "ConnectionError*", "action": "pause"}, {"match": "*", "action": "discard"}]
    stream: dict[str, object] = {"type": "local-stream", "name": "orders"}
    site.write(
        site.function(environment={"BROKEN": str(broken)}),
        site.mapping("orders", stream, batch_size=5, maximum_retry_attempts=0, errors=errors),
    )
    site.put("orders", *GOOD[:2], BAD, *GOOD[2:])
    with site.daemon() as daemon:
        daemon.until(lambda: site.testimony("begun"))
        daemon.until(lambda: mapping(site)["state"] == "paused")
        assert len(site.testimony("begun")) == 1, "one invocation tells, and no other begins"
        shown = poller(site, "status")
        assert 'paused by the error rule "ConnectionError*" (ConnectionError: ' in shown and "to go on: poller resume orders" in shown
        daemon.kill()
    with site.daemon() as daemon:
        daemon.until(lambda: daemon.readyz()[0], what="what is paused is ready")
        daemon.until(lambda: mapping(site)["state"] == "paused")
        assert site.journal() == [], "no record has lost an attempt, though there is only one"
        broken.unlink()
        assert "orders goes on; it was paused since" in poller(site, "resume", "orders")
        daemon.until(lambda: site.handled(*GOOD))
        daemon.until(lambda: len(site.journal()) == 1)
        daemon.stop()
    (row,) = site.journal()
    assert (row.entry.reason, row.entry.attempts, len(row.entry.records)) == ("ErrorDiscarded", 1, 1)
    assert site.bodies("ended") == dict.fromkeys(GOOD, 1)
