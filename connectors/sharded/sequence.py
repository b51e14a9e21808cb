"""Where a record stands in a shard, as a number. Pure.

A shard's records have *sequence numbers*: decimal texts of up to 56 digits (DynamoDB: 40) that grow, with gaps, and with which nothing may
be computed: one past a sequence number is none. The engine wants ints that grow (tokens), and takes `token + 1` for the place behind a
record. So a token holds sequence number and sub-sequence number, and the last bit of a position says whether it is *at* its record or
*after* it:

    token = (sequence << 24 | sub) << 1        position = token (at), or token + 1 (after)

The sub-sequence number is 0 for a record as it came. Where aggregated records are taken apart, it counts the user records in one, from 1;
a record that is not aggregated is then its own first. So tokens of both ways never meet, a position says which way it was made, and all of
one record stands before all of the next either way. A record of which all user records are done is left *after* the greatest sub-sequence
number that there can be: so it is not read again to see whether there are more. Laws: tests/connectors/test_sequence.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from poller.progress import ORIGIN

SUB_BITS = 24
MOST_SUBS = (1 << SUB_BITS) - 1
"""A record has at most so many user records: each takes six bytes at least, and a record 10 MiB at most, so there is room."""

_SHIFT = SUB_BITS + 1


def token(sequence: str | int, sub: int = 0) -> int:
    """The token of a record, or of its user record number `sub`."""
    return int(sequence) << _SHIFT | sub << 1


class Place(NamedTuple):
    """What a position means: at a record, or after it."""

    sequence: int
    sub: int
    after: bool

    @property
    def position(self) -> int:
        return token(self.sequence, self.sub) + self.after


def place(position: int) -> Place:
    """The inverse of `Place.position`; also of `token`. `position` is not ORIGIN."""
    return Place(position >> _SHIFT, position >> 1 & MOST_SUBS, bool(position & 1))


def after_all(position: int) -> int:
    """After all user records of the record that `position` is at, or after."""
    return Place(position >> _SHIFT, MOST_SUBS, True).position


def apart(position: int) -> bool:
    """Whether this position was made by a reader that takes aggregates apart. `position` is not ORIGIN."""
    return place(position).sub > 0


def turned(position: int, taken_apart: bool) -> int:
    """Where a reader goes on that does, or does not, take aggregates apart, when all below `position` is done, whichever way it was made.

    An aggregate that was done in part is begun anew as a whole: its user records that were done are given once more, and none is lost.
    """
    if position == ORIGIN or apart(position) is taken_apart:
        return position
    sequence, sub, after = place(position)
    if taken_apart:
        return after_all(position) if after else token(sequence, 1)
    return token(sequence) + (after and sub == MOST_SUBS)


def shown(position: int) -> str:
    """For a person, and for `parsed`: the sequence number, "after " it if the record is done; with ":<which user record, from 0>" where
    aggregates are taken apart, or ":*" for all of them."""
    sequence, sub, after = place(position)
    which = "" if sub == 0 else ":*" if after and sub == MOST_SUBS else f":{sub - 1}"
    return f"{'after ' if after else ''}{sequence}{which}"


_SHOWN = re.compile(r"(after )?(\d{1,128})(?::(\d{1,8}|\*))?")


def parsed(text: str) -> int:
    """The inverse of `shown`. Raises ValueError with a sentence for a person."""
    found = _SHOWN.fullmatch(text.strip())
    if found is None or (found[3] == "*" and not found[1]) or ((found[3] or "0").isdigit() and int(found[3] or 0) >= MOST_SUBS):
        raise ValueError(f"{text!r} is no position; write a sequence number such as '4959', or 'after 4959'")
    sub = 0 if found[3] is None else MOST_SUBS if found[3] == "*" else int(found[3]) + 1
    return Place(int(found[2]), sub, bool(found[1])).position


Kind: TypeAlias = Literal["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP", "AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER"]


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin to read a shard, in the words of GetShardIterator. `time` in epoch seconds."""

    kind: Kind
    sequence: str | None = None
    time: float | None = None


TRIM_HORIZON = Start("TRIM_HORIZON")
LATEST = Start("LATEST")


def start(position: int, origin: str, digits: int = 0) -> Start:
    """Where a reader begins that is to go on at `position`; at ORIGIN, where `origin` (`Progress.origin`) says.

    What is read from there may begin below `position`: an aggregated record is read again as a whole, and those of its user records that
    stand before `position` are to be left out. `digits`: sequence numbers have at least so many, with zeros in front.
    """
    if position == ORIGIN:
        # "LATEST" has a moment too: when the mapping began, so that nothing is lost before the first read.
        _, _, moment = origin.partition(" ")
        return Start("AT_TIMESTAMP", time=float(moment)) if moment else TRIM_HORIZON
    sequence, sub, after = place(position)
    text = f"{sequence:0{digits}d}"
    # Whether there are more user records behind number `sub`, only the record itself can tell.
    return Start("AFTER_SEQUENCE_NUMBER" if after and sub in {0, MOST_SUBS} else "AT_SEQUENCE_NUMBER", text)
