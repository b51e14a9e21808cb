"""`[poller] store`, `leases` and `journal`: what they may say, what is warned about, and that no password is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from poller.config import load
from poller.errors import ConfigError
from poller.registry import Registry
from poller.stores.urls import masked, scheme
from tests.unit.test_config_parts import (
    ENVIRON,
    QUEUE,
    STREAM,
    Complain,
    Read,
    StreamConnector,
    entry_points,
    mapping,
)


def places(read: Read, folder: Path, *lines: str, environ: Mapping[str, str] = ENVIRON) -> tuple[str, ...]:
    config = read("\n".join(("[poller]", *lines, mapping())), environ)
    return tuple(
        str(each).replace(str(folder), "<folder>") for each in (config.store_url, config.leases_url, config.journal_url, config.state)
    )


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((), ("sqlite://<folder>/.poller/poller.db", "", "", "<folder>/.poller")),
        (('store = "fleet://db/x"',), ("fleet://db/x", "", "", "<folder>/.poller")),
        (('store = "sqlite:s/p.db"', 'leases = "fleet://db/x"'), ("sqlite://<folder>/s/p.db", "fleet://db/x", "", "<folder>/s")),
        (('store = "FLEET://db"', 'journal = "sqlite:j.db"'), None),
        (('store = "fleet://db"', 'journal = "sqlite:j.db"'), ("fleet://db", "", "sqlite://<folder>/j.db", "<folder>/.poller")),
        (('leases = "memory:"',), ("sqlite://<folder>/.poller/poller.db", "memory:", "", "<folder>/.poller")),
    ],
)
def test_lanes_and_failures_may_be_in_places_of_their_own(read: Read, folder: Path, lines: tuple[str, ...], expected: Any) -> None:
    if expected is None:
        with pytest.raises(ConfigError, match="no host"):
            places(read, folder, *lines)
    else:
        assert places(read, folder, *lines) == expected


def test_a_url_may_be_a_secret_and_is_not_shown(read: Read, folder: Path) -> None:
    (folder / "lanes.txt").write_text("fleet://poller:file-secret@lanes/x\n")
    environ = {**ENVIRON, "DATABASE": "fleet://poller:hunter2@db/x"}
    config = read('[poller]\nstore = "env:DATABASE"\nleases = "file:lanes.txt"\n' + mapping(), environ)
    assert (config.store_url, config.leases_url) == ("fleet://poller:hunter2@db/x", "fleet://poller:file-secret@lanes/x")
    assert "hunter2" not in repr(config) and "file-secret" not in repr(config)


def test_what_a_kind_refuses_is_a_problem_of_its_key_without_the_secret(complain: Complain) -> None:
    environ = {**ENVIRON, "DATABASE": "fleet:hunter2"}
    problems = complain('[poller]\njournal = "env:DATABASE"\n' + mapping(), environ)
    assert problems == ["poller.toml:2: [poller.journal] no host", "poller.toml:2: [poller.journal] no table"]
    problems = complain('[poller]\nleases = "env:DATABASE"\n' + mapping(), {**ENVIRON, "DATABASE": "mysql://u:hunter2@db"})
    assert len(problems) == 1 and 'found the value of "env:DATABASE"' in problems[0] and "hunter2" not in problems[0]


def test_shared_lanes_with_a_journal_of_the_host_alone_are_warned_about(read: Read) -> None:
    def warned(*lines: str, source: str = QUEUE) -> list[str]:
        warnings = read("\n".join(("[poller]", *lines, mapping(source=source)))).warnings
        return [warning.partition("] ")[0].partition("[")[2] for warning in warnings]

    assert warned('store = "fleet://db"') == []
    assert warned('store = "sqlite:p.db"') == []
    assert warned('leases = "fleet://db"') == ["poller.store"]
    assert warned('store = "fleet://db"', 'journal = "sqlite:p.db"') == ["poller.journal"]
    assert warned('leases = "fleet://db"', 'journal = "fleet://other"') == []
    assert warned('store = "memory:"') == ["poller.store"]
    assert warned('leases = "fleet://db"', 'journal = "memory:"') == ["poller.journal", "poller.journal"]


def test_sources_that_stay_on_the_host_are_named_where_lanes_are_shared(read: Read, folder: Path) -> None:
    def local_points(group: str) -> Any:
        for point in entry_points(group):
            yield SimpleNamespace(**{**vars(point), "load": LocalStream}) if point.name == "local-stream" else point

    def text(url: str) -> str:
        return f'[poller]\nstore = "{url}"\n' + mapping(source=STREAM)

    (folder / "poller.toml").write_text(text("fleet://db"))
    (warning,) = load(folder / "poller.toml", Registry(local_points), ENVIRON).warnings
    assert "[mappings.m.source] the source keeps its data on this host" in warning
    (folder / "poller.toml").write_text(text("sqlite:p.db"))
    assert load(folder / "poller.toml", Registry(local_points), ENVIRON).warnings == ()
    assert read(text("fleet://db")).warnings == ()  # of a kind that says nothing of the sort


class LocalStream(StreamConnector):
    """Keeps its data on the host."""

    def traits(self, options: Any) -> Any:
        return replace(super().traits(options), local=True)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://poller:hunter2@db:5432/x", "postgresql://poller:***@db:5432/x"),
        ("postgresql://poller:a:b@db/x", "postgresql://poller:***@db/x"),
        ("postgresql://:hunter2@db/x", "postgresql://:***@db/x"),
        ("postgresql://poller@db/x?sslmode=require", "postgresql://poller@db/x?sslmode=require"),
        (
            "postgresql://db/x?password=hunter2&sslmode=require&sslpassword=y",
            "postgresql://db/x?password=***&sslmode=require&sslpassword=***",
        ),
        ("postgresql://poller:hun@ter2@db/x", "postgresql://poller:***@db/x"),
        ("dynamodb://orders?region=eu-west-1", "dynamodb://orders?region=eu-west-1"),
        ("sqlite:///var/lib/poller.db", "sqlite:///var/lib/poller.db"),
        ("memory:", "memory:"),
    ],
)
def test_passwords_are_masked(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_a_scheme_is_what_stands_before_the_colon() -> None:
    assert [scheme(url) for url in ("postgresql://x", "SQLITE:x", "memory:", "p.db", "", "/a:b")] == [
        "postgresql",
        "sqlite",
        "memory",
        "",
        "",
        "",
    ]
