"""Texts as PostgreSQL can keep them. Pure."""

from __future__ import annotations

from poller.model import LaneKey


def text(value: str) -> str:
    r"""The value, with half surrogates and NULs, which a record's key or a function's error may contain, written as `\udc80`, `\x00`."""
    if not value.isascii():
        value = value.encode("utf-8", "backslashreplace").decode()
    return value.replace("\x00", "\\x00") if "\x00" in value else value


def place(key: LaneKey) -> tuple[str, str, str]:
    """Mapping, source and lane."""
    return text(key.mapping), text(key.source), text(key.lane)
