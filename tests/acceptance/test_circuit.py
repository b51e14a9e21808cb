"""A function that is broken for a while, whatever it is given: few invocations meanwhile, and everything handled once it is mended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from poller.feed import Item
from tests.acceptance.harness import Site
from tests.acceptance.supervised import supervised

pytestmark = pytest.mark.slow

STREAM: dict[str, object] = {"type": "local-stream", "name": "clicks"}
QUEUE: dict[str, object] = {"type": "local-queue", "name": "orders", "visibility_timeout": "2s"}
BREAKER = {"initial": "300ms", "maximum": "1s"}


@pytest.fixture
def broken(site: Site) -> Path:
    """The file that breaks the function."""
    file = site.folder / "broken"
    file.touch()
    return file


def put(site: Site, mapping: str, count: int) -> list[str]:
    bodies = [f"{mapping} {number}" for number in range(count)]
    site.put(mapping, *(Item(body.encode(), key=body) for body in bodies))
    return bodies


def test_an_outage_of_the_function_costs_no_record_its_attempts(site: Site, broken: Path) -> None:
    site.write(
        site.function(concurrency=8, environment={"BROKEN": str(broken)}),
        site.mapping("clicks", STREAM, batch_size=5, parallelization_factor=8, maximum_retry_attempts=1, circuit_breaker=BREAKER),
        site.mapping("orders", QUEUE, batch_size=2, maximum_concurrency=8, maximum_receive_count=2, circuit_breaker=BREAKER),
    )
    bodies = put(site, "clicks", 200) + put(site, "orders", 50)
    with site.daemon() as daemon:
        reasons = daemon.complaint("clicks: the circuit breaker is open", "orders: the circuit breaker is open")
        assert "the function fails with ConnectionError" in reasons and "database" not in reasons
        opened = daemon.metric("poller_invocation_total")
        daemon.until(lambda: daemon.metric("poller_invocation_total") >= opened + 8, what="eight probes")
        assert daemon.metric("poller_invocation_total") < 70, "250 records, one invocation or more each, without a breaker"
        broken.unlink()
        daemon.until(lambda: site.handled(*bodies))
        daemon.until(lambda: daemon.readyz()[0])
        assert daemon.metric("poller_circuit_opened_total") == 2
        daemon.stop()
    assert site.journal() == []
    assert max(received for each in site.testimony("begun") for received in each.receives) <= 2


def test_a_person_closes_it_in_every_worker(site: Site, broken: Path) -> None:
    patient = {"initial": "10m", "maximum": "10m"}
    site.write(
        site.function(concurrency=16, environment={"BROKEN": str(broken)}),
        site.mapping("orders", QUEUE, batch_size=1, circuit_breaker=patient),
        workers=2,
    )
    bodies = put(site, "orders", 40)
    with supervised(site) as daemon:
        daemon.until(lambda: daemon.metric("poller_circuit_opened_total") == 2, what="both workers' breakers are open")
        assert "its circuit breaker is open since" in daemon.run("status").stdout
        broken.unlink()
        answers = [json.loads(line) for line in daemon.run("reset", "orders", "--json").stdout.splitlines()]
        assert [answer["was"]["error"] for answer in answers] == ["ConnectionError: no route to the database"] * 2
        daemon.until(lambda: site.handled(*bodies))
        assert daemon.run("reset", "orders").stdout == "the circuit breaker of orders was not open\n"
        refused = daemon.run("reset", "clicks")
        assert (refused.returncode, "no mapping 'clicks', only orders" in refused.stderr) == (2, True)
        daemon.stop()
    assert "no daemon is running" in daemon.run("reset", "orders").stderr
