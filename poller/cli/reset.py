"""`poller reset`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from poller.cli.options import config_option, json_option, load_config
from poller.cli.text import json_line


@click.command(short_help="Close the circuit breaker of a mapping.")
@click.argument("mapping")
@config_option
@json_option
def reset(mapping: str, config_path: Path, as_json: bool) -> None:
    """Close the circuit breaker of a mapping at once, in every worker of the running daemon, instead of waiting for a probe.

    It opens again if the function still fails, whatever it is given. What waited goes on where it was, with the attempts it had.
    """
    from poller.cli.resetting import reset_of, sentence

    answers = asyncio.run(reset_of(load_config(config_path), mapping))
    for line in map(json_line, answers) if as_json else [sentence(mapping, answers)]:
        click.echo(line)
