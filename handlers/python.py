"""The default way to run a Python function: in processes of its own (pool.py), which are imported only when there is a function to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poller.protocols import Handler
    from poller.settings import FunctionLog, FunctionSettings


def connect(settings: FunctionSettings, log: FunctionLog) -> Handler:
    """Raises HandlerError for a folder, file or interpreter that is named and not there. Nothing is started yet."""
    from handlers import memory
    from handlers.pool import Pool
    from handlers.task import task_of
    from poller.errors import HandlerError

    task = task_of(settings)
    if settings.memory is not None and not memory.available():
        raise HandlerError(f"function {settings.name}: memory cannot be watched here, because there is no {memory.PROC}; remove memory")
    return Pool(task, log)
