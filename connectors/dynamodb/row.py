"""A row of KCL's lease table as we read and change it. Pure.

The columns are KCL's own (DynamoDBLeaseSerializer, versions 1 to 3.5): leaseKey, leaseOwner, leaseCounter, checkpoint,
checkpointSubSequenceNumber, ownerSwitchesSinceCheckpoint, and those that we leave as they are: parentShardId, childShardIds, hash keys,
throughput, whatever comes. Ours is one more, the map `poller`, which KCL keeps because it only ever updates single columns:

    mapping, source      whose lane it is
    holder, counter, duration    of our last claim: whose it was, what his writes are fenced by, and for how many seconds it holds without
                         a renewal
    save                 the number of the last save under that claim
    progress, for        `Progress` as JSON, and the checkpoint columns that it was written beside
    wanted, asked, patience   who asked for the lane, a number that each asking draws, and how many seconds it is kept for him

`progress` counts only while the checkpoint columns are those it was written beside: else KCL went on in between, and they say where.
A lane that we claimed and never saved has `for` without `progress`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from connectors.dynamodb.checkpoint import TRIM_HORIZON, Checkpoint, Landmarks, Notation
from connectors.dynamodb.expressions import Item, Value, Where, number, seconds, text, update
from poller.errors import StoreError
from poller.model import LaneKey
from poller.progress import Progress, decode, encode

KCL_SECONDS = 10.0
"""How long a worker of KCL is taken to live that does not renew: KCL's own default (failoverTimeMillis). A row does not tell."""

OURS = "poller"
PENDING = ("pendingCheckpoint", "pendingCheckpointSubSequenceNumber", "pendingCheckpointState")
"""What KCL clears whenever it checkpoints."""


@dataclass(frozen=True, slots=True)
class Ours:
    """What we wrote beside KCL's columns."""

    mapping: str
    source: str
    holder: str
    counter: int
    duration: float
    save: int
    progress: str
    written_for: str
    wanted: str
    asked: int
    patience: float


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """One lease. `owner` "" : nobody has it. `renewals` is KCL's leaseCounter, which every claim, renewal and drop adds to."""

    name: str
    owner: str
    renewals: int
    checkpoint: Checkpoint
    ours: Ours | None

    @property
    def duration(self) -> float:
        """Seconds that its owner is taken to live without a renewal."""
        return self.ours.duration if self.ours is not None and self.ours.holder == self.owner else KCL_SECONDS

    @property
    def listens(self) -> bool:
        """Whether who holds it can be asked for it; a worker of KCL cannot."""
        return self.ours is not None and self.owner != "" and self.ours.holder == self.owner

    def progress(self, key: LaneKey, place: str) -> Progress | None:
        """What is done on the lane, by us or by KCL. Raises StoreError, which names lane and `place`, if it cannot be read."""
        try:
            if self.ours is None or self.ours.written_for != str(self.checkpoint):
                return Notation(key.source).read(self.checkpoint)
            return decode(self.ours.progress) if self.ours.progress else None
        except (msgspec.DecodeError, ValueError) as error:
            raise StoreError(
                f"{place}: the progress of lane {key.lane} of mapping {key.mapping} is damaged ({error}); mend the row {self.name!r}, "
                "or delete it to begin at the starting position"
            ) from error

    def landmarks(self, key: LaneKey, place: str) -> Landmarks:
        return Notation(key.source).landmarks(self.progress(key, place), self.checkpoint)


def row(attributes: Item) -> LeaseRow | None:
    """None: the item is no lease of one stream (`entityType`; `streamName`: of a KCL that reads several)."""
    if text(attributes, "entityType", "LEASE") != "LEASE" or "streamName" in attributes:
        return None
    told = attributes.get(OURS, {}).get("M")
    return LeaseRow(
        name=text(attributes, "leaseKey"),
        owner=text(attributes, "leaseOwner"),
        renewals=number(attributes, "leaseCounter"),
        checkpoint=Checkpoint(text(attributes, "checkpoint", "LATEST"), number(attributes, "checkpointSubSequenceNumber")),
        ours=None if told is None else _ours(told),
    )


