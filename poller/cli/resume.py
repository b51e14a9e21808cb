"""`poller resume`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from poller.cli.options import config_option, json_option, load_config
from poller.cli.text import json_line


@click.command(short_help="Let a paused mapping go on.")
@click.argument("mapping")
@config_option
@click.option("--forget", is_flag=True, help="Forget what its idempotency window remembers: what is read again runs again.")
@json_option
def resume(mapping: str, config_path: Path, forget: bool, as_json: bool) -> None:
    """Let a paused mapping go on where it was.

    After its position was set back in the broker, give --forget too, if it has an idempotency window: else that passes over what was
    acknowledged before. `poller rewind` forgets by itself.
    """
    from poller.cli.rewinding import pause_document, resumed, since

    before = asyncio.run(resumed(load_config(config_path), mapping, forget))
    text = f"{mapping} was not paused" if before is None else f"{mapping} goes on; it was paused {since(before)}"
    click.echo(json_line({**pause_document(mapping, None), "was": pause_document(mapping, before)["paused"]}) if as_json else text)
