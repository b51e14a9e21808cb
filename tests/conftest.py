"""What every test may ask for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

# Not by the clock of a machine that may be busy: an example that takes long is no failure.
settings.register_profile("poller", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("poller")

pytest_plugins = ["tests.servers.fixtures"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("longest") is None)


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say what a test came across, below all results: how often each fault occurred, what was measured.

    It travels with the test's report, for a test may run in a process whose output nobody sees (pytest-xdist).
    """
    properties = request.node.user_properties
    return lambda text: properties.append(("told", text))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for kind in ("passed", "failed", "skipped") for report in terminalreporter.getreports(kind) if report.when == "call"]
    told = [text for report in sorted(reports, key=lambda each: each.nodeid) for key, text in report.user_properties if key == "told"]
    if told:
        terminalreporter.section("told by tests")
        terminalreporter.write_line("\n".join(told))
