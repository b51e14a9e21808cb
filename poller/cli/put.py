"""`poller put`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import click

from poller.cli.options import config_option, json_option, load_config
from poller.cli.text import amount, clean, json_line

if TYPE_CHECKING:
    from poller.cli.feeding import Feeding
    from poller.cli.items import Line, Refused

_SHOWN = 20
"""So many refused lines are named one by one."""


@click.command(short_help="Put records into a source.")
@click.argument("name")
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@config_option
@click.option("--key", "--group", "key", metavar="FIELD", help="The JSON field that is the partition key, or message group.")
@click.option("--raw", is_flag=True, help="Lines are put as they are, JSON or not.")
@click.option("--whole-files", is_flag=True, help="Each file is one record.")
@json_option
def put(name: str, files: tuple[str, ...], config_path: Path, key: str | None, raw: bool, whole_files: bool, as_json: bool) -> None:
    """Put records into a source: NAME is a mapping, or a local queue or stream.

    Records are the lines of FILES, or of stdin, each of them JSON. They are durable when this ends, chunk by chunk on the way. A line that
    cannot be put is named, the others are put all the same, and the exit code is 1.
    """
    if key is not None and (raw or whole_files):
        raise click.UsageError("--key is a field of JSON lines; it goes neither with --raw nor with --whole-files")
    from poller.cli.feeding import Beside, Feeding, fed
    from poller.registry import Registry

    config = load_config(config_path)
    feed, mapping = fed(config, Registry(), name)
    feeding = Feeding(feed, mapping.options, Beside(config.base, config.state))
    try:
        _feed(feeding, files, {"key": key, "raw": raw}, whole_files)
    finally:  # after an error and after Ctrl-C too: what is in, is in
        _tell(feeding, f"{mapping.settings.name} ({mapping.type})", as_json)
    click.get_current_context().exit(1 if feeding.refused else 0)


def _feed(feeding: Feeding, files: tuple[str, ...], form: dict[str, Any], whole_files: bool) -> None:
    from poller.cli.meter import Meter

    total = None if not files or "-" in files else sum(Path(file).stat().st_size for file in files)
    with Meter() as meter:
        told = lambda now: meter.bar(now.size, total, f"{amount(now.put, 'record')} put")  # noqa: E731
        asyncio.run(feeding.run(_records(files or ("-",), form, whole_files), told))


def _records(files: tuple[str, ...], form: dict[str, Any], whole_files: bool) -> Iterator[Line | Refused]:
    from poller.cli.items import lines, whole

    for file in files:
        with click.open_file(file, "rb") as opened:
            stream = cast("BinaryIO", opened)
            name = "stdin" if file == "-" else file
            if file == "-" and sys.stdin.isatty():
                click.echo("reading lines from the terminal; Ctrl-D ends them", err=True)
            if whole_files:
                yield whole(stream, name)
            else:
                yield from lines(stream, name, **form)


def _tell(feeding: Feeding, where: str, as_json: bool) -> None:
    if as_json:
        refused = [{"line": each.place, "reason": each.reason} for each in feeding.refused]
        click.echo(json_line({"put": feeding.put, "refused": refused}))
        return
    for each in feeding.refused[:_SHOWN]:
        click.echo(clean(f"{each.place}: {each.reason}"), err=True)
    if len(feeding.refused) > _SHOWN:
        click.echo(f"... and {amount(len(feeding.refused) - _SHOWN, 'line')} more", err=True)
    rest = f"; {amount(len(feeding.refused), 'line')} refused" if feeding.refused else ""
    click.echo(f"{amount(feeding.put, 'record')} put into {where}{rest}")
