"""`poller reload`."""

from __future__ import annotations

from pathlib import Path

import click

from poller.cli.options import config_option, json_option, load_config
from poller.cli.text import json_line


@click.command(short_help="Make the running daemon read its configuration again.")
@config_option
@json_option
def reload(config_path: Path, as_json: bool) -> None:
    """Make the running daemon read its configuration, and the code of its functions, again.

    Only what changed is restarted; a file with errors is refused whole. SIGHUP does the same.
    """
    from poller.cli.contact import reload_of

    changes = reload_of(load_config(config_path))
    click.echo(json_line({"changes": changes}) if as_json else "\n".join(changes) or "nothing has changed")
