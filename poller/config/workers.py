"""`[poller] workers`: how many there are, and what a limit that is lower than their number means."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal

from poller.config.problems import Problems
from poller.config.tree import MappingConfig
from poller.settings import FunctionSettings


def count(problems: Problems, workers: int | Literal["auto"], stores: Mapping[str, str]) -> int:
    """How many processes. Several need stores that they share; `stores` are their URLs, by key."""
    number = len(os.sched_getaffinity(0)) if workers == "auto" else workers
    for key, url in stores.items():
        if number > 1 and url == "memory:":
            problems.add(
                ("poller", "workers"),
                f'{number} workers with {key} = "memory:", which each of them would have for itself',
                "one worker, or a store in a file",
            )
    return number


def warn(problems: Problems, workers: int, functions: Mapping[str, FunctionSettings], mappings: Mapping[str, MappingConfig]) -> None:
    """About limits that leave workers without work."""
    if workers == 1:
        return
    for name, function in functions.items():
        if function.concurrency < workers:
            problems.warn(
                ("functions", name, "concurrency"),
                f"the concurrency {function.concurrency} is lower than the number of workers, {workers}: "
                f"{_some(function.concurrency)} of them {_run(function.concurrency)} this function, the others do not",
            )
    for name, mapping in mappings.items():
        function_limit = functions[mapping.settings.function].concurrency if mapping.settings.function in functions else 1
        width = mapping.settings.width
        if mapping.queue and width < min(workers, function_limit):
            problems.warn(
                ("mappings", name, "maximum_concurrency"),
                f"the maximum_concurrency {width} is lower than the number of workers, {workers}: "
                f"{_some(width)} of them {'polls' if width == 1 else 'poll'} this queue, the others do not",
            )


def _some(number: int) -> str:
    return "one" if number == 1 else str(number)


def _run(number: int) -> str:
    return "runs" if number == 1 else "run"
