"""Processes that write to one file are killed at any moment: every line is whole, and what was said to be there is there."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = """
import json, sys
from pathlib import Path
from connectors.file.lines import append
path, name = Path(sys.argv[1]), sys.argv[2]
for number in range(1000000):
    # Large, so that a kill meets a write as a rule.
    append(path, json.dumps([name, number, "x" * (number * 7919 % 400_000)]).encode() + b"\\n", 1_000_000, 1000, patience=60)
    print(number, flush=True)
"""
KILLS = 8


class Writer:
    """A process that adds lines, and says so after each."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self.acknowledged = 0
        self._process = subprocess.Popen([sys.executable, "-c", PROGRAM, path, name], stdout=subprocess.PIPE, text=True)

    def add(self, lines: int) -> None:
        """Wait until so many more are there."""
        assert self._process.stdout is not None
        for _ in range(lines):
            assert self._process.stdout.readline()
            self.acknowledged += 1

    def kill(self) -> None:
        self._process.kill()
        told, _ = self._process.communicate()
        self.acknowledged += told.count("\n")


def test_every_line_is_whole_whoever_is_killed(tmp_path: Path) -> None:
    path, dice = tmp_path / "failures.jsonl", random.Random(7)
    running, ended = [Writer(path, f"w{number}") for number in range(3)], list[Writer]()
    for number in range(KILLS):
        writer = running.pop(dice.randrange(len(running)))
        writer.add(dice.randrange(1, 5))
        time.sleep(dice.uniform(0, 0.01))  # so that it dies anywhere
        writer.kill()
        ended.append(writer)
        running.append(Writer(path, f"w{number + 3}"))
    for writer in running:
        writer.kill()

    rotated = sorted(tmp_path.glob("failures.jsonl.*"), key=lambda each: -int(each.suffix[1:]))
    parts = [each.read_bytes() for each in rotated]
    assert all(part.endswith(b"\n") for part in parts)
    last = path.read_bytes() if path.exists() else b""
    lines = b"".join([*parts, last[: last.rfind(b"\n") + 1]]).splitlines()
    found: dict[str, list[int]] = {}
    for line in lines:
        name, number, _ = json.loads(line)
        found.setdefault(name, []).append(number)
    assert len(rotated) >= 2
    for writer in (*ended, *running):
        count = writer.acknowledged
        # It may have added a line that it could not tell of any more.
        assert found.get(writer.name, []) in ([*range(count)], [*range(count + 1)])
