"""The exposition must be what Prometheus reads: a strict reader of the format stands in for it."""

from __future__ import annotations

import math
import os
import re
from bisect import bisect_left
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.metrics import BOUNDS, MappingCounters, exposition, measure
from poller.settings import Tally
from poller.status import DaemonStatus, FunctionStatus, HeadSpan, JournalStatus, LaneStatus, MappingStatus, ProcessStatus

SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (\S+)')
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\\n]|\\[\\"n])*)"')
UNESCAPE = {r"\\": "\\", r"\"": '"', r"\n": "\n"}

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(text: str) -> tuple[Samples, dict[str, str]]:
    """Samples and the types of their families. Refuses what Prometheus refuses: a sample twice, a family apart, a type missing."""
    assert text.endswith("\n")
    samples: Samples = {}
    types: dict[str, str] = {}
    family = ""
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            family = line.split(" ", 3)[2]
            assert family not in types, f"{family} is in two places"
            continue
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == family
            types[name] = kind
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        name, labels, value = match.groups()
        base = re.sub(r"_(bucket|sum|count)$", "", name) if types[family] == "histogram" else name
        assert base == family, line
        if types[family] == "counter":
            assert name.endswith("_total")
        pairs = frozenset((key, re.sub(r"\\.", lambda m: UNESCAPE[m[0]], text)) for key, text in LABEL.findall(labels or ""))
        assert (name, pairs) not in samples, f"twice: {line}"
        samples[name, pairs] = float(value)
    return samples, types


def sample(text: str, name: str, **labels: str) -> float:
    return read(text)[0][name, frozenset(labels.items())]


def test_an_empty_daemon_is_readable() -> None:
    samples, _ = read(exposition(DaemonStatus(version="1.2.3")))
    assert {labels for name, labels in samples if name == "poller_build_info"}
    assert sample(exposition(DaemonStatus()), "poller_ready") == 0


def test_counters_carry_the_names_that_lambda_uses() -> None:
    counters = MappingCounters(polled=7, filtered=6, invoked=5, failed=4, dropped=3, deleted=2, polling_errors=1, in_flight=9)
    text = exposition(DaemonStatus(mappings=[MappingStatus(name="orders", counters=counters)]))
    values = {
        "poller_polled_event_total": 7,
        "poller_filtered_out_event_total": 6,
        "poller_invoked_event_total": 5,
        "poller_failed_invoke_event_total": 4,
        "poller_dropped_event_total": 3,
        "poller_deleted_event_total": 2,
        "poller_polling_error_total": 1,
        "poller_in_flight_invocations": 9,
    }
    assert {name: sample(text, name, mapping="orders") for name in values} == values


def test_every_counter_is_shown() -> None:
    numbers = [field.name for field in fields(MappingCounters) if field.name not in ("durations", "handler_seconds", "tally")]
    counters = MappingCounters(**{name: 1000 + at for at, name in enumerate(numbers)}, tally=Tally(998, 999))  # type: ignore[arg-type]
    samples, _ = read(exposition(DaemonStatus(mappings=[MappingStatus(name="m", counters=counters)])))
    assert set(range(998, 1000 + len(numbers))) <= set(samples.values())


def test_lanes_label_gauges_only() -> None:
    lane = LaneStatus(
        name="shard-1", held=3, lag_records=40, lag_seconds=1.5, progressed_at=5.0, read_at=6.0, head_span=HeadSpan(attempts=4)
    )
    text = exposition(DaemonStatus(mappings=[MappingStatus(name="orders", lanes=[lane])]))
    samples, types = read(text)
    assert {types[name] for name, labels in samples if "lane" in dict(labels)} == {"gauge"}
    assert sample(text, "poller_lane_lag_records", mapping="orders", lane="shard-1") == 40
    assert sample(text, "poller_lane_lag_seconds", mapping="orders", lane="shard-1") == 1.5
    assert sample(text, "poller_lane_head_attempts", mapping="orders", lane="shard-1") == 4


def test_a_lag_that_is_not_known_is_not_shown_as_none_or_nought() -> None:
    text = exposition(DaemonStatus(mappings=[MappingStatus(name="orders", lanes=[LaneStatus(name="q")])]))
    assert "poller_lane_lag_records" not in text
    assert "None" not in text


def test_two_of_one_name_do_not_spoil_the_page() -> None:
    """While a reload replaces a mapping, or a lane is closed and opened again."""
    old = MappingStatus(
        name="orders", counters=MappingCounters(polled=5), lanes=[LaneStatus(name="0", held=1), LaneStatus(name="0", held=2)]
    )
    new = MappingStatus(name="orders", counters=MappingCounters(polled=3))
    text = exposition(DaemonStatus(mappings=[old, new]))
    assert sample(text, "poller_polled_event_total", mapping="orders") == 8
    assert sample(text, "poller_lane_held_records", mapping="orders", lane="0") == 2


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_any_name_survives_as_a_label(mapping: str, lane: str) -> None:
    text = exposition(DaemonStatus(mappings=[MappingStatus(name=mapping, lanes=[LaneStatus(name=lane, held=3)])]))
    assert sample(text, "poller_lane_held_records", mapping=mapping, lane=lane) == 3


@given(st.lists(st.one_of(st.sampled_from(BOUNDS), st.floats(0, 2000)), max_size=50))
def test_the_histogram_counts_what_prometheus_means(durations: list[float]) -> None:
    counters = MappingCounters()
    for seconds in durations:
        counters.observe(seconds)
    text = exposition(DaemonStatus(mappings=[MappingStatus(name="m", counters=counters)]))
    name = "poller_handler_duration_seconds"
    for bound in BOUNDS:
        assert sample(text, f"{name}_bucket", mapping="m", le=repr(bound)) == sum(seconds <= bound for seconds in durations)
    assert sample(text, f"{name}_bucket", mapping="m", le="+Inf") == sample(text, f"{name}_count", mapping="m") == len(durations)
    assert math.isclose(sample(text, f"{name}_sum", mapping="m"), sum(durations))


def test_bounds_grow() -> None:
    assert list(BOUNDS) == sorted(set(BOUNDS))
    assert bisect_left(BOUNDS, BOUNDS[3]) == 3


def test_functions_journal_and_process() -> None:
    text = exposition(
        DaemonStatus(
            started=123.5,
            functions=[FunctionStatus(name="f", permits=8, in_use=3, waiting=2, environments=4)],
            journal=JournalStatus(kept=11, parked=2),
            process=ProcessStatus(resident_bytes=4096, cpu_seconds=1.25, open_files=7, file_limit=1024),
        )
    )
    assert sample(text, "poller_function_permits_limit", function="f") == 8
    assert sample(text, "poller_function_permits_used", function="f") == 3
    assert sample(text, "poller_journal_rows", state="kept") == 11
    assert sample(text, "poller_journal_rows", state="parked") == 2
    assert sample(text, "process_cpu_seconds_total") == 1.25
    assert sample(text, "process_open_fds") == 7


@pytest.mark.parametrize(("value", "shown"), [(math.inf, "+Inf"), (math.nan, "NaN"), (1e22, "1e+22"), (2.0, "2.0")])
def test_numbers_are_written_as_prometheus_reads_them(value: float, shown: str) -> None:
    assert f"poller_start_time_seconds {shown}\n" in exposition(DaemonStatus(started=value))


def test_a_large_count_stays_exact() -> None:
    counters = MappingCounters(polled=2**60 + 1)
    assert f'{{mapping="m"}} {2**60 + 1}\n' in exposition(DaemonStatus(mappings=[MappingStatus(name="m", counters=counters)]))


def test_this_process_is_measured() -> None:
    before = measure()
    assert before.resident_bytes and before.resident_bytes > 1_000_000
    descriptor = os.open(os.devnull, os.O_RDONLY)
    try:
        assert measure().open_files == (before.open_files or 0) + 1
    finally:
        os.close(descriptor)
