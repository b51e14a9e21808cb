"""Into which parts a batch that failed as a whole is divided, in order, to find the record that is at fault. Pure.

Every part is one stretch of the batch, for a stretch is what a save can hold (progress.py: spans), and order is kept whatever the keys.

- The error names a record: what comes before it, the record, what comes behind it. So whoever knows which one it was spends no halving.
- Along keys: at the place nearest the middle that no key has records on both sides of; where there is none, in halves.
- Else in halves, as AWS does.

Laws, tested in tests/unit/test_parts.py:

20. Parts are never empty, and together they are the batch; there are two at least.
21. An error that names the poison record costs it one invocation more than if it were alone (retries + 2); one that lies loses nothing, and
    costs at most as many as there are records + retries.
22. Along keys no cut parts a key while there is one that parts none, and a lone poison record is found within `3 * ceil(log2 n)` cuts.

Parts have attempts of their own (law 11, as for halves). Along keys they are stretches too, for a span is one (progress.py): to put the
records of a key together across others would need spans that lie within each other, and a position that is no longer the first of them.
What a function says of the place of its record (an exception's `record_index`, or a message in JSON) is checked against the batch that
failed.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import orjson

from poller.model import Batch, Fault, Record
from poller.settings import Bisect

KEY_CUTS = 3
"""Along keys it takes at most so many cuts to halve the part that a record is in (law 22)."""

LOOKED_AT = 4_096
"""Characters of a message that may be JSON; a longer one is not looked into."""


def parts(batch: Batch, fault: Fault, how: Bisect) -> list[Sequence[Record]]:
    """The parts of a batch of two records or more; `how` is not False."""
    records = batch.records
    named = named_by(fault, len(records))
    if named is not None:
        found = (records[:named], records[named : named + 1], records[named + 1 :])
        return [part for part in found if part]
    middle = (len(records) + 1) // 2
    if how == "key":
        middle = between_keys(batch.format.facts(records).keys(), middle)
    return [records[:middle], records[middle:]]


def named_by(fault: Fault, count: int) -> int | None:
    """The place of the record that an error is about, by its own word, in an event of `count`: `record_index` of the exception, or
    `recordIndex` of a message that is a JSON object. None where it says nothing, or names no record of the event."""
    index = fault.record_index
    if index is None and fault.message.startswith("{") and len(fault.message) <= LOOKED_AT:
        try:
            index = orjson.loads(fault.message.encode(errors="replace")).get("recordIndex")
        except orjson.JSONDecodeError:
            return None
    return index if type(index) is int and 0 <= index < count else None  # a bool is an int too


def between_keys(keys: Sequence[Hashable | None], middle: int) -> int:
    """The place nearest `middle` that no key has records on both sides of, the earlier of two; `middle` where there is none. A record
    without a key has no part in any."""
    last = {key: place for place, key in enumerate(keys)}
    found, reach = middle, 0
    nearest = len(keys)
    for place, key in enumerate(keys):
        if place and place > reach and abs(place - middle) < nearest:
            found, nearest = place, abs(place - middle)
        reach = max(reach, place if key is None else last[key])
    return found
