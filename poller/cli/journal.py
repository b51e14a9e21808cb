"""The journal as the command line reads it: straight from the store, with a daemon and without."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import indent
from typing import Any

import orjson

from poller.cli.text import amount, clean, iso, moment, shortened, table
from poller.config import Config
from poller.errors import StoreError
from poller.failures.journal import OPEN, Entry, ErrorGroup, Row, Selection
from poller.protocols import Store
from poller.registry import Registry
from poller.stores.memory import MemoryStore
from poller.stores.opening import Places, open_journal

SHORT_ID = 12
"""Digits of a failure's id that a list shows: enough to name it by."""


@asynccontextmanager
async def opened(config: Config) -> AsyncIterator[Store]:
    """The store that has the journal; an empty one where none has been made yet, so that looking makes no file. Raises StoreError.

    Of it only the journal is meant: the lanes may be in another place, which is not asked for anything."""
    places = Places(config.store_url, config.leases_url, config.journal_url)
    url = places.failures[1]
    if url == "memory:":
        raise StoreError("the store is memory: what failed is kept by the daemon alone, and cannot be read from here; see `poller status`")
    store = await open_journal(places, config.base, Registry()) if _made(url) else MemoryStore()
    try:
        yield store
    finally:
        await store.aclose()


def _made(url: str) -> bool:
    return not url.startswith("sqlite://") or Path(url.removeprefix("sqlite://")).exists()


def named(rows: list[Row], selection: Selection) -> None:
    """Raises StoreError for ids of the selection that stand for none of the rows."""
    missing = [each for each in selection.ids if not any(row.entry.id.startswith(each) for row in rows)]
    if missing:
        where = "among those selected" if selection.states else "in the journal"
        raise StoreError(f"no such failure {where}: {', '.join(missing)}")


def document(row: Row, *, payload: bool = False) -> dict[str, Any]:
    """A row for a program."""
    entry, fault = row.entry, row.entry.fault
    shown: dict[str, Any] = {
        "id": entry.id,
        "mapping": entry.mapping,
        "source": entry.source,
        "lane": entry.lane,
        "function": entry.function,
        "time": iso(entry.time),
        "state": row.state,
        "kept": entry.kept,
        "reason": entry.reason,
        "attempts": entry.attempts,
        "replays_failed": row.failures,
        "changed": iso(row.changed) if row.changed else None,
        "first": entry.first,
        "last": entry.last,
        "records": len(entry.records),
        "group": entry.group,
        "taken_from": entry.taken_from,
        "holds": entry.holds,
        "error": None if fault is None else {"kind": fault.kind, "type": fault.type, "message": fault.message, "trace": [*fault.trace]},
    }
    if payload:
        shown["event"] = orjson.loads(event(entry))
    return shown


def group_document(group: ErrorGroup) -> dict[str, Any]:
    """An error group for a program."""
    fault = group.fault
    return {
        "group": group.id,
        "failures": group.rows,
        "records": group.records,
        "first": iso(group.first),
        "last": iso(group.last),
        "mappings": [*group.mappings],
        "sample": group.sample,
        "reason": group.reason,
        "error": None if fault is None else {"kind": fault.kind, "type": fault.type, "message": fault.message, "trace": [*fault.trace]},
    }


def groups_overview(groups: Sequence[ErrorGroup]) -> str:
    """Error groups as a table, a line each."""
    heads = ("GROUP", "FAILURES", "RECORDS", "FIRST", "LAST", "MAPPINGS", "SAMPLE", "ERROR")
    rows = (
        (
            group.id[:SHORT_ID],
            group.rows,
            group.records,
            moment(group.first),
            moment(group.last),
            shortened(", ".join(group.mappings), 40),
            group.sample[:SHORT_ID],
            "never invoked: " + group.reason if group.fault is None else shortened(f"{group.fault.type}: {group.fault.message}", 70),
        )
        for group in groups
    )
    return table(heads, rows)


def event(entry: Entry) -> bytes:
    """What the function was called with."""
    return entry.head + b",".join(record.json for record in entry.records) + entry.tail


def overview(rows: list[Row]) -> str:
    """Rows as a table, a line each."""
    heads = ("ID", "FAILED AT", "MAPPING", "LANE", "RECORDS", "ATTEMPTS", "STATE", "REASON", "ERROR")
    return table(heads, map(_line, rows))


def _line(row: Row) -> tuple[object, ...]:
    entry = row.entry
    state = row.state if entry.kept == "failure" else f"{row.state}, copy"
    again = f", {row.failures} more in replays" if row.failures else ""
    attempts = f"{entry.attempts}{again}"
    when = moment(entry.time)
    return (entry.id[:SHORT_ID], when, entry.mapping, entry.lane, len(entry.records), attempts, state, entry.reason, error(row, 70))


def error(row: Row, width: int) -> str:
    """The function's last error in a line."""
    fault = row.entry.fault
    return "" if fault is None else shortened(f"{fault.type}: {fault.message}", width)


def page(row: Row, *, payload: bool = False) -> str:
    """All about one failure, for a person."""
    entry, fault = row.entry, row.entry.fault
    lines = [f"failure   {entry.id}", f"failed    {moment(entry.time)}, of mapping {entry.mapping}, lane {entry.lane} of {entry.source}"]
    lines.append(f"reason    {entry.reason}, after {amount(entry.attempts, 'attempt')} of exactly this batch by function {entry.function}")
    lines.append(f"records   {len(entry.records):,}, from {entry.first} to {entry.last}")
    lines.append(f"state     {row.state}{_story(row)}")
    keys = {record.key for record in entry.records if entry.holds and record.key is not None}
    if keys and row.state in OPEN:
        lines.append(f"holds     {amount(len(keys), 'key')}: later records of the same are parked behind it")
    if entry.taken_from:
        lines.append(f"taken     from {entry.taken_from}")
    if entry.group:
        lines.append(f"group     {entry.group}")
    if fault is not None:
        lines += ["", f"{fault.type}: {fault.message}", *(indent(frame, "  ") for frame in fault.trace)]
    if payload:
        lines += ["", event(entry).decode(errors="replace")]
    return clean("\n".join(lines))


def _story(row: Row) -> str:
    parts = []
    if row.failures:
        parts.append(f"failed again in {amount(row.failures, 'replay')}")
    if row.changed and row.changed != row.entry.time:
        parts.append(f"since {moment(row.changed)}")
    if row.state == "parked":
        parts.append("until what has failed of its key before it is replayed, or dropped")
    if row.entry.kept == "queue-dlq":
        parts.append("a copy: the message itself is in the queue's dead-letter queue")
    return f" ({'; '.join(parts)})" if parts else ""
