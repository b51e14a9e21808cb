"""`poller connectors`."""

from __future__ import annotations

import click

from poller.cli.options import json_option
from poller.cli.text import json_line, table


@click.command(short_help="List the installed kinds of sources, destinations, stores and handlers.")
@json_option
def connectors(as_json: bool) -> None:
    """List the installed kinds of sources and handlers (what `type` may say in the configuration), destinations and stores (by the scheme
    of their address)."""
    from poller.registry import Registry

    parts = Registry().listing()
    if as_json:
        for part in parts:
            click.echo(json_line(part._asdict()))
        return
    rows = [(part.name, part.group.rpartition(".")[2], f"{part.distribution} {part.version}", part.problem) for part in parts]
    click.echo(table(("TYPE", "KIND", "FROM", "PROBLEM"), rows))
