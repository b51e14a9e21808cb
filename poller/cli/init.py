"""`poller init`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Write a first configuration and function.")
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path, file_okay=False))
def init(folder: Path) -> None:
    """Write poller.toml and app.py into DIR (default: this folder): an embedded queue and a function that handles what is put into it.

    Nothing is overwritten.
    """
    from poller.cli.template import write

    for path in write(folder):
        click.echo(f"wrote {path}")
    where = "" if folder == Path() else f" -c {folder / 'poller.toml'}"
    click.echo(f"next: poller run{where}, and in another terminal: echo '{{\"id\": 1}}' | poller put first{where}")
