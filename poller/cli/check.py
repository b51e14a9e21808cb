"""`poller check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from poller.cli.options import config_argument, json_option, load_config
from poller.cli.text import amount, clean, json_line
from poller.errors import ConfigError

if TYPE_CHECKING:
    from poller.config import Config
    from poller.probe import Probed


@click.command(short_help="Say what is wrong with a configuration.")
@config_argument
@click.option("--live", is_flag=True, help="Also reach sources and destinations, and load the functions; nothing is read, sent or run.")
@json_option
def check(config_path: Path, live: bool, as_json: bool) -> None:
    """Say what is wrong with a configuration: everything at once, with file, line and a suggestion. Exit code 2 if anything is."""
    try:
        config = load_config(config_path)
    except ConfigError as error:
        if not as_json:
            raise
        click.echo(json_line({"ok": False, "problems": error.problems}))
        click.get_current_context().exit(2)
    probed = _probed(config) if live else []
    ok = not any(each.finding.level == "error" for each in probed)
    click.echo(json_line(_document(config, probed, ok)) if as_json else _page(config, probed))
    click.get_current_context().exit(0 if ok else 1)


def _probed(config: Config) -> list[Probed]:
    import asyncio

    from poller.probe import probe
    from poller.registry import Registry

    return asyncio.run(probe(config, Registry(), lambda function, _, line: click.echo(f"{function}: {clean(line)}", err=True)))


def _document(config: Config, probed: list[Probed], ok: bool) -> dict[str, Any]:
    live = [{"what": each.what, "level": each.finding.level, "text": each.finding.text} for each in probed]
    return {"ok": ok, "mappings": [*config.mappings], "functions": [*config.functions], "warnings": config.warnings, "live": live}


def _page(config: Config, probed: list[Probed]) -> str:
    lines = [f"warning: {warning}" for warning in config.warnings]
    lines += [clean(f"{each.finding.level:7} {each.what}: {each.finding.text}") for each in probed]
    counts = f"{amount(len(config.mappings), 'mapping')}, {amount(len(config.functions), 'function')}"
    return "\n".join([*lines, f"{config.path.name}: {counts}, nothing wrong with the file"])
