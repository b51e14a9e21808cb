"""Feeding: what a connector offers, besides being polled, when records can also be put into its source.

A connector that can be fed (`poller put`) has a method `put` as in `Feed`; one whose source takes back what it once held (`poller replay
--to source`) has `returner` as in `Returning`. Both are found with `isinstance`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from poller.failures.journal import KeptRecord


@dataclass(frozen=True, slots=True)
class Item:
    """What becomes one record. `key`: what order is kept by (partition key, message group).

    `attributes` are string message attributes (queues). `deduplication`: an item with the same one within five minutes is not put again
    (FIFO queues); None: always put.
    """

    data: bytes
    key: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    deduplication: str | None = None


class Place(Protocol):
    """Where local sources and files live; `settings.Context` is one. `base` is the folder of the configuration, `state` that of the store,
    `clock` gives epoch seconds."""

    @property
    def base(self) -> Path: ...

    @property
    def state(self) -> Path: ...

    @property
    def clock(self) -> Callable[[], float]: ...


@runtime_checkable
class Feed(Protocol):
    """A connector that can be fed."""

    async def put(self, options: Any, place: Place, items: Sequence[Item]) -> int:
        """Put the items, in order, durable when it returns; the source is made on first use.

        Returns how many were written: repeats by `deduplication` are not. Every item is looked at before the first is written; after an
        error in between (a full disk), a beginning of `items` is there. Raises SourceError for an item or options that the source cannot
        take, NotConnected when the source does not answer now.
        """


class Returner(Protocol):
    """A source that takes its own records back."""

    def check(self, records: Sequence[KeptRecord]) -> None:
        """Raises SourceError where an event does not tell what was put, or tells what the source does not take. Pure."""

    async def put(self, records: Sequence[KeptRecord]) -> int:
        """Put the first of these records, one or more, as they were put once, as far as their events tell, and never taken for a repeat.

        Returns how many are there now, durably; in order within a key. After an error, and between those that are told and one that is
        tried again, a record may be there twice. Raises SourceError as `check` does, and NotConnected."""

    async def aclose(self) -> None:
        """Tolerated twice."""


@runtime_checkable
class Returning(Protocol):
    """A connector whose sources take their own records back, out of the journal."""

    async def returner(self, options: Any, place: Place) -> Returner:
        """Raises ConfigError, NotConnected, SourceError."""
