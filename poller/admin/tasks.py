"""The control commands that a daemon carries out for a person, besides `status` and `reload`.

Each is made for a daemon; of several workers, one that runs what it is about does it for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from poller.admin import overview, replaying, resetting, rewinding
from poller.admin.commands import Command

if TYPE_CHECKING:
    from poller.daemon import Daemon

TASKS: Mapping[str, Callable[[Daemon], Command]] = {
    "lanes": overview.lanes,
    "replay": replaying.command,
    "pause": rewinding.pause,
    "resume": rewinding.resume,
    "rewind": rewinding.rewind,
}


EVERYWHERE: Mapping[str, Callable[[Daemon], Command]] = {"reset": resetting.reset}
"""What every worker does, for each has its own."""


def tasks(daemon: Daemon) -> dict[str, Command]:
    """All of them, for this daemon."""
    return {name: made(daemon) for name, made in {**TASKS, **EVERYWHERE}.items()}
