"""Options that several commands take."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from poller import units

if TYPE_CHECKING:
    from poller.config import Config, MappingConfig
    from poller.failures.journal import Entry, Selection
    from poller.settings import Filterable

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


@dataclass(frozen=True, slots=True)
class Chosen:
    """What `selection_options` say. `mapping` as it was written: a name or an id. `pattern`: only rows with a record that it matches."""

    ids: tuple[str, ...] = ()
    mapping: str | None = None
    after: float | None = None
    before: float | None = None
    group: str | None = None
    key: str | None = None
    pattern: str | None = None

    def __bool__(self) -> bool:
        """Whether it says anything."""
        return self != Chosen()

    def selection(self, config: Config) -> Selection:
        """All but the pattern. Raises nothing: ids and group are looked up by the store."""
        from poller.failures.journal import Selection

        return Selection(
            ids=self.ids,
            mapping=mapping_id(config, self.mapping),
            after=self.after,
            before=self.before,
            group=self.group,
            key=self.key,
        )

    def matches(self, config: Config) -> Callable[[Entry], bool]:
        """The pattern, with records decoded as the mapping's filters see them. Raises ConfigError for what is no pattern."""
        from poller.replay.matching import matching

        over = {each.settings.id: filterable(each) for each in config.mappings.values()}
        return (lambda _: True) if self.pattern is None else matching(self.pattern, over.get)


def selection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`[IDS]... --mapping --after --before --group --key --pattern`, as `chosen`: which rows of the journal."""

    @wraps(command)
    def collected(**given: Any) -> Any:
        chosen = Chosen(**{field.name: given.pop(field.name) for field in fields(Chosen)})
        return command(chosen=chosen, **given)

    decorated: Callable[..., Any] = collected
    for decorate in (
        click.option("--pattern", help="Only failures with a record that this pattern matches, in the language of filters."),
        click.option("--key", help="Only failures with a record of this key."),
        click.option("--group", help="Only failures of this error group: the first letters of its id (`poller failures groups`)."),
        click.option("--before", type=Moment(), help="Only what failed before this time."),
        click.option("--after", type=Moment(), help="Only what failed at this time or later: ISO 8601, or how long ago (2h)."),
        click.option("--mapping", help="Only failures of this mapping: its name, or id."),
        click.argument("ids", nargs=-1),
    ):
        decorated = decorate(decorated)
    return decorated


def load_config(path: Path) -> Config:
    """The configuration, checked. Raises ConfigError."""
    # Nothing that is imported is garbage: to look for some meanwhile takes a tenth of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        from poller.config import load
        from poller.registry import Registry

        return load(path, Registry(), os.environ)
    finally:
        if collecting:
            gc.enable()


def mapping_id(config: Config, name: str | None) -> str | None:
    """What the journal knows a mapping by, from its name or its id."""
    return config.mappings[name].settings.id if name in config.mappings else name


def filterable(mapping: MappingConfig) -> Filterable | None:
    """What its filters may look at, which says how its records are to be read."""
    from poller.registry import Registry

    return Registry().connector(mapping.type).traits(mapping.options).filterable
