"""The group-committing thread: an answer means durable, jobs share commits and nothing else, trouble passes, files are private and ours."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from poller.errors import LaneLost, StoreError, StoreUnavailable
from poller.stores.database import check
from poller.stores.writer import GROUP_ROWS, LOOKED_AT, Schema, Writer

NOTES = Schema("a book of notes", 0x4E4F5445, (("CREATE TABLE notes (number INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT",),))


def note(text: str) -> Callable[[sqlite3.Connection], int]:
    return lambda connection: int(connection.execute("INSERT INTO notes (text) VALUES (?)", (text,)).lastrowid or 0)


def notes(connection: sqlite3.Connection) -> list[str]:
    return [text for (text,) in connection.execute("SELECT text FROM notes ORDER BY number")]


def seen_from_outside(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return notes(connection)
    finally:
        connection.close()


class Gate:
    """A job that holds the thread until it is let go."""

    def __init__(self) -> None:
        self.entered, self.let_go = threading.Event(), threading.Event()

    def __call__(self, _: sqlite3.Connection) -> None:
        self.entered.set()
        assert self.let_go.wait(10)

    async def hold(self, ask: Callable[[Any], Awaitable[Any]]) -> asyncio.Future[Any]:
        task = asyncio.ensure_future(ask(self))
        assert await asyncio.to_thread(self.entered.wait, 10)
        return task


async def queued(writer: Writer, *work: Callable[[sqlite3.Connection], Any]) -> list[Any]:
    """What these jobs, which wait together while the thread is held, become: results and exceptions."""
    gate = Gate()
    holding = await gate.hold(writer.run)
    tasks = [asyncio.ensure_future(writer.run(job)) for job in work]
    await asyncio.sleep(0)  # each has put its job into the queue
    gate.let_go.set()
    answers: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.gather(holding, return_exceptions=True)
    return answers


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "notes.db"


@pytest.fixture
async def writer(path: Path) -> AsyncIterator[Writer]:
    writer = await Writer.open(path, NOTES, busy_timeout=0.1)
    yield writer
    await writer.aclose()


# --- groups -----------------------------------------------------------------------------------------------------------------------------


async def test_an_answer_means_committed(writer: Writer) -> None:
    for n in range(20):
        assert await writer.run(note(f"n{n}")) == n + 1
        assert len(seen_from_outside(writer.path)) == n + 1


async def test_every_commit_is_fsynced(writer: Writer) -> None:
    def settings(connection: sqlite3.Connection) -> list[Any]:
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "wal_autocheckpoint")]

    assert await writer.run(settings) == ["wal", 2, 0]


async def test_a_job_that_comes_alone_is_a_group(writer: Writer) -> None:
    for n in range(5):
        await writer.run(note(f"n{n}"))
    assert writer.groups == 5


async def test_jobs_that_wait_together_share_commit_and_wakeup(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, wakeups = asyncio.get_running_loop(), list[Any]()
    wake = loop.call_soon_threadsafe

    def count(*args: Any, **options: Any) -> asyncio.Handle:
        wakeups.append(args)
        return wake(*args, **options)

    monkeypatch.setattr(loop, "call_soon_threadsafe", count)
    assert await queued(writer, *(note(f"n{n}") for n in range(1000))) == list(range(1, 1001))
    # A few, not one: the gate's own group, and a slow machine may cut the thousand by time.
    assert writer.groups <= 10
    assert len(wakeups) <= writer.groups + 2  # the gate's thread wakes the loop too


async def test_jobs_run_in_the_order_they_came(writer: Writer) -> None:
    await queued(writer, *(note(f"n{n}") for n in range(100)))
    assert await writer.read(notes) == [f"n{n}" for n in range(100)]


async def test_a_large_group_takes_no_further_job(writer: Writer) -> None:
    def many(connection: sqlite3.Connection) -> None:
        connection.executemany("INSERT INTO notes (text) VALUES (?)", ((f"many {n}",) for n in range(GROUP_ROWS)))

    answers = await queued(writer, many, lambda _: writer.groups)
    groups_before = answers[1]
    assert groups_before >= 1  # the large group was committed when the second job ran


async def test_a_job_that_fails_undoes_itself_and_nobody_else(writer: Writer) -> None:
    def half(connection: sqlite3.Connection) -> None:
        note("half")(connection)
        raise LaneLost("not yours")

    def twice(connection: sqlite3.Connection) -> None:
        note("twice")(connection)
        note("twice")(connection)

    first, lost, refused, last = await queued(writer, note("first"), half, twice, note("last"))
    assert isinstance(lost, LaneLost)
    assert isinstance(refused, StoreError) and not isinstance(refused, StoreUnavailable)
    assert (first, last) == (1, 2)
    assert seen_from_outside(writer.path) == ["first", "last"]


async def test_the_thread_outlives_whatever_a_job_raises(writer: Writer) -> None:
    def leave(_: sqlite3.Connection) -> None:
        raise SystemExit

    for ask in (writer.run, writer.read):
        with pytest.raises(SystemExit):
            # Through a thread of its own: SystemExit from a task would end the loop itself.
            await asyncio.to_thread(_exit_of, ask, leave, asyncio.get_running_loop())
    await writer.run(note("after"))
    assert await writer.read(notes) == ["after"]


def _exit_of(ask: Callable[[Any], Any], work: Callable[[Any], Any], loop: asyncio.AbstractEventLoop) -> None:
    caught: list[BaseException] = []

    async def call() -> None:
        try:
            await ask(work)
        except SystemExit as error:
            caught.append(error)

    asyncio.run_coroutine_threadsafe(call(), loop).result(10)
    raise caught[0]


async def test_when_the_group_is_undone_nobody_is_told_otherwise(writer: Writer) -> None:
    """Not even the one that failed on its own: what it failed about may be another's write, which is undone now."""

    def lose(_: sqlite3.Connection) -> None:
        raise LaneLost("because of what another job of this group wrote")

    def leave_the_transaction(connection: sqlite3.Connection) -> None:
        connection.execute("ROLLBACK")

    def leave_the_savepoint(connection: sqlite3.Connection) -> None:
        connection.execute("RELEASE job")

    for break_it in (leave_the_transaction, leave_the_savepoint):
        answers = await queued(writer, note("first"), lose, break_it)
        assert [type(answer) for answer in answers] == [StoreError, StoreError, StoreError]
        assert seen_from_outside(writer.path) == []
    assert await writer.run(note("after")) == 1
    assert seen_from_outside(writer.path) == ["after"]


