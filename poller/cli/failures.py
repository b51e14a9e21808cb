"""`poller failures`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from poller.cli.options import config_option, json_option, load_config, mapping_id, selection_options
from poller.cli.text import amount, json_line
from poller.model import RowState, Selection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poller.config import Config
    from poller.model import Row


@click.group(short_help="Look at the failures that the journal keeps.")
def failures() -> None:
    """Look at the failures that the journal keeps: batches that were given up, each with its records and the function's last error."""


@failures.command("list")
@selection_options
@click.option("--state", "states", multiple=True, type=click.Choice([*get_args(RowState), "any"]), help="Default: kept and claimed.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many, the oldest first.")
@config_option
@json_option
def list_(
    ids: tuple[str, ...],
    mapping: str | None,
    after: float | None,
    before: float | None,
    states: tuple[RowState, ...],
    limit: int,
    config_path: Path,
    as_json: bool,
) -> None:
    """List failures, the oldest first."""
    from poller.cli.journal import document, overview

    chosen: tuple[RowState, ...] = () if "any" in states else states or ("kept", "claimed")
    config = load_config(config_path)
    selection = Selection(ids=ids, mapping=mapping_id(config, mapping), after=after, before=before, states=chosen, limit=limit)
    rows, count = asyncio.run(_selected(config, selection))
    if as_json:
        for row in rows:
            click.echo(json_line(document(row)))
    elif rows:
        click.echo(overview(rows))
        if count > len(rows):
            click.echo(f"... and {count - len(rows):,} more; --limit shows more of them")
    else:
        click.echo("no failures")


@failures.command()
@click.argument("ids", nargs=-1, required=True)
@click.option("--payload", is_flag=True, help="Also the event that the function was called with.")
@config_option
@json_option
def show(ids: tuple[str, ...], payload: bool, config_path: Path, as_json: bool) -> None:
    """Show failures in full. IDS may be the first letters of an id."""
    from poller.cli.journal import document, page

    rows, _ = asyncio.run(_selected(load_config(config_path), Selection(ids=ids, states=())))
    for number, row in enumerate(rows):
        click.echo(json_line(document(row, payload=payload)) if as_json else ("\n" if number else "") + page(row, payload=payload))


@failures.command()
@selection_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@config_option
@json_option
def drop(
    ids: tuple[str, ...],
    mapping: str | None,
    after: float | None,
    before: float | None,
    yes: bool,
    config_path: Path,
    as_json: bool,
) -> None:
    """Give failures up for good: no replay takes them any more. IDS may be the first letters of an id."""
    if not ids and (mapping, after, before) == (None, None, None):
        raise click.UsageError("say which: ids, --mapping, --after or --before")
    config = load_config(config_path)
    rows, _ = asyncio.run(_selected(config, Selection(ids=ids, mapping=mapping_id(config, mapping), after=after, before=before)))
    if rows and not yes:
        records = sum(len(row.entry.records) for row in rows)
        click.confirm(f"Drop {amount(len(rows), 'failure')} with {amount(records, 'record')}?", abort=True, err=True)
    dropped = asyncio.run(_dropped(config, [row.entry.id for row in rows])) if rows else []
    click.echo(json_line({"dropped": [*dropped]}) if as_json else f"{amount(len(dropped), 'failure')} dropped")
    if len(dropped) < len(rows):
        click.echo(f"{amount(len(rows) - len(dropped), 'failure')} left alone: taken by a replay meanwhile", err=True)
        click.get_current_context().exit(1)


async def _selected(config: Config, selection: Selection) -> tuple[list[Row], int]:
    """The rows, and how many there would be without the limit. Raises StoreError for ids that select nothing."""
    from dataclasses import replace

    from poller.cli.journal import named, opened

    async with opened(config) as store:
        rows = [*await store.journal.select(selection)]
        named(rows, selection)
        return rows, await store.journal.count(replace(selection, limit=None))


async def _dropped(config: Config, ids: Sequence[str]) -> Sequence[str]:
    from poller.cli.journal import opened

    async with opened(config) as store:
        return await store.journal.mark(ids, "dropped", time.time())
