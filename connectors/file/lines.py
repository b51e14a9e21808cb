"""Lines that are added to a file by many processes at once, durably, and never by halves. Blocks: call it in a thread.

Who adds a line holds a lock on the file (flock: of an open file, so threads exclude each other too, and a process that dies lets go).
What a writer that died in the middle left of a line is cut off by the next one: that delivery was not settled, and is sent again.

Who gets the lock looks whether the name is still that file's, cuts a torn last line, rotates if it is full (and opens again), writes and
fsyncs; on an error it cuts back to where it began.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from poller.errors import NotConnected

LOCK_SECONDS = 5.0
"""A writer that holds the lock for so long hangs, or was suspended."""

_LOOK_SECONDS = 0.005
_BLOCK = 64 * 1024
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FOR_A_PERSON = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG}
_NO_FILE = errno.EINVAL


def append(path: Path, line: bytes, maximum_bytes: int, keep: int, patience: float = LOCK_SECONDS) -> None:
    """`line` ends with a newline, and holds no other. It is on the disk when this returns. Raises OSError: it may not be."""
    while True:
        with _locked(path, patience) as file:
            before = _whole(file)
            if not before or before + len(line) <= maximum_bytes:
                _write(file, line, before)
                if not before:
                    _fsync_folder(path)  # else a new file may be gone after a power failure, with what is in it
                return
            _rotate(path, keep)


def refused(path: Path, error: OSError) -> NotConnected:
    """What it means for a person."""
    if error.errno in _FULL:
        return NotConnected(f"file {path}: there is no room for it ({error.strerror}); make some, or lower `keep`")
    if error.errno == _NO_FILE:
        return NotConnected(f"file {path}: {error.strerror}; name another", permanent=True)
    if error.errno == errno.ENOENT:
        return NotConnected(f"file {path}: its folder does not exist; make it", permanent=True)
    return NotConnected(f"file {path}: {error.strerror}", permanent=error.errno in _FOR_A_PERSON)


def foreign(path: Path) -> str | None:
    """Why a file that is there is somebody else's: its first line is none of ours. A torn end would be cut off, so nothing is added."""
    try:
        with path.open("rb") as file:
            start = file.read(1)
    except OSError:  # not there, or what the first append will say
        return None
    return None if start in {b"", b"{"} else f"file {path}: it is there, and holds no lines of JSON; name another"


def wrong_with(path: Path) -> str | None:
    """Why nothing could be added, as far as looking tells; makes nothing."""
    try:
        status = path.stat()
    except FileNotFoundError:
        if not path.parent.is_dir():
            return str(refused(path, FileNotFoundError(errno.ENOENT, "")))
        return None if os.access(path.parent, os.W_OK | os.X_OK) else f"file {path}: its folder is not ours to write to; change its owner"
    except OSError as error:
        return str(refused(path, error))
    if not stat.S_ISREG(status.st_mode):
        return str(refused(path, _no_file()))
    return foreign(path) if os.access(path, os.R_OK | os.W_OK) else f"file {path}: it is not ours to write to; change its owner"


@contextmanager
def _locked(path: Path, patience: float) -> Iterator[int]:
    """The file that has this name now, locked. Raises OSError."""
    until = time.monotonic() + patience
    while True:
        # O_NONBLOCK: a pipe that nobody reads would be waited for.
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise _no_file()
            _lock(file, until)
            if _is_at(file, path):
                yield file
                return
            # It was rotated while we waited: the name is another file's by now.
        finally:
            os.close(file)


def _lock(file: int, until: float) -> None:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise TimeoutError(errno.ETIMEDOUT, "another process holds its lock, and does not let go") from None
            time.sleep(_LOOK_SECONDS)
        else:
            return


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _whole(file: int) -> int:
    """Its size, once it ends with a whole line."""
    end = size = os.fstat(file).st_size
    while end:
        start = max(0, end - _BLOCK)
        found = os.pread(file, end - start, start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        os.ftruncate(file, end)
    return end


def _write(file: int, line: bytes, before: int) -> None:
    rest = memoryview(line)
    try:
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)
    except OSError:
        with suppress(OSError):  # then who writes next does it
            os.ftruncate(file, before)
        raise


def _rotate(path: Path, keep: int) -> None:
    """The file's own name is moved last: until then everybody else waits for its lock, and after that it is done."""
    for number in range(keep - 1, 0, -1):
        with suppress(FileNotFoundError):
            os.replace(f"{path}.{number}", f"{path}.{number + 1}")
    os.replace(path, f"{path}.1")
    _fsync_folder(path)


def _fsync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _no_file() -> OSError:
    return OSError(_NO_FILE, "it is no ordinary file")
