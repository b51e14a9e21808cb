"""Feeding: what a connector offers, besides being polled, when records can also be put into its source (`poller put`).

A connector that can be fed has a method `put` as in `Feed`; the command finds it with `isinstance(connector, Feed)`.
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
    """Where local sources live; `settings.Context` is one. `state` is the folder of the store, `clock` gives epoch seconds."""

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


@runtime_checkable
class Returning(Protocol):
    """A connector that can be fed, and knows what one of its records in the journal was put as (`poller replay --to source`)."""

    def item(self, record: KeptRecord) -> Item:
        """As it was put, as far as its event tells; never taken for a repeat. Raises SourceError where it does not tell. Pure."""
