"""What a configuration says, as one frozen tree of plain values. Durations are seconds, sizes are bytes, paths are absolute."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from poller.config.secrets import plain
from poller.settings import DestinationTraits, FunctionSettings, MappingSettings
from poller.stores.urls import masked


class Address(NamedTuple):
    """Where a server listens; port 0 is any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class DestinationConfig:
    """Where what became of batches is sent. `name` is what the file says, a reference unresolved: what it is kept and shown under.

    `to` is the address, `kind` its scheme (DestinationKind), `options` that kind's Struct, and `traits` what it says of them.
    """

    name: str
    to: str = field(repr=False)
    kind: str
    options: Any
    traits: DestinationTraits = field(default_factory=DestinationTraits)

    @property
    def shown(self) -> str:
        """The name, for logs and pages: without a password that its URL may have, or what else its kind hides of its address."""
        return self.traits.shown or masked(self.name) if self.name == self.to else masked(self.name)

    def redacted(self, text: str) -> str:
        """A text of others without an address that is a secret, and without the password of one that is none."""
        return text.replace(self.to, self.shown)


@dataclass(frozen=True, slots=True)
class MappingConfig:
    """One mapping: its settings, the type and options of its source (the connector's own Struct), and whether it runs.

    `queue`: the source is one, so that the mapping's width is one limit for all workers; else each lane has it for itself.
    `destinations`: each that `settings` names, once; their options are not in the digest, for a change of them restarts no lane.
    """

    settings: MappingSettings
    type: str
    options: Any
    enabled: bool = True
    queue: bool = False
    destinations: tuple[DestinationConfig, ...] = ()

    @property
    def digest(self) -> str:
        """A hash that is the same in every process as long as the mapping need not restart: it covers settings, source, secrets and
        `enabled`, and not the function, which is compared for itself (`FunctionSettings` are equal or not)."""
        import hashlib  # loads OpenSSL, which `check` does without

        content = [asdict(self.settings), self.type, _plain_options(self.options), self.enabled]
        text = json.dumps(content, sort_keys=True, default=repr, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Config:
    """A whole file. `path` is the file, `state` the folder of the store, or one beside the file, where local sources keep their data.

    `store_url` is `sqlite://` and an absolute path, `memory:`, or what another kind of store understands; `leases_url` and `journal_url`
    too, or "": in the store. They may hold passwords, and are kept out of the repr. `warnings` are lines for a person, in the order of the
    file. `workers`: how many processes do the work. `journal_retention` None: for ever; `journal_maximum_size` None: without a limit.
    """

    path: Path
    store_url: str = field(repr=False)
    state: Path
    listen: Address
    shutdown_grace: float
    log: Literal["auto", "text", "json"]
    log_level: Literal["debug", "info", "warning", "error"]
    functions: dict[str, FunctionSettings]
    mappings: dict[str, MappingConfig]
    warnings: tuple[str, ...] = ()
    workers: int = 1
    leases_url: str = field(default="", repr=False)
    journal_url: str = field(default="", repr=False)
    journal_retention: float | None = None
    journal_maximum_size: int | None = None

    @property
    def base(self) -> Path:
        """The folder that relative paths start at."""
        return self.path.parent


KIND = "type"
"""Where `FunctionSettings.options` names the kind of handler, if it is neither `python` nor `inline`."""


def handler_kind(settings: FunctionSettings) -> str:
    """The name of the function's kind of handler in the registry."""
    named = dict(settings.options).get(KIND)
    return str(named) if named else "inline" if settings.inline else "python"


def _plain_options(options: Any) -> Any:
    if isinstance(options, msgspec.Struct):
        return {name: _plain_options(getattr(options, name)) for name in options.__struct_fields__}
    if isinstance(options, dict):
        return {str(name): _plain_options(value) for name, value in options.items()}
    if isinstance(options, Sequence) and not isinstance(options, str | bytes):
        return [_plain_options(value) for value in options]
    return plain(options)
