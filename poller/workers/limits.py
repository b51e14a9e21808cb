"""What each of several workers gets of the limits that are the daemon's. Pure.

The shares of a limit add up to the limit, always. Where there are more workers than a function may have invocations, the first ones run it
and the others do not: so the first worker has every function. Of a queue, the workers that run its function share the width likewise, but
who comes first depends on the mapping, so that many narrow queues do not all fall to one worker.

Streams keep their width: it is a lane's, and a lane's order hangs on it.
"""

from __future__ import annotations

from dataclasses import replace
from zlib import crc32

from poller.config import Config, MappingConfig


def share(limit: int, number: int, workers: int, first: int = 1) -> int:
    """What worker `number` of `workers` (from 1) gets of `limit`. `first`, and those who follow, have one more if it does not divide."""
    base, rest = divmod(limit, workers)
    return base + ((number - first) % workers < rest)


def shared(config: Config, number: int) -> Config:
    """The configuration of worker `number` of `config.workers`. A mapping that is not run by this worker is disabled there."""
    functions = {
        name: replace(function, concurrency=part)
        for name, function in config.functions.items()
        if (part := share(function.concurrency, number, config.workers))
    }
    mappings = {
        name: _mapping(mapping, number, min(config.workers, config.functions[mapping.settings.function].concurrency))
        for name, mapping in config.mappings.items()
    }
    return replace(config, functions=functions, mappings=mappings, warnings=())  # the supervisor has told the warnings


def complete(config: Config) -> int:
    """So many workers, from the first one on, have every function."""
    return min((config.workers, *(function.concurrency for function in config.functions.values())))


def _mapping(mapping: MappingConfig, number: int, runners: int) -> MappingConfig:
    """`runners`: so many workers have its function."""
    if number > runners:
        return replace(mapping, enabled=False)
    if not mapping.queue:
        return mapping
    width = share(mapping.settings.width, number, runners, 1 + crc32(mapping.settings.id.encode()) % runners)
    if not width:
        return replace(mapping, enabled=False)
    # A width that changes only here, because other workers come to run the function, changes the digest all the same.
    return replace(mapping, settings=replace(mapping.settings, width=width))
