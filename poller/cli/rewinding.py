"""Pauses and rewinds from the command line: by the daemon that runs the configuration, or by this process where none does."""

from __future__ import annotations

import getpass
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import click
import msgspec

from poller import logs, units
from poller.admin.control import ask, is_running
from poller.admin.face import socket_path
from poller.admin.rewinding import Preview, Rewinding, Wish, rewinder
from poller.cli.contact import first
from poller.cli.text import amount, clean, moment, table
from poller.config import Config, MappingConfig
from poller.daemon import open_configured_store
from poller.errors import ConfigError, StoreError
from poller.pause import Pause, Pauses
from poller.protocols import Store
from poller.registry import Registry
from poller.settings import Context


def mapping_of(config: Config, name: str) -> MappingConfig:
    """By its name. Raises ConfigError."""
    if name not in config.mappings:
        raise ConfigError(f"{config.path.name} has no mapping {name!r}, only {', '.join(config.mappings) or 'none'}")
    return config.mappings[name]


def by() -> str:
    """Who asks, for those who find the mapping paused."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        user = f"user {os.getuid()}"
    return f"{user} on {socket.gethostname()}"


async def paused(config: Config, name: str) -> Pause:
    """The pause that holds from now on: an earlier one, if there was one."""
    mapping, who = mapping_of(config, name), by()
    if is_running(socket_path(config)):
        return msgspec.convert(await first(ask(socket_path(config), "pause", mapping=name, by=who)), Pause)
    async with _store(config) as store:
        return await Pauses(store, _owner(), time.time).put(mapping.settings.id, Pause(time.time(), who))


async def resumed(config: Config, name: str, forget: bool = False) -> Pause | None:
    """The pause that was there. `forget`: and what the mapping's idempotency window remembers, before it goes on."""
    mapping = mapping_of(config, name)
    if is_running(socket_path(config)):
        answer = await first(ask(socket_path(config), "resume", mapping=name, **({"forget": True} if forget else {})))
        return msgspec.convert(answer, Pause) if answer else None
    async with _store(config) as store:
        if forget:
            await store.acknowledged.forget(mapping.settings.id, time.time())
        return await Pauses(store, _owner(), time.time).end(mapping.settings.id)


async def rewound(config: Config, name: str, wish: Wish, preview: bool) -> Preview:
    """Do it, or say what it would do."""
    mapping = mapping_of(config, name)
    if is_running(socket_path(config)):
        answers = ask(socket_path(config), "rewind", mapping=name, wish=msgspec.to_builtins(wish), preview=preview)
        return msgspec.convert(await first(answers), Preview)
    logs.setup(config.log, "error")
    async with _store(config) as store:
        context = Context(mapping.settings, store, rewinder(_owner()), time.time, config.base, config.state)
        rewinding = Rewinding(mapping, Registry(), context, config.shutdown_grace)
        return await (rewinding.preview if preview else rewinding.run)(wish)


@asynccontextmanager
async def _store(config: Config) -> AsyncIterator[Store]:
    if (config.leases_url or config.store_url) == "memory:":
        raise StoreError("leases and progress are in memory: without a running daemon there is nothing to pause or rewind")
    store = await open_configured_store(config)
    try:
        yield store
    finally:
        await store.aclose()


def _owner() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


def wished(to: str, lane: str | None) -> Wish:
    """What `--to` and `--lane` say. Raises click.UsageError."""
    if to.upper() in ("TRIM_HORIZON", "LATEST"):
        return Wish(lane, origin=to.upper())
    try:
        return Wish(lane, moment=time.time() - units.duration(to))
    except ValueError:
        pass
    if not re.match(r"\d{4}-\d\d", to):  # what is all digits is a position, though ISO 8601 might take it for a date
        return Wish(lane, position=to)
    try:
        return Wish(lane, moment=datetime.fromisoformat(to).timestamp())
    except (ValueError, OverflowError):
        raise click.UsageError(f"--to {to!r} is no time; write 2026-01-31T08:00, or how long ago, such as 2h") from None


# --- for a person ---------------------------------------------------------------------------------------------------------------------


def page(shown: Preview, done: bool) -> str:
    """What would become of each lane, or what did."""
    rows = ((each.lane, each.start, each.to, _known(each.again), _known(each.skipped), each.attempts or None) for each in shown.lanes)
    lines = [f"{shown.mapping} ({shown.source})", table(("LANE", "STANDS AT", "GOES TO", "READ AGAIN", "SKIPPED", "UNDER RETRY"), rows), ""]
    sums = [
        _sum([each.again for each in shown.lanes], "read again"),
        _sum([each.skipped for each in shown.lanes], "skipped"),
    ]
    what = "; ".join(each for each in sums if each) or "nothing is read again or skipped"
    lines.append(f"{'rewound' if done else 'would rewind'} {amount(len(shown.lanes), 'lane')}: {what}")
    if attempts := sum(each.attempts for each in shown.lanes):
        lines.append(f"the attempts of {amount(attempts, 'batch', 'batches')} under retry {'are' if done else 'would be'} forgotten")
    if shown.forgets:
        lines.append(f"what its idempotency window remembers {'is' if done else 'would be'} forgotten, of every lane")
    if shown.held:
        lines.append(f"every worker leaves its lanes for it, running functions may finish first; now held by {_holders(shown.held)}")
    if shown.paused:
        lines.append(f"paused by {shown.paused}, and stays so: `poller resume {shown.mapping}`")
    return clean("\n".join(lines))


def _known(count: int | None) -> object:
    return "unknown" if count is None else count


def _sum(counts: Sequence[int | None], what: str) -> str:
    known, unknown = sum(count for count in counts if count), sum(count is None for count in counts)
    more = f" and those of {amount(unknown, 'lane')} that cannot be counted" if unknown else ""
    return f"{amount(known, 'record')}{more} {what}" if known or unknown else ""


def _holders(held: dict[str, str]) -> str:
    owners = sorted({*held.values()})
    return ", ".join(f"{owner} ({sum(each == owner for each in held.values())})" for owner in owners)


def pause_document(mapping: str, pause: Pause | None) -> dict[str, Any]:
    """For a program."""
    return {"mapping": mapping, "paused": None if pause is None else {"since": pause.since, "by": pause.by}}


def since(pause: Pause) -> str:
    return clean(f"since {moment(pause.since)}, by {pause.by}")
