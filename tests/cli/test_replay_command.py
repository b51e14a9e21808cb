"""`poller replay`, in this process: plans, runs by name, the editor, and what is told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from poller.cli import program
from poller.failures.journal import KeptRecord
from poller.failures.runs import Plan, planned
from poller.stores.sqlite import open_store
from poller.testing.journals import make_entry

FUNCTION = """
import json, pathlib

def handle(event, context):
    for record in event["Records"]:
        body = json.loads(record["body"])
        if body.get("poison"):
            raise KeyError("poison")
        with open(pathlib.Path(__file__).parent / "handled", "a") as file:
            file.write(f"{body['id']}\\n")

def other(event, context):
    handle(event, context)
"""
CONFIG = """
[poller]
store = "sqlite:poller.db"

[functions.orders]
handler = "app.py:handle"
inline = "thread"

[functions.other]
handler = "app.py:other"
inline = "thread"

[mappings.orders]
function = "orders"
maximum_receive_count = 1
retry_backoff = { initial = "1ms", maximum = "1ms" }

[mappings.orders.source]
type = "local-queue"
name = "orders"
"""
GOOD, MIXED = "a" * 32, "b" * 32


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration, and two failures: one that would succeed, and one of which a record is poison."""
    (tmp_path / "app.py").write_text(FUNCTION)
    (tmp_path / "poller.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    asyncio.run(_fill(tmp_path / "poller.db"))
    return tmp_path


async def _fill(path: Path) -> None:
    store = await open_store(path)
    bodies = {GOOD: [{"id": 1}], MIXED: [{"id": 2}, {"id": 3, "poison": True}, {"id": 4}]}
    for row, found in bodies.items():
        texts = [json.dumps({"messageId": f"m{body['id']}", "body": json.dumps(body)}).encode() for body in found]
        records = tuple(KeptRecord(f"m{body['id']}", None, 1.0, text) for body, text in zip(found, texts, strict=True))
        await store.journal.append([make_entry(row, records=records, identifiers=tuple(f'"{each.id}"' for each in records))])
    await store.aclose()


def run(*arguments: str, code: int = 0, editor: str = "", site: Path = Path()) -> Result:
    result = CliRunner().invoke(program, ["replay", *arguments], env={"POLLER_CONFIG": None, "EDITOR": editor, "VISUAL": None})
    assert result.exit_code == code, (result.output, result.exception)
    return result


def lines(*arguments: str, code: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(*arguments, "--json", code=code).stdout.splitlines()]


def handled() -> list[int]:
    """The records that were: those before a poison one more than once, for batches are halved."""
    return sorted(set(map(int, Path("handled").read_text().split()))) if Path("handled").exists() else []


def test_a_replay_is_known_by_its_name_and_tells_what_it_did() -> None:
    told = run("--name", "nightly", code=1).stdout
    assert told.startswith("1 failure replayed; 1 failed again in part, which is kept as a new failure")
    assert "FAILED AGAIN AS" in told and MIXED[:12] in told
    (nightly,) = lines("list")
    assert (nightly["run"], nightly["state"], nightly["outcomes"]) == ("nightly", "done", {"replayed": 1, "split": 1})
    assert "nightly" in run("list").stdout and "@" in run("list").stdout
    document, *trail = lines("show", "nightly", "--trail")
    assert document["total"] == 2
    assert {step["failure"]: step["outcome"] for step in trail} == {GOOD: "replayed", MIXED: "split"}
    ((rest,),) = (step["failures"] for step in trail if step["failure"] == MIXED)
    shown = run("show", "nightly", "--trail").stdout
    assert "1 replayed or sent, 1 failed again" in shown and "OUTCOME" in shown
    assert "there is a replay 'nightly' already" in run("--name", "nightly", code=1).stderr
    assert "is done; with --again" in run("resume", "nightly", code=1).stderr
    (again,) = lines("resume", "nightly", "--again", code=1)
    assert (again["total_rows"], again["failed_again"], list(again["failures"])) == (1, 1, [rest])
    assert handled() == [1, 2, 4]


def test_only_the_poison_is_kept_each_record_by_itself() -> None:
    (told,) = lines(MIXED[:6], "--only-failing", code=1)
    ((old, new),) = told["failures"].items()
    assert (told["split"], old, len(new)) == (1, MIXED, 1)
    assert handled() == [2, 4]


def test_a_value_is_set_and_the_trail_says_so() -> None:
    (told,) = lines("--set", "body.poison=false", "--set", "body.id=9", "--key", "none")
    assert told["total_rows"] == 0
    (told,) = lines("--set", "body.poison=false", "--pattern", '{"body": {"poison": [true]}}')
    assert (told["replayed"], handled()) == (1, [2, 3, 4])
    _, step = lines("show", told["run"], "--trail")
    assert step["edited"]


def test_another_function_a_rate_and_what_contradicts() -> None:
    (told,) = lines(GOOD, "--to-function", "other", "--rate", "1000", "--concurrency", "1")
    assert told["replayed"] == 1
    assert "there is no function 'none'; there are orders, other" in run("--to-function", "none", code=2).stderr
    assert "--to runs no function" in run("--to", "source", "--only-failing", code=2).stderr
    for chosen in ((), ("--key", "none")):
        assert "gopher" in run("--to", "gopher:hole", *chosen, code=2).stderr
    assert "path=value" in run("--set", "nothing", code=2).stderr
    assert "pattern" in run("--pattern", "{", code=2).stderr.lower()
    assert "allowed are up to 64 letters" in run("--name", "no good", code=2).stderr


def test_a_run_is_paused_and_aborted_by_name(site: Path) -> None:
    assert "there is no replay 'x'" in run("pause", "x", code=1).stderr
    run("--name", "n", code=1)
    assert "is done already" in run("pause", "n", code=1).stderr
    assert site.exists()


def test_where_it_sends_is_shown_without_what_is_a_secret_of_the_address(site: Path) -> None:
    async def put() -> None:
        store = await open_store(site / "poller.db")
        for name, to in {"a": "https://hooks.test/T0/s3cret", "b": "kafka://ada:s3cret@b:9092/t", "c": "source"}.items():
            await store.runs.put(planned(name, "ada", Plan(to=to), 1e9))
        await store.aclose()

    asyncio.run(put())
    told = {each["run"]: each["plan"]["to"] for each in lines("list")}
    assert told == {"a": "https://hooks.test/***0380b6", "b": "kafka://ada:***@b:9092/t", "c": "source"}
    page = run("list").stdout + run("show", "a").stdout
    assert "--to https://hooks.test/***0380b6" in page and "s3cret" not in page


def test_what_is_no_failure_begins_no_replay_and_one_by_its_name_is_told_how_to_go_on(site: Path) -> None:
    run(GOOD, "--name", "night")
    for arguments in (("night",), (MIXED, "night"), ("night", "--dry-run")):
        said = run(*arguments, code=1).stderr
        assert "night is a replay, and no failure: `poller replay resume night` goes on with it" in said
    assert "no such failure in the journal: ffff, eeee; `poller failures list` names them" in run(MIXED, "ffff", "eeee", code=1).stderr
    assert [each["run"] for each in lines("list")] == ["night"]
    assert handled() == [1]


def test_a_dry_run_shows_counts_a_sample_and_the_order() -> None:
    told = run("--dry-run", "--concurrency", "1").stdout
    assert "would run 2 failures with 4 records" in told and GOOD[:12] in told and "KeyError" not in told.splitlines()[0]
    assert "failures theirs, oldest first" in told
    assert "between failures no order is kept" in run("--dry-run", "--concurrency", "2").stdout
    (shown,) = lines("--dry-run", "--pattern", '{"body": {"poison": [true]}}')
    assert (shown["total"], shown["ids"]) == ({"rows": 1, "records": 3}, [MIXED])
    assert "nothing at body.x.y" in run("--dry-run", "--set", "body.x.y=1", code=2).stderr
    assert handled() == [] and run("list").stdout == "no replays\n"


def scripted(site: Path, *scripts: str) -> str:
    """An editor that does one of these to the file each time it is opened."""
    program = site / "editor.sh"
    cases = "".join(f"  {number}) {script} ;;\n" for number, script in enumerate(scripts))
    program.write_text(f"n=$(cat {site}/opened 2>/dev/null || echo 0)\necho $((n + 1)) > {site}/opened\ncase $n in\n{cases}esac\n")
    return f"sh {program}"


def test_edited_records_run_and_what_is_wrong_is_said_and_edited_again(site: Path) -> None:
    broken, mended = """sed -i 's/"poison": true/"poison": /' "$1" """, """sed -i 's/"poison": /"poison": false/' "$1" """
    told = run(MIXED, "--edit", editor=scripted(site, broken, mended))
    assert "line 14, column 7: Expecting value" in told.stderr
    assert told.stdout.startswith("1 failure replayed")
    assert handled() == [2, 3, 4]
    _, step = lines("show", lines("list")[0]["run"], "--trail")
    assert (step["failure"], step["edited"]) == (MIXED, True)


def test_what_was_written_is_kept_when_it_is_given_up(site: Path) -> None:
    broken = """sed -i 's/"poison": true/"poison": /' "$1" """
    said = run(MIXED, "--edit", code=1, editor=scripted(site, broken, "true")).stderr
    kept = Path(said.rpartition("what you wrote is in ")[2].strip())
    try:
        assert '"poison": \n' in kept.read_text()
        assert (kept.stat().st_mode & 0o77, kept.parent.stat().st_mode & 0o77) == (0, 0)
    finally:
        kept.unlink()
        kept.parent.rmdir()
    assert "nothing was edited" in run(MIXED, "--edit", code=1, editor="true").stderr
    said = run(MIXED, "--edit", code=1, editor="false").stderr
    assert "ended with 1" in said
    left = Path(said.rpartition("what you wrote is in ")[2].strip())
    left.unlink()
    left.parent.rmdir()
    assert run("list").stdout == "no replays\n"
    assert handled() == []


def test_help_shows_how_to_begin_one_and_what_can_be_done_to_one() -> None:
    told = run("--help").stdout
    assert "--only-failing" in told and "resume" in told and "Usage: program replay [OPTIONS] [IDS]..." in told.replace("poller", "program")
