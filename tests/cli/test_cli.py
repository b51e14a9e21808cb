"""The command line as click sees it: parsing, exit codes, messages. What a process does: tests/acceptance/test_cli.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from poller.cli import SUMMARIES, Program, program
from poller.cli.options import Moment
from poller.errors import ConfigError, SourceError


def run(*arguments: str, input: str | None = None, env: dict[str, str] | None = None) -> Result:
    result = CliRunner().invoke(program, arguments, input=input, env={"POLLER_CONFIG": None, **(env or {})}, prog_name="poller")
    # SystemExit is how click ends; anything else would have been a traceback.
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with what `init` writes."""
    monkeypatch.chdir(tmp_path)
    assert run("init").exit_code == 0
    return tmp_path


# --- help, names, imports -------------------------------------------------------------------------------------------------------------


def test_help_names_every_command() -> None:
    shown = run("--help")
    assert shown.exit_code == 0
    assert [name for name in SUMMARIES if f"  {name} " not in shown.stdout] == []


@pytest.mark.parametrize("name", SUMMARIES)
def test_every_command_says_what_the_list_says_of_it(name: str) -> None:
    command = program.get_command(click.Context(program), name)
    assert command is not None
    assert command.get_short_help_str(200) == SUMMARIES[name]
    assert run(name, "--help").exit_code == 0


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    context = click.Context(group)
    found = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        found += _commands(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
    return found


NO_JSON = {("run",), ("init",), ("config", "reference"), ("failures", "export")}
"""Commands whose result is a process, files, or a document; or is JSON anyway."""


@pytest.mark.parametrize("path", sorted(set(_commands(program)) - NO_JSON), ids=" ".join)
def test_every_command_speaks_to_programs_too(path: tuple[str, ...]) -> None:
    assert "--json" in run(*path, "--help").stdout


def _imported(*arguments: str, folder: Path) -> set[str]:
    code = "import sys\nfrom poller.cli import program\nprogram(sys.argv[1:], standalone_mode=False)\nprint('|', *sys.modules)"
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, cwd=folder)
    assert result.stderr == ""
    return set(result.stdout.rpartition("|")[2].split())


def test_help_imports_next_to_nothing(folder: Path) -> None:
    assert _imported("--help", folder=folder) & {"asyncio", "msgspec", "orjson", "uvloop", "poller.config", "poller.daemon"} == set()


NOT_CHECKED_WITH = {
    *("aiobotocore", "aiokafka", "asyncio", "botocore", "hashlib", "logging", "sqlite3", "uvloop"),
    *("connectors.kinesis", "poller.daemon", "poller.failures", "poller.filters", "poller.model", "poller.policy", "poller.protocols"),
}


def test_check_imports_nothing_that_only_a_running_mapping_needs(folder: Path) -> None:
    """Most of what it costs is what it imports: with one import too many, all that stands behind that is loaded each time."""
    sources = ('{ type = "local-queue", name = "q" }', '{ type = "local-stream", name = "s" }', '{ type = "sqs", queue = "q" }')
    with (folder / "poller.toml").open("a") as file:
        for number, source in enumerate(sources):
            file.write(f'\n[mappings.other{number}]\nfunction = "first"\nsource = {source}\n')
    imported = _imported("check", folder=folder)
    assert {"connectors.local", "connectors.sqs"} <= imported
    assert imported & NOT_CHECKED_WITH == set()


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("arguments", [("--help",), ("check",)], ids=" ".join)
def test_it_is_quick(folder: Path, arguments: tuple[str, ...]) -> None:
    """Below 200 ms of CPU; the best of some, because a busy machine makes CPU time longer as well."""
    best = 10.0
    for _ in range(5):
        before = os.times()
        subprocess.run([sys.executable, "-m", "poller", *arguments], check=True, capture_output=True, cwd=folder)
        after = os.times()
        best = min(best, after.children_user + after.children_system - before.children_user - before.children_system)
    assert best < 0.25


