"""The daemon keeps its journal up: what is over its age goes, the log and the metrics say so, and the file gets smaller."""

from __future__ import annotations

import asyncio
import logging
import math
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from poller.config import load
from poller.daemon import Daemon
from poller.failures.journal import KeptRecord
from poller.metrics import exposition
from poller.registry import Registry
from poller.stores.sqlite import open_store
from poller.testing.journals import ANY, held, make_entry

APP = "def handle(event, context):\n    pass\n"
CONFIG = """
[poller]
store = "sqlite:journal.db"
listen = "127.0.0.1:0"
journal_retention = "30d"
[functions.f]
handler = "app.py:handle"
inline = "loop"
[mappings.orders]
function = "f"
source = { type = "local-queue", name = "orders" }
"""
DAY = 86_400.0
SMALL = 500_000
"""Bytes; each of the rows that are over has a million."""


class Told(logging.Handler):
    """Waits for the log line that something was given up, and the first one after it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.heard = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.heard.set()


async def fill(path: Path, now: float) -> None:
    store = await open_store(path)
    for name, days, size in (("old", 31.0, 1_000_000), ("done", 40.0, 1_000_000), ("new", 1.0, 10)):
        records = (KeptRecord(name, None, now, b"x" * size),)
        await store.journal.append([make_entry(name, records=records, identifiers=(), time=now - days * DAY)])
    await store.journal.mark(["done"], "dropped", now - 39 * DAY)
    await store.aclose()


def size(path: Path) -> int:
    """As committed: what is in its log too."""
    with closing(sqlite3.connect(path)) as connection:
        return math.prod(connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))


async def test_a_daemon_removes_what_is_over_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "poller.toml").write_text(CONFIG)
    await fill(tmp_path / "journal.db", time.time())
    told, logger = Told(), logging.getLogger("poller.upkeep")
    logger.addHandler(told)
    daemon, started = Daemon(load(tmp_path / "poller.toml", Registry(), {}), Registry(), {}), asyncio.Event()
    task = asyncio.create_task(daemon.run(started.set))
    try:
        async with asyncio.timeout(30):
            await started.wait()
            await told.heard.wait()
            page = exposition(await daemon.status())
            assert list(await held(daemon.store.journal, ANY)) == ["new"]
            # What is removed is told first; then the file is made smaller, a few pages at a time.
            while size(tmp_path / "journal.db") >= SMALL:
                await asyncio.sleep(0.02)
    finally:
        logger.removeHandler(told)
        daemon.stop()
        await task
    assert told.lines == ["journal_retention: 1 failures with 1 records are given up and removed: nothing was done about them for 30d"]
    assert 'poller_given_up_event_total{mapping="orders"} 1' in page
    assert (tmp_path / "journal.db").stat().st_size < SMALL
