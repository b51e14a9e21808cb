"""What only a store on disk promises: kill -9, several processes, a full disk, damaged rows, addresses."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from poller.errors import ConfigError, StoreError
from poller.failures.journal import KeptRecord, Selection
from poller.model import Fault, Holding
from poller.progress import encode
from poller.stores.schema import SCHEMA
from poller.stores.sqlite import SqliteStore, open_store, parse_url
from poller.stores.writer import Writer
from poller.testing.journals import ANY, held, make_entry, row_of
from poller.testing.stores import KEY, at, claimed, holding

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await open_store(tmp_path / "poller.db")
    yield store
    await store.aclose()


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    """A process of its own that runs this program; its work is in the coroutine function `main`."""
    whole = f"import asyncio, sys\nfrom pathlib import Path\n{program}\nasyncio.run(main(*sys.argv[1:]))\n"
    return subprocess.Popen(
        [sys.executable, "-c", whole, *map(str, arguments)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


# Three tasks append and save without end; a line is written once its append, or save, was answered.
APPENDING = """
from dataclasses import replace
from poller.failures.journal import KeptRecord
from poller.stores.sqlite import open_store
from poller.testing.journals import make_entry
from poller.testing.stores import KEY, at, claimed

async def main(path):
    store = await open_store(Path(path))
    async def append(task):
        lease = await claimed(store, replace(KEY, lane=str(task)), "a")
        for n in range(1_000_000):
            records = tuple(KeptRecord(f"{task}-{n}-{m}", None, 0.0, b"x" * 1000) for m in range(20))
            (name,) = await store.journal.append([make_entry(f"{task}-{n}", records=records, identifiers=())])
            print("row", name, flush=True)
            await store.checkpoints.save(lease, at(n))
            print("saved", task, n, flush=True)
    await asyncio.gather(*map(append, range(3)))
"""


async def test_what_was_answered_is_there_after_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "poller.db"
    for lines in (5, 40, 150):  # the same file again and again: what an earlier kill left is recovered, too
        with start(APPENDING, path) as child:
            assert child.stdout is not None
            answers = [child.stdout.readline().split() for _ in range(lines)]
            child.send_signal(signal.SIGKILL)
            answers += [line.split() for line in child.stdout if line.endswith("\n")]
        store = await open_store(path)
        rows = await held(store.journal)
        assert {answer[1] for answer in answers if answer[0] == "row"} <= rows.keys()
        assert all(records == [f"{name}-{m}" for m in range(20)] for name, records in rows.items())  # whole rows only
        saved = {answer[1]: int(answer[2]) for answer in answers if answer[0] == "saved"}  # the last one of each task
        for task, number in saved.items():
            progress = await store.checkpoints.load(replace(KEY, lane=task))
            assert progress in (at(number), at(number + 1))
        await store.aclose()


SHARING = """
from poller.stores.sqlite import open_store
from poller.testing.journals import make_entry
from poller.testing.stores import KEY

async def main(path, name):
    sys.stdin.readline()
    store = await open_store(Path(path), busy_timeout=30.0)
    leases = []
    for n in range(60):
        own, shared = make_entry(f"{name}-{n}", f"{name}-{n}"), make_entry(f"shared-{name}-{n}", f"shared-{n}")
        await store.journal.append([own, shared])
        leases.append(await store.leases.claim(KEY, name, float(n), 0.0))
    counters = {lease.counter for lease in leases if lease is not None}
    await store.aclose()
    print(*sorted(counters))
"""


async def test_processes_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "poller.db"
    children = [start(SHARING, path, name) for name in "abc"]
    for child in children:  # all at once: they meet while they make the file, too
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    outputs = [await asyncio.to_thread(child.communicate, timeout=60) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0]
    store = await open_store(path)
    rows = await held(store.journal)
    assert {f"{name}-{n}" for name in "abc" for n in range(60)} <= rows.keys()
    shared = sorted(record for name, records in rows.items() if name.startswith("shared") for record in records)
    assert shared == sorted(f"shared-{n}" for n in range(60))
    counters = [counter for output, _ in outputs for counter in output.split()]
    assert len(counters) == len(set(counters))  # no fencing token twice
    await store.aclose()


# The disk is "full" at a file size limit; then there is space again. What is told is what is there.
FILLING = """
import json, resource
from poller.errors import StoreUnavailable
from poller.failures.journal import KeptRecord, Selection
from poller.stores.sqlite import open_store
from poller.testing.journals import make_entry
from poller.testing.stores import KEY, at, claimed

