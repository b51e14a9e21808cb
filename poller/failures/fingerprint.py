"""Which failures are one error: the fingerprint of a fault, and of a batch that was never invoked. Pure.

Made from the error's type, its message without its values, and the innermost frames of its trace. A frame counts by its function and the
name of its file: a line number would make another error of every edit above it, and a folder of every deployment. Of what was never
invoked the reason counts. The function, the mapping and the attempts do not: one error in two mappings is one error.

A fingerprint is stored for good. Its last part is the version of these rules: whoever changes what they say of any fault makes it another
one, so that an error with two fingerprints shows why.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from poller.model import Fault, Reason

VERSION = "1"

FRAMES = 5
"""So many of the innermost frames: enough to reach from a library into the code that called it."""

LOOKED_AT = 4_000
"""Letters of a message that are masked ..."""
MESSAGE = 300
"""... and of what comes of that, those that count: what an error says of itself stands at its beginning."""

_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
_DAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*"
# What is a value wherever it stands. The order matters: what is quoted hides what is in it, an address or a path the words it is made of.
_VALUE = re.compile(
    "|".join(
        (
            r'"(?:\\.|[^"\\])*"',
            r"(?<!\w)'(?:\\.|[^'\\])*'(?!\w)",
            r"`[^`]*`",
            r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>,;)\]}]+(?<!\.)",
            r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
            r"(?<![\w.])(?:[A-Za-z]:\\|~?/|\.{1,2}/)[^\s'\":<>,;)\]}]+(?<!\.)",
            r"(?<![\w/.-])[\w.-]+(?:/[\w.-]+){2,}",
            rf"\b{_DAY},?[ ]{_MONTH}[ ]+\d+",
            rf"\b(?:{_DAY},?[ ])?\d{{1,2}}[ -]{_MONTH}[ -]\d{{2,4}}",
            r"(?<![\w:.-])(?:\d{4}-\d\d-\d\d[T ])?\d{1,4}(?::\d{2})+(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?(?!\w)",
            r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:.])",
            # A word with a digit in it: a number, an id, a UUID, a time, a version, with its sign.
            r"\+?(?<![\w.-])[\w.-]*\d(?:[\w.-]*\w)?(?:,\d{3})*(?:\.\d+)?%?",
            r"(?<![\w.-])[A-Fa-f]{8,}(?![\w-])",
        )
    )
)
_MANY = re.compile(r"\*(?:[\s,;:+.T-]*\*)+")
_SPACE = re.compile(r"\s+")

# What frames look like, the innermost one last (True) or first. Each has a `place` (a file) and a `name` (a function), as far as it tells.
_FRAMES = (
    (re.compile(r'^\s*File "(?P<place>[^"]*)", line \d+, in (?P<name>.+)'), True),
    (re.compile(r"^\s*at (?:async )?(?:(?P<name>[^()]+?) )?\(?(?P<place>[^()\s]+?)(?::\d+){1,2}\)?\s*$"), False),
    (re.compile(r"^\s*at (?P<name>[\w.$<>/]+)\((?P<place>[^():]*)(?::\d+)?\)\s*$"), False),
    (re.compile(r"^\s*(?P<place>[^:\s]+):\d+:in [`'](?P<name>[^']*)'"), False),
)


def fingerprint(fault: Fault | None, reason: Reason | None = None) -> str:
    """16 hexadecimal digits, a hyphen, and the version. `reason` counts only where there is no fault, and is needed there."""
    return _fingerprint(fault, None if fault is not None else reason)


@lru_cache(maxsize=16)  # what is poison fails in the same way again and again; few, for a fault may be long
def _fingerprint(fault: Fault | None, reason: Reason | None) -> str:
    parts = ("never invoked", reason or "") if fault is None else ("fault", fault.type, masked(fault.message), *frames(fault.trace))
    digest = hashlib.blake2b(digest_size=8, person=f"poller-{VERSION}".encode())
    for part in parts:
        encoded = part.encode("utf-8", "backslashreplace")
        digest.update(len(encoded).to_bytes(4, "big"))
        digest.update(encoded)
    return f"{digest.hexdigest()}-{VERSION}"


def masked(message: str) -> str:
    """The message with a star for each value: what is quoted, numbers and words with digits, hexadecimal, paths, addresses, times. Lists of
    values are one star, so that their length does not count either."""
    text = _VALUE.sub("*", message[:LOOKED_AT])
    return _MANY.sub("*", _SPACE.sub(" ", text)).strip()[:MESSAGE]


def frames(trace: Sequence[str]) -> tuple[str, ...]:
    """The innermost frames, that one first, each as `file function`. What repeats itself (a recursion) counts once; where no line looks
    like a frame, the first ones count, masked."""
    found = list(_found(trace)) or [masked(line) for line in trace if line.strip()]
    return tuple(dict.fromkeys(found))[:FRAMES]


def _found(trace: Sequence[str]) -> Iterator[str]:
    for shape, innermost_last in _FRAMES:
        matches = [match for line in trace if (match := shape.match(line))]
        if matches:
            for match in reversed(matches) if innermost_last else matches:
                place = match["place"].replace("\\", "/").rpartition("/")[2]
                yield f"{place} {match['name'] or ''}".strip()
            return
