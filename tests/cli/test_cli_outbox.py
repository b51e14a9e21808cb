"""`poller outbox`: what waits for destinations, and how it is given up."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from poller.cli import deliveries, program
from poller.failures.journal import Selection
from poller.stores.sqlite import open_store
from poller.testing.journals import make_entry

CONFIG = """
[poller]
store = "sqlite:poller.db"

[functions.f]
handler = "app.py:handle"

[mappings.orders]
id = "orders-id"
function = "f"
source = { type = "local-queue", name = "q" }
on_failure = "file:letters.jsonl"
"""
HERE, GONE = "file:letters.jsonl", "https://ada:secret@hooks.test/orders"
SHOWN = "https://hooks.test/***9de318"
MANY = 7


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "app.py").touch()
    (tmp_path / "poller.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(deliveries, "PAGE", 2)
    return tmp_path


def fill(site: Path) -> None:
    async def put() -> None:
        store = await open_store(site / "poller.db")
        for number in range(MANY):
            to = (HERE, GONE) if number % 2 else (GONE,)
            await store.journal.append([make_entry(f"f{number}", f"m{number}", mapping="orders-id", destinations=to)])
        await store.journal.append([make_entry("x", "x", mapping="other", destinations=(GONE,))])
        (first, *_) = await store.outbox.due("orders-id", GONE, 1e12, 1)
        await store.outbox.settle(first.number, 2e12, "no such host\x1b")
        await store.aclose()

    asyncio.run(put())


def damage(site: Path, *ids: str) -> None:
    with closing(sqlite3.connect(site / "poller.db", isolation_level=None)) as connection:
        for each in ids:
            connection.execute("UPDATE outbox SET entry = x'c1', damaged = 1 WHERE id = ? AND destination = ?", (each, GONE))


def run(*arguments: str, code: int = 0, answer: str | None = None) -> Result:
    result = CliRunner().invoke(program, ["outbox", *arguments], input=answer, env={"POLLER_CONFIG": None})
    assert result.exit_code == code, (result.output, result.exception)
    return result


def waiting() -> dict[tuple[str, str], int]:
    told: list[dict[str, Any]] = [json.loads(line) for line in run("list", "--json").stdout.splitlines()]
    return {(each["mapping"], each["destination"]): each["waiting"] for each in told}


def test_what_waits_is_listed_and_how_what_is_gone_is_given_up(site: Path) -> None:
    assert run("list").stdout == "nothing waits\n"
    assert not (site / "poller.db").exists(), "looking makes no store"
    fill(site)
    damage(site, "f4")
    page = run("list").stdout
    head, *lines = page.splitlines()
    assert head.split() == ["DESTINATION", "OF", "WAITING", "SINCE", "ATTEMPTS"]
    assert [line.split()[:3] for line in lines if not line.startswith(" ")] == [
        [HERE, "orders", "3"], [SHOWN, "orders", "7"], [SHOWN, "other", "1"],
    ]  # fmt: skip
    giving_up = f"poller outbox drop '{SHOWN}' --mapping"
    assert [line.strip() for line in lines if line.startswith(" ")] == [
        "no such host\\x1b",
        f"1 of them cannot be read, and are set aside; to give these up: {giving_up} orders --damaged",
        f"the configuration names it no more: what waits is kept until it does; to give it up: {giving_up} orders",
        f"the configuration names it no more: what waits is kept until it does; to give it up: {giving_up} other",
    ]
    assert "secret" not in page


def test_what_waits_for_one_destination_is_dropped_when_it_was_said_so(site: Path) -> None:
    fill(site)
    everything = waiting()
    asked = run("drop", SHOWN, "--mapping", "orders", answer="n\n", code=1)
    assert "7 deliveries of orders to " + SHOWN in asked.stderr and "Drop them for good?" in asked.stderr
    assert waiting() == everything
    assert run("drop", GONE, "--mapping", "orders-id", "--yes").stdout == "7 deliveries dropped\n"
    assert waiting() == {("orders", HERE): 3, ("other", SHOWN): 1}
    asked = run("drop", HERE, answer="y\n")
    assert "the configuration names it, and a running daemon goes on delivering what comes" in asked.stderr
    assert json.loads(run("drop", SHOWN, "--yes", "--json").stdout) == {"dropped": 1}
    assert run("list").stdout == "nothing waits\n"
    assert asyncio.run(kept(site)) == MANY + 1, "failures stay in the journal"


def test_what_cannot_be_read_is_dropped_alone(site: Path) -> None:
    fill(site)
    damage(site, "f2", "f6")
    assert "nothing that cannot be read waits for " + HERE in run("drop", HERE, "--damaged", "--yes", code=1).stderr
    assert run("drop", SHOWN, "--damaged", "--yes").stdout == "2 deliveries dropped\n"
    assert waiting() == {("orders", HERE): 3, ("orders", SHOWN): 5, ("other", SHOWN): 1}


def test_what_nothing_waits_for_is_said(site: Path) -> None:
    fill(site)
    said = run("drop", "file:other", "--mapping", "orders", "--yes", code=1).stderr
    assert said == "poller: nothing waits for file:other of the mapping orders; `poller outbox list` names what does\n"


async def kept(site: Path) -> int:
    store = await open_store(site / "poller.db")
    try:
        return await store.journal.count(Selection())
    finally:
        await store.aclose()