# --- errors ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "code", "shown"),
    [
        (SourceError("the queue is gone"), 1, "poller: the queue is gone\n"),
        (ConfigError(["a.toml:1: no", "a.toml:2: never"]), 2, "a.toml:1: no\na.toml:2: never\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(32, "Broken pipe"), 1, ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_raised_becomes_a_message_and_a_code(raised: BaseException, code: int, shown: str) -> None:
    @click.command("poller", cls=Program, invoke_without_command=True)
    def failing() -> None:
        raise raised

    result = CliRunner().invoke(failing)
    assert (result.exit_code, result.stderr, result.stdout) == (code, shown, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("nosuch",),
        ("check", "--nosuch"),
        ("put",),
        ("put", "first", "nosuch.jsonl"),
        ("put", "first", "--raw", "--key", "id"),
        ("put", "nosuch"),
        ("failures", "list", "--after", "yesterday"),
        ("failures", "list", "--state", "lost"),
        ("failures", "drop"),
        ("explain", "first", "--poison", "11"),
        ("explain", "nosuch"),
        ("check", "a.toml", "-c", "b.toml"),
        ("check", "nosuch.toml"),
        ("init",),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_two(folder: Path, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.strip()


# --- which configuration --------------------------------------------------------------------------------------------------------------


def test_the_configuration_is_an_argument_or_an_option_or_a_variable_or_the_default(folder: Path) -> None:
    (folder / "poller.toml").rename(folder / "other.toml")
    assert run("check", "other.toml").exit_code == 0
    assert run("check", "-c", "other.toml").exit_code == 0
    assert run("check", env={"POLLER_CONFIG": "other.toml"}).exit_code == 0
    assert run("check", "other.toml", env={"POLLER_CONFIG": "nosuch.toml"}).exit_code == 0
    assert run("check").exit_code == 2
    (folder / "other.toml").rename(folder / "poller.toml")
    assert run("check").exit_code == 0


@pytest.mark.parametrize(("text", "seconds"), [("2h", 7200.0), ("90s", 90.0)])
def test_a_time_is_so_long_ago(text: str, seconds: float) -> None:
    assert Moment().convert(text, None, None) == pytest.approx(time.time() - seconds, abs=5.0)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31T08:00:00Z", datetime.fromisoformat("2026-01-31T08:00:00+00:00")),
        ("2026-01-31T08:00:00+02:00", datetime.fromisoformat("2026-01-31T06:00:00+00:00")),
        ("2026-01-31", datetime(2026, 1, 31)),
    ],
)
def test_a_time_is_iso(text: str, moment: datetime) -> None:
    assert Moment().convert(text, None, None) == moment.timestamp()


# --- init, check, connectors, config, explain -----------------------------------------------------------------------------------------


def test_what_init_writes_has_nothing_wrong(folder: Path) -> None:
    result = run("check")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "poller.toml: 1 mapping, 1 function, nothing wrong with the file\n"


def test_init_overwrites_nothing(folder: Path) -> None:
    (folder / "poller.toml").write_text("mine")
    (folder / "app.py").unlink()
    result = run("init")
    assert result.exit_code == 2
    assert "poller.toml" in result.stderr
    assert (folder / "poller.toml").read_text() == "mine"
    assert not (folder / "app.py").exists()


def test_init_makes_the_folder(folder: Path) -> None:
    assert run("init", "deep/er").exit_code == 0
    assert run("check", "deep/er/poller.toml").exit_code == 0


def test_check_says_everything_at_once(folder: Path) -> None:
    text = (folder / "poller.toml").read_text()
    (folder / "poller.toml").write_text(text.replace('"20s"', "20").replace("batch_size = 10", "batch_sise = 10"))
    result = run("check")
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("poller.toml:") for line in lines)
    as_json = run("check", "--json")
    assert as_json.exit_code == 2
    assert json.loads(as_json.stdout) == {"ok": False, "problems": lines}


def test_check_shows_warnings(folder: Path) -> None:
    text = (folder / "poller.toml").read_text()
    (folder / "poller.toml").write_text(text.replace('"20s"', '"2m"'))
    result = run("check")
    assert result.exit_code == 0
    assert result.stdout.startswith("warning: poller.toml:")
    assert len(json.loads(run("check", "--json").stdout)["warnings"]) == 1


def test_connectors_are_listed() -> None:
    assert "local-queue" in run("connectors").stdout
    names = [json.loads(line)["name"] for line in run("connectors", "--json").stdout.splitlines()]
    assert {"local-queue", "local-stream", "python"} <= set(names)


def test_the_reference_knows_the_installed_sources() -> None:
    shown = run("config", "reference").stdout
    assert "`maximum_retry_attempts`" in shown
    assert 'type = "local-queue"' in shown


def test_explain_shows_the_attempts_of_a_mapping(folder: Path) -> None:
    lines = run("explain", "first", "--poison", "3").stdout.splitlines()
    assert lines[0].startswith("records 1-10, attempt 1")
    assert any(line.startswith("at most: 5 invocations") for line in lines)  # maximum_receive_count
    assert json.loads(run("explain", "first", "--poison", "3", "--json").stdout)["poison"] == 2


def test_explain_full_failures_and_other_sizes(folder: Path) -> None:
    lines = run("explain", "first", "--kind", "full", "--batch-size", "2").stdout.splitlines()
    assert lines[0].startswith("records 1-2, attempt 1, at 0s: fails")


def test_explain_a_stream(folder: Path) -> None:
    text = (
        (folder / "poller.toml")
        .read_text()
        .replace("local-queue", "local-stream")
        .replace("maximum_receive_count", "maximum_retry_attempts")
    )
    (folder / "poller.toml").write_text(text)
    shown = run("explain", "first", "--kind", "full").stdout
    assert "split into" in shown
    assert "at most: 10 invocations" in shown  # ceil(log2 10) + 1 + 5


def test_explain_shows_what_the_error_rules_do(folder: Path) -> None:
    with (folder / "poller.toml").open("a") as file:
        file.write('\n[[mappings.first.errors]]\nmatch = "Auth*"\naction = "pause"\n')
    lines = run("explain", "first", "--error", "AuthError: expired").stdout.splitlines()
    assert lines[0].endswith("fails, pauses the mapping, until it is resumed")
    assert json.loads(run("explain", "first", "--error", "AuthError", "--json").stdout)["paused"] is True
    assert "given back" in run("explain", "first", "--error", "KeyError", "--kind", "named").stdout


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            'circuit_breaker = { initial = "2s", maximum = "30s", patience = "10m" }',
            [
                "circuit breaker: one record does not open it; 5 batches in a row that fail alike do, or 10 of the last 20, no two with a "
                "key in common",
                "while it is open a batch at a time probes, after 2s, then up to 30s; what fails within 10m costs no attempt",
            ],
        ),
        (
            "circuit_breaker = false",
            ["no circuit breaker: while the function fails for everything, every record spends its attempts like this one"],
        ),
    ],
)
def test_explain_says_what_the_circuit_breaker_changes(folder: Path, line: str, said: list[str]) -> None:
    text = (folder / "poller.toml").read_text()
    (folder / "poller.toml").write_text(text.replace("[mappings.first]\n", f"[mappings.first]\n{line}\n"))
    assert [shown for shown in run("explain", "first").stdout.splitlines() if shown in said] == said
    assert json.loads(run("explain", "first", "--json").stdout)["breaker"] == said


