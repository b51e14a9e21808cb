"""What is wrong with a file, all of it, as lines for a person: `file:line: [toml.path] found ...; allowed ...; did you mean ...?`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from poller.config.lines import Lines, TomlPath
from poller.config.secrets import Secret
from poller.errors import ConfigError

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_PRIVATE = re.compile(r"environment|password|passwd|secret|token|credential|private_key|access_key", re.IGNORECASE)
_LONGEST = 60


class Problems:
    """Collects problems and warnings of one file."""

    def __init__(self, file: str, lines: Lines) -> None:
        self._file = file
        self._lines = lines
        self._problems: list[tuple[int, str]] = []
        self._warnings: list[tuple[int, str]] = []

    def __len__(self) -> int:
        """How many problems there are so far: whoever compares two numbers knows whether what lies between was clean."""
        return len(self._problems)

    def add(self, path: TomlPath, found: str, allowed: str = "", meant: str | None = None) -> None:
        """`found` and `allowed` are the halves of a sentence; `meant` is TOML text."""
        self.say(path, f"found {found}" + (f"; allowed {allowed}" if allowed else "") + (f"; did you mean {meant}?" if meant else ""))

    def say(self, path: TomlPath, sentence: str) -> None:
        """A problem in the words of someone else: a connector, the registry."""
        self._problems.append(self._entry(path, sentence))

    def warn(self, path: TomlPath, sentence: str) -> None:
        """Something that works, and that a person should know."""
        self._warnings.append(self._entry(path, sentence))

    def line(self, path: TomlPath) -> int:
        return self._lines.of(path)

    @property
    def warnings(self) -> tuple[str, ...]:
        """In the order of the file."""
        return tuple(text for _, text in sorted(self._warnings, key=lambda entry: entry[0]))

    def check(self) -> None:
        """Raises ConfigError with every problem, in the order of the file, if there is any."""
        if self._problems:
            raise ConfigError([text for _, text in sorted(self._problems, key=lambda entry: entry[0])])

    def _entry(self, path: TomlPath, sentence: str) -> tuple[int, str]:
        line = self._lines.of(path)
        where = f" [{dotted(path)}]" if path else ""
        return line, f"{self._file}:{line}:{where} {sentence}"


def dotted(path: TomlPath) -> str:
    """A path as TOML writes it; indices as numbers."""
    return ".".join(str(part) if isinstance(part, int) or _BARE.fullmatch(part) else json.dumps(part, ensure_ascii=False) for part in path)


def shown(value: Any, path: TomlPath = ()) -> str:
    """A value as TOML writes it, short. What came from a reference, or stands under a name that speaks of secrets, is not shown."""
    if isinstance(value, Secret):
        return f'the value of "{value.reference}"'
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else ("a list" if value else "an empty list")
    if is_private(path):
        return f"a {_WORDS.get(type(value), 'date or time')} (not shown)"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def is_private(path: TomlPath) -> bool:
    """Whether a name on the path speaks of secrets."""
    return any(isinstance(part, str) and _PRIVATE.search(part) is not None for part in path)


_WORDS: dict[type, str] = {str: "string", int: "number", float: "number", bool: "boolean"}


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant, quoted; AWS's own spelling (BatchSize) finds ours."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_")
    names = {each.lower().replace("-", "_"): each for each in known}
    close = get_close_matches(snake, names, n=1, cutoff=0.7)
    return json.dumps(names[close[0]]) if close else None
