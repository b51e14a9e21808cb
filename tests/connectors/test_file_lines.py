"""Lines in a file: whole ones, in order, rotated; whatever a writer that died has left behind."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import resource
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.file import FileOptions, kind
from connectors.file.lines import append, refused, wrong_with
from poller.errors import ConfigError, NotConnected
from poller.testing.destinations import context, make_delivery
from poller.testing.strategies import laws

pytestmark = pytest.mark.slow


def files(path: Path) -> list[bytes]:
    """Oldest first."""
    rotated = sorted(path.parent.glob(f"{path.name}.*"), key=lambda each: -int(each.suffix[1:]))
    return [each.read_bytes() for each in (*rotated, path) if each.exists()]


@laws(30)
@given(
    left=st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")), max_size=3),
    torn=st.binary(min_size=1, max_size=70_000).map(lambda part: part.replace(b"\n", b"-")),
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=12),
    maximum=st.integers(1, 700),
    keep=st.integers(1, 4),
)
def test_lines_are_whole_and_in_order_whatever_was_left(left: list[bytes], torn: bytes, sizes: list[int], maximum: int, keep: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lines"
        old = [line + b"\n" for line in left]
        path.write_bytes(b"".join(old) + torn)
        added = [b"%d" % number + b"x" * size + b"\n" for number, size in enumerate(sizes)]
        for line in added:
            append(path, line, maximum, keep)
        found = files(path)
        text, whole = b"".join(found), b"".join([*old, *added])
        assert whole.endswith(text)  # the oldest files go
        assert text.endswith(added[-1])
        assert len(found) <= keep + 1
        assert text == whole or len(found) == keep + 1
        assert all(each.endswith(b"\n") for each in found)
        assert all(len(each) <= max(maximum, len(b"".join(old))) or each.count(b"\n") == 1 for each in found)


def test_it_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        append(tmp_path / "lines", b"line\n", 100, 1)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "lines").stat().st_mode) == 0o600


async def test_without_room_nothing_is_left_of_the_line(tmp_path: Path) -> None:
    """The kernel writes what there is room for, and refuses the rest: so does a full disk."""
    path = tmp_path / "failures.jsonl"
    destination = await kind.open(f"file://{path}", FileOptions(), context())
    await destination.send(make_delivery("a" * 32))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
    try:
        with pytest.raises(NotConnected, match="there is no room for it") as caught:
            await destination.send(make_delivery("b" * 32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not caught.value.permanent
    assert path.read_bytes() == before
    await destination.send(make_delivery("b" * 32))
    assert path.read_bytes().count(b"\n") == 2
    await destination.aclose()


async def test_a_file_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "poller.toml"
    path.write_text("[poller]\nlog = 'text'")
    with pytest.raises(NotConnected, match="it is there, and holds no lines of JSON; name another") as caught:
        await kind.open(f"file://{path}", FileOptions(), context())
    assert caught.value.permanent
    (finding,) = await kind.probe(f"file://{path}", FileOptions(), context())
    assert finding.level == "error" and "no lines of JSON" in finding.text
    assert path.read_text() == "[poller]\nlog = 'text'"


def test_a_lock_that_is_never_let_go_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append(path, b"line\n", 100, 1)
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match="another process holds its lock") as caught:
            append(path, b"line\n", 100, 1, patience=0.02)
    assert not refused(path, caught.value).permanent
    assert path.read_bytes() == b"line\n"


@contextmanager
def held(path: Path) -> Iterator[Callable[[], None]]:
    """Its lock; what is yielded waits until somebody else has opened the file too."""

    def opened() -> None:
        deadline = time.monotonic() + 20
        while sum(each.resolve() == path for each in Path("/proc/self/fd").iterdir() if each.is_symlink()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield opened


def test_who_waited_while_it_was_rotated_adds_to_the_file_of_this_name(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append(path, b"old\n", 100, 1)
    waiting = threading.Thread(target=append, args=(path, b"next\n", 100, 1))
    with held(path) as opened:
        waiting.start()
        opened()
        path.rename(tmp_path / "lines.1")
    waiting.join()
    assert files(path) == [b"old\n", b"next\n"]


async def test_what_was_begun_is_added_before_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "failures.jsonl"
    path.touch()
    destination = await kind.open(f"file://{path}", FileOptions(), context())
    with held(path) as opened:
        sending = asyncio.ensure_future(destination.send(make_delivery()))
        await asyncio.sleep(0)
        await asyncio.to_thread(opened)
        sending.cancel()
        closing = asyncio.ensure_future(destination.aclose())
        await asyncio.wait([sending, closing], timeout=0.02)
        assert sending.cancelled()
        assert not closing.done()
    await closing
    assert path.read_bytes().count(b"\n") == 1


@pytest.mark.parametrize("what", ["folder", "pipe", "nowhere", "through a file"])
def test_what_cannot_be_written_needs_a_person_and_is_foretold(what: str, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    match what:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "nowhere":
            path = tmp_path / "none" / "lines"
        case _:
            path.touch()
            path /= "lines"
    with pytest.raises(OSError) as caught:  # noqa: PT011 (which one, `refused` says)
        append(path, b"line\n", 100, 1)
    problem = refused(path, caught.value)
    assert problem.permanent
    assert str(path) in str(problem)
    assert wrong_with(path) is not None
    with suppress(FileNotFoundError, NotADirectoryError):
        assert not path.is_file()


def test_what_is_not_known_may_pass() -> None:
    assert not refused(Path("x"), OSError(errno.EIO, "Input/output error")).permanent


@pytest.mark.parametrize("to", ["file:a.jsonl", "file:///var/log/a.jsonl", "file:/var/log/a.jsonl", "file://localhost/var/log/a.jsonl"])
async def test_addresses(to: str, tmp_path: Path) -> None:
    kind.traits(to, FileOptions())
    opened = await kind.open(to, FileOptions(), context(folder=tmp_path))
    assert opened._path in {tmp_path / "a.jsonl", Path("/var/log/a.jsonl")}


@pytest.mark.parametrize(
    ("to", "options", "text"),
    [
        ("file:", {}, "names no file"),
        ("file://host/a", {}, "names no file"),
        ("file:folder/", {}, "names no file"),
        ("file:a", {"keep": 0}, "keep = 0: must be 1 to 1000"),
        ("file:a", {"maximum_bytes": "0B"}, "maximum_bytes = '0B': must be more than nothing"),
        ("file:a", {"maximum_bytes": "much"}, "maximum_bytes: 'much' is no size"),
    ],
)
def test_what_is_refused_in_a_configuration(to: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        kind.traits(to, FileOptions(**options))