async def test_the_first_of_a_group_that_fails_takes_nobody_along(writer: Writer) -> None:
    """It has no savepoint: the transaction is undone, and who waits behind it is in the next."""
    gate = Gate()

    def fail(connection: sqlite3.Connection) -> None:
        note("undone")(connection)
        gate(connection)
        raise LaneLost("too late")

    failing = asyncio.ensure_future(writer.run(fail))
    assert await asyncio.to_thread(gate.entered.wait, 10)
    behind = [asyncio.ensure_future(writer.run(note(f"n{n}"))) for n in range(3)]
    await asyncio.sleep(0)
    gate.let_go.set()
    with pytest.raises(LaneLost):
        await failing
    assert await asyncio.gather(*behind) == [1, 2, 3]
    assert seen_from_outside(writer.path) == ["n0", "n1", "n2"]


async def test_a_waiter_that_is_cancelled_does_not_disturb_its_group(writer: Writer) -> None:
    gate = Gate()
    holding = await gate.hold(writer.run)
    tasks = [asyncio.ensure_future(writer.run(note(f"n{n}"))) for n in range(10)]
    await asyncio.sleep(0)
    tasks[3].cancel()
    gate.let_go.set()
    answers = await asyncio.gather(holding, *tasks, return_exceptions=True)
    assert [n for n, answer in enumerate(answers[1:]) if isinstance(answer, BaseException)] == [3]
    written = await writer.read(notes)
    assert [text for text in written if text != "n3"] == [f"n{n}" for n in range(10) if n != 3]


# --- reads ------------------------------------------------------------------------------------------------------------------------------


