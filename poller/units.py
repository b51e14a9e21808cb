"""Durations and sizes as people write them: "500ms", "30s", "1h", "512MiB", "6MB". Pure."""

from __future__ import annotations

import re

_DURATIONS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {"B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")


def _quantity(text: str, units: dict[str, float] | dict[str, int], what: str, example: str) -> float:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in units:
        raise ValueError(f"{text!r} is no {what}; write a number and a unit ({', '.join(units)}), such as {example!r}")
    return float(match[1]) * units[match[2]]


def duration(text: str) -> float:
    """Seconds. Raises ValueError with a sentence for a person."""
    return _quantity(text, _DURATIONS, "duration", "30s")


def size(text: str) -> int:
    """Bytes. Raises ValueError with a sentence for a person."""
    return round(_quantity(text, _SIZES, "size", "512MiB"))


def show_duration(seconds: float) -> str:
    """The shortest exact form: 0.5 -> "500ms", 90 -> "90s", 3600 -> "1h"."""
    for unit in ("d", "h", "m", "s", "ms"):
        count = seconds / _DURATIONS[unit]
        if count >= 1 and count == int(count):
            return f"{int(count)}{unit}"
    return f"{seconds:.15g}s"
