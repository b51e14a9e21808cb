"""A partition's progress as the text that rides in Kafka's commit metadata. Pure.

The committed offset is the checkpoint; the text says the rest (see poller/progress.py): where strands stand beyond it, which attempts have
begun, and the doubt. So attempts survive kill -9, a rebalance and a move to another host without any store. Kafka refuses metadata above
`offset.metadata.max.bytes` (4,096 by default); ours stays below 3 KB. What does not fit:

- *Positions* are dropped all together. A strand that was not listed then stands at the checkpoint instead of the frontier: what it did
  beyond is done once more. Duplicates, never loss; attempts stay counted, for spans are kept.
- *Spans* hold their place once they have one (some 170 do): a later attempt waits until its span is in the save (`placed`). Until then a
  strand without a place is saved as one that stands before its first span, in doubt; one that outgrew its place, as it was saved before.

The text is `poller<version>:` and base64 (RFC 4648, section 5, no padding) of varints and a CRC-32 of them. The version is that of the
oldest program that can read it. Times are kept to the tenth of a second, rounded up.
"""

from __future__ import annotations

import math
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias
from zlib import crc32

from connectors.kafka.varints import Varints, put, size, zigzag
from poller.model import Span
from poller.progress import ORIGIN, UNSAVED_RECORDS, Progress

LIMIT = 3_072
"""The longest text, in characters, each of one byte."""

RESERVE = 256
"""Of the room for spans, what new places leave free: the halves of one failing batch, so that one strand at least can always go on."""

VERSION = 1
WIDEST = 1 << 16
"""No lane has more strands: what says so was not written by us."""

Note: TypeAlias = Literal["ours", "dropped", "none", "foreign", "newer", "damaged", "moved"]
"""What a text was. Ours, whole or with its positions dropped; there was none; another tool's; ours of a newer version; ours, but not as it
was written; ours, but of another offset: someone has moved the group with Kafka's own tools since."""

_TEXT = re.compile(r"poller([1-9]\d{0,8}):(.*)", re.ASCII | re.DOTALL)
_PAYLOAD = re.compile(r"[A-Za-z0-9_-]*")
_CRC = 4
_COUNTS = 8
"""Bytes for how many spans there are, and from when their times are counted."""
_SLACK = 8
"""Bytes by which other bytes may grow where the checkpoint is moved back to an older span."""
_CLOSED, _DROPPED, _DENSE, _CAREFUL = 1, 2, 4, 8
_FIXED = 3
"""Bytes for the time of a span: it is taken to be 29 hours after the first."""
_RUNNING, _LISTED = 1, 2


@dataclass(frozen=True, slots=True)
class Decoded:
    """`progress` is what to open the lane with, `note` why it is that."""

    progress: Progress
    note: Note


# --- out ------------------------------------------------------------------------------------------------------------------------------


def encode(progress: Progress, limit: int = LIMIT) -> tuple[int, str]:
    """The offset to commit, and its metadata, not longer than `limit`. `progress` is as `fitting` or `Tracker.snapshot` made it.

    The offset of a lane that has read nothing yet (its frontier is ORIGIN, which Kafka cannot commit) is 0; the text knows better.
    """
    progress = fitting(progress, limit=limit, reserve=0)
    text = _text(progress, _positions(progress))
    if len(text) > limit:
        text = _text(progress, None)
    return max(progress.checkpoint, 0), text


def dropped(progress: Progress) -> Progress:
    """The same without its positions: a strand with spans stands at the first of them, every other one at the checkpoint."""
    checkpoint = progress.checkpoint
    heads = {strand: spans[0].first for strand, spans in _by_strand(progress.spans).items()}
    return replace(progress, positions=tuple((strand, heads.get(strand, checkpoint)) for strand in range(progress.width)))


def fits(progress: Progress, limit: int = LIMIT, reserve: int = RESERVE) -> bool:
    """Whether there is a place for all its spans, and the reserve is left."""
    return not progress.spans or _cost(progress.spans, progress.checkpoint) <= _room(progress, limit) - reserve