def test_explain_says_what_it_assumes(folder: Path) -> None:
    """Of SQS the queue's own limit and its visibility timeout are known only when it is asked; of a local queue they are configured."""
    (folder / "poller.toml").write_text(
        "[functions.f]\nhandler = 'app.py:handle'\n"
        "[mappings.aws]\nfunction = 'f'\nsource = { type = 'sqs', queue = 'q' }\n"
        "[mappings.local]\nfunction = 'f'\n"
        "source = { type = 'local-queue', name = 'q', visibility_timeout = '7s', redrive = { queue = 'd', maximum_receive_count = 3 } }\n"
    )
    *_, bound, assumed, _, _ = run("explain", "aws").stdout.splitlines()
    assert bound == "at most: 10 invocations, 270s"
    assert assumed.startswith("the queue's own redrive policy and visibility timeout are known only when it is asked; assumed here: no")
    assert json.loads(run("explain", "aws", "--json").stdout)["assumed"] == [assumed]
    assert run("explain", "local").stdout.splitlines()[-3] == "at most: 3 invocations, 21s"
    assert json.loads(run("explain", "local", "--json").stdout)["assumed"] == []


# --- no daemon ------------------------------------------------------------------------------------------------------------------------


def test_status_without_a_daemon_says_how_to_start_one(folder: Path) -> None:
    result = run("status")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"start one with `poller run -c {folder / 'poller.toml'}`" in result.stderr
    assert not (folder / ".poller").exists()
