"""`poller replay --edit`: failures in the user's editor, until they are right; what was written is never lost."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import tempfile
import time
from pathlib import Path

import click

from poller.cli.journal import opened
from poller.cli.options import Chosen, filterable
from poller.cli.text import amount
from poller.config import Config
from poller.errors import ConfigError, PollerError
from poller.failures.journal import Entry
from poller.failures.runs import Plan
from poller.replay.counting import pages
from poller.replay.editing import Over, read, written

MOST = 100
"""More failures than a person edits at once."""


async def edited(config: Config, plan: Plan) -> dict[str, tuple[str, ...]]:
    """`Plan.edits`. Raises PollerError where nothing is edited, with the file's name if what was written in it is no use yet."""
    matches = Chosen(pattern=plan.pattern or None).matches(config)
    async with opened(config) as store:
        found = [row.entry async for page in pages(store.journal, plan.selection) for row in page if matches(row.entry)]
    if not found:
        raise PollerError("no failure is selected: there is nothing to edit")
    if len(found) > MOST:
        raise PollerError(f"{amount(len(found), 'failure')} are selected, at most {MOST} can be edited at once: select fewer, or use --set")
    over = {each.settings.id: filterable(each) for each in config.mappings.values()}
    return await asyncio.to_thread(_edited, found, over.get)


def _edited(entries: list[Entry], over: Over) -> dict[str, tuple[str, ...]]:
    text = written(entries, over)
    # Payloads: for nobody else's eyes.
    folder = Path(tempfile.mkdtemp(prefix="poller-edit-"))
    file = folder / "failures.json"
    file.touch(0o600)
    file.write_text(text, encoding="utf-8")
    try:
        edits = _until_right(file, entries, over)
    except PollerError as error:
        raise PollerError(f"{error}\nnothing was replayed; what you wrote is in {file}") from error
    file.unlink()
    folder.rmdir()
    if not edits:
        raise PollerError("nothing was edited, so nothing was replayed")
    return edits


def _until_right(file: Path, entries: list[Entry], over: Over) -> dict[str, tuple[str, ...]]:
    before = None
    while True:
        _open(file)
        text = file.read_text(encoding="utf-8", errors="replace")
        try:
            return read(text, entries, over)
        except ConfigError as error:
            if text == before:
                raise PollerError(f"{error} (and nothing was changed about it)") from error
            click.echo("\n".join(f"{file.name}: {problem}" for problem in error.problems), err=True)
            click.echo("the editor is opened again; leave it without a change to give up", err=True)
            before = text
            time.sleep(0 if not os.isatty(0) else 1.5)  # an editor takes the whole screen: what is wrong is to be read first


def _open(file: Path) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        code = subprocess.run([*shlex.split(editor), str(file)], check=False).returncode
    except (OSError, ValueError) as error:
        raise PollerError(f"the editor {editor!r} cannot be started ({error}): set EDITOR") from error
    if code:
        raise PollerError(f"the editor {editor!r} ended with {code}")
