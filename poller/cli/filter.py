"""`poller filter`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from poller.cli.options import json_option
from poller.cli.text import clean, json_line
from poller.errors import ConfigError


@click.group("filter", short_help="Try a filter on an event.")
def filter() -> None:  # noqa: A001 (the command's name, by which it is found)
    """Try a filter on an event."""


@filter.command()
@click.option("--pattern", required=True, metavar="JSON|@FILE", help="The pattern, as in the filters of a mapping.")
@click.option("--event", required=True, metavar="JSON|@FILE|-", help="What the filter sees of a record; - is stdin.")
@json_option
def test(pattern: str, event: str, as_json: bool) -> None:
    """Say whether an event matches a pattern, and why, term by term.

    The exit code is 0 for a match, 1 for none, and 2 if the pattern is not valid or the event is no JSON object.
    """
    from poller.filters import compile_pattern

    found = compile_pattern(_text("pattern", pattern)).explain(_event(sys.stdin.buffer.read() if event == "-" else _text("event", event)))
    click.echo(json_line(found.as_dict()) if as_json else "\n".join(map(clean, found.lines())))
    click.get_current_context().exit(0 if found.matches else 1)


def _text(name: str, value: str) -> str:
    """The value of an option, or the file that it names. Raises ConfigError."""
    if not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConfigError(f"--{name} {value}: cannot be read: {error}") from None


def _event(text: str | bytes) -> dict[str, Any]:
    """Raises ConfigError."""
    import json

    try:
        event = json.loads(text, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"event: not valid JSON: {error}") from None
    if not isinstance(event, dict):
        raise ConfigError("event: an object is needed; a record's body or value stands in it under its key")
    return event


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
