"""One status from many: sums that only grow, lanes with their worker, reasons of everyone, and how long a dead worker is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.cli.status import page
from poller.metrics import MappingCounters, exposition
from poller.settings import Tally
from poller.status import (
    DaemonStatus,
    FunctionStatus,
    JournalStatus,
    LaneStatus,
    MappingStatus,
    ProcessStatus,
    Unready,
    WorkerStatus,
    judged,
)
from poller.workers.keeper import delay
from poller.workers.totals import Earlier, Seen, added, ended, learned, total
from tests.unit.test_metrics import read, sample

NOW = 1_000_000.0

Learn = Callable[[Earlier, DaemonStatus | None, DaemonStatus], Earlier]
End = Callable[[Earlier, DaemonStatus | None], Earlier]


def told(*mappings: MappingStatus, cpu: float = 0.0, **fields: Any) -> DaemonStatus:
    process = ProcessStatus(resident_bytes=100, cpu_seconds=cpu, open_files=10, file_limit=1000)
    return DaemonStatus(**{"ready": True, "mappings": list(mappings), "process": process, **fields})


def mapping(name: str = "orders", *, lanes: list[LaneStatus] | None = None, **counts: Any) -> MappingStatus:
    return MappingStatus(name=name, source="queue", state="running", counters=MappingCounters(**counts), lanes=lanes or [])


def own(*names: str, **fields: Any) -> DaemonStatus:
    mappings = [MappingStatus(name=name, state="starting") for name in names or ("orders",)]
    process = ProcessStatus(resident_bytes=1, cpu_seconds=1.0, open_files=1, file_limit=1)
    return DaemonStatus(**{"pid": 1, "mappings": mappings, "process": process, **fields})


def seen(number: int, status: DaemonStatus | None = None, earlier: Earlier | None = None, **fields: Any) -> Seen:
    state = "running" if status is not None else "down"
    return Seen(WorkerStatus(**{"number": number, "pid": number, "state": state, **fields}), status, earlier or Earlier())


# --- counters only grow ---------------------------------------------------------------------------------------------------------------


@dataclass
class Life:
    """One worker as it counts: what it does in turn, and what is known of it."""

    learn: Learn
    end: End
    counters: MappingCounters = field(default_factory=MappingCounters)
    cpu: float = 0.0
    before: DaemonStatus | None = None
    earlier: Earlier = field(default_factory=Earlier)

    def work(self, amount: int) -> None:
        self.counters.polled += amount
        self.counters.tally.rebalances += amount
        self.counters.observe(amount / 8)
        self.cpu += amount

    def tell(self) -> Seen:
        counters = added(self.counters, MappingCounters())
        status = told(MappingStatus(name="orders", source="queue", state="running", counters=counters), cpu=self.cpu)
        self.earlier = self.learn(self.earlier, self.before, status)
        self.before = status
        return seen(1, status, self.earlier)

    def restart_mapping(self) -> None:
        self.counters = MappingCounters()

    def die(self) -> Seen:
        self.earlier, self.before = self.end(self.earlier, self.before), None
        self.counters, self.cpu = MappingCounters(), 0.0
        return seen(1, None, self.earlier)


STEPS = st.lists(st.one_of(st.integers(0, 5), st.sampled_from(["restart", "die"])), max_size=20)


def shown(steps: list[int | str], learn: Learn, end: End) -> Iterator[tuple[int, int, float, float, float, int]]:
    """What a scraper sees after each step."""
    life = Life(learn, end)
    for step in steps:
        last = None
        match step:
            case "restart":
                life.restart_mapping()
            case "die":
                last = life.die()
            case int():
                life.work(step)
        status = total(own(), [last or life.tell()])
        counters, process = status.mappings[0].counters, status.process
        assert process is not None
        yield (
            counters.polled,
            counters.tally.rebalances,
            counters.handler_seconds,
            process.cpu_seconds,
            sum(counters.durations),
            counters.invoked,
        )


def only_grows(steps: list[int | str], learn: Learn = learned, end: End = ended) -> bool:
    """The law of a counter; and what was told is never forgotten, nor told twice."""
    lines = list(shown(steps, learn, end))
    grown = all(all(now >= before for now, before in zip(after, first, strict=True)) for first, after in pairwise(lines))
    return grown and (not lines or lines[-1][0] == sum(step for step in steps if isinstance(step, int)))


@given(STEPS)
def test_counters_only_grow_whatever_is_restarted(steps: list[int | str]) -> None:
    assert only_grows(steps)


def test_the_law_rejects_who_forgets() -> None:
    assert not only_grows([3, "die", 1], end=lambda earlier, _: earlier)
    assert not only_grows([3, "restart", 1], learn=lambda earlier, *_: earlier)
    assert not only_grows([3, 3], learn=lambda earlier, before, _: ended(earlier, before))


def test_what_runs_is_not_counted_on_when_its_worker_has_died() -> None:
    earlier = ended(Earlier(), told(mapping(in_flight=3, polled=7)))
    counters = total(own(), [seen(1, None, earlier), seen(2, told(mapping(in_flight=2, polled=1)))]).mappings[0].counters
    assert (counters.in_flight, counters.polled) == (2, 8)


def test_every_counter_is_summed() -> None:
    """Whatever is counted later on, too: a field that were forgotten would be 0."""
    one = MappingCounters()
    for name in one.__dataclass_fields__:
        value = getattr(one, name)
        setattr(one, name, Tally(2, 3) if isinstance(value, Tally) else [2] * len(value) if isinstance(value, list) else 2)
    both = added(one, one)
    assert (both.tally, set(both.durations)) == (Tally(4, 6), {4})
    assert {getattr(both, name) for name in one.__dataclass_fields__ if name not in ("tally", "durations")} == {4}


# --- the whole ------------------------------------------------------------------------------------------------------------------------


def whole() -> DaemonStatus:
    queue = [LaneStatus(name="orders", state="running", held=5)]
    first = told(
        mapping(lanes=[*queue, LaneStatus(name="shard-1", state="running"), LaneStatus(name="shard-2", state="elsewhere")], polled=3),
        functions=[FunctionStatus(name="f", permits=2, in_use=1), FunctionStatus(name="g", permits=1)],
        journal=JournalStatus(kept=4),
        cpu=2.0,
    )
    second = told(
        mapping(
            lanes=[
                *queue,
                LaneStatus(name="shard-2", state="running"),
                *(LaneStatus(name=f"shard-{n}", state="elsewhere") for n in (1, 3)),
            ],
            polled=4,
        ),
        functions=[FunctionStatus(name="f", permits=1, waiting=2)],
        journal=JournalStatus(kept=4),
        cpu=3.0,
    )
    return total(own(), [seen(1, first), seen(2, second, restarts=3)])


def test_lanes_are_listed_with_their_worker_and_once_where_nobody_here_has_them() -> None:
    lanes = whole().mappings[0].lanes
    assert [(lane.name, lane.worker, lane.state) for lane in lanes] == [
        ("orders", 1, "running"),
        ("orders", 2, "running"),
        ("shard-1", 1, "running"),
        ("shard-2", 2, "running"),
        ("shard-3", 0, "elsewhere"),
    ]


def test_what_is_the_daemons_is_summed_and_what_is_shared_is_not() -> None:
    status = whole()
    assert [(each.name, each.permits, each.in_use, each.waiting) for each in status.functions] == [("f", 3, 1, 2), ("g", 1, 0, 0)]
    assert status.journal == JournalStatus(kept=4)
    assert status.process == ProcessStatus(resident_bytes=201, cpu_seconds=6.0, open_files=21, file_limit=2001)
    assert status.mappings[0].counters.polled == 7
    assert (status.pid, status.ready, status.mappings[0].source) == (1, True, "queue")


def test_the_page_of_metrics_is_readable_and_names_workers() -> None:
    text = exposition(judged(whole(), NOW))
    read(text)  # no sample twice: both workers have a lane of the same queue
    assert sample(text, "poller_lane_held_records", mapping="orders", lane="orders", worker="2") == 5
    assert sample(text, "poller_worker_restarts_total", worker="2") == 3
    assert sample(text, "poller_worker_up", worker="1") == 1
    assert sample(text, "poller_polled_event_total", mapping="orders") == 7


def test_a_daemon_without_workers_shows_none() -> None:
    text = exposition(told(mapping(lanes=[LaneStatus(name="orders")])))
    assert "worker=" not in text
    assert "poller_worker" not in text
    assert "WORKER" not in page(told(mapping(lanes=[LaneStatus(name="orders")])), NOW)


def test_the_page_for_a_person_shows_workers() -> None:
    status = total(own(), [seen(1, told(mapping())), seen(2, reason="killed by SIGKILL", again_at=NOW + 4, restarts=7)])
    lines = [line.split() for line in page(status, NOW).splitlines()]
    assert ["WORKER", "PROCESS", "STATE", "SINCE", "RESTARTS"] in lines
    assert ["2", "2", "down", "7", "killed", "by", "SIGKILL;", "again", "in", "4.0s"] in lines


# --- whether it is ready --------------------------------------------------------------------------------------------------------------

STUCK = Unready(mapping="orders", lane="shard-1", reason="has settled none")


def unready(*reasons: Unready) -> DaemonStatus:
    return told(mapping(), ready=False, reasons=list(reasons))


@given(st.lists(st.sampled_from(["ready", "unready", "down"]), min_size=1, max_size=5))
def test_ready_is_only_who_runs_and_is_ready_everywhere(workers: list[str]) -> None:
    known = {"ready": told(mapping()), "unready": unready(STUCK), "down": None}
    status = total(own(), [seen(number, known[each]) for number, each in enumerate(workers, 1)])
    assert status.ready == (set(workers) == {"ready"})
    assert status.ready == (not status.reasons)
    assert judged(status, NOW + 10_000) == status  # each worker has judged its own; what is sums and lists would be judged wrongly


@pytest.mark.parametrize(
    ("workers", "reasons"),
    [
        ([unready(STUCK), unready(STUCK)], ["orders/shard-1: has settled none"]),
        ([unready(STUCK), told(mapping())], ["orders/shard-1: has settled none (worker 1)"]),
        ([unready(STUCK), unready(STUCK), told(mapping())], ["orders/shard-1: has settled none (workers 1, 2)"]),
        ([told(mapping()), None], ["worker 2 is down: killed by SIGKILL"]),
    ],
)
def test_reasons_name_the_workers_that_give_them(workers: list[DaemonStatus | None], reasons: list[str]) -> None:
    parts = [seen(number, each, reason="" if each else "killed by SIGKILL") for number, each in enumerate(workers, 1)]
    assert [str(each) for each in total(own(), parts).reasons] == reasons


def test_who_is_started_again_is_told_with_why() -> None:
    parts = [seen(1, None, state="starting"), seen(2, None, state="starting", reason="killed by SIGKILL")]
    assert [str(each) for each in total(own(), parts).reasons] == [
        "worker 1 is starting",
        "worker 2 is starting again, it has ended: killed by SIGKILL",
    ]


def test_a_stop_is_one_reason() -> None:
    stopping = told(mapping(), ready=False, stopping=True, reasons=[Unready(reason="stopping")])
    status = total(own(stopping=True), [seen(1, stopping), seen(2, None, state="stopped")])
    assert [str(each) for each in status.reasons] == ["stopping"]


def test_the_worst_state_is_shown_and_a_disabled_mapping_stays_so() -> None:
    parts = [
        MappingStatus(name="orders", state="running"),
        MappingStatus(name="orders", state="reconnecting", last_error="refused"),
    ]
    off = MappingStatus(name="off", enabled=False, state="stopped")
    status = total(own("orders", "off"), [seen(n, told(part, off)) for n, part in enumerate(parts, 1)])
    assert [(each.name, each.state, each.last_error) for each in status.mappings] == [
        ("orders", "reconnecting", "refused"),
        ("off", "starting", ""),
    ]
    # One that a worker does not run is disabled there, and says nothing about the mapping.
    elsewhere = told(MappingStatus(name="orders", enabled=False, state="stopped"))
    assert total(own(), [seen(1, elsewhere), seen(2, told(mapping()))]).mappings[0].state == "running"


def test_a_dead_worker_is_started_again_after_a_second_and_at_last_once_a_minute() -> None:
    assert [delay(failures) for failures in range(1, 9)] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert delay(10**6) == 60.0
