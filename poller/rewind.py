"""Rewinding: lanes are read from another place than where their progress says. Pure: what each lane's progress becomes; the rest of it is
in admin/rewinding.py. Laws, tested in tests/unit/test_rewind.py:

- What is rewound has no attempts, no doubt and no positions left, and begins exactly where it was asked to.
- After a rewind of all lanes, each shard that is listed is opened some time, parents before children, and none begins later than asked.
- Changes come parents first: whoever stops between two of them leaves no shard that would be read before its parent is read again.
- Rewinding twice is rewinding once.

Lanes are rewritten, not forgotten: what has no progress begins where its parents did, else at the configured position. Forgotten are only
shards that have ended and are listed no more. The kept moment of LATEST becomes the place rewound to. A lane rewound to a position gets
the origin TRIM_HORIZON: its children, where they have not begun, come after it as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any, Protocol, TypeAlias, runtime_checkable

from poller.errors import SourceError
from poller.lineage import Shard, untangled
from poller.progress import ORIGIN, Progress


@runtime_checkable
class Positioned(Protocol):
    """A reader whose positions a person can read and write: `status` shows them, and a rewind takes them."""

    def shown(self, position: int) -> str:
        """A position that is not ORIGIN, in the source's own terms."""

    def parsed(self, text: str) -> int:
        """The inverse of `shown`. Raises ValueError, with a sentence that shows what a position looks like."""

    async def found(self, origin: str) -> int | None:
        """Where reading from `Progress.origin` begins now; None if the source cannot tell. Raises NotConnected."""

    def distance(self, first: int, last: int) -> int | None:
        """How many records lie between two positions, at most; None if that cannot be told."""


@runtime_checkable
class Verifying(Protocol):
    """A reader that asks its source about positions which a person wrote: a lane could not be read from one that is none."""

    async def verify(self, position: int) -> None:
        """Raises NotConnected, which says what the source has against it."""


@runtime_checkable
class KeepsPositions(Protocol):
    """A connector whose sources keep the positions themselves, so that a person sets them back there, while the mapping is paused."""

    def rewound_by(self, options: Any, mapping: str) -> str:
        """What a person runs, for the mapping with this id, as a sentence."""


@dataclass(frozen=True, slots=True)
class ToOrigin:
    """To `origin`, as `Progress.origin`. `ahead`: only to pass over what there is (LATEST), so that what has ended stays so."""

    origin: str
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class ToPosition:
    """To a position of one lane."""

    position: int


Target: TypeAlias = ToOrigin | ToPosition


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of a lane. `after` None: its progress is forgotten; the source has it no more."""

    lane: str
    before: Progress | None
    after: Progress | None


def changes(
    shards: Sequence[Shard], kept: Mapping[str, Progress], target: Target, width: int, lane: str | None = None
) -> tuple[Change, ...]:
    """Of one lane, or of all: those that are listed, and those that have progress. Parents before children.

    `shards`: what the source lists. `kept`: progress, by lane; that of "" is the moment where LATEST began (shards.py). `width`: the
    mapping's. Raises SourceError for a lane that is not there, and for a position without a lane.
    """
    listed = {shard.name: shard for shard in shards}
    names = [name for name in _in_order(listed) if name]
    names += sorted(name for name in kept if name and name not in listed)
    if lane is not None:
        if lane not in names:
            raise SourceError(f"there is no lane {lane!r}; there are {_some(names)}")
        return (Change(lane, kept.get(lane), _rewound(target, width)),)
    if isinstance(target, ToPosition):
        raise SourceError(f"a position is one of a lane: name that too (--lane), one of {_some(names)}")
    return _of_all(names, listed, kept, target, width)


def _of_all(
    names: Sequence[str], listed: Mapping[str, Shard], kept: Mapping[str, Progress], target: ToOrigin, width: int
) -> tuple[Change, ...]:
    made = list[Change]()
    if "" in kept:  # first: shards that nobody has seen yet begin where the others do
        made.append(Change("", kept[""], Progress(target.origin, closed=True)))
    for name in names:
        before = kept.get(name)
        if before is not None and before.ended and target.ahead:
            continue  # nothing of it is left to pass over
        gone = before is not None and before.ended and name not in listed
        made.append(Change(name, before, None if gone else _rewound(target, width)))
    return tuple(made)


def _rewound(target: Target, width: int) -> Progress:
    match target:
        case ToOrigin(origin=origin):
            return Progress(origin, width, closed=True)
        case ToPosition(position=position):
            # Its children, where they have not begun, come after it as a whole: they are read from their beginning.
            return Progress("TRIM_HORIZON", width, frontier=position, closed=True)


def _in_order(listed: Mapping[str, Shard]) -> list[str]:
    graph = {name: [each for each in shard.parents if each in listed] for name, shard in untangled(listed).items()}
    return list(TopologicalSorter(graph).static_order())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "") or "none"


def origin_of(progress: Progress) -> str | None:
    """Where its reading begins if that is an origin; None if it is a position, `Progress.checkpoint`."""
    return progress.origin if progress.checkpoint == ORIGIN else None
