"""A worker as a process: `python -m poller.workers.worker END SUPERVISOR`, started by keeper.py.

It runs the same daemon as ever, with its share of the limits, and a line to the supervisor in place of socket and pages. END is the number
of the line's descriptor, SUPERVISOR the process id of who started it; what to do comes through stdin, as an `Assignment`. It dies with
its supervisor, and its functions with it.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

from poller import logs
from poller.admin.commands import Command
from poller.admin.line import WorkerEnd
from poller.admin.tasks import tasks
from poller.config import Config
from poller.daemon import Daemon
from poller.errors import PollerError
from poller.notify import Notifier
from poller.registry import Registry
from poller.service import Service, loop_factory
from poller.workers.assignment import Assignment, unpacked

_PR_SET_PDEATHSIG = 1


def main(end: int, supervisor: int) -> int:
    """The exit code, as `poller.service.serve`; 1 when it could not start: the supervisor is told why."""
    _die_with(supervisor)
    line = socket.socket(fileno=end)
    os.set_inheritable(end, False)  # functions are processes too
    given = unpacked(sys.stdin.buffer.read())
    logs.setup(given.config.log, given.config.log_level, worker=given.number)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(_service(given, line).run())
    except PollerError as error:
        line.send(str(error).encode()[:4096])
        return 1
    finally:
        line.close()


def _service(given: Assignment, line: socket.socket) -> Service:
    def face(config: Config, commands: Mapping[str, Command], *_: object) -> WorkerEnd:  # noqa: ARG001
        return WorkerEnd(line, commands, _end)

    daemon = Daemon(given.config, Registry(), os.environ, open_face=face, owner=given.owner, worker=given.number)
    service = Service(daemon, Notifier(None), supervised=True)

    async def started() -> AsyncIterator[dict[str, Any]]:
        await service.started.wait()
        yield {}

    async def adopt(assignment: str) -> AsyncIterator[dict[str, Any]]:
        for change in await daemon.adopt(unpacked(assignment).config):
            yield {"change": change}

    daemon.commands |= {**tasks(daemon), "started": started, "adopt": adopt}
    return service


def _end() -> None:
    """The supervisor has gone, and the system did not say so: end as if it had."""
    os.kill(os.getpid(), signal.SIGKILL)


def _die_with(supervisor: int) -> None:
    with suppress(AttributeError, OSError):  # no prctl in this system: the end of the line tells, as soon as the loop turns
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), *(ctypes.c_ulong(0),) * 3)
    if os.getppid() != supervisor:
        os._exit(1)  # it died before we asked to be told


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
