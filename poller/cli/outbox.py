"""`poller outbox`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from poller.cli.options import config_option, json_option, load_config
from poller.cli.text import amount, json_line


@click.group(short_help="Look at what waits to be delivered.")
def outbox() -> None:
    """Look at what waits to be delivered to destinations.

    It waits until it has arrived, also where the configuration names its destination no more: until it does again, or is dropped here.
    To look is to open the store, and that brings one of an older poller to this one's form: the older one refuses it from then on.
    """


@outbox.command("list")
@config_option
@json_option
def list_(config_path: Path, as_json: bool) -> None:
    """List what waits, a line for each destination of a mapping."""
    from poller.cli.deliveries import document, waiting
    from poller.cli.destinations import overview

    found = asyncio.run(waiting(load_config(config_path)))
    if as_json:
        for each in found:
            click.echo(json_line(document(each)))
    else:
        click.echo("\n".join(overview([each.shown for each in found])) if found else "nothing waits")


@outbox.command()
@click.argument("destination")
@click.option("--mapping", help="Only what waits for it of this mapping: its name, or id.")
@click.option("--damaged", is_flag=True, help="Only what cannot be read, and is set aside.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@config_option
@json_option
def drop(destination: str, mapping: str | None, damaged: bool, yes: bool, config_path: Path, as_json: bool) -> None:
    """Drop what waits for DESTINATION, as `list` names it, or the file: it is never delivered.

    Failures stay in the journal, and can be replayed; of a success nothing else is kept. What is being sent meanwhile may still arrive.
    """
    from poller.cli.deliveries import chosen, dropped

    config = load_config(config_path)
    found = asyncio.run(chosen(config, destination, mapping, damaged=damaged))
    for each in found if not yes else ():
        named = ": the configuration names it, and a running daemon goes on delivering what comes" if each.shown.configured else ""
        click.echo(
            f"{amount(each.number(damaged=damaged), 'delivery', 'deliveries')} of {each.shown.mapping} to {each.shown.name}{named}",
            err=True,
        )
    if not yes:
        click.confirm("Drop them for good?", abort=True, err=True)
    count = asyncio.run(dropped(config, found, damaged=damaged))
    click.echo(json_line({"dropped": count}) if as_json else f"{amount(count, 'delivery', 'deliveries')} dropped")
