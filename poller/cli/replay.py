"""`poller replay`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from poller.cli.options import config_option, json_option, load_config, mapping_id, selection_options
from poller.cli.text import json_line

if TYPE_CHECKING:
    from poller.config import Config
    from poller.model import Selection


@click.command(short_help="Run kept failures again.")
@selection_options
@click.option("--copies", is_flag=True, help="Also copies of messages that are in a queue's dead-letter queue.")
@click.option("--dry-run", is_flag=True, help="Say what would run, and run nothing.")
@click.option("--concurrency", type=click.IntRange(min=1), help="So many at once. Default: 1 beside a running daemon, else the CPUs.")
@config_option
@json_option
def replay(
    ids: tuple[str, ...],
    mapping: str | None,
    after: float | None,
    before: float | None,
    copies: bool,
    dry_run: bool,
    concurrency: int | None,
    config_path: Path,
    as_json: bool,
) -> None:
    """Run kept failures again, with their mapping's limits and its function of today: all, or those that are selected.

    A failure that succeeds is done; one that fails again is kept with its new error, and the exit code is 1. A running daemon does it
    beside its other work; without one it is done here. Ctrl-C stops in order: nothing is lost.
    """
    from poller.model import Selection

    config = load_config(config_path)
    selection = Selection(ids=ids, mapping=mapping_id(config, mapping), after=after, before=before, copies=copies)
    if dry_run:
        _preview(config, selection, as_json)
    else:
        _replay(config, selection, concurrency, as_json)


def _preview(config: Config, selection: Selection, as_json: bool) -> None:
    from dataclasses import asdict

    from poller.cli.replaying import preview_page, previewed

    shown = asyncio.run(previewed(config, selection))
    click.echo(json_line(asdict(shown)) if as_json else preview_page(shown))


def _replay(config: Config, selection: Selection, concurrency: int | None, as_json: bool) -> None:
    from poller.cli.meter import Meter
    from poller.cli.replaying import replayed, tally_page

    with Meter() as meter:

        def told(tally: dict[str, int]) -> None:
            meter.bar(tally["done_rows"], tally["total_rows"], f"{tally['done_rows']:,} of {tally['total_rows']:,} failures")

        tally = asyncio.run(replayed(config, selection, concurrency, told))
    click.echo(json_line(tally) if as_json else tally_page(tally))
    unfinished = tally["failed_again"] or tally["split"] or tally["given_back"]
    click.get_current_context().exit(1 if unfinished else 0)
