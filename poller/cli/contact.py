"""Asking the daemon that runs a configuration."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from operator import itemgetter
from pathlib import Path
from typing import Any

from poller.admin.control import ControlError, ask, is_running
from poller.admin.face import socket_path
from poller.config import Config


def status_of(config: Config) -> dict[str, Any]:
    """A `poller.status.DaemonStatus` as plain values. Raises ControlError; where no daemon runs, it says how to start one."""
    path = socket_path(config)
    if not is_running(path):
        raise ControlError(f"no daemon is running with {config.path}; start one with `poller run -c {config.path}`")
    return asyncio.run(_status(path))


async def _status(path: Path) -> dict[str, Any]:
    """With the lanes that only the store tells of: those that other workers have, that nobody has, and that have ended."""
    status = await first(ask(path, "status"))
    try:
        async with aclosing(ask(path, "lanes")) as answers:
            kept = {answer["mapping"]: answer["lanes"] async for answer in answers}
    except ControlError:  # the store does not answer now, and the status says so
        return status
    for mapping in status["mappings"]:
        here = {lane["name"] for lane in mapping["lanes"] if lane["state"] not in ("elsewhere", "free")}
        others = [lane for lane in kept.get(mapping["name"], ()) if lane["name"] not in here]
        mapping["lanes"] = sorted([lane for lane in mapping["lanes"] if lane["name"] in here] + others, key=itemgetter("name"))
    return status


def reload_of(config: Config) -> list[str]:
    """What changed, a line each. Raises ControlError: no daemon runs, or the file is refused, and nothing has changed."""
    path = socket_path(config)
    if not is_running(path):
        raise ControlError(f"no daemon is running with {config.path}; there is nothing to reload")
    return asyncio.run(_changes(ask(path, "reload")))


async def _changes(answers: AsyncGenerator[dict[str, Any]]) -> list[str]:
    async with aclosing(answers):
        return [answer["change"] async for answer in answers]


async def first(answers: AsyncGenerator[dict[str, Any]]) -> dict[str, Any]:
    """The only answer of a command. Raises ControlError."""
    async with aclosing(answers):
        async for answer in answers:
            return answer
    raise ControlError("the daemon gave no answer; see its log")
