"""One process with a group of its own: started, watched and reaped. Its end comes from the process itself, never from a pipe, which a
grandchild may hold open."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence


class Process:
    """started -> ended. `on_end(status)` is called once, in the loop, after the whole group was killed and the process reaped.

    Starting is synchronous (a millisecond or two): the kernel ties "kill me when my parent dies" to the thread that forked, so no
    short-lived helper thread may do it. Raises OSError.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: str,
        variables: Mapping[str, str],
        output: int,
        pipes: Sequence[int],
        on_end: Callable[[int], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_end = on_end
        self._popen = subprocess.Popen(
            command,
            cwd=cwd,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=pipes,
            start_new_session=True,
        )
        self.pid = self._popen.pid
        self.ended: asyncio.Future[int] = self._loop.create_future()
        self._pidfd = -1
        try:
            self._watch()
        except (OSError, RuntimeError) as error:  # not even a thread is left: one that nobody would reap must not run
            self.kill()
            self._popen.wait()
            raise OSError(errno.EAGAIN, f"cannot watch a process: {error}") from error

    def __repr__(self) -> str:
        return f"<Process {self.pid} {f'ended {self.ended.result()}' if self.ended.done() else 'running'}>"

    def kill(self) -> None:
        """SIGKILL to the whole group; its end follows."""
        if self.ended.done():
            return
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def _watch(self) -> None:
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # an older kernel, another system, or no descriptor left
            threading.Thread(target=self._wait, name=f"wait for {self.pid}", daemon=True).start()
        else:
            self._loop.add_reader(self._pidfd, self._end)

    def _wait(self) -> None:
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        try:
            self._loop.call_soon_threadsafe(self._end)
        except RuntimeError:  # the loop was closed before it could be told
            return

    def _end(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        # The group first: until the process is reaped its number cannot belong to anyone else.
        self.kill()
        status = self._popen.wait()
        self.ended.set_result(status)
        self._on_end(status)
