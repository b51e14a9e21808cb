"""Options that several commands take."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from poller import units

if TYPE_CHECKING:
    from poller.config import Config

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path, dir_okay=False)


def config_option(command: F) -> F:
    """`-c FILE`, as `config_path`."""
    return click.option(
        "-c",
        "--config",
        "config_path",
        type=_FILE,
        default="poller.toml",
        envvar="POLLER_CONFIG",
        show_default=True,
        show_envvar=True,
        help="The configuration.",
    )(command)


def config_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """`[CONFIG]` or `-c FILE`, as `config_path`: one of the two."""

    @wraps(command)
    def decided(config: Path | None, config_path: Path, **rest: Any) -> Any:
        if config is not None:
            if click.get_current_context().get_parameter_source("config_path") is click.core.ParameterSource.COMMANDLINE:
                raise click.UsageError("name the configuration once: as an argument, or with --config")
            config_path = config
        return command(config_path=config_path, **rest)

    return config_option(click.argument("config", required=False, type=_FILE)(decided))


def json_option(command: F) -> F:
    """`--json`, as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")(command)


class Moment(click.ParamType[float]):
    """A time, as epoch seconds: ISO 8601 (local where it names no zone), or a duration such as `2h`: so long ago."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return time.time() - units.duration(value)
        except ValueError:
            pass
        try:
            return datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time; write 2026-01-31T08:00, or how long ago, such as 2h", param, ctx)


def selection_options(command: F) -> F:
    """`[IDS]... --mapping --after --before`: which rows of the journal."""
    for decorate in (
        click.option("--before", type=Moment(), help="Only what failed before this time."),
        click.option("--after", type=Moment(), help="Only what failed at this time or later: ISO 8601, or how long ago (2h)."),
        click.option("--mapping", help="Only failures of this mapping: its name, or id."),
        click.argument("ids", nargs=-1),
    ):
        command = decorate(command)
    return command


def load_config(path: Path) -> Config:
    """The configuration, checked. Raises ConfigError."""
    from poller.config import load
    from poller.registry import Registry

    return load(path, Registry(), os.environ)


def mapping_id(config: Config, name: str | None) -> str | None:
    """What the journal knows a mapping by, from its name or its id."""
    return config.mappings[name].settings.id if name in config.mappings else name
