"""The command line. A command is parse -> one library call -> print, in a module of its own that is imported when it is called.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted. Errors are sentences on stderr, never tracebacks; results are
on stdout. `--json` prints one JSON object a line.
"""

from __future__ import annotations

from importlib import import_module
from keyword import iskeyword
from typing import Any

import click

from poller import __version__
from poller.errors import ConfigError, PollerError

SUMMARIES = {
    "run": "Run the daemon in the foreground.",
    "check": "Say what is wrong with a configuration.",
    "init": "Write a first configuration and function.",
    "put": "Put records into a source.",
    "reload": "Make the running daemon read its configuration again.",
    "status": "Show what the running daemon does.",
    "pause": "Pause a mapping until it is resumed.",
    "resume": "Let a paused mapping go on.",
    "reset": "Close the circuit breaker of a mapping.",
    "rewind": "Read a stream again from another place, or skip a part of it.",
    "failures": "Look at the failures that the journal keeps.",
    "replay": "Run kept failures again.",
    "outbox": "Look at what waits to be delivered.",
    "explain": "Show the attempts that failing records would get.",
    "filter": "Try a filter on an event.",
    "import": "Make a configuration of event source mappings on AWS.",
    "iam": "Print the IAM policy that a mapping needs.",
    "connectors": "List the installed kinds of sources, destinations, stores and handlers.",
    "config": "Explain the configuration.",
}
"""Every command with the first line of its help: `poller --help` imports none of them. `poller.cli.NAME` holds the command NAME, or NAME_
where Python has that word for itself."""

INTERRUPTED = 130


class Program(click.Group):
    """Finds commands by name and turns what they raise into a message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's)
        return list(SUMMARIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 (click's)
        if cmd_name not in SUMMARIES:
            return None
        name = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        command: click.Command = getattr(import_module(f"poller.cli.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 (click's)
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except ConfigError as error:
            for problem in error.problems:
                click.echo(problem, err=True)
            ctx.exit(2)
        except PollerError as error:
            click.echo(f"poller: {error}", err=True)
            ctx.exit(1)


@click.command("poller", cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="poller")
def program() -> None:
    """AWS Lambda's event source mappings, on your own machines.

    Begin with `poller init`. Every command takes `-c FILE`, or POLLER_CONFIG; the default is poller.toml in this folder.
    """


def main() -> None:
    """The console script."""
    program(prog_name="poller")
