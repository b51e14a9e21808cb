"""`poller config`."""

from __future__ import annotations

import click


@click.group(short_help="Explain the configuration.")
def config() -> None:
    """Explain the configuration."""


@config.command()
def reference() -> None:
    """Every key of the file, as Markdown: its values, its default, what it does. Sources are those that are installed."""
    from poller.config.reference import render
    from poller.registry import CONNECTORS, Registry

    registry = Registry()
    click.echo(render({name: registry.connector(name).options for name in registry.names(CONNECTORS)}), nl=False)
