"""A daemon that stands still (SIGSTOP) while others share its store."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.acceptance.harness import DaemonProcess


def pause_between_writes(daemon: DaemonProcess, store: Path) -> None:
    """Not in the middle of a transaction of this SQLite file: then nobody else could write to it before the daemon goes on."""
    with closing(sqlite3.connect(store, timeout=0, isolation_level=None)) as file:
        while True:
            daemon.pause()
            try:
                file.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                daemon.resume()
            else:
                file.execute("ROLLBACK")
                return
