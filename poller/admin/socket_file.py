"""A Unix socket as a file: made for its owner alone, found again, and replaced when its listener is dead.

The file outlives a killed daemon, so its presence says nothing: only a connection tells whether somebody listens. Who makes or removes it
holds a lock on its folder, so that of two daemons that find a dead one's socket at once, one replaces it and the other sees the first.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from poller.errors import PollerError

_LONGEST = 107
"""Bytes that the path of a Unix socket may have on Linux (sun_path, less its final NUL)."""

_LOCK_SECONDS = 2.0

_CREDENTIALS = struct.Struct("3i")


class ControlError(PollerError):
    """Raised when the daemon cannot be asked, when it refuses (the text is its own), or when its socket cannot be made."""


def listen(path: Path, backlog: int = 64) -> socket.socket:
    """A listening socket at `path`, mode 0600, in a folder that is made with mode 0700 if there is none.

    Raises ControlError if somebody listens there already, if `path` is something else than a socket, or if the system refuses.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _folder(path) as folder:
            _lock(folder, path)
            _make_room(path, folder)
            return _bound(path, folder, backlog)
    except OSError as error:
        raise ControlError(f"cannot make the control socket {path}: {error.strerror}") from error


def connect(path: Path) -> socket.socket:
    """Connected, non-blocking. Raises ControlError if nobody listens, or we may not connect."""
    try:
        with _folder(path) as folder:
            return _connected(path, folder)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
        raise ControlError(f"no daemon is running on {path}") from error
    except PermissionError as error:
        raise ControlError(f"may not open {path}: ask as the user that the daemon runs as, or as root") from error
    except BlockingIOError as error:
        raise ControlError(f"the daemon on {path} does not answer: too many wait for it already") from error
    except OSError as error:
        raise ControlError(f"cannot open {path}: {error.strerror}") from error


def listener(path: Path) -> int | None:
    """The pid of who listens at `path` (0: it cannot be told); None if nobody does. Raises ControlError if that cannot be found out."""
    try:
        with _folder(path) as folder:
            return _listener(path, folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ControlError(f"cannot find out whether a daemon is running on {path}: {error.strerror}") from error


def remove(path: Path, made: os.stat_result) -> None:
    """Remove the file if it is still the one that `made` describes. Left where it is when in doubt: the next `listen` replaces it."""
    with contextlib.suppress(OSError), _folder(path) as folder:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(made, os.lstat(path.name, dir_fd=folder)):
            os.unlink(path.name, dir_fd=folder)


def peer(connection: socket.socket) -> tuple[int, int]:
    """(pid, uid) of the other side; the pid is 0 where it cannot be told. Raises OSError."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(credentials)
    return pid, uid


def _lock(folder: int, path: Path) -> None:
    """The folder's, which daemons of other sockets in it take too, each for a moment."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise ControlError(f"another daemon is starting or stopping on {path}; try again") from error
            time.sleep(0.01)
        else:
            return


def _make_room(path: Path, folder: int) -> None:
    pid = _listener(path, folder)
    if pid is not None:
        raise ControlError(f"a daemon is already running on {path}: pid {pid or 'unknown'}")
    with contextlib.suppress(FileNotFoundError):
        # Connecting to an ordinary file is refused as to a dead socket: look before removing what may be somebody's data.
        if not stat.S_ISSOCK(os.lstat(path.name, dir_fd=folder).st_mode):
            raise ControlError(f"{path} is not a socket; the control socket cannot be made there")
        os.unlink(path.name, dir_fd=folder)


def _bound(path: Path, folder: int, backlog: int) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.bind(_address(path, folder))
        os.chmod(path.name, 0o600, dir_fd=folder)  # before listen: until then nobody can connect, whatever the umask
        made.listen(backlog)
    except BaseException:
        made.close()
        raise
    return made


def _connected(path: Path, folder: int) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)  # a full backlog shows as BlockingIOError at once, never as a wait
        connection.connect(_address(path, folder))
    except BaseException:
        connection.close()
        raise
    return connection


def _listener(path: Path, folder: int) -> int | None:
    try:
        with _connected(path, folder) as connection:
            return peer(connection)[0]
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except BlockingIOError:
        return 0


def _address(path: Path, folder: int) -> str:
    """What to bind or connect to: a path that is too long is reached through its folder, which is open."""
    if len(os.fsencode(path)) <= _LONGEST:
        return str(path)
    short = f"/proc/self/fd/{folder}/{path.name}"
    if len(os.fsencode(short)) > _LONGEST or not os.path.isdir("/proc/self/fd"):
        raise ControlError(
            f"{path}: a socket's path may have {_LONGEST} bytes on this system; put the store into a folder with a shorter path"
        )
    return short


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[int]:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield folder
    finally:
        os.close(folder)
