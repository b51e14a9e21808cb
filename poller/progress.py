"""What is done on an ordered lane, and which attempts have begun. Pure: the only place that knows. See ARCHITECTURE.md, "Progress".

`Progress` is what a save holds; `Tracker` is the same while the lane runs. Laws, tested in tests/unit/test_progress.py against a plain
set of tokens, over crashes at any point:

7. The checkpoint is never above unfinished work, it is monotone, and it reaches the end.
10. What was acked before the last save is not given out again; what was neither acked nor discarded is.
11. At most one begun attempt of a batch is ever uncounted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import is_

import msgspec

from poller.model import Action, Batch, Record, Retry, Span, Window
from poller.strands import hashed

ORIGIN = -1
"""The position before any record of the lane: reading starts at `Progress.origin`."""

LISTED_AT_MOST = 100
"""A saved span names its records while they are so few; else the whole stretch runs again after a crash."""

UNSAVED_BATCHES = 1_000
UNSAVED_RECORDS = 100_000
"""Between two saves a lane begins at most so many batches (or eight a strand), and reads so many records past the saved frontier."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a save holds, and an opening starts from.

    A position p says: every record of that strand with a token below p is done. `positions` lists the strands with work; the others stand
    at the `frontier` (all below it was read and filtered out or given to a strand). `width` is the number of strands that this is about.
    `doubt`: so many records past the frontier may have been begun by a worker that could not count them; and all those below `careful`.
    `origin`: where reading starts while the frontier is ORIGIN ("TRIM_HORIZON", "AT_TIMESTAMP 1763686800.0").
    `ended`: the lane has no more records and never will, and all are done: it is not opened again, and its children may be (lineage.py).
    `window`: the tumbling window that is open, with the state that all below the checkpoint has left; `passed`: epoch seconds, windows up
    to here are over (windows.py).
    """

    origin: str
    width: int = 1
    frontier: int = ORIGIN
    positions: tuple[tuple[int, int], ...] = ()
    spans: tuple[Span, ...] = ()
    doubt: int = 0
    careful: int = ORIGIN
    closed: bool = False
    ended: bool = False
    window: Window | None = None
    passed: int = 0

    @property
    def checkpoint(self) -> int:
        """Everything below is done; nothing below is ever read again."""
        return min((position for _, position in self.positions), default=self.frontier)

    def outgrown(self, width: int, tumbling: bool) -> bool:
        """Whether what is unfinished was begun in another width, or with tumbling windows where there are none now, or without where there
        are. It is finished as it was begun; then the lane ends, and is opened anew."""
        if self.width != width and (self.checkpoint < self.frontier or self.spans):
            return True
        return bool(self.spans) and self.window is None if tumbling else self.window is not None


def encode(progress: Progress) -> bytes:
    """JSON text for a row of a store; `decode` is its inverse."""
    return msgspec.json.encode(progress)


def decode(text: bytes | str) -> Progress:
    """Raises msgspec.ValidationError or msgspec.DecodeError for anything that `encode` did not write."""
    return msgspec.json.decode(text, type=Progress)


def doubt_limit(batch_size: int) -> int:
    """How many records past a saved frontier a lane may read before it saves again. Fewer make the careful stretch after a crash short."""
    return max(10_000, min(UNSAVED_RECORDS, UNSAVED_BATCHES * batch_size))


@dataclass(slots=True)
class Tracker:
    """The progress of a lane that runs, in the width of what was saved (ordered.py reopens a lane whose width changed).

    Reading starts at the saved checkpoint. While it is below the saved frontier (the *stretch* of the earlier life), `sort` says what is
    done and what belongs to a span; `snapshot` then merges both lives: a strand without work stands where the earlier life left it.
    """

    earlier: Progress
    limit: int
    frontier: int = field(init=False)
    spans: dict[int, list[Span]] = field(init=False)
    careful: int = field(init=False)
    _remaining: int = field(init=False)
    _unsaved: int = field(init=False)
    _collected: dict[tuple[int, int], list[Record]] = field(init=False, default_factory=dict)
    _pending: list[Span] = field(init=False)
    _read: int = field(init=False, default=0)
    _begun: int = field(init=False, default=0)
    _saved_read: int = field(init=False, default=0)
    _saved_begun: int = field(init=False, default=0)
    _positions: dict[int, int] = field(init=False)
    _flying: dict[int, tuple[int, int]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        saved = self.earlier
        self.frontier = saved.checkpoint
        self.spans = {}
        for span in sorted(saved.spans, key=lambda each: each.first):
            self.spans.setdefault(span.strand, []).append(span)
        self._pending = sorted(saved.spans, key=lambda each: each.last)
        self._positions = dict(saved.positions)
        # What lies behind a span, up to the end of its batch, was done before; once the span is settled, the position must say so.
        for span in saved.spans:
            self._positions[span.strand] = max(self._positions.get(span.strand, span.end), span.end)
        self._remaining = saved.doubt
        # A wide lane of small batches begins a thousand in one turn, and would wait for a save in each.
        self._unsaved = max(UNSAVED_BATCHES, 8 * saved.width)
        self.careful = max(saved.careful, saved.frontier) if saved.doubt else saved.careful

    def __repr__(self) -> str:
        spans = sum(map(len, self.spans.values()))
        return f"<Tracker [frontier={self.frontier}, {spans} spans, careful={self.careful}+{self._remaining}]>"

    # --- reading ----------------------------------------------------------------------------------------------------------------

    @property
    def catching_up(self) -> bool:
        """Whether what is read next may have been read by an earlier life."""
        return self.frontier < self.earlier.frontier

    def read(self, following: int, count: int) -> None:
        """Reading came to position `following` (an empty read moves it too, over gaps and filtered tails).

        `count`: how many records at or past the saved frontier this brought.
        """
        self.frontier = max(self.frontier, following)
        self._read += count
        if self._remaining and self.frontier > self.earlier.frontier:
            # The doubtful stretch goes on: all read so far is to be begun carefully, the slice that ends the stretch included.
            self.careful = self.frontier
            self._remaining = max(0, self._remaining - count)

    def sort(self, records: Sequence[Record], tokens: Sequence[int], keys: Sequence[bytes | None]) -> list[Record]:
        """Of records read while catching up, in order: those that nobody has begun and counted. Call before `read`.

        The rest is done, or kept here until its span is `complete`. The *saved* width decides whose a record is.
        """
        fresh: list[Record] = []
        frontier, width = self.earlier.frontier, self.earlier.width
        for i, (token, key) in enumerate(zip(tokens, keys, strict=True)):
            if token >= frontier:
                fresh.append(records[i])
                continue
            strand = hashed(key, token, width)
            span = self._span_at(strand, token)
            if span is not None:
                if span.holds(token):
                    self._collected.setdefault((strand, span.first), []).append(records[i])
            elif token >= self._positions.get(strand, frontier):
                fresh.append(records[i])
        return fresh

    def _span_at(self, strand: int, token: int) -> Span | None:
        for span in self.earlier.spans:
            if span.strand == strand and span.first <= token < span.end:
                return span
        return None

    def complete(self, following: int | None = None) -> list[tuple[Span, Sequence[Record]]]:
        """Spans of the earlier life whose records have all been read again, in order, once reading is at `following` (None: after `read`).

        A span whose records are gone (retention passed them) is forgotten; one that lost some runs with what is left.
        """
        done: list[tuple[Span, Sequence[Record]]] = []
        frontier = self.frontier if following is None else following
        while self._pending and self._pending[0].last < frontier:
            span = self._pending.pop(0)
            records = self._collected.pop((span.strand, span.first), None)
            if records is None:
                self._forget(span)
            else:
                done.append((span, records))
        return done

    def _forget(self, span: Span) -> None:
        left = [each for each in self.spans[span.strand] if each is not span]
        if left:
            self.spans[span.strand] = left
        else:
            del self.spans[span.strand]

    # --- attempts ---------------------------------------------------------------------------------------------------------------

    def begin(self, batch: Batch, first: int, last: int) -> bool:
        """An attempt of `batch` (tokens `first`..`last`) is about to begin. Returns whether a save must come first, holding it."""
        spans = self.spans.get(batch.strand)
        counted = batch.attempt > 1 or first < self.careful
        if spans:
            spans[0] = spans[0].but(attempts=batch.attempt, running=True)
        elif counted:
            self.spans[batch.strand] = [Span(batch.strand, first, last, last + 1, batch.attempt, running=True)]
        if counted:
            return True
        self._flying[batch.strand] = first, last
        self._begun += 1
        return self._begun - self._saved_begun > self._unsaved or self._read - self._saved_read > self.limit

    def withdraw(self, batch: Batch) -> None:
        """The attempt that `begin` was told of did not begin after all."""
        self._flying.pop(batch.strand, None)
        spans = self.spans.get(batch.strand)
        if spans:
            spans[0] = spans[0].but(attempts=batch.attempt - 1, running=False)

    @property
    def pressing(self) -> bool:
        """Whether a save should come soon, lest `begin` have to wait for one."""
        return self._begun - self._saved_begun > self._unsaved // 2 or self._read - self._saved_read > self.limit // 2

    def settle(self, batch: Batch, actions: Sequence[Action], tokens: Sequence[int] | None, now: float) -> None:
        """What was decided about `batch` is done. `tokens` of its records: needed unless all is acked and no span is there."""
        self._flying.pop(batch.strand, None)
        if tokens is None:
            assert batch.strand not in self.spans
            return
        spans = self.spans.get(batch.strand)
        retries = [action for action in actions if isinstance(action, Retry)]
        if not spans and not retries:
            return
        base = spans.pop(0) if spans else None
        fresh = _spans(batch, retries, tokens, base, now) if retries else []
        rest = fresh + (spans or [])
        if rest:
            self.spans[batch.strand] = rest
        else:
            del self.spans[batch.strand]

    def needs_tokens(self, batch: Batch, actions: Sequence[Action]) -> bool:
        """Whether `settle` may want the tokens (the happy path, one action and no span, does not pay for them)."""
        return batch.strand in self.spans or len(actions) != 1 or isinstance(actions[0], Retry)

    # --- saving -----------------------------------------------------------------------------------------------------------------

    def snapshot(self, heads: Iterable[tuple[int, int]], closed: bool = False) -> Progress:
        """What to save. `heads`: for each strand with work, the token of its first record that may be unsettled."""
        positions = dict(heads)
        for strand, spans in self.spans.items():
            # Spans come first on their strand, so the first of them is its first unsettled record; what a head says is older.
            positions[strand] = spans[0].first
        frontier = self.frontier
        if self.catching_up:
            frontier = self.earlier.frontier
            for strand in range(self.earlier.width):
                positions.setdefault(strand, max(self.frontier, self._positions.get(strand, frontier)))
        # At or past the frontier a position says nothing: there everything is still to be read.
        positions = {strand: position for strand, position in positions.items() if position < frontier}
        careful = self.careful if self.careful > min(positions.values(), default=frontier) else ORIGIN
        return Progress(
            origin=self.earlier.origin,
            width=self.earlier.width,
            frontier=frontier,
            positions=tuple(sorted(positions.items())),
            spans=tuple(_short(span) for spans in self.spans.values() for span in spans) + (self._unsettled() if closed else ()),
            # A lane that runs may begin so much before it saves again; one that is closed leaves what is left of an earlier doubt.
            doubt=self._remaining if closed else max(self.limit, self._remaining),
            careful=careful if closed else ORIGIN,
            closed=closed,
        )

    def _unsettled(self) -> tuple[Span, ...]:
        """First attempts that have begun and will not be settled in this life: a closed save leaves none uncounted."""
        return tuple(
            Span(strand, first, last, last + 1, 1, running=True)
            for strand, (first, last) in self._flying.items()
            if strand not in self.spans
        )

    def mark(self) -> tuple[int, int]:
        """Taken with a snapshot, handed to `saved` when that is durable."""
        return self._read, self._begun

    def saved(self, mark: tuple[int, int]) -> None:
        """The snapshot taken at `mark` is durable: what was begun before it is past doubt."""
        self._saved_read, self._saved_begun = mark


def _short(span: Span) -> Span:
    """As it is saved: a long list is left out, and a later life runs the whole stretch again."""
    return span.but(listed=None) if span.listed is not None and len(span.listed) > LISTED_AT_MOST else span


def _spans(batch: Batch, retries: Sequence[Retry], tokens: Sequence[int], base: Span | None, now: float) -> list[Span]:
    """The spans of what is retried, in order. Each ends where the next begins, the last where the batch they came from ended.

    `base`: the span that the batch was, if it was one. What is taken out of a listed one must be listed too.
    """
    spans: list[Span] = []
    records, stop = batch.records, len(batch.records)
    end = base.end if base is not None else tokens[-1] + 1
    listed = base is not None and base.listed is not None
    for retry in reversed(retries):
        again = retry.batch.records
        start = stop - len(again)
        # Nearly always: a part of the batch that ends where the next one begins.
        if start >= 0 and all(map(is_, again, records[start:stop])):
            own, whole = tokens[start:stop], True
        else:
            places = _places(records, again)
            own, start = [tokens[place] for place in places], places[0]
            whole = places[-1] - start + 1 == len(places)
        spans.append(
            Span(
                strand=batch.strand,
                first=own[0],
                last=own[-1],
                end=end,
                attempts=retry.batch.attempt - 1,
                not_before=now + retry.delay if retry.delay else 0.0,
                listed=None if whole and not listed else tuple(own),
            )
        )
        end, stop = own[0], start
    spans.reverse()
    return spans


def _places(records: Sequence[Record], some: Sequence[Record]) -> list[int]:
    """Where some of the records stand; they keep their order."""
    places = {id(record): place for place, record in enumerate(records)}
    return [places[id(record)] for record in some]
