"""A replay from the command line: by the daemon that runs the configuration, or by this process where none does."""

from __future__ import annotations

import asyncio
import getpass
import os
import re
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from random import Random
from typing import Any, cast
from uuid import uuid4

import click

from poller import logs
from poller.admin.control import ask, is_running
from poller.admin.face import socket_path
from poller.admin.replaying import Replaying
from poller.cli.journal import SHORT_ID, opened, overview
from poller.cli.options import Chosen, filterable
from poller.cli.text import amount, moment, table
from poller.config import Config, handler_kind
from poller.config.destinations import destination
from poller.errors import PollerError, StoreError
from poller.failures.delivery import Invoker, Opening
from poller.failures.journal import Row, Selection
from poller.failures.payload import edit_of
from poller.failures.runs import SOURCE, Plan, Run, planned
from poller.functions import Function
from poller.logs import function_log
from poller.protocols import Store
from poller.registry import Registry
from poller.replay.counting import Count, Preview, order, preview
from poller.replay.hold import run_named, trail

Told = Callable[[dict[str, int]], None]

NAMED = 10
"""So many failures that failed again are named to a person."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a replay ended: its last tally, the run, and which rows hold what failed again, by the row it was in."""

    tally: Mapping[str, int]
    run: Run
    failures: Mapping[str, Sequence[str]]

    @property
    def clean(self) -> bool:
        """Whether all that was to be run has been, and none failed."""
        return self.run.state == "done" and not any(self.tally[key] for key in ("failed_again", "split", "unfit", "given_back"))

    def document(self) -> dict[str, Any]:
        return {**self.tally, "run": self.run.name, "state": self.run.state, "failures": dict(self.failures)}


def planned_of(config: Config, chosen: Chosen, copies: bool, concurrency: int | None, wanted: Mapping[str, Any]) -> Plan:
    """The plan that the options ask for. Raises ConfigError for what is no pattern, change or address, UsageError for contradictions."""
    if wanted["to"] and (wanted["function"] or wanted["only_failing"]):
        raise click.UsageError("--to runs no function: leave out --to-function and --only-failing")
    plan = Plan(
        replace(chosen.selection(config), copies=copies),
        pattern=chosen.pattern or "",
        function=wanted["function"] or "",
        to=wanted["to"] or "",
        only_failing=wanted["only_failing"],
        changes=tuple(wanted["changes"]),
        rate=wanted["rate"] or 0.0,
        concurrency=concurrency or 0,
    )
    chosen.matches(config)
    edit_of(plan, lambda _: None)
    if plan.function and plan.function not in config.functions:
        raise click.UsageError(f"--to-function: there is no function {plan.function!r}; there are {', '.join(config.functions)}")
    known = {each.name for mapping in config.mappings.values() for each in mapping.destinations}
    if plan.to not in {"", SOURCE, *known}:
        destination(plan.to, Registry())  # an address, then: looked at before anything is begun, and also where there is nothing to send
    return plan


async def there(store: Store, ids: Sequence[str]) -> None:
    """Raises StoreError for what begins no failure's id, before a run is made of it, and ConfigError for what may be several."""
    missing = [each for each in ids if not await store.journal.count(Selection(ids=(each,), states=()))]
    if not missing:
        return
    for run in await store.runs.select(missing):
        raise StoreError(
            f"{run.name} is a replay, and no failure: `poller replay resume {run.name}` goes on with it, "
            f"`poller replay show {run.name}` tells what it has done"
        )
    raise StoreError(f"no such failure in the journal: {', '.join(missing)}; `poller failures list` names them")


async def previewed(config: Config, plan: Plan) -> tuple[Preview, Sequence[Row]]:
    """What a replay would run, and the first rows of it. Raises ConfigError for a row of those that cannot be edited as is asked for."""
    over = {each.settings.id: filterable(each) for each in config.mappings.values()}
    at_once = plan.concurrency or (1 if is_running(socket_path(config)) else os.cpu_count() or 1)
    async with opened(config) as store:
        await there(store, plan.selection.ids)
        matches = Chosen(pattern=plan.pattern or None).matches(config)
        shown = await preview(store.journal, plan.selection, time.time(), matches, order(at_once, plan.to))
        sample = await store.journal.select(Selection(ids=shown.ids, states=())) if shown.ids else ()
    edit = edit_of(plan, over.get)
    for row in sample:
        edit(row.entry)
    return shown, sample


async def replayed(config: Config, name: str | None, ids: Sequence[str], plan: Plan, told: Told) -> Ended:
    """A replay from its beginning; `told` hears of each tally. SIGTERM stops it in order, as Ctrl-C does.

    `ids`: those of the plan that a person has written; they are looked for before anything is begun."""
    if name is not None and not _NAME.fullmatch(name):
        raise click.UsageError(f"--name {name!r}: allowed are up to 64 letters, digits, dots, hyphens and underscores")
    run = planned(name or f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:6]}", who(), plan, time.time())
    async with opened(config) as store:
        await there(store, ids)
        if not await store.runs.put(run):
            raise StoreError(f"there is a replay {run.name!r} already; `poller replay resume {run.name}` goes on with it")
        return await _ended(config, store, run.name, False, None, told)


async def resumed(config: Config, name: str, again: bool, concurrency: int | None, told: Told) -> Ended:
    """The same for one that is there."""
    async with opened(config) as store:
        return await _ended(config, store, name, again, concurrency, told)


