"""Ids of failures and of error groups as people write them: whole, or the first letters. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from poller.errors import ConfigError

SHOWN = 5
"""How many candidates an error names."""


def meant(prefix: str, candidates: Sequence[str], what: str = "failure") -> str | None:
    """The one id that `prefix` stands for, of the ids that begin with it; None if there is none. A whole id stands for itself.

    Raises ConfigError, which names candidates, if it may be several.
    """
    if prefix in candidates:
        return prefix
    if len(candidates) > 1:
        named = ", ".join(sorted(candidates)[:SHOWN]) + (", ..." if len(candidates) > SHOWN else "")
        raise ConfigError(f"{what} id {prefix!r} may be any of {named}: write more of it")
    return candidates[0] if candidates else None
