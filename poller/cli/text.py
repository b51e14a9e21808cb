"""How results look to a person: tables, times, amounts. Pure, but for the local time zone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    """What a user's function or a source said must not steer the terminal: control characters are shown, not sent."""
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, indent: str = "") -> str:
    """Columns, as wide as they must be; numbers to the right. The last column is not padded."""
    cells = [[clean(_cell(value)).replace("\n", " ") for value in row] for row in (heads, *(list(row) for row in rows))]
    numbers = [all(_numeric(row[i]) for row in cells[1:]) and len(cells) > 1 for i in range(len(heads))]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    lines = [[cell.rjust(w) if n else cell.ljust(w) for cell, w, n in zip(row, widths, numbers, strict=True)] for row in cells]
    return "\n".join((indent + "  ".join(line)).rstrip() for line in lines)


def moment(seconds: float) -> str:
    """Local time, to the second."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def iso(seconds: float) -> str:
    """For programs: UTC, ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def lasting(seconds: float | None) -> str:
    """Roughly how long: 0.4s, 12s, 5m, 3h, 2d."""
    if seconds is None:
        return ""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("m", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s" if seconds >= 10 else f"{seconds:.1f}s"


def shortened(text: str, width: int) -> str:
    """At most `width` characters of the first line."""
    line = text.partition("\n")[0]
    return line if len(line) <= width and line == text else f"{line[: width - 3]}..."


def amount(count: int, noun: str, plural: str = "") -> str:
    """1 record, 2 records."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def json_line(value: Any) -> str:
    """One object for a program."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _cell(value: object) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _numeric(text: str) -> bool:
    return text.replace(",", "").isdecimal() or not text