async def test_a_read_sees_what_was_answered_and_waits_for_no_write(writer: Writer) -> None:
    await writer.run(note("first"))
    gate = Gate()

    def write(connection: sqlite3.Connection) -> None:
        note("second")(connection)
        gate(connection)

    holding = asyncio.ensure_future(writer.run(write))
    assert await asyncio.to_thread(gate.entered.wait, 10)
    assert await asyncio.wait_for(writer.read(notes), 10) == ["first"]
    gate.let_go.set()
    await holding
    assert await writer.read(notes) == ["first", "second"]


async def test_a_read_has_one_snapshot(writer: Writer) -> None:
    gate = Gate()

    def look_twice(connection: sqlite3.Connection) -> tuple[list[str], list[str]]:
        before = notes(connection)
        gate(connection)
        return before, notes(connection)

    reading = asyncio.ensure_future(writer.read(look_twice))
    assert await asyncio.to_thread(gate.entered.wait, 10)
    await writer.run(note("meanwhile"))
    gate.let_go.set()
    assert await reading == ([], [])


async def test_a_read_cannot_write(writer: Writer) -> None:
    with pytest.raises(StoreError):
        await writer.read(note("no"))
    assert seen_from_outside(writer.path) == []


# --- trouble that passes ----------------------------------------------------------------------------------------------------------------


async def test_a_full_file_refuses_and_goes_on_when_there_is_space(writer: Writer) -> None:
    pages = await writer.run(lambda connection: int(connection.execute("PRAGMA page_count").fetchone()[0]))
    await writer.run(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages + 1}").fetchall())
    before, full, after = await queued(writer, note("before"), note("x" * 100_000), note("after"))
    assert isinstance(full, StoreUnavailable)
    assert str(writer.path) in str(full) and "full" in str(full)
    # SQLite may undo the whole group then: each of the others is there if its waiter was told so, and only then.
    told = [text for text, answer in (("before", before), ("after", after)) if not isinstance(answer, StoreUnavailable)]
    assert seen_from_outside(writer.path) == told
    await writer.run(lambda connection: connection.execute("PRAGMA max_page_count = 100000").fetchall())
    await writer.run(note("x" * 100_000))
    assert [len(text) for text in seen_from_outside(writer.path)] == [*map(len, told), 100_000]


