"""What starting costs, and what waiting holds: CPU of `poller --help` and `poller check`, resident memory of a daemon with idle mappings.

The daemon's memory is compared with that of a process that imports the same libraries, opens as many databases, and holds one connected
SQS client.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path

from benchmarks.canned import canned
from benchmarks.comparison import ROOT, Comparison, Limit, Reading, Side
from benchmarks.daemon import PROGRAM, daemon, free_port
from benchmarks.sqs import REGION
from benchmarks.usage import resident

IDLE_SECONDS = 3.0
"""So long after it is ready, or connected, a process is measured."""

CONFIG = """
[poller]
listen = "127.0.0.1:{port}"

[functions.orders]
handler = "function.py:queue"
code = "{code}"

[mappings.first]
function = "orders"
source = {{ type = "local-queue", name = "first" }}

[mappings.second]
function = "orders"
source = {{ type = "local-queue", name = "second" }}

[mappings.third]
function = "orders"
source = {{ type = "local-stream", name = "third" }}

[mappings.fourth]
function = "orders"
source = {{ type = "sqs", queue = "canned", region = "{region}", endpoint = "{endpoint}", wait_time = "1s" }}
"""


def _configuration(folder: str, endpoint: str) -> tuple[Path, int]:
    port, file = free_port(), Path(folder) / "poller.toml"
    file.write_text(CONFIG.format(port=port, code=Path(__file__).parent, region=REGION, endpoint=endpoint))
    return file, port


def _cpu(command: list[str]) -> Reading:
    # What pip installs has its bytecode: a tree that may not write it would compile every changed module again at each start.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if ran.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {ran.returncode}:\n{ran.stderr}")
    return Reading((after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1e3)


def usage() -> Reading:
    """Milliseconds of CPU."""
    return _cpu([*PROGRAM, "--help"])


def check(folder: str) -> Reading:
    """Milliseconds of CPU, four mappings."""
    file, _ = _configuration(folder, "http://127.0.0.1:1")
    return _cpu([*PROGRAM, "check", str(file)])


def python() -> Reading:
    """Milliseconds of CPU of an interpreter that does nothing."""
    return _cpu([sys.executable, "-c", "pass"])


async def idle(folder: str) -> Reading:
    """MB resident: `poller run` with four mappings that have nothing to do."""
    async with canned("sqs_server", messages=0) as url, daemon(*_configuration(folder, url)) as running:
        await asyncio.sleep(IDLE_SECONDS)
        return Reading(resident(running.pid) / 1e6)


async def clients(folder: str) -> Reading:
    """MB resident: the libraries, two databases with two connections each, one SQS client that has received."""
    import click  # noqa: F401 (what the daemon loads is what is measured)
    import msgspec  # noqa: F401
    import orjson  # noqa: F401
    import tenacity  # noqa: F401
    from aiobotocore.session import AioSession

    connections = [sqlite3.connect(Path(folder) / name) for name in ("poller.db", "poller.db", "local.db", "local.db")]
    for connection in connections:
        connection.execute("PRAGMA journal_mode = WAL")
    async with canned("sqs_server", messages=0) as url, AioSession().create_client("sqs", region_name=REGION, endpoint_url=url) as client:
        queue = (await client.get_queue_url(QueueName="canned"))["QueueUrl"]
        await client.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)
        await asyncio.sleep(IDLE_SECONDS)
        held = resident(os.getpid()) / 1e6
    for connection in connections:
        connection.close()
    return Reading(held)


SIDES = {"usage": usage, "check": check, "python": python, "idle": idle, "clients": clients}


def comparisons(quick: bool) -> list[Comparison]:  # noqa: ARG001 (nothing here has a size)
    python = Side("start", "python")
    return [
        Comparison("poller --help", "ms", Side("start", "usage"), python, Limit("figure", at_most=200), "python -c pass"),
        Comparison("poller check", "ms", Side("start", "check", in_folder=True), python, Limit("figure", at_most=200), "python -c pass"),
        Comparison(
            "a daemon with 4 idle mappings",
            "MB",
            Side("start", "idle", in_folder=True),
            Side("start", "clients", in_folder=True),
            Limit("excess", at_most=10),
            "its clients alone",
        ),
    ]