def fitting(progress: Progress, before: Progress | None = None, limit: int = LIMIT, reserve: int = RESERVE) -> Progress:
    """The same with as many of its spans as there is room for: itself, nearly always.

    `before`: what this lane saved last, as this function gave it. A strand that has a place there keeps it until it is done with those
    records: what was counted stays counted. The lowest strands are the first to get more. One strand at a time may use the `reserve`, the
    one that has grown most, so that always one can go on and give its place free.

    A strand left out stands before its first span, and its records are begun carefully by the next life. The same holds for one that keeps
    its older spans: their outcome is decided once more. Law 11 needs that an attempt after the first, or of a careful stretch, begins
    only if it is `placed`.
    """
    if fits(progress, limit, reserve):
        return progress
    spans = _by_strand(progress.spans)
    earlier = {} if before is None else _by_strand(before.spans)
    forms = {strand: earlier[strand] for strand in spans if strand in earlier and earlier[strand][-1].end > spans[strand][0].first}
    # What is kept of the earlier spans may move the checkpoint back, never below where it was.
    checkpoint = (progress if before is None else before).checkpoint
    cost = {strand: _cost(form, checkpoint) for strand, form in forms.items()}
    total, room = sum(cost.values()), _room(progress, limit)
    order = sorted(spans, key=lambda strand: spans[strand][0].first)
    favourite = max(forms, key=lambda strand: cost[strand]) if forms and total > room - reserve else order[0]
    for strand in order:
        wanted, had = spans[strand], cost.get(strand, 0)
        wants = _cost(wanted, checkpoint)
        if strand == favourite and total - had + wants > room:
            # As a last resort it goes without its lists: all of its stretch is begun again after a crash.
            wanted = [span.but(listed=None) for span in wanted]
            wants = _cost(wanted, checkpoint)
        if total - had + wants <= (room if strand == favourite else room - reserve) or wants <= had:
            forms[strand], total = wanted, total - had + wants
    return _with(progress, spans, forms)


def placed(progress: Progress, fitted: Progress, strand: int) -> bool:
    """Whether `fitted` (`fitting` of `progress`) holds the spans of this strand as they are."""
    if fitted is progress:
        return True
    wanted, there = ([span.but(listed=None) for span in each.spans if span.strand == strand] for each in (progress, fitted))
    return wanted == there


def _with(progress: Progress, spans: dict[int, list[Span]], forms: dict[int, list[Span]]) -> Progress:
    """`progress` with the spans in `forms` instead of `spans`."""
    positions, careful = dict(progress.positions), progress.careful
    for strand, wanted in spans.items():
        form = forms.get(strand, [])
        if form is not wanted:
            first = min(span.first for span in (*wanted, *form))
            positions[strand] = min(positions.get(strand, first), first)
            careful = max(careful, wanted[-1].end)
    listed = sorted((strand, position) for strand, position in positions.items() if position < progress.frontier)
    return replace(progress, positions=tuple(listed), spans=tuple(span for form in forms.values() for span in form), careful=careful)


def _by_strand(spans: Iterable[Span]) -> dict[int, list[Span]]:
    by_strand: dict[int, list[Span]] = {}
    for span in sorted(spans, key=lambda each: each.first):
        by_strand.setdefault(span.strand, []).append(span)
    return by_strand


def _room(progress: Progress, limit: int) -> int:
    """Bytes for the spans."""
    return (limit - len(f"poller{VERSION}:")) * 3 // 4 - _CRC - len(_header(progress, None)) - _COUNTS - _SLACK


def _cost(spans: Iterable[Span], checkpoint: int) -> int:
    """At least the bytes that these spans take, counted from there: the longest time, so that none outgrows its place by waiting."""
    cost = 0
    for span in spans:
        cost += _FIXED + size(span.strand) + size(zigzag(span.first - checkpoint)) + size(span.last - span.first)
        cost += size(span.end - span.last) + size(span.attempts << 2)
        if span.listed is not None:
            cost += size(len(span.listed)) + size(span.last - span.first) * len(span.listed)
    return cost


