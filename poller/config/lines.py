"""Which line of a TOML text holds which key: `tomllib` does not say. Pure.

The scanner runs on text that `tomllib` has accepted, so it knows only where things begin and end, not what is valid. A path is the keys
that lead to a value, with indices for elements of arrays: ("mappings", "orders", "source", "topic"), ("steps", 0, "name").
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from typing import TypeAlias

TomlPath: TypeAlias = tuple[str | int, ...]

_KEY = re.compile(r'[A-Za-z0-9_-]+|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'')
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"[ \t]*")
_BLANKS_AND_COMMENTS = re.compile(r"(?:[ \t\n]+|#[^\n]*)*")
# A closing delimiter of a multi-line string may follow up to two quotes that belong to the string: hence {3,5}.
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}' r"|'''(?:.)*?'{3,5}" r'|"(?:\\.|[^"\\])*"' r"|'[^']*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\n]*")


class Lines:
    """The lines of one text, counted from 1."""

    def __init__(self, text: str) -> None:
        self._lines: dict[TomlPath, int] = _Scanner(text.replace("\r\n", "\n")).scan()

    def of(self, path: TomlPath) -> int:
        """The line of the key at `path`, of an element's beginning, of a table's header; of the nearest of those above what is absent."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def __contains__(self, path: TomlPath) -> bool:
        return path in self._lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.breaks = [match.start() for match in re.finditer("\n", text)]
        self.lines: dict[TomlPath, int] = {}
        self.last: dict[TomlPath, int] = {}
        """The index of the last element of each array of tables: what a header below it continues."""

    def scan(self) -> dict[TomlPath, int]:
        table: TomlPath = ()
        self.skip(_BLANKS_AND_COMMENTS)
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)
            self.skip(_BLANKS_AND_COMMENTS)
        return self.lines

    def skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        assert match is not None, f"no TOML at {self.at}: only text that tomllib accepts is scanned"
        self.at = match.end()
        return match[0]

    def take(self, literal: str) -> bool:
        if not self.text.startswith(literal, self.at):
            return False
        self.at += len(literal)
        return True

    @property
    def line(self) -> int:
        return bisect_left(self.breaks, self.at) + 1

    def key(self) -> list[str]:
        parts = []
        while True:
            self.skip(_BLANK)
            token = self.skip(_KEY)
            # A quoted key has TOML's own escapes: let tomllib read it.
            parts.append(token if _BARE.fullmatch(token) else tomllib.loads(f"key = {token}")["key"])
            self.skip(_BLANK)
            if not self.take("."):
                return parts

    def header(self) -> TomlPath:
        line = self.line
        array = self.take("[[") or not self.take("[")
        parts = self.key()
        self.at += 2 if array else 1
        path: TomlPath = ()
        for index, part in enumerate(parts):
            path = (*path, part)
            self.lines.setdefault(path, line)
            if array and index == len(parts) - 1:
                self.last[path] = self.last.get(path, -1) + 1
            if path in self.last:
                path = (*path, self.last[path])
                self.lines.setdefault(path, line)
        # [a] after [a.b]: the header of its own is the better line than the one that implied it.
        self.lines[path] = line
        return path

    def pair(self, table: TomlPath) -> None:
        line = self.line
        path = table
        for part in self.key():
            path = (*path, part)
            self.lines.setdefault(path, line)
        self.take("=")
        self.skip(_BLANK)
        self.value(path)

    def value(self, path: TomlPath) -> None:
        if self.text[self.at] in "\"'":
            self.skip(_STRING)
        elif self.take("["):
            self.array(path)
        elif self.take("{"):
            self.skip(_BLANKS_AND_COMMENTS)
            while not self.take("}"):
                self.pair(path)
                self.skip(_BLANKS_AND_COMMENTS)
                self.take(",")
                self.skip(_BLANKS_AND_COMMENTS)
        else:
            self.skip(_SCALAR)

    def array(self, path: TomlPath) -> None:
        index = 0
        self.skip(_BLANKS_AND_COMMENTS)
        while not self.take("]"):
            element = (*path, index)
            self.lines[element] = self.line
            self.value(element)
            self.skip(_BLANKS_AND_COMMENTS)
            self.take(",")
            self.skip(_BLANKS_AND_COMMENTS)
            index += 1
