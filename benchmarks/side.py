"""One measurement, in this process: `python -m benchmarks.side MODULE SIDE PARAMETERS`, parameters as JSON. Prints its figure."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any, cast

import uvloop

from benchmarks.comparison import Reading


def run(module: str, name: str, parameters: dict[str, Any]) -> Reading:
    """Sides that are coroutine functions run on uvloop, as the daemon does."""
    side: Callable[..., Reading | Awaitable[Reading]] = importlib.import_module(f"benchmarks.{module}").SIDES[name]
    if inspect.iscoroutinefunction(side):
        return cast("Reading", uvloop.run(side(**parameters)))
    return cast("Reading", side(**parameters))


if __name__ == "__main__":
    print(run(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])).figure)
