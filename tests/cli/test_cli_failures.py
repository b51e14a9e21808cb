"""`poller failures` and `poller replay --dry-run`: what the journal keeps, as people and programs see it."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from poller.cli import program
from poller.cli.template import write
from poller.failures.fingerprint import fingerprint
from poller.failures.journal import Entry, KeptRecord, RowState, Selection
from poller.failures.pages import pages
from poller.model import Fault
from poller.stores.sqlite import open_store
from poller.testing.journals import make_entry

NOW = time.time()
HOUR = 3600.0
FAULT = Fault("error", "KeyError", "'discount'\x07\x1b[2J", ('File "app.py", line 3, in handle', "    return order['discount']"))
IDS = ("a" * 32, "ab" + "0" * 30, "c" * 32)


def run(*arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(program, arguments, input=input, env={"POLLER_CONFIG": None})


def rows(*arguments: str) -> list[str]:
    """The ids that `list` gives."""
    return [json.loads(line)["id"] for line in run("failures", "list", "--json", *arguments).stdout.splitlines()]


def entries() -> list[Entry]:
    secret = (KeptRecord("m3", None, NOW, b'{"messageId":"m3","body":"hush"}'),)
    return [
        make_entry(IDS[0], "m1", mapping="first", time=NOW - 3 * HOUR, fault=FAULT),
        make_entry(IDS[1], "m2", mapping="other", time=NOW - 2 * HOUR, kept="queue-dlq"),
        make_entry(IDS[2], mapping="first", time=NOW - HOUR, records=secret, first="m3", last="m3", fault=None),
    ]


async def _fill(path: Path) -> None:
    store = await open_store(path)
    await store.journal.append(entries())
    await store.aclose()


async def _mark(path: Path, row: str, state: RowState) -> None:
    store = await open_store(path)
    assert await store.journal.mark((row,), state, NOW, "another", NOW + HOUR)
    await store.aclose()


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store of a folder that we are in, with three failures."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    path = tmp_path / ".poller" / "poller.db"
    asyncio.run(_fill(path))
    return path


def test_looking_makes_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    assert run("failures", "list").stdout == "no failures\n"
    assert run("replay", "--dry-run").exit_code == 0
    assert run("replay").stdout == "nothing to replay\n"
    assert not (tmp_path / ".poller").exists()


def test_a_store_in_memory_cannot_be_looked_into(journal: Path) -> None:
    config = journal.parent.parent / "poller.toml"
    config.write_text(config.read_text().replace("[poller]", '[poller]\nstore = "memory:"'))
    result = run("failures", "list")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "kept by the daemon alone" in result.stderr


def test_the_list_is_a_line_a_failure_the_oldest_first(journal: Path) -> None:
    lines = run("failures", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["ID", *(each[:12] for each in IDS)]
    assert "KeyError: 'discount'" in lines[1]
    assert "kept, copy" in lines[2]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), IDS),
        (("--mapping", "first"), (IDS[0], IDS[2])),
        (("--after", "150m"), IDS[1:]),
        (("--before", "150m"), IDS[:1]),
        (("--after", "150m", "--before", "90m"), IDS[1:2]),
        (("--limit", "2"), IDS[:2]),
        (("--state", "replayed"), ()),
        (("--state", "any"), IDS),
        (("c",), IDS[2:]),
        (("c", "ab"), IDS[1:]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_the_list_can_be_narrowed(journal: Path, arguments: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert rows(*arguments) == [*expected]


def test_the_list_says_that_there_are_more(journal: Path) -> None:
    assert run("failures", "list", "--limit", "2").stdout.endswith("... and 1 more; --limit shows more of them\n")


def test_a_mapping_is_meant_by_its_name_or_its_id(journal: Path) -> None:
    config = journal.parent.parent / "poller.toml"
    config.write_text(config.read_text().replace("[mappings.first]", '[mappings.first]\nid = "other"'))
    assert rows("--mapping", "first") == [IDS[1]]
    assert rows("--mapping", "other") == [IDS[1]]


def test_show_tells_all_but_the_payload(journal: Path) -> None:
    shown = run("failures", "show", "aa").stdout
    for text in (IDS[0], "RetryAttemptsExhausted", "3 attempts", "from m1 to m1", "KeyError: 'discount'", "line 3, in handle"):
        assert text in shown
    assert "messageId" not in shown


def test_the_payload_is_shown_when_asked_for(journal: Path) -> None:
    for more in ((), ("--json",)):
        assert "hush" not in run("failures", "show", "c", *more).stdout
        assert "hush" in run("failures", "show", "c", "--payload", *more).stdout
    shown = json.loads(run("failures", "show", "c", "--payload", "--json").stdout)
    assert shown["event"] == {"Records": [{"messageId": "m3", "body": "hush"}]}


def test_what_a_function_said_does_not_steer_the_terminal(journal: Path) -> None:
    for command in ("list", "show"):
        # The bell tells: click itself strips colours from what goes to no terminal.
        assert "\x07" not in run("failures", command, "aa").stdout


def test_ids_that_are_not_there_and_ids_that_may_be_several(journal: Path) -> None:
    missing = run("failures", "show", "ff")
    assert (missing.exit_code, missing.stderr) == (1, "poller: no such failure in the journal: ff\n")
    several = run("failures", "show", "a")
    assert several.exit_code == 2
    assert IDS[0] in several.stderr and IDS[1] in several.stderr
    assert run("replay", "ff").exit_code == 1
    assert run("failures", "drop", "ff", "--yes").exit_code == 1


def test_drop_asks_and_no_is_no(journal: Path) -> None:
    for answer in ("n\n", ""):
        result = run("failures", "drop", "aa", input=answer)
        assert result.exit_code == 1
        assert "Drop 1 failure with 1 record?" in result.stderr
    assert rows() == [*IDS]


def test_drop_gives_them_up(journal: Path) -> None:
    assert run("failures", "drop", "aa", input="y\n").stdout == "1 failure dropped\n"
    assert rows() == [*IDS[1:]]
    assert rows("--state", "dropped") == [IDS[0]]
    assert json.loads(run("failures", "drop", "--after", "4h", "--yes", "--json").stdout) == {"dropped": [*IDS[1:]]}
    assert rows() == []
    assert run("failures", "drop", "--mapping", "first", "--yes").stdout == "0 failures dropped\n"


def test_drop_leaves_what_a_replay_holds(journal: Path) -> None:
    asyncio.run(_mark(journal, IDS[2], "claimed"))
    result = run("failures", "drop", "--mapping", "first", "--yes")
    assert (result.exit_code, result.stdout) == (0, "1 failure dropped\n")
    held = run("failures", "drop", "c", "--yes")
    assert held.exit_code == 1
    assert rows() == [*IDS[1:]]


def test_a_dry_run_says_what_would_run(journal: Path) -> None:
    shown = run("replay", "--dry-run").stdout
    assert shown.startswith("would run 2 failures with 2 records")
    assert "left out: 1 failure with 1 record that are copies" in shown
    assert json.loads(run("replay", "--dry-run", "--copies", "--json").stdout)["total"] == {"rows": 3, "records": 3}
    assert rows() == [*IDS]


def test_a_replay_of_a_mapping_that_is_gone_is_refused_before_it_begins(journal: Path) -> None:
    result = run("replay", "--copies")
    assert result.exit_code == 1
    assert 'id = "other"' in result.stderr
    assert rows() == [*IDS]
    assert asyncio.run(_count(journal, "kept")) == 3


async def _count(path: Path, state: RowState) -> int:
    store = await open_store(path)
    try:
        return await store.journal.count(Selection(states=(state,)))
    finally:
        await store.aclose()


# --- groups, keys, patterns, export -----------------------------------------------------------------------------------------------------

TYPO = Fault("error", "KeyError", "'discuont'", ('File "app.py", line 3, in handle',))


def grouped(name: str, fault: Fault | None, record: str = '{"messageId":"m","body":"{}"}', **fields: Any) -> Entry:
    entry = make_entry(name, records=(KeptRecord(f"m-{name}", fields.pop("key", None), NOW, record.encode()),), identifiers=(), fault=fault)
    return replace(entry, group=fingerprint(fault, entry.reason), mapping="first", **fields)


@pytest.fixture
def groups(journal: Path) -> Path:
    """... and three more: one error twice, and one that is older than groups."""

    async def fill() -> None:
        store = await open_store(journal)
        order = '{"messageId":"m","body":"{\\"kind\\":\\"order\\",\\"card\\":\\"4111\\"}"}'
        more = [grouped("d1", TYPO, order, time=NOW - 50, key="k1"), grouped("d2", TYPO, time=NOW - 40), grouped("d3", TYPO, time=NOW - 30)]
        await store.journal.append([*more[:2], replace(more[2], group="")])
        await store.aclose()

    asyncio.run(fill())
    return journal


def test_groups_are_the_largest_first(groups: Path) -> None:
    lines = run("failures", "groups").stdout.splitlines()
    assert lines[0].split() == ["GROUP", "FAILURES", "RECORDS", "FIRST", "LAST", "MAPPINGS", "SAMPLE", "ERROR"]
    assert lines[1].split()[:3] == [fingerprint(TYPO)[:12], "3", "3"] and "KeyError: 'discuont'" in lines[1]
    assert "never invoked: RetryAttemptsExhausted" in run("failures", "groups").stdout
    assert run("failures", "groups", "--limit", "1").stdout.endswith("... and 3 more; --limit shows more of them\n")
    first = json.loads(run("failures", "groups", "--json", "--mapping", "first").stdout.splitlines()[0])
    assert (first["group"], first["failures"], first["sample"], first["mappings"]) == (fingerprint(TYPO), 3, "d3", ["first"])
    assert run("failures", "groups", "--state", "replayed").stdout == "no failures\n"
    assert run("failures", "groups", "--pattern", '{"body":["x"]}').exit_code == 2


def test_a_group_a_key_and_a_pattern_select(groups: Path) -> None:
    group = fingerprint(TYPO)
    assert rows("--group", group[:6]) == ["d1", "d2", "d3"]
    assert rows("--group", group, "--key", "k1") == rows("--key", "k1") == ["d1"]
    assert rows("--pattern", '{"body": {"kind": ["order"]}}') == ["d1"]
    assert rows("--pattern", '{"messageId": ["m"]}', "--limit", "2") == ["d1", "d2"]
    assert run("failures", "list", "--pattern", '{"messageId": ["m"]}', "--limit", "2").stdout.endswith(
        "... and more; --limit shows more of them\n"
    )
    assert run("failures", "list", "--pattern", "{").exit_code == 2
    assert run("failures", "drop", "--pattern", '{"body": {"kind": ["order"]}}', "--yes").stdout == "1 failure dropped\n"
    assert run("failures", "drop", "--group", group, "--yes").stdout == "2 failures dropped\n"
    assert rows() == [*IDS]


def test_an_export_is_whole_rows(groups: Path, tmp_path: Path) -> None:
    lines = run("failures", "export", "--state", "any").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [*IDS, "d1", "d2", "d3"]
    third = json.loads(lines[2])
    assert third["event"] == {"Records": [{"messageId": "m3", "body": "hush"}]}
    assert third["items"] == [{"id": "m3", "key": None, "arrival": NOW}]
    result = run("failures", "export", "--key", "k1", "--output", "out.jsonl")
    assert (result.stdout, result.stderr) == ("", "1 failure exported\n")
    (line,) = Path("out.jsonl").read_text().splitlines()
    assert (json.loads(line)["id"], Path("out.jsonl").stat().st_mode & 0o777) == ("d1", 0o600)
    assert run("failures", "export", "--output", "none/out.jsonl").exit_code == 1
    assert run("failures", "export", "ff").exit_code == 1
    assert [path.name for path in tmp_path.glob("*.part")] == []


def test_what_is_redacted_is_seen_only_when_asked_for(groups: Path) -> None:
    config = groups.parent.parent / "poller.toml"
    config.write_text(config.read_text().replace("[mappings.first]", '[mappings.first]\nredact = ["body.card"]'))
    for command in (("show", "d1", "--payload"), ("show", "d1", "--payload", "--json"), ("export", "d1")):
        shown = run("failures", *command).stdout
        assert "4111" not in shown and "***" in shown and "order" in shown
        assert "4111" in run("failures", *command, "--unredacted").stdout
    assert rows("--pattern", '{"body": {"card": ["4111"]}}') == ["d1"]


def test_many_failures_are_a_few_in_memory(journal: Path) -> None:
    """Forty megabytes go out, and a fraction of them is held at once."""

    async def fill() -> None:
        store = await open_store(journal)
        text = json.dumps({"messageId": "m", "body": "x" * 1_000_000})
        for n in range(40):
            await store.journal.append([grouped(f"e{n:03}", TYPO, text, time=NOW)])  # of one time, all of them
        await store.aclose()

    asyncio.run(fill())

    async def read() -> list[int]:
        store = await open_store(journal)
        sizes = [len(page) async for page in pages(store.journal, Selection(states=()))]
        await store.aclose()
        return sizes

    sizes = asyncio.run(read())
    assert sum(sizes) == 43
    assert max(sizes[1:]) <= 10
