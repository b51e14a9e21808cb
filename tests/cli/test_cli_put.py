"""`poller put`: every line is either put or named."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from poller.cli import program
from poller.cli.feeding import CHUNK, GIVEN_UP, Beside, Feeding
from poller.cli.items import Line, Refused, lines
from poller.cli.template import write
from poller.errors import NotConnected, SourceError
from poller.feed import Item, Place


def run(*arguments: str, input: str | bytes | None = None) -> Result:
    return CliRunner().invoke(program, arguments, input=input, env={"POLLER_CONFIG": None})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    return tmp_path


def held(folder: Path) -> str:
    """What the queue's connector says of it."""
    return next(line for line in run("check", "--live").stdout.splitlines() if "mapping first" in line)


# --- lines ----------------------------------------------------------------------------------------------------------------------------


def read(text: bytes, **form: Any) -> list[Line | Refused]:
    return list(lines(io.BytesIO(text), "f", **form))


def test_a_line_is_a_record_as_it_stands() -> None:
    text = b'{"a": 1}\r\n\n  \n[2 ,3]'
    assert read(text) == [Line("f", 1, 10, Item(b'{"a": 1}')), Line("f", 4, 6, Item(b"[2 ,3]"))]


def test_what_is_no_json_is_named_with_its_line() -> None:
    first, second, third = read(b'1\n{"a": \n2\n')
    assert (first, third) == (Line("f", 1, 2, Item(b"1")), Line("f", 3, 2, Item(b"2")))
    assert isinstance(second, Refused)
    assert second.place == "f:2"
    assert second.reason.startswith("no JSON")


def test_raw_lines_are_anything_and_empty_ones_too() -> None:
    assert read(b"{\n\n\xff", raw=True) == [Line("f", 1, 2, Item(b"{")), Line("f", 2, 1, Item(b"")), Line("f", 3, 1, Item(b"\xff"))]


def test_the_key_is_a_field() -> None:
    found = read(b'{"k": "a"}\n{"k": 7}\n{"x": 1}\n{"k": null}\n3\n', key="k")
    assert [each.item.key for each in found if isinstance(each, Line)] == ["a", "7"]
    assert [(each.place, each.reason) for each in found if isinstance(each, Refused)] == [
        ("f:3", "no field 'k'"),
        ("f:4", "no field 'k'"),
        ("f:5", "no JSON object, so it has no field 'k'"),
    ]


# --- feeding --------------------------------------------------------------------------------------------------------------------------


@dataclass
class Picky:
    """A `Feed` that keeps its contract: it looks at every item before it writes the first. Items that begin with x are refused."""

    written: list[bytes] = field(default_factory=list)
    calls: int = 0
    away_after: int = 10**9

    async def put(self, options: Any, place: Place, items: Sequence[Item]) -> int:
        self.calls += 1
        if len(self.written) >= self.away_after:
            raise NotConnected("the disk is full")
        for number, item in enumerate(items):
            if item.data.startswith(b"x"):
                raise SourceError(f"item {number} begins with x")
        self.written += [item.data for item in items]
        return len(items)


def feeding(feed: Picky) -> Feeding:
    return Feeding(feed, None, Beside(Path(), Path()))


def numbered(*data: bytes) -> list[Line | Refused]:
    return [Line("f", number, len(each), Item(each)) for number, each in enumerate(data, 1)]


async def test_the_refused_are_found_and_the_others_are_put_in_order() -> None:
    feed = Picky()
    fed = feeding(feed)
    data = [b"x%d" % n if n in (1, 500, 501, 1999) else b"%d" % n for n in range(2500)]
    await fed.run(numbered(*data))
    assert feed.written == [each for each in data if not each.startswith(b"x")]
    assert fed.put == len(feed.written)
    assert fed.refused == [Refused(f"f:{n + 1}", "the record begins with x") for n in (1, 500, 501, 1999)]
    assert feed.calls < 100


