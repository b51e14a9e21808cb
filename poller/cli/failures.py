"""`poller failures`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import get_args

import click

from poller.cli.options import Chosen, config_option, json_option, load_config, selection_options
from poller.cli.text import amount, json_line
from poller.failures.journal import RowState, Selection

_STATES = click.option(
    "--state", "states", multiple=True, type=click.Choice([*get_args(RowState), "any"]), help="Default: kept and claimed."
)
_WHOLE = click.option("--unredacted", is_flag=True, help="Also what the mapping's `redact` hides.")


@click.group(short_help="Look at the failures that the journal keeps.")
def failures() -> None:
    """Look at the failures that the journal keeps: batches that were given up, each with its records and the function's last error.

    To look is to open the store, and that brings one of an older poller to this one's form: the older one refuses it from then on.
    """


@failures.command("list")
@selection_options
@_STATES
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many, the oldest first.")
@config_option
@json_option
def list_(chosen: Chosen, states: tuple[RowState, ...], limit: int, config_path: Path, as_json: bool) -> None:
    """List failures, the oldest first."""
    from poller.cli.journal import document, overview
    from poller.cli.reading import listed

    config = load_config(config_path)
    rows, more = asyncio.run(listed(config, chosen, replace(chosen.selection(config), states=_states(states), limit=limit)))
    if as_json:
        for row in rows:
            click.echo(json_line(document(row)))
    elif rows:
        click.echo(overview(rows))
        if more:
            click.echo(f"... and {'' if more is True else f'{more:,} '}more; --limit shows more of them")
    else:
        click.echo("no failures")


@failures.command()
@selection_options
@_STATES
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many, the largest first.")
@config_option
@json_option
def groups(chosen: Chosen, states: tuple[RowState, ...], limit: int, config_path: Path, as_json: bool) -> None:
    """List errors, each with how often it came: failures with the same type of error, message (its values apart) and place in the code."""
    from poller.cli.journal import group_document, groups_overview
    from poller.cli.reading import counted

    if chosen.pattern is not None:
        raise click.UsageError("groups are counted without reading records: narrow by anything but --pattern")
    config = load_config(config_path)
    found = asyncio.run(counted(config, replace(chosen.selection(config), states=_states(states))))
    if as_json:
        for group in found[:limit]:
            click.echo(json_line(group_document(group)))
    elif found:
        click.echo(groups_overview(found[:limit]))
        if len(found) > limit:
            click.echo(f"... and {len(found) - limit:,} more; --limit shows more of them")
    else:
        click.echo("no failures")


@failures.command()
@click.argument("ids", nargs=-1, required=True)
@click.option("--payload", is_flag=True, help="Also the event that the function was called with.")
@_WHOLE
@config_option
@json_option
def show(ids: tuple[str, ...], payload: bool, unredacted: bool, config_path: Path, as_json: bool) -> None:
    """Show failures in full. IDS may be the first letters of an id."""
    from poller.cli.journal import document, page
    from poller.cli.reading import hiding, listed

    config = load_config(config_path)
    rows, _ = asyncio.run(listed(config, Chosen(ids), Selection(ids=ids, states=())))
    for number, row in enumerate(rows if unredacted else map(hiding(config), rows)):
        click.echo(json_line(document(row, payload=payload)) if as_json else ("\n" if number else "") + page(row, payload=payload))


@failures.command()
@selection_options
@_STATES
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="The file to write, which only you may read. Default: here."
)
@_WHOLE
@config_option
def export(chosen: Chosen, states: tuple[RowState, ...], output: Path | None, unredacted: bool, config_path: Path) -> None:
    """Write failures out whole, events too: a JSON object a line, the oldest first."""
    from poller.cli.reading import exported

    config = load_config(config_path)
    selection = replace(chosen.selection(config), states=_states(states))
    count = asyncio.run(exported(config, chosen, selection, output, unredacted))
    click.echo(f"{amount(count, 'failure')} exported", err=True)


@failures.command()
@selection_options
@click.option("--parked", is_flag=True, help="Also what is parked; of IDS always.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@config_option
@json_option
def drop(chosen: Chosen, parked: bool, yes: bool, config_path: Path, as_json: bool) -> None:
    """Give failures up for good: no replay takes them any more. IDS may be the first letters of an id.

    Of what is parked behind a failure that is dropped, the first of each key is kept then, and the next replay runs it.
    """
    from poller.cli.reading import dropped, named_ids

    if not chosen:
        raise click.UsageError("say which: ids, --mapping, --after, --before, --group, --key or --pattern")
    config = load_config(config_path)
    states: tuple[RowState, ...] = ("kept", "parked") if parked or chosen.ids else ("kept",)
    ids, records = asyncio.run(named_ids(config, chosen, replace(chosen.selection(config), states=states)))
    if ids and not yes:
        click.confirm(f"Drop {amount(len(ids), 'failure')} with {amount(records, 'record')}?", abort=True, err=True)
    done = asyncio.run(dropped(config, ids)) if ids else []
    click.echo(json_line({"dropped": [*done]}) if as_json else f"{amount(len(done), 'failure')} dropped")
    if len(done) < len(ids):
        click.echo(f"{amount(len(ids) - len(done), 'failure')} left alone: taken by a replay meanwhile", err=True)
        click.get_current_context().exit(1)


def _states(states: tuple[RowState, ...]) -> tuple[RowState, ...]:
    return () if "any" in states else states or ("kept", "claimed")
