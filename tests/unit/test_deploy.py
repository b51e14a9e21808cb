"""The unit file says what the daemon relies on."""

from __future__ import annotations

from configparser import RawConfigParser
from pathlib import Path

import pytest

from poller.units import duration

UNIT = Path(__file__).parents[2] / "deploy" / "poller.service"
SHUTDOWN_GRACE = 25.0


@pytest.fixture(scope="module")
def unit() -> RawConfigParser:
    parser = RawConfigParser(strict=True, delimiters=("=",), comment_prefixes=("#",))  # strict: no key twice, all are single here
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(UNIT.read_text())
    return parser


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Type", "notify"),
        ("NotifyAccess", "main"),  # a function must not be able to speak for the daemon
        ("ExecReload", "/bin/kill -HUP $MAINPID"),
        ("KillMode", "mixed"),  # the daemon ends its functions, not systemd
        ("KillSignal", "SIGTERM"),
        ("Restart", "on-failure"),
        ("OOMPolicy", "continue"),  # one function out of memory is not the daemon's end
        ("StateDirectory", "poller"),
        ("StateDirectoryMode", "0700"),
        ("UMask", "0077"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("CapabilityBoundingSet", ""),
    ],
)
def test_keys_that_matter(unit: RawConfigParser, key: str, value: str) -> None:
    assert unit["Service"][key] == value


def test_functions_have_time_to_finish(unit: RawConfigParser) -> None:
    assert duration(unit["Service"]["TimeoutStopSec"]) >= SHUTDOWN_GRACE + 10
    assert duration(unit["Service"]["WatchdogSec"]) >= 10


@pytest.mark.parametrize("key", ["MemoryDenyWriteExecute", "ProcSubset", "RestrictNamespaces", "PrivateNetwork", "PrivateUsers"])
def test_ordinary_functions_can_run_as_child_processes(unit: RawConfigParser, key: str) -> None:
    assert key not in unit["Service"]


def test_the_daemon_runs_as_nobody_special_and_is_restarted_for_ever(unit: RawConfigParser) -> None:
    assert unit["Service"]["User"] == "poller"
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert "poller run" in unit["Service"]["ExecStart"]