async def test_malformed_lines_are_refused_without_being_put() -> None:
    feed = Picky()
    fed = feeding(feed)
    await fed.run([Refused("f:1", "no JSON"), *numbered(b"a")])
    assert (feed.written, fed.refused) == ([b"a"], [Refused("f:1", "no JSON")])


async def test_a_source_that_takes_nothing_is_given_up() -> None:
    """It is not the records: asking for each of a million would take hours."""
    feed = Picky()
    with pytest.raises(SourceError, match="stopped with 0 records put"):
        await feeding(feed).run(numbered(*[b"x"] * 10_000))
    assert feed.calls < CHUNK + 2 * GIVEN_UP


async def test_an_error_says_how_far_it_came() -> None:
    fed = feeding(Picky(away_after=2 * CHUNK))
    with pytest.raises(SourceError, match=r"disk is full; stopped with 2000 records put: all before f:2001 .* from there to f:3000"):
        await fed.run(numbered(*[b"a"] * 5000))
    assert fed.put == 2 * CHUNK


# --- the command ----------------------------------------------------------------------------------------------------------------------


def test_files_are_put(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).write_text("".join(f'{{"id": "{name}{n}"}}\n' for n in range(1500)))
    result = run("put", "first", "a", "b")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "3,000 records put into first (local-queue)\n", "")
    assert "holds 3000 messages" in held(folder)


def test_stdin_is_put(folder: Path) -> None:
    assert run("put", "first", input="1\n2\n").stdout == "2 records put into first (local-queue)\n"
    assert run("put", "first", "-", input="3\n").exit_code == 0
    assert "holds 3 messages" in held(folder)


def test_a_source_is_named_by_its_own_name_too(folder: Path) -> None:
    (folder / "poller.toml").write_text((folder / "poller.toml").read_text().replace('name = "first"', 'name = "queue-1"'))
    assert run("put", "queue-1", input="1\n").exit_code == 0
    assert run("put", "first", input="1\n").exit_code == 0
    assert "'queue-1' holds 2 messages" in held(folder)
    assert "first, queue-1" in run("put", "firsd", input="1\n").stderr


def test_malformed_lines_are_named_and_the_rest_is_put(folder: Path) -> None:
    (folder / "a").write_text("1\nnot json\n2\n")
    result = run("put", "first", "a")
    assert result.exit_code == 1
    assert result.stderr.startswith("a:2: no JSON")
    assert result.stdout == "2 records put into first (local-queue); 1 line refused\n"
    assert "holds 2 messages" in held(folder)


def test_many_malformed_lines_are_counted(folder: Path) -> None:
    result = run("put", "first", input="{\n" * 100)
    assert result.stderr.splitlines()[-1] == "... and 80 lines more"
    document = json.loads(run("put", "first", "--json", input="{\n" * 100).stdout)
    assert document["put"] == 0
    assert [each["line"] for each in document["refused"]] == [f"stdin:{n}" for n in range(1, 101)]


def test_what_the_queue_cannot_take_is_named(folder: Path) -> None:
    result = run("put", "first", "--raw", input=b"good\n\xff\xfe\ngood\n")
    assert result.exit_code == 1
    assert result.stderr.startswith("stdin:2: the record is not UTF-8")
    assert "holds 2 messages" in held(folder)


def test_whole_files_are_one_record_each(folder: Path) -> None:
    (folder / "a").write_text("line\nline\n")
    assert run("put", "first", "--whole-files", "a", "a").stdout.startswith("2 records put")


def test_a_source_with_tools_of_its_own_is_refused(folder: Path) -> None:
    text = (folder / "poller.toml").read_text()
    (folder / "poller.toml").write_text(text.replace('"local-queue"', '"sqs"').replace('name = "first"', 'queue = "first"'))
    result = run("put", "first", input="1\n")
    assert result.exit_code == 2
    assert "use its own tools" in result.stderr
