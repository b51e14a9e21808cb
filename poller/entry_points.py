"""The entry points of this environment, for registry.py.

What `importlib.metadata.entry_points` finds, without what it costs: importing it loads parsers of e-mail and ZIP, a tenth of the CPU of
`poller check`. It is asked where it is needed: for the name and version of a distribution, in errors and listings, and for all of it where
distributions are elsewhere than in folders of the module search path.

Source: "Entry points specification" and "Recording installed projects", packaging.python.org.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache, reduce
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec

FILE = "entry_points.txt"


class Distribution(Protocol):
    """What is asked of `importlib.metadata.Distribution`."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...


class EntryPoint(Protocol):
    """What is asked of `importlib.metadata.EntryPoint`. `value` is `module:attribute [extra]`."""

    @property
    def name(self) -> str: ...
    @property
    def value(self) -> str: ...
    @property
    def dist(self) -> Distribution | None: ...
    def load(self) -> Any: ...


class Found(msgspec.Struct, frozen=True):
    """An `EntryPoint` of the distribution whose metadata lies in `folder`."""

    group: str
    name: str
    value: str
    folder: Path

    @property
    def dist(self) -> Distribution | None:
        from importlib.metadata import Distribution

        return cast("Distribution", Distribution.at(self.folder))

    def load(self) -> Any:
        module, _, attributes = self.value.partition("[")[0].strip().partition(":")
        names = filter(None, attributes.strip().split("."))
        return reduce(getattr, names, importlib.import_module(module.strip()))


def installed() -> Callable[[str], Iterable[EntryPoint]]:
    """What gives the entry points of this environment, a group a call. All distributions are looked through once, at the first call."""
    look = cache(_look)

    def points(group: str) -> Iterable[EntryPoint]:
        return look()(group)

    return points


def _look() -> Callable[[str], Iterable[EntryPoint]]:
    finders = [finder for finder in sys.meta_path if finder is not PathFinder and hasattr(finder, "find_distributions")]
    if finders or any(os.path.isfile(path) or path.lower().endswith(".egg") for path in sys.path):
        from importlib import metadata

        theirs = metadata.entry_points()
        # typeshed calls `name` and `value` plain attributes, and `dist` of a type of its own.
        return lambda group: cast("Iterable[EntryPoint]", theirs.select(group=group))
    ours = [*in_folders(path or "." for path in sys.path)]
    return lambda group: [point for point in ours if point.group == group]


def in_folders(folders: Iterable[str]) -> Iterator[Found]:
    """Of the distributions in these folders; of those with one name the first, as it is the one that is imported."""
    seen = set[str]()
    for folder in folders:
        try:
            names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith((".dist-info", ".egg-info")))
        except OSError:
            continue  # not there: nothing is imported from it either
        for name in names:
            project = name.rpartition(".")[0].partition("-")[0].lower().replace(".", "_")
            if project not in seen:
                seen.add(project)
                yield from _read(Path(folder, name))


def _read(folder: Path) -> Iterator[Found]:
    try:
        text = (folder / FILE).read_text(encoding="utf-8")
    except OSError:
        return
    group = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            group = line.strip("[]")
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            yield Found(group, name.strip(), value.strip(), folder)
