"""Failures that hold their keys, and what is parked behind them, on the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from poller.cli.template import write
from poller.failures.journal import Entry, Selection
from poller.stores.sqlite import open_store
from poller.testing.journals import ANY
from poller.testing.parkings import failed, parked
from tests.cli.test_cli_failures import run

HEAD, OTHER, FIRST, SECOND = ("a" * 32, "b" * 32, "c" * 32, "d" * 32)


def message(entry: Entry) -> Entry:
    """Its records are a queue's."""
    json = b'{"messageId":"m","eventSourceARN":"arn:aws:sqs:eu-west-1:123456789012:orders"}'
    return replace(entry, mapping="first", records=tuple(replace(record, json=json) for record in entry.records))


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store of a folder that we are in: two failures, one of which holds two keys, and two rows behind it."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    path = tmp_path / ".poller" / "poller.db"

    async def fill() -> None:
        store = await open_store(path)
        await store.journal.append([message(failed(HEAD, "x", "y")), message(failed(OTHER, "z", time=1001.0))])
        await store.parking.park([message(parked(FIRST, "x", "x", time=1002.0)), message(parked(SECOND, "x", time=1002.0))])
        await store.aclose()

    asyncio.run(fill())
    return path


async def _states(path: Path) -> Mapping[str, str]:
    store = await open_store(path)
    states = {row.entry.id: row.state for row in await store.journal.select(ANY)}
    await store.aclose()
    return states


def states(path: Path) -> str:
    found = asyncio.run(_states(path))
    return " ".join(found[name] for name in (HEAD, OTHER, FIRST, SECOND))


def test_what_is_parked_is_listed_when_it_is_asked_for(journal: Path) -> None:
    assert FIRST[:12] not in run("failures", "list").stdout
    lines = run("failures", "list", "--state", "parked").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [FIRST[:12], SECOND[:12]]
    assert "parked  Parked" in lines[1]
    assert "never invoked: Parked" in run("failures", "groups", "--state", "parked").stdout


def test_a_page_says_what_holds_and_what_waits(journal: Path) -> None:
    assert "holds     2 keys: later records of the same are parked behind it" in run("failures", "show", HEAD).stdout
    assert "holds     1 key" in run("failures", "show", OTHER).stdout
    page = run("failures", "show", "c").stdout
    assert "reason    Parked, after 0 attempts" in page and "until what has failed of its key before it is replayed, or dropped" in page
    assert json.loads(run("failures", "show", "c", "--json").stdout)["holds"] is True


def test_a_dry_run_counts_what_would_run_after_it(journal: Path) -> None:
    text = run("replay", "--dry-run").stdout
    assert text.startswith("would run 2 failures with 3 records")
    assert "after these, in their order: 2 failures with 3 records that are parked behind them" in text
    assert "parked" not in run("replay", "--dry-run", OTHER).stdout
    assert json.loads(run("replay", "--dry-run", "--json").stdout)["parked"] == {"rows": 2, "records": 3}


def test_what_is_parked_is_not_run_by_itself(journal: Path) -> None:
    result = run("replay", "c", "d")
    assert (result.exit_code, states(journal)) == (1, "kept kept parked parked")
    assert f"failure {FIRST[:12]} is parked: replay what has failed of its key before it (failure {HEAD[:12]})" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "after"),
    [
        ((HEAD,), "dropped kept kept parked"),
        ((SECOND,), "kept kept parked dropped"),
        (("--mapping", "first"), "dropped dropped kept parked"),
        (("--mapping", "first", "--parked"), "dropped dropped dropped dropped"),
    ],
)
def test_who_drops_a_head_releases_what_is_behind_it(journal: Path, arguments: tuple[str, ...], after: str) -> None:
    assert run("failures", "drop", "--yes", *arguments).exit_code == 0
    assert states(journal) == after


def test_the_trail_tells_what_was_released(journal: Path) -> None:
    assert run("replay", "--name", "r", "--concurrency", "1", "--to", f"file:{journal.parent.parent}/to.jsonl").exit_code == 0
    assert states(journal) == "replayed replayed replayed replayed"
    assert "sent, 1 released" in run("replay", "show", "r", "--trail").stdout
    steps = [json.loads(line) for line in run("replay", "show", "r", "--trail", "--json").stdout.splitlines()[1:]]
    assert [(step["failure"], step["released"]) for step in steps] == [(HEAD, [FIRST]), (OTHER, []), (FIRST, [SECOND]), (SECOND, [])]
    assert asyncio.run(_kept(journal)) == 0


async def _kept(path: Path) -> int:
    store = await open_store(path)
    count = await store.journal.count(Selection(states=("kept", "claimed", "parked")))
    await store.aclose()
    return count
