"""What the commands about failures do with the journal: straight in the store, a page at a time, with a daemon and without."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Literal

import orjson

from poller.cli.journal import document, event, named, opened
from poller.cli.options import Chosen
from poller.config import Config
from poller.errors import StoreError
from poller.failures.journal import ErrorGroup, Row, Selection
from poller.failures.pages import matching, pages
from poller.failures.redaction import redacted


async def listed(config: Config, chosen: Chosen, selection: Selection) -> tuple[list[Row], int | Literal[True]]:
    """The rows up to the limit, and how many more there are; True: some, for a pattern would have to read them all.

    Raises StoreError for ids that select nothing."""
    matches = chosen.matches(config)
    async with opened(config) as store:
        if chosen.pattern is None:
            rows = [*await store.journal.select(selection)]
            named(rows, selection)
            return rows, await store.journal.count(replace(selection, limit=None)) - len(rows)
        limit = selection.limit or 0
        rows = [row async for row in matching(store.journal, replace(selection, limit=limit + 1), matches)]
        return rows[:limit], True if len(rows) > limit else 0


async def counted(config: Config, selection: Selection) -> Sequence[ErrorGroup]:
    """The error groups, largest first."""
    async with opened(config) as store:
        return await store.upkeep.groups(selection)


async def exported(config: Config, chosen: Chosen, selection: Selection, output: Path | None, unredacted: bool) -> int:
    """How many rows were written, a line each. Raises StoreError for ids that select nothing."""
    matches, hide = chosen.matches(config), (lambda row: row) if unredacted else hiding(config)
    async with opened(config) as store:
        if selection.ids:
            named([*await store.journal.select(selection)], selection)
        count = 0
        with _written(output) as file:
            async for row in matching(store.journal, selection, matches):
                file.write(line(hide(row)))
                count += 1
        return count


async def named_ids(config: Config, chosen: Chosen, selection: Selection) -> tuple[list[str], int]:
    """The ids of the rows, and how many records they have. Raises StoreError for ids that select nothing."""
    matches = chosen.matches(config)
    async with opened(config) as store:
        if selection.ids:
            named([*await store.journal.select(selection)], selection)
        ids, records = [], 0
        async for page in pages(store.journal, selection):
            found = [row for row in page if matches(row.entry)]
            ids += [row.entry.id for row in found]
            records += sum(len(row.entry.records) for row in found)
        return ids, records


async def dropped(config: Config, ids: Sequence[str]) -> Sequence[str]:
    """Those that could be dropped."""
    async with opened(config) as store:
        return await store.journal.mark(ids, "dropped", time.time())


def hiding(config: Config) -> Callable[[Row], Row]:
    """A row as its mapping's `redact` lets it be seen. Of a mapping that is not configured any more nothing is known to be hidden."""
    settings = {each.settings.id: each.settings.redaction for each in config.mappings.values()}
    return lambda row: replace(row, entry=redacted(row.entry, settings.get(row.entry.mapping)))


def line(row: Row) -> bytes:
    """A whole row as a line of JSON: the event as the function was given it, and its records by name."""
    entry, raw = row.entry, event(row.entry)
    items = [{"id": record.id, "key": record.key, "arrival": record.arrival} for record in entry.records]
    # Byte for byte, for a parser would round numbers; but a line is one line.
    whole = orjson.Fragment(raw) if b"\n" not in raw else orjson.loads(raw)
    return orjson.dumps({**document(row), "run": entry.run, "items": items, "event": whole}, option=orjson.OPT_APPEND_NEWLINE)


@contextmanager
def _written(output: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or a file that has its name once it is whole, and only for its owner. Raises StoreError where it cannot be made."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = output.with_name(f"{output.name}.part")
    try:
        part.unlink(missing_ok=True)
        with open(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            yield file
        part.replace(output)
    except OSError as error:
        raise StoreError(f"{output} cannot be written ({error}): free some space, or give another --output") from error
    finally:
        part.unlink(missing_ok=True)
