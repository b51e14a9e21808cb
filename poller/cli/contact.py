"""Asking the daemon that runs a configuration."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

from poller.admin.control import ControlError, ask, is_running
from poller.config import Config
from poller.daemon import socket_path


def status_of(config: Config) -> dict[str, Any]:
    """A `poller.status.DaemonStatus` as plain values. Raises ControlError; where no daemon runs, it says how to start one."""
    path = socket_path(config)
    if not is_running(path):
        raise ControlError(f"no daemon is running with {config.path}; start one with `poller run -c {config.path}`")
    return asyncio.run(_first(ask(path, "status")))


def reload_of(config: Config) -> list[str]:
    """What changed, a line each. Raises ControlError: no daemon runs, or the file is refused, and nothing has changed."""
    path = socket_path(config)
    if not is_running(path):
        raise ControlError(f"no daemon is running with {config.path}; there is nothing to reload")
    return asyncio.run(_changes(ask(path, "reload")))


async def _changes(answers: AsyncIterator[dict[str, Any]]) -> list[str]:
    async with aclosing(cast("Any", answers)):
        return [answer["change"] async for answer in answers]


async def _first(answers: AsyncIterator[dict[str, Any]]) -> dict[str, Any]:
    async with aclosing(cast("Any", answers)):
        async for answer in answers:
            return answer
    raise ControlError("the daemon gave no answer; see its log")
