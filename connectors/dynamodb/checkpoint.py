"""What the Kinesis Client Library (KCL) means by a checkpoint, and what a lane's progress means by it. Pure.

A KCL checkpoint is two columns: a sequence number, or a word, and a sub-sequence number. KCL reads from AT that sequence number and drops
every record up to (sequence, sub) itself (KinesisDataFetcher, ProcessTask): it names the last record that is *done*. It counts the user
records of an aggregated record from 0, we from 1 (connectors/sharded/sequence.py).

    position                      columns                                    KCL goes on
    after record X                X, 0                                       behind X
    after user record n of X      X, n - 1                                   behind it
    at user record n of X, n > 1  X, n - 2                                   with it
    at record X                   the last record before X that we know of   behind that one: some records come twice, none is left out
    at the origin                 TRIM_HORIZON                               with all the stream keeps
    ended                         SHARD_END

`X, -1` would say "at X" to the letter, and is never written: a KCL whose first read failed asks anew AFTER the checkpoint's sequence number
(`restartIterator`, `isFirstConnection`), and X would be lost. AT_TIMESTAMP and LATEST are never written either: what they mean is in KCL's
configuration, or the moment of asking. Laws: tests/connectors/test_kcl_checkpoint.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from connectors.sharded.sequence import MOST_SUBS, place, token
from poller.progress import ORIGIN, Progress

_STREAM = re.compile(r"arn:[\w-]+:(kinesis|dynamodb):")
_DIGITS = {"kinesis": 0, "dynamodb": 21}
"""The service takes no sequence number that has fewer (API reference: GetShardIterator)."""


class Checkpoint(NamedTuple):
    """The columns `checkpoint` and `checkpointSubSequenceNumber`."""

    sequence: str
    sub: int = 0

    def __str__(self) -> str:
        return f"{self.sequence} {self.sub}"


TRIM_HORIZON = Checkpoint("TRIM_HORIZON")
SHARD_END = Checkpoint("SHARD_END")


MOST_AHEAD = 64
"""So many landmarks are kept beyond a checkpoint."""


class Landmarks(NamedTuple):
    """Records of a lane by their tokens, in order, of which a later checkpoint may say that they are done."""

    tokens: tuple[int, ...] = ()

    def before(self, position: int) -> int | None:
        """The last one below `position`."""
        return max((each for each in self.tokens if each < position), default=None)

    def past(self, progress: Progress) -> Landmarks:
        """Those that are of use once this is saved: the last one that is done, and what comes after."""
        known = sorted({*self.tokens, *_named(progress)})
        done = [each for each in known if each < progress.checkpoint]
        ahead = known[len(done) :]
        # A lane that is held up for long names more and more: half of them do nearly as well.
        return Landmarks((*done[-1:], *(ahead if len(ahead) <= MOST_AHEAD else ahead[::2])))


class Notation:
    """How the positions of a source's lanes are written. `source` is its identity: lanes that are no shards of Kinesis or DynamoDB Streams
    have the position itself, as decimal text."""

    def __init__(self, source: str) -> None:
        stream = _STREAM.match(source)
        self._digits = None if stream is None else _DIGITS[stream[1]]
        self._aggregates = stream is not None and stream[1] == "kinesis"

    def written(self, progress: Progress, known: Landmarks) -> Checkpoint:
        """The columns that KCL may go on from: nothing that is unfinished lies before them."""
        position = progress.checkpoint
        if progress.ended:
            return SHARD_END
        if position == ORIGIN:
            return TRIM_HORIZON
        if self._digits is None:
            return Checkpoint(str(position))
        at = place(position)
        if at.after:
            return self._after(position - 1)
        if at.sub > 1:
            return self._after(token(at.sequence, at.sub - 1))
        # Of an earlier record: how this one is taken apart may have been configured otherwise before.
        done = known.before(token(at.sequence))
        return TRIM_HORIZON if done is None else self._after(done)

    def read(self, columns: Checkpoint) -> Progress | None:
        """Progress as KCL left it. None: it says nothing of this lane (LATEST, AT_TIMESTAMP), so that the mapping's starting position does.

        Raises ValueError for what is no checkpoint.
        """
        match columns.sequence:
            case "TRIM_HORIZON":
                return Progress("TRIM_HORIZON")
            case "SHARD_END":
                return Progress("TRIM_HORIZON", closed=True, ended=True)
            case "LATEST" | "AT_TIMESTAMP":
                return None
        return Progress("TRIM_HORIZON", frontier=self._position(columns), closed=True)

    def landmarks(self, progress: Progress | None, columns: Checkpoint) -> Landmarks:
        """Of a lane that is opened: what its last save names, and where its columns stand."""
        found = set() if progress is None else set(_named(progress))
        if self._digits is not None and columns.sequence.isdecimal():
            found.add(self._position(columns) - 1)
        return Landmarks(tuple(sorted(found)))

    def _after(self, done: int) -> Checkpoint:
        last = place(done)
        return Checkpoint(f"{last.sequence:0{self._digits or 0}d}", max(last.sub - 1, 0))

    def _position(self, columns: Checkpoint) -> int:
        if not columns.sequence.isdecimal():
            raise ValueError(f"{columns.sequence!r} is no checkpoint")
        if self._digits is None:
            return int(columns.sequence)
        if not -1 <= columns.sub < MOST_SUBS:
            raise ValueError(f"{columns.sub} is no sub-sequence number")
        if not self._aggregates:
            return token(columns.sequence) + (columns.sub >= 0)
        # A record that is not aggregated is its own first.
        return token(columns.sequence, columns.sub + 1) + 1 if columns.sub >= 0 else token(columns.sequence)


def _named(progress: Progress) -> Iterator[int]:
    """The tokens of records that it names: the one that a position stands at, or after."""
    positions = (progress.frontier, *(position for _, position in progress.positions))
    spans = (token for span in progress.spans for token in (span.first, span.last))
    yield from (position & ~1 for position in (*positions, *spans) if position != ORIGIN)
