"""Keys as PostgreSQL tells them apart. Pure.

A key may be as long as a record, longer than an index takes: it is told by the hash of its bytes, and the number of its source.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

from poller.failures.journal import Entry


class Key(NamedTuple):
    """`origin`: of its mapping and source, without a lane."""

    origin: int
    digest: bytes


class Hold(NamedTuple):
    """A row, by its id, and a key that it holds, with its bytes; `place` is that of the row that it is a rest of, None: its own."""

    row: str
    key: Key
    content: bytes
    place: int | None


def content(key: str) -> bytes:
    """A key's bytes, from which it comes back as it was."""
    return key.encode("utf-8", "surrogatepass")


def digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()


def keys_of(entry: Entry, origin: int) -> set[Key]:
    """Those of its records; `origin`: of its source."""
    return {Key(origin, digest(content(record.key))) for record in entry.records if record.key is not None}
