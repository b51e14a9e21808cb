"""A replay from the command line: by the daemon that runs the configuration, or by this process where none does."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import asdict
from random import Random
from typing import Any, cast

from poller import logs
from poller.admin.control import ask, is_running
from poller.admin.face import socket_path
from poller.admin.replaying import Replaying
from poller.cli.journal import SHORT_ID, opened
from poller.cli.text import amount, moment, table
from poller.config import Config, handler_kind
from poller.errors import PollerError
from poller.functions import Function
from poller.logs import function_log
from poller.model import Selection
from poller.registry import Registry
from poller.replay.counting import Count, Preview, preview


async def previewed(config: Config, selection: Selection) -> Preview:
    """What a replay would run."""
    async with opened(config) as store:
        return await preview(store.journal, selection, time.time())


async def replayed(config: Config, selection: Selection, concurrency: int | None, told: Callable[[dict[str, int]], None]) -> dict[str, int]:
    """The last tally of the run (poller.replay.Tally); `told` hears of each. SIGTERM stops it in order, as Ctrl-C does."""
    terminated, task = asyncio.Event(), asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, _terminate, terminated, task)
    running = is_running(socket_path(config))
    tallies = _asked(config, selection, concurrency) if running else _alone(config, selection, concurrency)
    last: dict[str, int] = {}
    try:
        async with aclosing(cast("Any", tallies)):
            async for last in tallies:
                told(last)
    except asyncio.CancelledError:
        if not terminated.is_set():
            raise  # Ctrl-C: asyncio.run makes a KeyboardInterrupt of it
        raise PollerError("stopped; what was not done is kept, and the next replay takes it") from None
    return last


def _terminate(terminated: asyncio.Event, task: asyncio.Task[Any]) -> None:
    terminated.set()
    task.cancel()


def _asked(config: Config, selection: Selection, concurrency: int | None) -> AsyncIterator[dict[str, int]]:
    wanted = asdict(selection)
    arguments = {key: wanted[key] for key in ("ids", "mapping", "after", "before", "copies")}
    # Beside live work, unless asked for more.
    return ask(socket_path(config), "replay", **arguments, concurrency=concurrency or 1)


async def _alone(config: Config, selection: Selection, concurrency: int | None) -> AsyncIterator[dict[str, int]]:
    logs.setup(config.log, "warning")
    registry, functions = Registry(), dict[str, Function]()

    def function(name: str) -> Function:
        if name not in functions:
            settings = config.functions[name]
            functions[name] = Function(settings, registry.handler(handler_kind(settings))(settings, function_log))
        return functions[name]

    async with opened(config) as store:
        mappings, grace = config.mappings.values(), config.shutdown_grace
        replaying = Replaying(store.journal, mappings, registry, function, time.time, Random(), grace)
        try:
            async with aclosing(replaying.run(selection, concurrency or os.cpu_count() or 1)) as tallies:
                async for tally in tallies:
                    yield tally
        finally:
            await asyncio.gather(*(each.aclose() for each in functions.values()))


def preview_page(shown: Preview) -> str:
    """What would run, for a person."""
    lines = [f"would run {_count(shown.total)}"]
    if shown.first is not None and shown.last is not None:
        lines[0] += f", failed from {moment(shown.first)} to {moment(shown.last)}"
    for title, counts in (("MAPPING", shown.mappings), ("REASON", shown.reasons), ("ERROR", shown.errors)):
        if counts:
            rows = ((name or "never invoked", count.rows, count.records) for name, count in counts.items())
            lines += ["", table((title, "FAILURES", "RECORDS"), rows)]
    if shown.ids:
        more = ", ..." if shown.total.rows > len(shown.ids) else ""
        lines += ["", f"the first: {', '.join(each[:SHORT_ID] for each in shown.ids)}{more}", shown.order]
    if shown.copies.rows and not shown.with_copies:
        lines.append(f"left out: {_count(shown.copies)} that are copies of messages in a dead-letter queue (--copies runs them too)")
    if shown.claimed.rows:
        lines.append(f"left out: {_count(shown.claimed)} that another replay holds")
    return "\n".join(lines)


def _count(count: Count) -> str:
    return f"{amount(count.rows, 'failure')} with {amount(count.records, 'record')}"


def tally_page(tally: dict[str, int]) -> str:
    """How a run ended, for a person."""
    if not tally["total_rows"]:
        return "nothing to replay"
    words = (
        ("failed_again", "failed again"),
        ("split", "failed again in part, which is kept as a new failure"),
        ("skipped", "skipped: another replay had it, or it was not kept any more"),
        ("given_back", "not finished, and kept"),
    )
    parts = [f"{tally[key]:,} {text}" for key, text in words if tally[key]]
    return "; ".join([f"{amount(tally['replayed'], 'failure')} replayed", *parts])