async def main(path):
    store = await open_store(Path(path))
    lease = await claimed(store, KEY, "a")
    told, refused = [], 0
    async def append(n):
        nonlocal refused
        records = tuple(KeptRecord(f"{n}-{m}", None, 0.0, b"x" * 1000) for m in range(20))
        try:
            told.extend(await store.journal.append([make_entry(str(n), records=records, identifiers=())]))
        except StoreUnavailable:
            refused += 1
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    for n in range(0, 60, 3):
        await asyncio.gather(append(n), append(n + 1), append(n + 2))
    at_the_limit = refused
    rows = len(await store.journal.select(Selection()))
    same = rows == len(told)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    for n in range(60, 70):
        await append(n)
    await store.checkpoints.save(lease, at(1))
    await store.aclose()
    print(json.dumps({"told": told, "at the limit": at_the_limit, "after": refused - at_the_limit, "same": same}))
"""


async def test_a_full_disk_refuses_loses_nothing_and_is_got_over(tmp_path: Path) -> None:
    path = tmp_path / "poller.db"
    output, _ = await asyncio.to_thread(start(FILLING, path).communicate, timeout=60)
    report = json.loads(output)
    assert report["at the limit"] > 0 and report["after"] == 0 and report["same"] and len(report["told"]) > 10
    store = await open_store(path)
    rows = await held(store.journal)
    assert sorted(rows) == sorted(report["told"])
    assert all(len(records) == 20 for records in rows.values())
    assert await store.checkpoints.load(KEY) == at(1)
    await store.aclose()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "poller.db"
    store = await open_store(path)
    lease = await claimed(store, KEY, "a", 0.0, 100.0)
    await store.checkpoints.save(lease, at(7))
    entry = make_entry("f1", "m1", "m2")
    await store.journal.append([entry])
    await store.journal.mark(["f1"], "claimed", 1.0, "a", 50.0)
    await store.aclose()
    await store.aclose()
    store = await open_store(f"sqlite://{path}")
    assert await store.checkpoints.load(KEY) == at(7)
    assert await store.leases.claim(KEY, "b", 1.0, 1.0) is None
    assert await store.leases.renew([lease], 1.0, 1.0) == [lease]
    assert await store.journal.mark(["f1"], "claimed", 49.0, "b", 60.0) == []
    row = await row_of(store.journal, "f1")
    assert (row.entry, row.state) == (entry, "claimed")
    await store.aclose()


async def test_a_file_of_an_earlier_version_is_brought_to_ours_with_what_it_holds(tmp_path: Path) -> None:
    row = (KEY.mapping, KEY.source, KEY.lane)
    lease = "INSERT INTO leases (mapping, source, lane, owner, counter, until) VALUES (?, ?, ?, 'a', 41, 10)"
    for version in range(1, SCHEMA.version):
        path = tmp_path / f"{version}.db"
        writer = await Writer.open(path, replace(SCHEMA, migrations=SCHEMA.migrations[:version]))
        await writer.run(lambda each: each.execute("INSERT INTO checkpoints VALUES (?, ?, ?, ?)", (*row, encode(at(7)))).rowcount)
        await writer.run(lambda each: each.execute(lease, row).rowcount)
        await writer.aclose()
        store = await open_store(path)
        assert await store.checkpoints.load(KEY) == at(7)
        assert await holding(store, KEY, 9.0) == Holding(KEY.lane, "a")
        assert await store.leases.claim(KEY, "b", 9.0, 10.0, ask=True) is None
        assert (await claimed(store, KEY, "b", 10.0)).counter == 42
        await store.aclose()


async def test_appends_that_come_together_share_commits(store: SqliteStore) -> None:
    before = store._writer.groups
    await asyncio.gather(*(store.journal.append([make_entry(f"f{n}", f"m{n}")]) for n in range(1000)))
    assert await store.journal.count(ANY) == 1000
    assert store._writer.groups - before < 100


@pytest.mark.parametrize("damage", [b"", b"{", b'{"origin": 7}', b"\xff\xfe", b"null"])
async def test_damaged_progress_is_an_error_that_names_the_lane(store: SqliteStore, damage: bytes) -> None:
    await store.checkpoints.save(await claimed(store, KEY, "a"), at(1))
    await store._writer.run(lambda connection: connection.execute("UPDATE checkpoints SET progress = ?", (damage,)).fetchall())
    with pytest.raises(StoreError) as caught:
        await store.checkpoints.load(KEY)
    assert all(part in str(caught.value) for part in (KEY.mapping, KEY.source, KEY.lane, str(store.path)))


async def test_a_damaged_fault_is_an_error_that_names_the_failure(store: SqliteStore) -> None:
    await store.journal.append([make_entry("f1", "m1")])
    await store._writer.run(lambda connection: connection.execute("UPDATE failures SET fault = x'7b'").fetchall())
    with pytest.raises(StoreError, match="f1"):
        await store.journal.select(Selection())


async def test_text_that_is_no_unicode_does_not_keep_a_failure_out(store: SqliteStore) -> None:
    half = "half \ud83d of a pair"
    entry = make_entry("f1", records=(KeptRecord(half, half, 1.0, b"{}"),), identifiers=(half,), fault=Fault("error", half, half, (half,)))
    assert list(await store.journal.append([entry])) == ["f1"]
    shown = "half \\ud83d of a pair"
    fault = Fault("error", shown, shown, (shown,))
    assert (await row_of(store.journal, "f1")).entry == replace(
        entry, records=(KeptRecord(shown, shown, 1.0, b"{}"),), identifiers=(shown,), fault=fault
    )
    assert list(await store.journal.append([replace(entry, id="f2")])) == ["f1"]
    await store.journal.mark(["f1"], "claimed", 1.0, "a", 2.0)
    assert list(await store.journal.mark(["f1"], "kept", 1.0, "a", fault=entry.fault)) == ["f1"]


ADDRESSES = {
    "sqlite:///var/lib/poller/poller.db": "/var/lib/poller/poller.db",
    "SQLITE:///var/lib/poller.db": "/var/lib/poller.db",
    "sqlite:/var/lib/poller.db": "/var/lib/poller.db",
    "sqlite:poller.db": "poller.db",
    "sqlite:state/poller.db": "state/poller.db",
    "sqlite:///with%20space.db": "/with space.db",
    "/var/lib/with%20percent.db": "/var/lib/with%20percent.db",
    "poller.db": "poller.db",
    "./poller.db": "poller.db",
}


@pytest.mark.parametrize(("url", "path"), ADDRESSES.items())
def test_an_address_names_a_file(url: str, path: str) -> None:
    assert parse_url(url) == Path(path)
    assert parse_url(url, Path("base")) == Path("base") / path


@pytest.mark.parametrize(
    "url",
    [
        "postgres://db/poller",
        "sqlite://host/poller.db",
        "sqlite:",
        "sqlite://",
        "sqlite:///",
        "sqlite::memory:",
        "sqlite:poller.db?mode=ro",
        "sqlite:///a#b",
        "state/",
        "",
        "..",
        "sqlite:..",
    ],
)
def test_an_address_that_names_no_file_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"sqlite:///absolute/path\.db"):
        parse_url(url)


async def test_opening_makes_the_folder(tmp_path: Path) -> None:
    store = await open_store("sqlite:state/poller.db", tmp_path)
    assert store.path == tmp_path / "state" / "poller.db"
    assert os.stat(store.path).st_mode & 0o777 == 0o600
    assert repr(store) == "<SqliteStore <Writer poller.db [open, queued=0, groups=0]>>"
    await store.aclose()
