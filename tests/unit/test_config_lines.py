"""The line scanner against tomllib: whatever tomllib finds has a line, and that line holds its key."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poller.config.lines import Lines, TomlPath

TEXT = '''\
# a comment with [brackets] and key = "value"
title = "x"   # [not.a.header]
a.b.c = 1
"quoted key" . 'lit"eral' = 2

[mappings.orders]   # comment
text = """
[fake.header]
fake = "key" \\"""
two quotes before the end"""""
literal = \'\'\'
[also.fake]
fake = 1\'\'\'
function_response_types = [
  "one", # comment ]
  { name = "two", inner = [ { deep = 1 } ] },
  [ "nested",
    "array" ],
]
retry_backoff = { initial = "1s", "max imum" = "2}s", dotted.key = [1,
  2] }
when = 1979-05-27 07:32:00 # a date with a blank

[mappings.orders.source]
type = "sqs"
"caf\\u00e9" = true

[[steps]]
name = "first"
[[steps.inner]]
x = 1
[[steps]]
[steps.table]
y = 2
[[steps.inner]]
x = 2

[late.child]
[late]
z = 3
'''

EXPECTED: list[tuple[TomlPath, int]] = [
    (("title",), 2),
    (("a",), 3),
    (("a", "b"), 3),
    (("a", "b", "c"), 3),
    (("quoted key", 'lit"eral'), 4),
    (("mappings",), 6),
    (("mappings", "orders"), 6),
    (("mappings", "orders", "text"), 7),
    (("mappings", "orders", "literal"), 11),
    (("mappings", "orders", "function_response_types"), 14),
    (("mappings", "orders", "function_response_types", 0), 15),
    (("mappings", "orders", "function_response_types", 1, "name"), 16),
    (("mappings", "orders", "function_response_types", 1, "inner", 0, "deep"), 16),
    (("mappings", "orders", "function_response_types", 2, 0), 17),
    (("mappings", "orders", "function_response_types", 2, 1), 18),
    (("mappings", "orders", "retry_backoff", "initial"), 20),
    (("mappings", "orders", "retry_backoff", "max imum"), 20),
    (("mappings", "orders", "retry_backoff", "dotted", "key"), 20),
    (("mappings", "orders", "retry_backoff", "dotted", "key", 1), 21),
    (("mappings", "orders", "when"), 22),
    (("mappings", "orders", "source"), 24),
    (("mappings", "orders", "source", "type"), 25),
    (("mappings", "orders", "source", "café"), 26),
    (("steps", 0), 28),
    (("steps", 0, "name"), 29),
    (("steps", 0, "inner", 0, "x"), 31),
    (("steps", 1), 32),
    (("steps", 1, "table", "y"), 34),
    (("steps", 1, "inner", 0), 35),
    (("steps", 1, "inner", 0, "x"), 36),
    (("late", "child"), 38),
    (("late",), 39),
    (("late", "z"), 40),
]


@pytest.mark.parametrize(("path", "line"), EXPECTED, ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else None)
def test_every_form_of_key_has_its_line(path: TomlPath, line: int) -> None:
    assert Lines(TEXT).of(path) == line


def test_windows_line_ends_count_once() -> None:
    text = TEXT.replace("\n", "\r\n")
    assert tomllib.loads(text) == tomllib.loads(TEXT)
    assert [Lines(text).of(path) for path, _ in EXPECTED] == [line for _, line in EXPECTED]


def test_what_is_absent_has_the_line_of_what_it_would_be_in() -> None:
    lines = Lines(TEXT)
    assert lines.of(("mappings", "orders", "source", "region", "x")) == 24
    assert lines.of(("nothing",)) == 1
    assert lines.of(()) == 1
    assert ("nothing",) not in lines


# --- the round trip: any document, written in any of TOML's ways -------------------------------------------------------------------

KEYS = st.one_of(
    st.from_regex(r"[A-Za-z0-9_-]{1,6}", fullmatch=True), st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=6)
)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(10**9), 10**9),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8"), max_size=12),
    st.sampled_from(
        ['a"""b', "x\ny", "# no comment", "[no.header]", "k = 1\n[t]", "'''", '"', "\\", "}", "]", ",", "line\n\n[a]\nb=1\n", '""']
    ),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)), max_leaves=12
)
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=5)


