"""Closing a circuit breaker from the command line: only a running daemon has one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from poller.admin.control import ControlError, ask, is_running
from poller.admin.face import socket_path
from poller.cli.rewinding import by, mapping_of
from poller.cli.text import clean, moment, shortened
from poller.config import Config


async def reset_of(config: Config, name: str) -> list[dict[str, Any]]:
    """An answer of each worker (admin/resetting.py). Raises ConfigError, ControlError: no daemon runs, or one could not be asked."""
    mapping_of(config, name)
    path = socket_path(config)
    if not is_running(path):
        raise ControlError(f"no daemon is running with {config.path}: circuit breakers are closed when one starts")
    async with aclosing(ask(path, "reset", mapping=name, by=by())) as answers:
        return [answer async for answer in answers]


def sentence(name: str, answers: Sequence[dict[str, Any]]) -> str:
    """For a person."""
    if not any(answer["runs"] for answer in answers):
        return f"{name} does not run"
    open_ = [answer["was"] for answer in answers if answer["was"] is not None]
    if not open_:
        return f"the circuit breaker of {name} was not open"
    first = min(open_, key=lambda was: float(was["since"]))
    where = f" in {len(open_)} of {len(answers)} workers" if len(answers) > 1 else ""
    was = f"it was open since {moment(first['since'])}: {shortened(first['error'], 120)}"
    return clean(f"the circuit breaker of {name} is closed{where}; {was}")