def _text(progress: Progress, positions: bytes | None) -> str:
    payload = _header(progress, positions)
    if positions is not None:
        payload += positions[1:]
    base, checkpoint = _base(progress.spans), progress.checkpoint
    put(payload, base)
    put(payload, len(progress.spans))
    strand = 0
    for span in sorted(progress.spans, key=lambda each: (each.strand, each.first)):
        put(payload, span.strand - strand)
        _put_span(payload, span, checkpoint, base)
        strand = span.strand
    payload += crc32(payload).to_bytes(_CRC, "big")
    return f"poller{VERSION}:{urlsafe_b64encode(payload).decode().rstrip('=')}"


def _header(progress: Progress, positions: bytes | None) -> bytearray:
    checkpoint = progress.checkpoint
    payload = bytearray([(_CLOSED if progress.closed else 0) | (_DROPPED if positions is None else positions[0])])
    put(payload, checkpoint + 1)
    put(payload, progress.width)
    put(payload, progress.frontier - checkpoint)
    put(payload, progress.doubt)
    if progress.careful != ORIGIN:
        payload[0] |= _CAREFUL
        put(payload, zigzag(progress.careful - checkpoint))
    origin = progress.origin.encode()
    put(payload, len(origin))
    payload += origin
    return payload


def _positions(progress: Progress) -> bytes:
    """Flags, then one step a strand (where most have work), or strand and step for those listed; whichever is shorter.

    Each position is a step from the one before it: strands with work are near each other, however far one that retries is behind.
    """
    sparse, dense = bytearray([0]), bytearray([_DENSE])
    checkpoint = progress.checkpoint
    put(sparse, len(progress.positions))
    before, at = 0, checkpoint
    for strand, position in progress.positions:
        put(sparse, strand - before)
        put(sparse, zigzag(position - at))
        before, at = strand, position
    if any(position >= progress.frontier for _, position in progress.positions):
        return bytes(sparse)  # dense, it would not be listed
    listed, at = dict(progress.positions), checkpoint
    for strand in range(progress.width):
        position = listed.get(strand, progress.frontier)
        put(dense, zigzag(position - at))
        at = position
    return bytes(min(sparse, dense, key=len))


def _put_span(payload: bytearray, span: Span, checkpoint: int, base: int) -> None:
    put(payload, zigzag(span.first - checkpoint))
    put(payload, span.last - span.first)
    put(payload, span.end - span.last)
    put(payload, span.attempts << 2 | (_RUNNING if span.running else 0) | (_LISTED if span.listed is not None else 0))
    put(payload, 1 + _tenths(span.not_before) - base if span.not_before else 0)
    if span.listed is not None:
        put(payload, len(span.listed))
        at = span.first
        for token in span.listed:
            put(payload, token - at)
            at = token


def _tenths(time: float) -> int:
    return math.ceil(time * 10)


def _base(spans: Iterable[Span]) -> int:
    """What the times of spans are counted from, in tenths of a second."""
    return min((_tenths(span.not_before) for span in spans if span.not_before), default=0)


# --- in -------------------------------------------------------------------------------------------------------------------------------


