"""A replay that is killed goes on by its name: what its trail says is done is not run again, and nothing is left out."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import time
from collections import Counter
from contextlib import aclosing, closing
from pathlib import Path
from random import Random
from typing import Any

from poller.admin.replaying import Replaying
from poller.config import load
from poller.failures.delivery import Invoker, Opening
from poller.failures.journal import KeptRecord, Selection
from poller.functions import Function
from poller.model import Call, Returned
from poller.protocols import Event
from poller.registry import Registry
from poller.replay.hold import run_named
from poller.settings import FunctionSettings
from poller.stores.sqlite import open_store
from poller.testing.journals import make_entry
from tests.acceptance.harness import PATIENCE, until
from tests.acceptance.test_cli import POLLER, environment

ROWS = 60
LATER = 200.0
"""Seconds: the hold and the claims of who was killed have run out."""

FUNCTION = """
import json, pathlib, time

def handle(event, context):
    for record in event["Records"]:
        with open(pathlib.Path(__file__).parent / "handled", "a") as file:
            file.write(f"{record['messageId']}\\n")
        time.sleep(0.05)
"""
CONFIG = """
[poller]
store = "sqlite:poller.db"

[functions.orders]
handler = "app.py:handle"
inline = "thread"

[mappings.orders]
function = "orders"
source = { type = "local-queue", name = "orders" }
"""


class Handled:
    """The function in the second life."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "handled"

    async def invoke(self, event: Event, call: Call) -> Any:
        with self._path.open("a") as file:
            file.writelines(f"{json.loads(part)['messageId']}\n" for part in event.parts()[1])
        return Returned(b"null")

    async def aclose(self) -> None:
        return None


async def fill(folder: Path) -> None:
    store = await open_store(folder / "poller.db")
    for number in range(ROWS):
        record = KeptRecord(f"m{number}", None, 1.0, json.dumps({"messageId": f"m{number}", "body": "x"}).encode())
        await store.journal.append([make_entry(f"{number:032x}", records=(record,), identifiers=(f'"m{number}"',), time=float(number))])
    await store.aclose()


async def resume(folder: Path) -> set[str]:
    """Go on with it, later; the rows that its trail had named before."""
    config, store = load(folder / "poller.toml", Registry(), os.environ), await open_store(folder / "poller.db")
    clock = lambda: time.time() + LATER  # noqa: E731
    function = Function(FunctionSettings("orders", "", folder, concurrency=4), Handled(folder))
    opening = Opening(Registry(), folder, folder, clock, Invoker({}, clock, lambda: 1))
    functions = {"orders": function}
    replaying = Replaying(store, config.mappings.values(), Registry(), functions.__getitem__, opening, clock, Random(1), 1.0, "bob")
    try:
        before = {step.row for step in await store.runs.trail("killed")}
        async with aclosing(replaying.run("killed")) as tallies:
            last = [tally async for tally in tallies][-1]
        assert last["replayed"] == last["total_rows"] == ROWS - len(before)
        assert (await run_named(store.runs, "killed")).state == "done"
        assert not await store.journal.select(Selection(states=("kept", "claimed")))
        steps = await store.runs.trail("killed")
        assert len(steps) == ROWS == len({step.row for step in steps})
        assert {step.who for step in steps if step.row not in before} == {"bob"}
        return before
    finally:
        await store.aclose()


def written(folder: Path) -> list[str]:
    """The rows that its trail names by now."""
    with closing(sqlite3.connect(folder / "poller.db")) as store:
        return [row for (row,) in store.execute("SELECT failure FROM steps")]


def test_a_killed_replay_goes_on_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(FUNCTION)
    (tmp_path / "poller.toml").write_text(CONFIG)
    asyncio.run(fill(tmp_path))
    handled = tmp_path / "handled"
    process = subprocess.Popen([str(POLLER), "replay", "--name", "killed", "--concurrency", "1"], cwd=tmp_path, env=environment())
    try:
        until(lambda: len(written(tmp_path)) >= 2, PATIENCE, "two rows are named")
    finally:
        process.kill()
        process.wait()
    before = asyncio.run(resume(tmp_path))
    counts = Counter(handled.read_text().split())
    assert {*counts} == {f"m{number}" for number in range(ROWS)}
    # What ran, or had run and was not written yet, when it was killed; nothing that the trail names.
    twice = {name for name, count in counts.items() if count > 1}
    assert len(twice) < ROWS / 2 and not twice & {f"m{int(row, 16)}" for row in before}
    assert len(before) >= 2
