"""`poller explain`."""

from __future__ import annotations

from pathlib import Path

import click

from poller.cli.options import config_option, json_option, load_config
from poller.cli.text import json_line


@click.command(short_help="Show the attempts that failing records would get.")
@click.argument("mapping")
@click.option("--poison", type=click.IntRange(min=1), default=1, show_default=True, help="Which record of the batch always fails.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Records in the batch. Default: the mapping's batch_size.")
@click.option(
    "--kind",
    type=click.Choice(["full", "named", "partial"]),
    help="The function fails as a whole, its error names the record (record_index), or its response does.",
)
@click.option("--error", help="What it fails with, for the error rules: a type, or `type: message`.")
@config_option
@json_option
def explain(
    mapping: str, poison: int, batch_size: int | None, kind: str | None, error: str | None, config_path: Path, as_json: bool
) -> None:
    """Show the attempts that a batch with one record that always fails would get from MAPPING, and the most that it may cost."""
    from poller.cli.explaining import explained
    from poller.registry import Registry

    found = explained(load_config(config_path), Registry(), mapping, poison, batch_size, kind, error)
    if as_json:
        click.echo(json_line({**found.explanation.as_dict(), "assumed": found.assumed, "parks": found.parks, "breaker": found.breaker}))
    else:
        click.echo("\n".join(found.lines()))
