"""What `poller status` makes of a status, and `check --live` of what it finds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from poller.cli.meter import Meter
from poller.cli.status import page
from poller.cli.text import amount, lasting, shortened, table
from poller.config import Config, load
from poller.entry_points import EntryPoint
from poller.errors import NotConnected
from poller.metrics import MappingCounters
from poller.model import Busy, Call, Fault, Response
from poller.probe import probe
from poller.protocols import Event, Handler, Policy, Source
from poller.registry import CONNECTORS, Registry
from poller.settings import Context, Finding, FunctionLog, FunctionSettings, MappingSettings, Traits
from poller.status import DaemonStatus, FunctionStatus, HeadSpan, JournalStatus, LaneStatus, MappingStatus, PauseStatus, Unready

# --- the page -------------------------------------------------------------------------------------------------------------------------


def status() -> DaemonStatus:
    head = HeadSpan(first="49590", records=3, attempts=4, last_error="KeyError: 'total'", not_before=1012.0)
    lane = LaneStatus(
        name="shard-0", state="running", held=120, in_flight=100, lag_records=5000, lag_seconds=7200.0, position="49580", head_span=head
    )
    counters = MappingCounters(polled=12_345, done=12_000, batches=130, invocations=140, faults=7, partials=2, retries=9, splits=1, kept=4)
    orders = MappingStatus(name="orders", type="x", function="bill", state="running", counters=counters, lanes=[lane])
    paused = MappingStatus(name="mails", function="mail", state="stopped", enabled=False)
    return DaemonStatus(
        version="9.9",
        pid=42,
        started=0.0,
        config="poller.toml",
        ready=False,
        reasons=[Unready(mapping="orders", lane="shard-0", reason="has settled none")],
        mappings=[orders, paused],
        functions=[FunctionStatus(name="bill", permits=8, in_use=3, waiting=1, environments=4)],
        journal=JournalStatus(kept=4, parked=1200),
    )


def test_the_page_shows_what_is_wrong_and_what_is_done() -> None:
    lines = page(status(), 1000.0).splitlines()
    words = [line.split() for line in lines]
    assert "poller.toml: not ready" in lines
    assert "    orders/shard-0: has settled none" in lines
    assert ["orders", "running", "bill", "12,345", "0", "12,000", "120", "130", "140", "9", "9", "1", "4"] in words
    assert any(line.startswith("mails") and "disabled" in line for line in lines)
    (place,) = [number for number, line in enumerate(lines) if line.startswith("shard-0")]
    assert lines[place - 1].split()[:3] == ["orders/", "STATE", "HELD"], "one worker, and all is here: no owner is shown"
    assert lines[place].split() == ["shard-0", "running", "120", "100", "0", "5,000", "2h", "49580"]
    assert lines[place + 1] == "    under retry: 3 from 49590, 4 attempts, again in 12s: KeyError: 'total'"
    assert ["bill", "8", "3", "1", "4"] in words
    assert lines[-1] == "journal: 4 kept, 0 in replay, 1,200 parked, 0 replayed, 0 dropped"


def test_a_pause_what_expired_and_rebalances_are_not_overlooked() -> None:
    shown = status()
    orders = shown.mappings[0]
    orders.state, orders.paused = "paused", PauseStatus(by="ann on host", since=990.0)
    orders.counters.tally.expired, orders.counters.tally.rebalances = 1200, 1
    orders.counters.parked = 7
    lines = page(shown, 1000.0).splitlines()
    (pause,) = [line for line in lines if "ann on host" in line]
    assert pause.startswith("    orders: paused by ann on host, since ") and pause.endswith("poller resume orders")
    assert "    orders: 1,200 removed by the source's retention before they were read" in lines
    assert "    orders: 1 rebalance" in lines
    assert any(line.startswith("    orders: 7 parked behind failures that hold their keys; ") for line in lines)


SEQUENCE = "49590338271490256608559692538361571095921575989136588898"


def test_lanes_of_others_show_their_owner_and_all_fits_a_terminal() -> None:
    shown = status()
    here = shown.mappings[0].lanes[0]
    here.name, here.position = "shardId-000000000000", SEQUENCE
    there = LaneStatus(name="shardId-000000000001", state="elsewhere", owner="host-7", position="70")
    old = LaneStatus(name="shardId-000000000002", state="ended", position="ended")
    free = LaneStatus(name="shardId-000000000003", state="free", owner="", position="AT_TIMESTAMP 1000.5")
    shown.mappings[0].lanes = [here, there, old, free]
    lines = page(shown, 1000.0).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("orders/"))
    table = lines[start : start + 6]
    assert max(map(len, table)) <= 100
    assert table[0].split()[:3] == ["orders/", "OWNER", "STATE"]
    assert table[1].endswith(" 49590338...136588898"), "its ends tell it from others"
    assert table[3].split()[:3] == ["shardId-000000000001", "host-7", "elsewhere"]
    assert table[4].split()[:2] == ["shardId-000000000003", "free"]
    assert table[5] == "    and 1 lane more: --lanes", "what has ended"
    every = page(shown, 1000.0, all_lanes=True)
    assert SEQUENCE in every and "shardId-000000000002" in every


def test_of_many_lanes_those_are_shown_that_someone_should_look_at() -> None:
    shown = status()
    bad = LaneStatus(name="shard-777", ready=False, reason="stuck")
    late = LaneStatus(name="shard-776", lag_seconds=9000.0)
    shown.mappings[0].lanes = [LaneStatus(name=f"shard-{n:03}") for n in range(775)] + [late, bad, *shown.mappings[0].lanes]
    lines = page(shown, 1000.0).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("orders/"))
    assert [line.split()[0] for line in lines[start + 1 : start + 5]] == ["shard-777", "shard-0", "under", "shard-776"]
    assert "    and 758 lanes more: --lanes" in lines


def test_an_error_of_a_source_cannot_steer_the_terminal() -> None:
    shown = status()
    shown.mappings[0].last_error = "gone\x1b[2J\r\nfar"
    assert "\x1b" not in page(shown, 1000.0)
    assert "\r" not in page(shown, 1000.0)


def test_the_page_of_a_daemon_that_has_nothing() -> None:
    assert "ready" in page(DaemonStatus(config="poller.toml", ready=True), 0.0)


# --- words ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0.0s"), (9.96, "10.0s"), (59.0, "59s"), (150.0, "2m"), (7200.0, "2h"), (500_000.0, "6d"), (None, "")]
)
def test_how_long(seconds: float | None, text: str) -> None:
    assert lasting(seconds) == text


def test_amounts_and_shortened_texts() -> None:
    assert (amount(1, "record"), amount(1200, "record"), amount(0, "batch", "batches")) == ("1 record", "1,200 records", "0 batches")
    assert (shortened("abcdef", 6), shortened("abcdefg", 6), shortened("ab\ncd", 6)) == ("abcdef", "abc...", "ab...")


def test_a_table_lines_numbers_up_to_the_right() -> None:
    assert table(("A", "N"), [("x", 5), ("long", 1000)]).splitlines() == ["A         N", "x         5", "long  1,000"]
    assert table(("A",), []) == "A"


# --- the meter ------------------------------------------------------------------------------------------------------------------------


@dataclass
class Stream:
    """A stream that is a terminal, or not."""

    terminal: bool
    text: str = ""

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None: ...


def test_the_meter_leaves_nothing_behind() -> None:
    stream = Stream(terminal=True)
    with Meter(stream) as meter:  # type: ignore[arg-type]
        meter.bar(5, 10, "5 of 10")
    assert "[###############...............]  50%  5 of 10" in stream.text
    assert stream.text.endswith("\r\x1b[K")


def test_the_meter_is_silent_where_nobody_looks() -> None:
    stream = Stream(terminal=False)
    with Meter(stream) as meter:  # type: ignore[arg-type]
        meter.bar(5, 10, "5 of 10")
    assert stream.text == ""


# --- check --live ---------------------------------------------------------------------------------------------------------------------


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """None."""


@dataclass
class Probing:
    """A connector that can only be probed."""

    found: list[Finding] | Exception
    options: type[msgspec.Struct] = NoOptions
    asked: list[float] = field(default_factory=list)

    def traits(self, options: Any) -> Traits:
        return Traits("stream", 100)

    def policy(self, options: Any, settings: MappingSettings) -> Policy:
        raise AssertionError("a probe decides nothing")

    async def open(self, options: Any, context: Context) -> Source:
        raise AssertionError("a probe opens nothing")

    async def probe(self, options: Any, context: Context, timeout: float) -> list[Finding]:
        self.asked.append(timeout)
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@dataclass
class Warmed:
    """A handler that may only be warmed."""

    found: Fault | Busy | None
    closed: bool = False

    async def warm(self) -> Fault | Busy | None:
        return self.found

    async def invoke(self, event: Event, call: Call) -> Response:
        raise AssertionError("a probe runs nothing")

    async def aclose(self) -> None:
        self.closed = True


@dataclass
class Cold:
    """A handler that cannot be warmed."""

    async def invoke(self, event: Event, call: Call) -> Response:
        raise AssertionError("a probe runs nothing")

    async def aclose(self) -> None: ...


@dataclass(frozen=True)
class Point:
    """An entry point of one part."""

    name: str
    part: Any
    value: str = "x:y"
    dist: None = None

    def load(self) -> Any:
        return self.part


def registry(connector: Probing, handler: Handler) -> Registry:
    def kind(settings: FunctionSettings, log: FunctionLog) -> Handler:
        return handler

    def points(group: str) -> Iterable[EntryPoint]:
        return [Point("fake", connector)] if group == CONNECTORS else [Point("python", kind)]

    return Registry(points)


def probed(folder: Path, connector: Probing, handler: Handler) -> Sequence[tuple[str, str, str]]:
    """(what, level, text) of each finding."""
    (folder / "app.py").write_text("")
    (folder / "poller.toml").write_text(
        '[functions.f]\nhandler = "app.py:handle"\ntimeout = "7s"\n[mappings.m]\nfunction = "f"\n[mappings.m.source]\ntype = "fake"\n'
    )
    parts = registry(connector, handler)
    config: Config = load(folder / "poller.toml", parts, {})
    found = asyncio.run(probe(config, parts, lambda *_: None))
    return [(each.what, each.finding.level, each.finding.text) for each in found]


def test_a_probe_asks_connectors_and_loads_functions(tmp_path: Path) -> None:
    connector, handler = Probing([Finding("warning", "slow"), Finding("ok", "there")]), Warmed(None)
    assert probed(tmp_path, connector, handler) == [
        ("mapping m", "warning", "slow"),
        ("mapping m", "ok", "there"),
        ("function f", "ok", "app.py:handle is loaded"),
    ]
    assert connector.asked == [7.0]
    assert handler.closed


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Fault("init", "ImportError", "no module x", ("app.py:1",)), "ImportError: no module x\n    app.py:1"),
        (Busy(1.0, "no processes left"), "no processes left"),
    ],
)
def test_a_function_that_cannot_be_loaded_is_an_error(tmp_path: Path, found: Fault | Busy, text: str) -> None:
    assert probed(tmp_path, Probing([]), Warmed(found)) == [("mapping m", "ok", "can be reached"), ("function f", "error", text)]


def test_a_source_that_is_away_is_an_error_and_the_rest_is_probed(tmp_path: Path) -> None:
    found = probed(tmp_path, Probing(NotConnected("nobody answers")), Cold())
    assert found[0] == ("mapping m", "error", "nobody answers")
    assert found[1][:2] == ("function f", "ok")
    assert found[1][2].startswith("not tried")