async def _ended(config: Config, store: Store, name: str, again: bool, concurrency: int | None, told: Told) -> Ended:
    terminated, task = asyncio.Event(), asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, _terminate, terminated, task)
    seen = await run_named(store.runs, name)
    running = is_running(socket_path(config))
    tallies = _asked(config, name, again, concurrency) if running else _alone(config, store, seen, again, concurrency)
    last: dict[str, int] = {}
    try:
        async with aclosing(cast("Any", tallies)):
            async for last in tallies:
                told(last)
    except asyncio.CancelledError:
        if not terminated.is_set():
            click.echo(f"what was not done is kept: `poller replay resume {name}` goes on", err=True)
            raise  # Ctrl-C: asyncio.run makes a KeyboardInterrupt of it
        raise PollerError(f"stopped; what was not done is kept, and `poller replay resume {name}` goes on") from None
    run = await run_named(store.runs, name)
    # Nothing failed, nothing to read: a trail may have a million lines.
    if not run.counts.keys() & {"failed_again", "split"}:
        return Ended(last, run, {})
    return Ended(last, run, {step.row: step.failures async for step in trail(store.runs, name, run.since) if step.failures})


def _terminate(terminated: asyncio.Event, task: asyncio.Task[Any]) -> None:
    terminated.set()
    task.cancel()


def who() -> str:
    """Who asks, for the trail."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _asked(config: Config, name: str, again: bool, concurrency: int | None) -> AsyncIterator[dict[str, int]]:
    # Beside live work, unless asked for more.
    return ask(socket_path(config), "replay", run=name, who=who(), again=again, concurrency=concurrency)


async def _alone(config: Config, store: Store, run: Run, again: bool, concurrency: int | None) -> AsyncIterator[dict[str, int]]:
    logs.setup(config.log, "warning")
    registry, functions, random = Registry(), dict[str, Function](), Random()

    def function(name: str) -> Function:
        if name not in functions:
            settings = config.functions[name]
            functions[name] = Function(settings, registry.handler(handler_kind(settings))(settings, function_log))
        return functions[name]

    invoke = Invoker(functions, time.time, lambda: random.getrandbits(128))
    opening = Opening(registry, config.base, config.state, time.time, invoke)
    mappings, grace = config.mappings.values(), config.shutdown_grace
    replaying = Replaying(store, mappings, registry, function, opening, time.time, random, grace, who())
    try:
        at_once = concurrency or run.plan.concurrency or os.cpu_count() or 1
        async with aclosing(replaying.run(run.name, again, at_once)) as tallies:
            async for tally in tallies:
                yield tally
    finally:
        await asyncio.gather(*(each.aclose() for each in functions.values()))


# --- for a person -----------------------------------------------------------------------------------------------------------------------


def preview_page(shown: Preview, sample: Sequence[Row]) -> str:
    """What would run."""
    lines = [f"would run {_count(shown.total)}"]
    if shown.first is not None and shown.last is not None:
        lines[0] += f", failed from {moment(shown.first)} to {moment(shown.last)}"
    for title, counts in (("MAPPING", shown.mappings), ("REASON", shown.reasons), ("ERROR", shown.errors)):
        if counts:
            rows = ((name or "never invoked", count.rows, count.records) for name, count in counts.items())
            lines += ["", table((title, "FAILURES", "RECORDS"), rows)]
    if shown.ids:
        lines += ["", "the first:", overview([*sample]), "", shown.order]
    if shown.parked.rows:
        lines.append(f"after these, in their order: {_count(shown.parked)} that are parked behind them")
    if shown.copies.rows and not shown.with_copies:
        lines.append(f"left out: {_count(shown.copies)} that are copies of messages in a dead-letter queue (--copies runs them too)")
    if shown.claimed.rows:
        lines.append(f"left out: {_count(shown.claimed)} that another replay holds")
    return "\n".join(lines)


def _count(count: Count) -> str:
    return f"{amount(count.rows, 'failure')} with {amount(count.records, 'record')}"


def ended_page(ended: Ended) -> str:
    """How a replay ended."""
    lines = [tally_page(ended.tally)]
    if ended.failures and not ended.clean:
        named = [*ended.failures.items()][:NAMED]
        rows = ((old[:SHORT_ID], " ".join(each[:SHORT_ID] for each in new)) for old, new in named)
        lines += ["", table(("FAILURE", "FAILED AGAIN AS"), rows)]
        if len(ended.failures) > NAMED:
            lines.append(f"... and {len(ended.failures) - NAMED:,} more; `poller replay show {ended.run.name} --trail` names them")
    if ended.run.state in ("paused", "aborted"):
        more = f"; `poller replay resume {ended.run.name}` goes on" if ended.run.state == "paused" else ""
        lines.append(f"replay {ended.run.name} is {ended.run.state}{more}")
    return "\n".join(lines)


def tally_page(tally: Mapping[str, int]) -> str:
    """The counts of a replay."""
    if not tally["total_rows"]:
        return "nothing to replay"
    words = (
        ("failed_again", "failed again"),
        ("split", "failed again in part, which is kept as a new failure"),
        ("skipped", "skipped: another replay had it, or it was not kept any more"),
        ("unfit", "left as it is: it cannot be read, changed or put back as asked (the log says why)"),
        ("given_back", "not finished, and kept"),
    )
    parts = [f"{tally[key]:,} {text}" for key, text in words if tally[key]]
    done = f"{amount(tally['sent'], 'failure')} sent" if tally["sent"] else f"{amount(tally['replayed'], 'failure')} replayed"
    return "; ".join([done, *parts])
