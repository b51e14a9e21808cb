"""A seed that fails says how it is played again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def replayable(seed: int, call: str) -> Iterator[None]:
    """`call`: what plays this seed alone."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"seed {seed}: replay with {call}")
        raise
