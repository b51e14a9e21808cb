"""Dead letters, and the seams between who finds them, who understands them, and who keeps them. Pure.

A kind of destination whose addresses can be read is `Readable`; a connector that can make the records of a batch of its source again, from
what is told of them, is `Regaining`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from poller.errors import SourceError
from poller.failures.journal import KeptRecord
from poller.model import Fault
from poller.settings import MappingSettings

GROUPS = "in a FIFO queue more messages of the same groups may wait behind those that are left there: they come once these are gone"
"""`DeadLetters.behind` of a FIFO queue: a group's messages come in order, and only when those before them are gone."""


class RangeGone(SourceError):
    """Raised when the records that a letter points to are not in their source any more, or not all of them."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One message, object or line. `name`: which one it is, at its address, for good; `attributes`: what is told beside the body, as text;
    `sent`: when it came there, epoch seconds. `message`: the client's own, for the connector of the same system; None: there is none."""

    name: str
    body: bytes
    sent: float
    attributes: Mapping[str, str] = field(default_factory=dict)
    message: Any = None


@dataclass(frozen=True, slots=True)
class Regained:
    """The records of a batch as the journal keeps them (`model.Entry`). `until`: how long their source will keep them, epoch seconds, where
    they were fetched from it. `remark`: what a person should know of them, or "".
    `fault`: why they failed, where the letter tells in the source's own manner."""

    source: str
    lane: str
    records: tuple[KeptRecord, ...]
    identifiers: tuple[str, ...] = ()
    head: bytes = b""
    tail: bytes = b""
    until: float | None = None
    remark: str = ""
    fault: Fault | None = None


async def nowhere(place: str) -> bytes:
    """Nothing is looked for anywhere."""
    raise SourceError(f"its event is at {place}")


@dataclass(frozen=True, slots=True)
class RedriveContext:
    """What both sides are opened with. `source`: the options of the mapping's source; `base` and `state` as in `settings.Context`;
    `clock`: epoch seconds. `fetch`: what lies at the one place that a letter names (`payloadIn`); raises SourceError, NotConnected."""

    mapping: MappingSettings
    source: Any
    base: Path
    state: Path
    clock: Callable[[], float]
    fetch: Callable[[str], Awaitable[bytes]] = nowhere


class DeadLetters(Protocol):
    """What lies at an address. Every call raises NotConnected and SourceError, and nothing else."""

    @property
    def stays(self) -> str:
        """Why nothing can be removed there, for a person ("objects are left in the bucket"); "" where it can."""

    @property
    def behind(self) -> str:
        """Why there may be letters that nobody gets before those that were fetched are gone, for a person; "": there are none."""

    async def fetch(self, limit: int) -> Sequence[Letter]:
        """At most so many that were not fetched before; none: there are no more, but for those `behind`. Nobody else gets them
        meanwhile, where that can be."""

    async def remove(self, letters: Sequence[Letter]) -> int:
        """They are in the journal: away with them, where that can be. Returns how many are gone; what is left is found again next time."""

    async def aclose(self) -> None:
        """What was fetched, and not removed, is given back at once. Tolerated twice."""


@runtime_checkable
class Readable(Protocol):
    """A `DestinationKind` at whose addresses dead letters can be found."""

    async def letters(self, to: str, options: Any, context: RedriveContext) -> DeadLetters:
        """Raises NotConnected, SourceError."""


class Regainer(Protocol):
    """Makes the records of a mapping's source again. Every call raises SourceError for what is none of them, and NotConnected."""

    async def of_event(self, event: bytes, told: Mapping[str, Any]) -> Regained:
        """`event`: what a function was called with, JSON text; `told`: the invocation record that it came with."""

    async def of_message(self, letter: Letter) -> Regained:
        """The letter is one of the source's own records, moved away as it was."""

    async def of_range(self, told: Mapping[str, Any]) -> Regained:
        """Fetched from the source: the records that an invocation record without event points to. Raises RangeGone."""

    async def aclose(self) -> None:
        """Tolerated twice."""


@runtime_checkable
class Regaining(Protocol):
    """A connector whose records can be made again."""

    def regainer(self, options: Any, context: RedriveContext) -> Regainer:
        """Connects to nothing before it must."""
