"""`poller config`."""

from __future__ import annotations

import click


@click.group(short_help="Explain the configuration.")
def config() -> None:
    """Explain the configuration."""


@config.command()
def reference() -> None:
    """Every key of the file, as Markdown: its values, its default, what it does. Sources and destinations are those that are installed."""
    from poller.config.reference import render
    from poller.registry import CONNECTORS, DESTINATIONS, Registry

    registry = Registry()
    sources = {name: registry.connector(name).options for name in registry.names(CONNECTORS)}
    destinations = {name: registry.destination(name).options for name in registry.names(DESTINATIONS)}
    click.echo(render(sources, destinations), nl=False)
