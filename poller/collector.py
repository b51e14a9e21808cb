"""How often Python looks for cycles, by how much is in flight.

It looks when so many more objects were made than freed, by default 700. Every invocation that runs holds some ten: a thousand at once
make it look at every turn, and find nothing, for an eighth of all CPU. Where it waits for as many as may be in flight, garbage is at most
as many objects as what runs holds anyway.
"""

from __future__ import annotations

import gc

OBJECTS = 10
"""That an invocation holds while it runs."""

_THRESHOLD = gc.get_threshold()[0]


def settle_down(concurrency: int) -> None:
    """All is made that lives as long as the process: the collector need not look at it again. `concurrency`: of all functions together."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(max(_THRESHOLD, OBJECTS * concurrency), *gc.get_threshold()[1:])
