"""The daemon keeps its journal up: what is over its age goes, the log and the metrics say so, and the file gets smaller."""

from __future__ import annotations

import asyncio
import logging
import time
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
    finally:
        logger.removeHandler(told)
        daemon.stop()
        await task
    assert told.lines == ["journal_retention: 1 failures with 1 records are given up and removed: nothing was done about them for 30d"]
    assert 'poller_given_up_event_total{mapping="orders"} 1' in page
    assert (tmp_path / "journal.db").stat().st_size < 500_000
