"""`poller run`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from poller.cli.options import config_argument, load_config


@click.command(short_help="Run the daemon in the foreground.")
@config_argument
def run(config_path: Path) -> None:
    """Run the daemon in the foreground, until SIGTERM or Ctrl-C.

    It stops in order: running functions may finish for `shutdown_grace`; a second signal ends it at once. SIGHUP reloads the
    configuration: only what changed is restarted, and a bad file is refused whole. With `workers` above 1 the work is done by so many
    processes, which this one starts, watches and stops.
    """
    from poller.service import serve

    sys.exit(serve(load_config(config_path)))