def _ours(told: Item) -> Ours:
    return Ours(
        mapping=text(told, "mapping"),
        source=text(told, "source"),
        holder=text(told, "holder"),
        counter=number(told, "counter"),
        duration=seconds(told, "duration"),
        save=number(told, "save"),
        progress=text(told, "progress"),
        written_for=text(told, "for"),
        wanted=text(told, "wanted"),
        asked=number(told, "asked"),
        patience=seconds(told, "patience"),
    )


def fresh(key: LaneKey, name: str, owner: str, counter: int, duration: float) -> dict[str, Value]:
    """A row for a lane that has none. KCL begins where it has read nothing of: TRIM_HORIZON, so that nothing is left out."""
    return {
        "leaseKey": name,
        "leaseOwner": owner,
        "leaseCounter": 1,
        "ownerSwitchesSinceCheckpoint": 0,
        "checkpoint": TRIM_HORIZON.sequence,
        "checkpointSubSequenceNumber": TRIM_HORIZON.sub,
        "entityType": "LEASE",
        OURS: _claim(key, owner, counter, duration) | {"for": str(TRIM_HORIZON)},
    }


def taken(seen: LeaseRow, key: LaneKey, owner: str, counter: int, duration: float) -> dict[str, Any]:
    """The update that makes a lane `owner`'s, if nobody has touched the lease since it was seen."""
    claim = _claim(key, owner, counter, duration)
    where = [Where("leaseCounter", "=", seen.renewals), Where("leaseOwner", "=", seen.owner) if seen.owner else Where("leaseOwner")]
    if seen.ours is None:
        where.append(Where(OURS))
        put: dict[str, Value] = {OURS: claim}
    else:
        where.append(Where(f"{OURS}.counter", "=", seen.ours.counter))
        put = {f"{OURS}.{name}": value for name, value in claim.items()}
    remove = ["checkpointOwner"]
    if seen.ours is not None and seen.ours.wanted == owner:
        remove += [f"{OURS}.wanted"]
    switched = {"ownerSwitchesSinceCheckpoint": 1} if seen.owner not in {"", owner} else {}
    return update(where, put | {"leaseOwner": owner}, {"leaseCounter": 1} | switched, remove)


def _claim(key: LaneKey, owner: str, counter: int, duration: float) -> dict[str, Value]:
    return {"mapping": key.mapping, "source": key.source, "holder": owner, "counter": counter, "duration": duration, "save": 0}


def fence(owner: str, counter: int) -> list[Where]:
    """That the lease is still the one that was claimed. KCL takes a lease by changing the owner, we by the counter too."""
    return [Where("leaseOwner", "=", owner), Where(f"{OURS}.counter", "=", counter)]


def asking(seen: LeaseRow, owner: str, duration: float) -> dict[str, Any]:
    """The update that leaves `owner`'s word while the lane is held, of a row that `listens`."""
    assert seen.ours is not None
    where = fence(seen.owner, seen.ours.counter)
    return update(where, {f"{OURS}.wanted": owner, f"{OURS}.patience": duration}, {f"{OURS}.asked": 1})


def renewed(owner: str, counter: int, duration: float) -> dict[str, Any]:
    return update(fence(owner, counter), {f"{OURS}.duration": duration}, {"leaseCounter": 1})


def dropped(owner: str, counter: int) -> dict[str, Any]:
    return update(fence(owner, counter), add={"leaseCounter": 1}, remove=["leaseOwner", "checkpointOwner"])


def saved(owner: str, counter: int, number: int, columns: Checkpoint, progress: Progress | None) -> dict[str, Any]:
    """A save that comes late, after a later one, is refused by its number; one that is sent twice is not."""
    put: Mapping[str, Value] = {
        "checkpoint": columns.sequence,
        "checkpointSubSequenceNumber": columns.sub,
        "ownerSwitchesSinceCheckpoint": 0,
        f"{OURS}.save": number,
        f"{OURS}.for": str(columns),
    }
    where = [*fence(owner, counter), Where(f"{OURS}.save", "<=", number)]
    if progress is None:
        return update(where, put, remove=[*PENDING, f"{OURS}.progress"])
    return update(where, {**put, f"{OURS}.progress": encode(progress).decode()}, remove=PENDING)
