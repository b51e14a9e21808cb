"""A commented TOML file. Pure: the same tables, the same text."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

WIDTH = 120

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Line:
    """A key and its value. `note` stands behind it; a line of `off` is a comment: what the key would be."""

    key: str
    value: Any
    note: str = ""
    off: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the file; `comments` are paragraphs above its first key."""

    path: tuple[str, ...]
    lines: tuple[Line, ...]
    comments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class File:
    """`comments`: paragraphs at the top."""

    tables: Sequence[Table]
    comments: tuple[str, ...] = field(default=())


def written(file: File) -> str:
    """The text, which ends with a newline."""
    head = ["\n".join(_comment(each) for each in file.comments)] if file.comments else []
    return "\n\n".join([*head, *map(_table, file.tables)]) + "\n"


def _table(table: Table) -> str:
    lines = [_line(each) for each in table.lines]
    return "\n".join([f"[{'.'.join(map(_key, table.path))}]", *map(_comment, table.comments), *lines])


def _line(line: Line) -> str:
    text = f"{'# ' if line.off else ''}{_key(line.key)} = {value(line.value)}"
    first, newline, rest = text.partition("\n")
    if line.off:
        rest = rest.replace("\n", "\n# ")
        newline = "\n# " if newline else ""
    if not line.note:
        return f"{first}{newline}{rest}"
    if newline or len(first) + len(line.note) + 4 > WIDTH + 20:
        return f"{_comment(line.note)}\n{first}{newline}{rest}"
    return f"{first:<40} # {_one_line(line.note)}"


def value(of: Any) -> str:
    """As TOML writes it. Lists of texts that are long have a line for each."""
    match of:
        case bool():
            return "true" if of else "false"
        case int() | float():
            return repr(of)
        case str():
            return string(of)
        case Mapping():
            return f"{{ {', '.join(f'{_key(key)} = {value(each)}' for key, each in of.items())} }}" if of else "{}"
        case Iterable():
            parts = [value(each) for each in of]
            line = f"[{', '.join(parts)}]"
            return line if len(line) <= 100 else "[\n" + "".join(f"  {part},\n" for part in parts) + "]"
    raise TypeError(f"TOML has no {type(of).__name__}")


def string(text: str) -> str:
    """Literal where that is easier to read, so for JSON; else as JSON writes it, whose escapes TOML has too."""
    if '"' in text and "'" not in text and not _CONTROL.search(text):
        return f"'{text}'"
    # A lone surrogate is no text; TOML would refuse its escape.
    clean = text.encode("utf-8", "replace").decode()
    return json.dumps(clean, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else string(key)


def _comment(paragraph: str) -> str:
    return textwrap.fill(
        _one_line(paragraph), WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False, break_on_hyphens=False
    )


def _one_line(text: str) -> str:
    return " ".join(_CONTROL.sub(" ", text).split())
