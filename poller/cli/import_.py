"""`poller import`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from poller.cli.options import json_option
from poller.cli.text import clean, json_line
from poller.errors import ConfigError

if TYPE_CHECKING:
    from poller.importing.plan import Document


@click.command("import", short_help="Make a configuration of event source mappings on AWS.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write here, and overwrite nothing. Default: stdout.")
@click.option(
    "--parameter",
    "parameters",
    metavar="NAME=VALUE",
    multiple=True,
    help="What a template does not tell: a parameter, AWS::Region, a resource's name, RESOURCE.ATTRIBUTE, or another stack's export.",
)
@json_option
def import_(files: tuple[Path, ...], output: Path | None, parameters: tuple[str, ...], as_json: bool) -> None:
    """Write a poller.toml that does what event source mappings do on AWS.

    FILE is what `aws lambda list-event-source-mappings` answers, a SAM template or a CloudFormation template; `-` is stdin. With what
    `aws lambda list-functions` answers as another FILE, functions are known as well. All values are written out; what is not carried over
    is said on stderr, and in the file.
    """
    from poller.importing.plan import imported
    from poller.registry import CONNECTORS, Registry

    registry = Registry()
    connectors = {name: registry.connector(name) for name in registry.names(CONNECTORS)}
    found = imported([_document(path, output) for path in files], connectors, _given(parameters))
    if output is not None:
        _write(output, found.toml)
    if as_json:
        remarks = [each._asdict() for each in found.remarks]
        click.echo(json_line({"functions": found.functions, "mappings": found.mappings, "remarks": remarks, "toml": found.toml}))
    elif output is None:
        click.echo(found.toml, nl=False)
    for remark in () if as_json else found.remarks:
        click.echo(clean(str(remark)), err=True)
    click.echo(
        f"carried over: mappings {len(found.mappings)}, functions {len(found.functions)}; remarks: {len(found.remarks)}"
        f"{f'; wrote {output}' if output else ''}",
        err=True,
    )


def _document(path: Path, output: Path | None) -> Document:
    from poller.importing.plan import Document

    if str(path) == "-":
        return Document("stdin", sys.stdin.read())
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: no UTF-8 text; allowed JSON and YAML") from None
    here = output.absolute().parent if output is not None else Path.cwd()
    return Document(str(path), text, os.path.relpath(path.absolute().parent, here))


def _given(parameters: Iterable[str]) -> dict[str, str]:
    given = {}
    for each in parameters:
        name, equals, value = each.partition("=")
        if not name or not equals:
            raise click.UsageError(f"--parameter {each!r}: write NAME=VALUE")
        given[name] = value
    return given


def _write(output: Path, text: str) -> None:
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{output}: there already, and left as it is; name another file with --output") from None
    except OSError as error:
        raise ConfigError(f"{output}: cannot be written: {error.strerror}") from None
