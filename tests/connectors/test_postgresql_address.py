"""URLs of PostgreSQL stores: what is refused, before anything connects, and what is shown of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.postgresql import kind
from connectors.postgresql.address import shown
from poller.errors import ConfigError

GOOD = [
    "postgresql://db/poller",
    "postgres://poller@db:5433/poller",
    "postgresql://poller:p%40ss@db1:5432,db2:5432/poller?target_session_attrs=read-write&sslmode=verify-full",
    "postgresql://poller@[::1]:5432/poller",
    "postgresql:///poller?host=/run/postgresql&search_path=poller",
]
BAD = [
    ("mysql://db/poller", "no PostgreSQL URL"),
    ("postgresql:poller", "no PostgreSQL URL"),
    ("postgresql://db:hunter2/poller", "port"),
    ("postgresql://poller:hunter2@db:99999/poller", "port"),
    ("postgresql://poller:hunter2#x@db/poller", "%23"),
    ("postgresql://poller:hunter2@db/poller?sslmod=require", "did you mean 'sslmode'?"),
    ("postgresql://poller:hunter2@db/poller?hunter2", "name=value"),
    ("postgresql://poller:hunter2@[db/poller", "form is wrong"),
]


@pytest.mark.parametrize("url", GOOD)
def test_a_good_one(url: str) -> None:
    kind.check(url, Path())


@pytest.mark.parametrize(("url", "reason"), BAD)
def test_a_bad_one_is_refused_without_its_password(url: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        kind.check(url, Path())
    assert reason in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql://poller:hunter2@db:5432/orders?password=hunter2", "PostgreSQL db:5432/orders"),
        ("postgresql:///orders?host=/run/postgresql", "PostgreSQL /run/postgresql/orders"),
        ("postgresql://db1,db2/orders", "PostgreSQL db1,db2/orders"),
        ("postgresql://db", "PostgreSQL db"),
    ],
)
def test_it_shows_where_it_leads_and_no_secret(url: str, text: str) -> None:
    assert shown(url) == text
