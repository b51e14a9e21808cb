"""`poller pause`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from poller.cli.options import config_option, json_option, load_config
from poller.cli.text import json_line


@click.command(short_help="Pause a mapping until it is resumed.")
@click.argument("mapping")
@config_option
@json_option
def pause(mapping: str, config_path: Path, as_json: bool) -> None:
    """Pause a mapping: its lanes are left in order, running functions may finish within `shutdown_grace`, and nothing more is read.

    It stays paused, in every daemon on its store and over restarts, until `poller resume`. `poller status` and /readyz show it.
    """
    from poller.cli.rewinding import pause_document, paused, since

    found = asyncio.run(paused(load_config(config_path), mapping))
    text = f"{mapping} is paused {since(found)}; it stays so, over restarts too, until `poller resume {mapping}`"
    click.echo(json_line(pause_document(mapping, found)) if as_json else text)