async def test_a_file_that_another_keeps_locked_refuses_all_who_wait_at_once(writer: Writer) -> None:
    other = sqlite3.connect(writer.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    answers = await asyncio.gather(*(writer.run(note(f"n{n}")) for n in range(100)), return_exceptions=True)
    assert all(isinstance(answer, StoreUnavailable) for answer in answers)
    assert "locked" in str(answers[0])
    assert time.monotonic() - began < 5.0  # not a hundred times the busy timeout of 0.1 s
    assert await writer.read(notes) == []
    other.execute("ROLLBACK")
    other.close()
    assert await writer.run(note("after")) == 1


async def test_what_another_process_commits_is_waited_for(path: Path) -> None:
    writer = await Writer.open(path, NOTES, busy_timeout=10.0)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("INSERT INTO notes (text) VALUES ('theirs')")
    waiting = asyncio.ensure_future(writer.run(note("ours")))
    assert not (await asyncio.wait([waiting], timeout=0.05))[0]
    other.execute("COMMIT")
    other.close()
    assert await waiting == 2
    await writer.aclose()


async def test_the_log_is_folded_into_the_file_before_it_grows_long(writer: Writer) -> None:
    log = Path(f"{writer.path}-wal")
    writer._log_limit = 200_000
    longest = 0
    for n in range(60):
        await writer.run(note(str(n) * 10_000))
        longest = max(longest, log.stat().st_size)
        writer._log_limit = min(writer._log_limit, 200_000)
    await writer.run(lambda _: None)  # the last shortening is over
    assert 100_000 < longest < 400_000


async def test_a_log_that_a_read_holds_open_stops_nobody(writer: Writer) -> None:
    gate = Gate()

    def read(connection: sqlite3.Connection) -> None:
        notes(connection)
        gate(connection)

    await writer.run(note("first"))
    reading = await Gate.hold(gate, lambda _: writer.read(read))
    writer._log_limit = 0
    for n in range(3 * LOOKED_AT):
        await writer.run(note(f"n{n}"))
    gate.let_go.set()
    await reading
    assert len(seen_from_outside(writer.path)) == 3 * LOOKED_AT + 1


# --- closing ----------------------------------------------------------------------------------------------------------------------------


async def test_closing_finishes_what_was_queued_and_leaves_one_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poller.stores.writer.GROUP_ROWS", 1)  # a group each: closing waits for all, not for the one that runs
    writer = await Writer.open(path, NOTES)
    gate = Gate()
    holding = await gate.hold(writer.run)
    tasks = [asyncio.ensure_future(writer.run(note(f"n{n}"))) for n in range(50)]
    reading = asyncio.ensure_future(writer.read(notes))
    await asyncio.sleep(0)
    closings = [asyncio.ensure_future(writer.aclose()) for _ in range(2)]
    await asyncio.sleep(0)
    gate.let_go.set()
    await asyncio.gather(holding, reading, *tasks, *closings)
    await writer.aclose()
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert len(seen_from_outside(path)) == 50
    for ask in (writer.run, writer.read):
        with pytest.raises(StoreError, match="closed"):
            await ask(notes)
    assert repr(writer).startswith("<Writer notes.db [closed, queued=0, groups=")


def test_it_outlives_an_event_loop(path: Path) -> None:
    writer = asyncio.run(Writer.open(path, NOTES))

    async def walk_away() -> None:
        gate = Gate()
        await gate.hold(writer.run)
        task = asyncio.ensure_future(writer.run(note("nobody waits")))
        await asyncio.sleep(0)
        assert not task.done()
        threading.Timer(0.05, gate.let_go.set).start()  # after the loop is closed, as a rule; either way is fine

    asyncio.run(walk_away())
    assert asyncio.run(writer.run(note("second loop"))) == 2
    asyncio.run(writer.aclose())
    assert seen_from_outside(path) == ["nobody waits", "second loop"]


async def test_opening_that_is_cancelled_ends_its_thread(path: Path) -> None:
    opening = asyncio.ensure_future(Writer.open(path, NOTES))
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    for thread in threading.enumerate():
        if thread.name.endswith(path.name):
            await asyncio.to_thread(thread.join, 10)
            assert not thread.is_alive()
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


# --- files ------------------------------------------------------------------------------------------------------------------------------


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_files_are_private_and_so_are_the_folders_that_were_missing(tmp_path: Path) -> None:
    path = tmp_path / "state" / "deep" / "notes.db"
    writer = await Writer.open(path, NOTES)
    await writer.run(note("first"))
    assert {entry.name: mode(entry) for entry in path.parent.iterdir()} == {
        "notes.db": 0o600,
        "notes.db-wal": 0o600,
        "notes.db-shm": 0o600,
    }
    assert (mode(path.parent), mode(path.parent.parent)) == (0o700, 0o700)
    await writer.aclose()


async def test_a_file_that_others_may_read_is_made_private(path: Path) -> None:
    await (await Writer.open(path, NOTES)).aclose()
    path.chmod(0o644)
    writer = await Writer.open(path, NOTES)
    await writer.run(note("first"))
    assert {mode(entry) for entry in path.parent.iterdir()} == {0o600}
    await writer.aclose()


async def test_a_log_may_go_while_it_is_looked_at(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of the other users removes it: after we saw it, and before we could change its mode."""
    await (await Writer.open(path, NOTES)).aclose()
    path.with_name("notes.db-wal").touch(0o644)
    chmod = Path.chmod

    def gone(file: Path, mode: int) -> None:
        if file.name.endswith("-wal"):
            file.unlink()
        chmod(file, mode)

    monkeypatch.setattr(Path, "chmod", gone)
    writer = await Writer.open(path, NOTES)
    await writer.run(note("first"))
    await writer.aclose()


async def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "real" / "notes.db")
    writer = await Writer.open(tmp_path / "link.db", NOTES)
    assert mode(tmp_path / "real" / "notes.db") == 0o600
    await writer.aclose()


async def test_two_writers_of_one_process_share_a_file(path: Path) -> None:
    writers = await asyncio.gather(*(Writer.open(path, NOTES, busy_timeout=30.0) for _ in range(6)))  # they meet in making it
    await asyncio.gather(*(writer.run(note(f"{n} of {w}")) for n in range(10) for w, writer in enumerate(writers)))
    await writers[0].aclose()  # closing one takes no lock from the others
    await asyncio.gather(*(writer.run(note(f"more of {w}")) for w, writer in enumerate(writers[1:], 1)))
    await asyncio.gather(*(writer.aclose() for writer in writers))
    assert len(seen_from_outside(path)) == 65


TWO = replace(NOTES, migrations=(*NOTES.migrations, ("ALTER TABLE notes ADD COLUMN place TEXT NOT NULL DEFAULT 'desk'",)))
BROKEN = replace(NOTES, migrations=(*NOTES.migrations, ("CREATE TABLE more (x)", "CREATE TABLE notes (x)")))


async def test_an_older_file_is_brought_to_our_version(path: Path) -> None:
    writer = await Writer.open(path, NOTES)
    await writer.run(note("old"))
    await writer.aclose()
    for _ in range(2):
        writer = await Writer.open(path, TWO)
        assert await writer.read(lambda connection: connection.execute("SELECT text, place FROM notes").fetchall()) == [("old", "desk")]
        await writer.aclose()


async def test_a_migration_that_fails_leaves_the_old_version_whole(path: Path) -> None:
    await (await Writer.open(path, NOTES)).aclose()
    with pytest.raises(StoreError):
        await Writer.open(path, BROKEN)
    writer = await Writer.open(path, NOTES)
    assert await writer.read(
        lambda connection: connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'more'").fetchone()
    ) == (0,)
    await writer.aclose()


def _foreign(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.executescript("PRAGMA application_id = 7; CREATE TABLE theirs (x);")
    connection.close()


def _nameless(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "of another program": (_foreign, "another program"),
    "of nobody knows whom": (_nameless, "another program"),
    "no database": (lambda path: path.write_bytes(b"Dear diary, " * 1000), "damaged, or no database"),
}


@pytest.mark.parametrize(("make", "sentence"), REFUSED.values(), ids=REFUSED)
async def test_a_file_that_is_not_ours_is_refused_and_left_as_it_was(path: Path, make: Callable[[Path], Any], sentence: str) -> None:
    make(path)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=sentence) as caught:
        await Writer.open(path, NOTES)
    assert not isinstance(caught.value, StoreUnavailable) and str(path) in str(caught.value)
    assert path.read_bytes() == before


async def test_a_newer_file_is_refused_and_left_as_it_was(path: Path) -> None:
    await (await Writer.open(path, TWO)).aclose()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"newer version .* upgrade"):
        await Writer.open(path, NOTES)
    assert path.read_bytes() == before


async def test_a_damaged_page_is_found_when_it_is_read(path: Path) -> None:
    writer = await Writer.open(path, NOTES)
    await asyncio.gather(*(writer.run(note(f"{n} " + "x" * 500)) for n in range(200)))
    await writer.aclose()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    writer = await Writer.open(path, NOTES)
    for ask in (writer.read, writer.run):
        with pytest.raises(StoreError, match="damaged") as caught:
            await ask(notes)
        assert not isinstance(caught.value, StoreUnavailable)
    await writer.aclose()


class Meddling(sqlite3.Connection):
    """While it looks at a new file, another process makes the file."""

    def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
        if "sqlite_schema" in statement:
            (path,) = (file for _, name, file in super().execute("PRAGMA database_list") if name == "main")
            with suppress(sqlite3.OperationalError), closing(sqlite3.connect(path, timeout=0)) as other:
                other.execute("PRAGMA journal_mode = WAL")
                other.executescript(f"BEGIN; {NOTES.migrations[0][0]}; PRAGMA application_id = {NOTES.application}; COMMIT")
        return super().execute(statement, *arguments)


async def test_a_file_that_is_being_made_elsewhere_is_not_taken_for_another_programs(path: Path) -> None:
    path.touch()
    with closing(sqlite3.connect(path, isolation_level=None, factory=Meddling)) as connection:
        check(connection, path, NOTES)


async def test_a_path_that_cannot_be_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "notes.db"):
        with pytest.raises(StoreError, match=str(path)):
            await Writer.open(path, NOTES)
