"""What happens to the shards of a simulated stream: splits, merges and roll-overs, drawn before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from zlib import crc32


@dataclass(frozen=True, slots=True)
class Reshard:
    """At this time (loop time) the parents are closed, and the children go on. Two children: a split; two parents: a merge; else a
    roll-over."""

    at: float
    parents: tuple[str, ...]
    children: tuple[str, ...]

    @property
    def kind(self) -> str:
        return "split" if len(self.children) > 1 else "merged" if len(self.parents) > 1 else "rolled over"


def drawn(random: Random, shards: Sequence[str], count: int, until: float) -> list[Reshard]:
    """So many of them, in order of time, of the open shards there are at the time."""
    leaves, made, reshards = list(shards), len(shards), list[Reshard]()
    for at in sorted(random.uniform(0.0, until) for _ in range(count)):
        width, parts = random.choice(((1, 2), (1, 2), (2, 1), (1, 1)))
        random.shuffle(leaves)
        parents, leaves = leaves[:width], leaves[width:]
        children = [f"shard-{made + n}" for n in range(parts)]
        made += parts
        leaves += children
        reshards.append(Reshard(at, tuple(parents), tuple(children)))
    return reshards


def shard_at(reshards: Sequence[Reshard], home: str, key: bytes | None, at: float, random: Random) -> str:
    """Where a record goes that comes at this time; its key went to `home` at first."""
    shard = home
    for reshard in reshards:
        if reshard.at <= at and shard in reshard.parents:
            children = reshard.children
            shard = children[crc32(key) % len(children)] if key is not None else random.choice(children)
    return shard