def decode(offset: int, metadata: str, origin: str = "") -> Decoded:
    """What a lane starts from, given what the group has committed. Never raises, whatever the text is.

    The committed offset always wins. If the text is not ours, or not of this offset, the progress is plain: read from `offset` on, nothing
    known beyond; its origin is `origin`. Say so loudly, for attempts and what was done beyond the offset are forgotten. "moved" and
    "foreign" are a person's act, so everything starts afresh; after a "damaged" text first attempts are begun carefully (`doubt`).

    "newer" is what an older program finds in the middle of an update, or after one was taken back. It must not open the lane: its first
    save would overwrite attempts and positions that it cannot read, and a record that always fails would be tried from the start. The
    partition waits, loudly, for a worker of the newer version, or for a person to commit the offset with Kafka's own tools, which
    clears the text.
    """
    if not metadata:
        return Decoded(Progress(origin, frontier=offset), "none")
    match = _TEXT.fullmatch(metadata)
    if match is None:
        note: Note = "foreign"
    elif int(match[1]) > VERSION:
        note = "newer"
    else:
        try:
            progress, drops = _parsed(match[2])
        except (ValueError, IndexError):
            note = "damaged"
        else:
            if max(progress.checkpoint, 0) == offset:
                return Decoded(progress, "dropped" if drops else "ours")
            note = "moved"
    doubt = UNSAVED_RECORDS if note in {"newer", "damaged"} else 0
    return Decoded(Progress(origin, frontier=offset, doubt=doubt), note)


def _parsed(text: str) -> tuple[Progress, bool]:
    """And whether its positions were dropped. Raises ValueError or IndexError for what `_text` did not make."""
    if _PAYLOAD.fullmatch(text) is None:
        raise ValueError("not base64")
    payload = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    content = payload[:-_CRC]
    if crc32(content) != int.from_bytes(payload[-_CRC:], "big"):
        raise ValueError("not as it was written")
    read = Varints(content)
    flags = read.number()
    checkpoint, width, ahead, doubt = read.number() - 1, read.number(), read.number(), read.number()
    if not 1 <= width <= WIDEST:
        raise ValueError("no lane is so wide")
    careful = checkpoint + read.step() if flags & _CAREFUL else ORIGIN
    origin = read.bytes(read.number()).decode()
    frontier = checkpoint + ahead
    positions = () if flags & _DROPPED else _dense(read, width, checkpoint, frontier) if flags & _DENSE else _sparse(read, checkpoint)
    spans = _spans(read, checkpoint)
    read.end()
    if any(strand >= width for strand, _ in positions) or any(span.strand >= width for span in spans):
        raise ValueError("no such strand")
    progress = Progress(
        origin=origin,
        width=width,
        # Without its positions it is known by them alone where the checkpoint is: below the frontier.
        frontier=checkpoint if flags & _DROPPED else frontier,
        positions=positions,
        spans=spans,
        doubt=doubt,
        careful=careful,
        closed=bool(flags & _CLOSED),
    )
    if flags & _DROPPED:
        progress = replace(dropped(progress), frontier=frontier)
    if progress.checkpoint != checkpoint:
        raise ValueError("its positions have another checkpoint")
    return progress, bool(flags & _DROPPED)


def _sparse(read: Varints, at: int) -> tuple[tuple[int, int], ...]:
    strand, positions = 0, []
    for _ in range(read.number()):
        strand += read.number()
        at += read.step()
        positions.append((strand, at))
    return tuple(positions)


def _dense(read: Varints, width: int, at: int, frontier: int) -> tuple[tuple[int, int], ...]:
    positions = []
    for strand in range(width):
        at += read.step()
        if at != frontier:
            positions.append((strand, at))
    return tuple(positions)


def _spans(read: Varints, checkpoint: int) -> tuple[Span, ...]:
    base, strand, spans = read.number(), 0, []
    for _ in range(read.number()):
        strand += read.number()
        first = checkpoint + read.step()
        last = first + read.number()
        end = last + read.number()
        begun, time = read.number(), read.number()
        listed = _listed(read, first) if begun & _LISTED else None
        not_before = (base + time - 1) / 10 if time else 0.0
        spans.append(Span(strand, first, last, end, begun >> 2, bool(begun & _RUNNING), not_before, listed))
    return tuple(spans)


def _listed(read: Varints, at: int) -> tuple[int, ...]:
    tokens = []
    for _ in range(read.number()):
        at += read.number()
        tokens.append(at)
    return tuple(tokens)
