"""Circuit breakers as they are configured, and as status, pages and commands show them."""

from __future__ import annotations

import pytest

from poller.cli.resetting import sentence
from poller.cli.status import page
from poller.metrics import MappingCounters, exposition
from poller.settings import BreakerSettings
from poller.status import CircuitStatus, DaemonStatus, LaneStatus, MappingStatus, WorkerStatus, ready
from poller.workers.totals import Seen, total
from tests.unit.test_config_parts import QUEUE, STREAM, Complain, Read, mapping
from tests.unit.test_metrics import sample

NOW = 1_000_000.0


def open_(since: float = NOW - 65, probes: int = 3) -> CircuitStatus:
    return CircuitStatus(since=since, error="ConnectionError: no route to 10.0.0.7", probes=probes, next_probe=NOW + 12)


def orders(circuit: CircuitStatus | None, *lanes: LaneStatus) -> MappingStatus:
    counters = MappingCounters(opened=0 if circuit is None else 2)
    return MappingStatus(name="orders", source="queue", state="running", circuit=circuit, counters=counters, lanes=list(lanes))


# --- configuration ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], BreakerSettings(5.0, 60.0, 3600.0)),
        (["circuit_breaker = true"], BreakerSettings()),
        (["circuit_breaker = false"], None),
        (['defaults = "aws"'], None),
        (['defaults = "aws"', "circuit_breaker = true"], BreakerSettings()),
        (['circuit_breaker = { initial = "1s", patience = "1d" }'], BreakerSettings(1.0, 60.0, 86_400.0)),
    ],
)
@pytest.mark.parametrize("source", [QUEUE, STREAM])
def test_it_is_there_unless_a_mapping_is_as_on_aws(read: Read, source: str, lines: list[str], expected: BreakerSettings | None) -> None:
    found = read(mapping("maximum_record_age = -1", *lines, source=source) if source is STREAM else mapping(*lines, source=source))
    assert found.mappings["m"].settings.breaker == expected


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("circuit_breaker = 5", "found 5; allowed true or false or a table"),
        ('circuit_breaker = { maximum = "1s" }', 'found initial "5s" above maximum "1s"; allowed initial up to maximum'),
        ('circuit_breaker = { initial = "9ms" }', 'found initial "9ms"; allowed initial of "100ms" and more'),
        ("circuit_breaker = { patience = 60 }", '.patience] found 60, a number without a unit; allowed a duration such as "30s"'),
        ('circuit_breaker = { after = "1s" }', ".after] found an unknown key; allowed initial, maximum, patience"),
    ],
)
def test_what_is_wrong_with_it_is_said(complain: Complain, line: str, problem: str) -> None:
    (found,) = complain(mapping(line))
    assert "[mappings.m.circuit_breaker" in found and problem in found


# --- what is shown ----------------------------------------------------------------------------------------------------------------------


def test_an_open_one_is_the_one_reason_not_to_be_ready_and_tells_no_payload() -> None:
    still = LaneStatus(name="shard-1", opened_at=NOW - 900, read_at=NOW - 900)
    verdict, reasons = ready(DaemonStatus(mappings=[orders(open_(), still)]), NOW)
    text = "orders: the circuit breaker is open: the function fails with ConnectionError, 3 probes too, next probe in 12 s"
    assert (verdict, [str(reason) for reason in reasons]) == (False, [text])
    assert ready(DaemonStatus(mappings=[orders(None)]), NOW) == (True, [])


def test_the_page_says_since_when_why_and_what_to_do() -> None:
    shown = page(DaemonStatus(mappings=[orders(open_())]), NOW)
    assert "circuit open" in shown and "running" not in shown
    (line,) = [line for line in shown.splitlines() if "circuit breaker" in line]
    assert "its circuit breaker is open since" in line and "ConnectionError: no route to 10.0.0.7; 3 probes failed" in line
    assert "the next is due" in line and line.endswith("to close it: poller reset orders")
    probing = open_(probes=1)
    probing.state = "half-open"
    closed = orders(None)
    assert "circuit" not in page(DaemonStatus(mappings=[closed]), NOW)
    closed.counters.opened = 2
    assert "its circuit breaker has opened 2 times since it started, and is closed" in page(DaemonStatus(mappings=[closed]), NOW)
    assert "1 probe failed, one runs" in page(DaemonStatus(mappings=[orders(probing)]), NOW)


@pytest.mark.parametrize(("circuit", "state"), [(None, "closed"), (open_(), "open")])
def test_metrics_tell_its_state_and_how_often_it_opened(circuit: CircuitStatus | None, state: str) -> None:
    told = exposition(DaemonStatus(mappings=[orders(circuit)]))
    assert sample(told, "poller_circuit_state", mapping="orders", state=state) == 1
    assert sample(told, "poller_circuit_opened_total", mapping="orders") == (2 if circuit else 0)


def test_of_several_workers_the_one_that_is_open_for_longest_is_shown() -> None:
    told = [DaemonStatus(ready=True, mappings=[orders(each)]) for each in (None, open_(NOW - 5), open_(NOW - 50))]
    seen = [Seen(WorkerStatus(number=n, pid=n, state="running"), each) for n, each in enumerate(told, 1)]
    (found,) = total(DaemonStatus(mappings=[MappingStatus(name="orders")]), seen).mappings
    assert found.circuit is not None and (found.circuit.since, found.counters.opened) == (NOW - 50, 4)


def test_a_reset_says_what_it_closed() -> None:
    was = {"since": NOW, "error": "ConnectionError: no route"}
    run, other = {"runs": True, "was": was}, {"runs": True, "was": None}
    assert sentence("orders", [run]).startswith("the circuit breaker of orders is closed; it was open since")
    assert "is closed in 1 of 2 workers" in sentence("orders", [run, other])
    assert sentence("orders", [other]) == "the circuit breaker of orders was not open"
    assert sentence("orders", [{"runs": False, "was": None}]) == "orders does not run"