def quoted(text: str) -> str:
    """A basic string. TOML forbids raw control characters; JSON leaves DEL as it is, TOML does not."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


class Writer:
    """Writes a document in ways that `draw` picks."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.out: list[str] = []

    def flip(self) -> bool:
        return bool(self.draw(st.booleans()))

    def key(self, key: str) -> str:
        bare = key and all(char in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-" for char in key)
        if bare and self.flip():
            return key
        literal = "'" not in key and key.isprintable()
        return f"'{key}'" if literal and self.flip() else quoted(key)

    def gap(self) -> str:
        return str(self.draw(st.sampled_from(["", " ", "\n", "\n  # comment ], \" '\n", " # x = 1\n"])))

    def string(self, text: str) -> str:
        if self.flip():
            return quoted(text)
        if "'''" not in text and not text.endswith("'") and all(char == "\n" or char.isprintable() for char in text) and self.flip():
            return f"'''\n{text}'''"
        if "\\" in text:
            return f'"""\n{quoted(text)[1:-1]}"""'
        # Raw line breaks, and up to two bare quotes before the closing three.
        body = text.rstrip('"')
        tail = text[len(body) :]
        body, tail = (body, tail) if len(tail) <= 2 else (text, "")
        escaped = quoted(body)[1:-1].replace("\\n", "\n")
        return f'"""\n{escaped}{tail}"""'

    def value(self, value: Any) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, str):
            return self.string(value)
        if isinstance(value, list):
            return "[" + ",".join(self.gap() + self.value(each) + self.gap() for each in value) + self.gap() + "]"
        if isinstance(value, dict):
            return "{ " + ", ".join(f"{self.key(key)} = {self.value(each)}" for key, each in value.items()) + " }"
        return repr(value)

    def table(self, table: dict[str, Any], prefix: list[str]) -> None:
        later: list[tuple[str, Any]] = []
        for key, value in table.items():
            if (isinstance(value, dict) and self.flip()) or (is_tables(value) and self.flip()):
                later.append((key, value))
            elif isinstance(value, dict) and len(value) == 1 and self.flip():
                [(inner, each)] = value.items()
                self.out.append(f"{self.key(key)} . {self.key(inner)} = {self.value(each)}\n")
            else:
                self.out.append(f"{self.key(key)} = {self.value(value)}{' # end' if self.flip() else ''}\n")
        for key, value in later:
            name = " . ".join([*prefix, self.key(key)])
            for each in value if isinstance(value, list) else [value]:
                self.out.append(f"\n[[{name}]]\n" if isinstance(value, list) else f"\n[{name}] # header\n")
                self.table(each, [*prefix, self.key(key)])


def is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def leaves(value: Any, path: TomlPath = ()) -> list[TomlPath]:
    if isinstance(value, dict) and value:
        return [leaf for key, each in value.items() for leaf in leaves(each, (*path, key))]
    if isinstance(value, list) and value:
        return [leaf for index, each in enumerate(value) for leaf in leaves(each, (*path, index))]
    return [path] if path else []


def every(value: Any, path: TomlPath = ()) -> set[TomlPath]:
    """All paths of a document: tables, arrays and elements as well as leaves."""
    inner = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    return {(*path, key) for key, _ in inner}.union(*(every(each, (*path, key)) for key, each in inner))


def test_nothing_is_found_that_is_not_there() -> None:
    assert set(Lines(TEXT)._lines) == every(tomllib.loads(TEXT))


def holds(line: str, key: str) -> bool:
    return any(form in line for form in (f"'{key}'", quoted(key), key) if form)


@given(st.data(), DOCUMENTS)
@settings(max_examples=150)
def test_every_leaf_that_tomllib_finds_has_a_line_that_holds_its_key(data: st.DataObject, document: dict[str, Any]) -> None:
    writer = Writer(data.draw)
    writer.table(document, [])
    text = "".join(writer.out)
    parsed = tomllib.loads(text)
    assert parsed == document, "the writer of this test must write what it means"
    lines, rows = Lines(text), text.split("\n")
    assert set(lines._lines) == every(parsed)
    for path in leaves(parsed):
        keyed = path
        while isinstance(keyed[-1], int):  # an element has no key: its array has
            keyed = keyed[:-1]
        row = rows[lines.of(keyed) - 1]
        assert holds(row, str(keyed[-1])), (path, lines.of(keyed), text)
        assert lines.of(path) >= lines.of(keyed)
