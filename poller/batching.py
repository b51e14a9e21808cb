"""Where a batch ends. Pure.

Law 8 (tests/unit/test_batching.py): the batches, one after the other, are the input; none is over the count or the bytes, unless it is of
one record.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from poller.model import Cause
from poller.settings import Batching

ENVELOPE_BYTES = 4096
"""Kept free of the event's limit for what surrounds the records."""


def cut(sizes: Sequence[int], batching: Batching, closing: Cause | None, total: float = inf) -> tuple[int, Cause] | None:
    """How many of the waiting records make the next batch, and why; None while it should go on filling.

    `sizes`: bytes of each waiting record, in order, together at most `total`; `closing`: why even a batch that is not full ends now
    ("window", "drain").
    """
    count = min(len(sizes), batching.size)
    if count == 0:
        return None
    limit = batching.maximum_bytes - ENVELOPE_BYTES
    if total > limit:  # else nothing needs adding up
        head = sizes[:count] if count < len(sizes) else sizes
        if sum(head) > limit:
            return _fitting(head, limit)
    if count == batching.size:
        return count, "size"
    return (count, closing) if closing is not None else None


def _fitting(sizes: Sequence[int], limit: int) -> tuple[int, Cause]:
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if total > limit:
            return (count, "bytes") if count else (1, "oversize")
    raise AssertionError("called with sizes that fit")
