"""Work that is done to its end, whoever stops waiting for it: a change that half of would be worse than none or all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

log = logging.getLogger("poller.unbroken")


async def unbroken(work: Coroutine[Any, Any, T]) -> T:
    """Its result. Cancelled, it waits for the end of the work first; what that raises then is in the log."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("failed after who had asked for it was gone: %s", error)
        raise
