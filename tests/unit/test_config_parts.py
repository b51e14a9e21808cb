"""The connectors, handlers and files that the tests of the configuration share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from poller.config import Config, load
from poller.errors import ConfigError
from poller.registry import Registry
from poller.settings import DestinationTraits, FunctionSettings, Traits


class QueueOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A queue."""

    queue: str
    region: str = "eu-central-1"
    wait: str = "5s"
    endpoints: list[str] = []
    password: str = ""


class QueueConnector:
    options = QueueOptions

    def traits(self, options: QueueOptions) -> Traits:
        if options.wait == "never":
            raise ConfigError([f"wait 'never' does not fit {options.queue} with {options.password}", f"and {options.password!r}"])
        if options.queue.endswith(".fifo"):
            return Traits("queue", default_batch_size=10, maximum_batch_size=10, maximum_batching_window=0, fifo=True)
        # Of an ARN it is known for certain what it names, whatever the other options.
        return Traits("queue", default_batch_size=10, identity=options.queue if options.queue.startswith("arn:") else "")


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A stream."""

    stream: str
    mode: str = "plain"

    def __post_init__(self) -> None:
        if self.mode == "odd":
            raise ValueError("mode 'odd' needs an even stream")


class StreamConnector:
    options = StreamOptions

    def traits(self, options: StreamOptions) -> Traits:
        kafka = options.mode == "kafka"
        return Traits("stream", default_batch_size=100, default_batching_window=0.5 if kafka else 0.0, tumbling=not kafka)


class AcmeOptions(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    retries: int = 3


def handler_part(settings: FunctionSettings, log: object) -> object:
    return (settings, log)


class AcmeKind:
    options = AcmeOptions


class FleetKind:
    """A kind of store that hosts share."""

    shared = True

    def check(self, url: str, base: Path) -> None:
        if not url.startswith("fleet://"):
            raise ConfigError(["no host", "no table"])


class TopicOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What may be said of a topic."""

    password: str = ""
    size: int = 1


class TopicKind:
    """A kind of destination. Its queues are those of the connector above."""

    options = TopicOptions

    def traits(self, to: str, options: TopicOptions) -> DestinationTraits:
        if options.size > 9:
            raise ConfigError([f"size {options.size} is too large for {to}"])
        return DestinationTraits(identity=to if to.startswith("arn:") else "", maximum_bytes=None if to.startswith("acme:") else 1024)


PARTS: dict[str, dict[str, Any]] = {
    "poller.connectors": {"sqs": QueueConnector(), "local-stream": StreamConnector()},
    "poller.handlers": {"python": handler_part, "inline": handler_part, "acme": AcmeKind()},
    "poller.stores": {"fleet": FleetKind()},
    "poller.destinations": {"acme": TopicKind(), "https": TopicKind(), "sqs": TopicKind(), "file": TopicKind()},
}


def entry_points(group: str) -> Iterable[Any]:
    dist = SimpleNamespace(name="esm-poller", version="0.1.0")
    return [SimpleNamespace(name=n, value=f"x:{n}", dist=dist, load=lambda part=part: part) for n, part in PARTS[group].items()]


ENVIRON = {"ORDERS_TOKEN": "hunter2-token", "EMPTY": "", "QUEUE": "https://queue.test/orders", "PATH": os.defpath}


def furnished(folder: Path) -> Path:
    """A folder with the code and the secrets that the files below name."""
    (folder / "app.py").write_text("def handle(event, context): ...\n")
    (folder / "pkg").mkdir()
    (folder / "pkg" / "__init__.py").touch()
    (folder / "secret.txt").write_text("file-secret\n")
    (folder / "binary").write_bytes(b"\xff\xfe")
    return folder


Read = Callable[..., Config]
Complain = Callable[..., list[str]]


def reader(folder: Path) -> Read:
    """Loads a text as `poller.toml` of that folder."""

    def read(text: str, environ: Mapping[str, str] = ENVIRON) -> Config:
        (folder / "poller.toml").write_text(text)
        return load(folder / "poller.toml", Registry(entry_points), environ)

    return read


def complainer(folder: Path) -> Complain:
    """The problems of a text, without the folder."""
    read = reader(folder)

    def complain(text: str, environ: Mapping[str, str] = ENVIRON) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            read(text, environ)
        return [problem.replace(f"{folder}/", "").replace(str(folder), "<folder>") for problem in caught.value.problems]

    return complain


FUNCTION = '[functions.f]\nhandler = "app.py:handle"\n'
QUEUE = 'source = { type = "sqs", queue = "q" }\n'
FIFO = 'source = { type = "sqs", queue = "q.fifo" }\n'
STREAM = 'source = { type = "local-stream", stream = "s" }\n'


def mapping(*lines: str, source: str = QUEUE) -> str:
    """Line 1: [mappings.m]. Line 2: function. Line 3: source. Line 4 and on: `lines`; then the function."""
    return '[mappings.m]\nfunction = "f"\n' + source + "".join(f"{line}\n" for line in lines) + FUNCTION


def test_the_shared_parts_are_found_like_any_others() -> None:
    registry = Registry(entry_points)
    assert [(line.name, line.distribution, line.problem) for line in registry.listing()] == [
        ("local-stream", "esm-poller", ""),
        ("sqs", "esm-poller", ""),
        ("acme", "esm-poller", ""),
        ("inline", "esm-poller", ""),
        ("python", "esm-poller", ""),
        ("fleet", "esm-poller", ""),
        ("acme", "esm-poller", ""),
        ("file", "esm-poller", ""),
        ("https", "esm-poller", ""),
        ("sqs", "esm-poller", ""),
    ]
