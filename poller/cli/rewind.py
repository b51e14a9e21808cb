"""`poller rewind`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from poller.cli.options import config_option, json_option, load_config
from poller.cli.text import json_line

if TYPE_CHECKING:
    from poller.admin.rewinding import Preview

PREVIEWED = 2
"""The exit code of a rewind that nobody said yes to."""


@click.command(short_help="Read a stream again from another place, or skip a part of it.")
@click.argument("mapping")
@click.option("--to", required=True, metavar="PLACE", help="TRIM_HORIZON, LATEST, a time (ISO 8601, or 2h: so long ago), or a position.")
@click.option("--lane", help="Only this lane; a position needs one. `poller status` shows both.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@config_option
@json_option
def rewind(mapping: str, to: str, lane: str | None, yes: bool, config_path: Path, as_json: bool) -> None:
    """Read a mapping's stream again from another place, or skip a part of it; what was tried there begins at its first attempt again.

    Says first what would be read again or skipped, and asks; without a terminal and without --yes it does no more, and the exit code is 2.
    Then the mapping is paused in every daemon on its store, rewound, and goes on.
    """
    from poller.cli.rewinding import rewound, wished

    config, wish = load_config(config_path), wished(to, lane)
    if not yes:
        _echo(asyncio.run(rewound(config, mapping, wish, preview=True)), as_json, done=False)
        if as_json or not sys.stdin.isatty():
            click.echo("nothing was changed; add --yes to do it", err=True)
            click.get_current_context().exit(PREVIEWED)
        if not click.confirm("rewind?"):
            click.echo("nothing was changed")
            click.get_current_context().exit(PREVIEWED)
    _echo(asyncio.run(rewound(config, mapping, wish, preview=False)), as_json, done=True)


def _echo(shown: Preview, as_json: bool, done: bool) -> None:
    from dataclasses import asdict

    from poller.cli.rewinding import page

    click.echo(json_line({"done": done, **asdict(shown)}) if as_json else page(shown, done))
