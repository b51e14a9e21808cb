"""The attempts that a mapping's records would get, from its configuration alone: no source is opened."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, cast

from poller.config import Config
from poller.errors import ConfigError
from poller.explain import POISON, Explanation, Kind, explain
from poller.model import Fault
from poller.policy import Block, Redeliver
from poller.registry import Registry, unknown


class Explained(NamedTuple):
    """`assumed`: what the configuration alone does not tell, and what was taken for it."""

    explanation: Explanation
    assumed: tuple[str, ...]


def explained(
    config: Config, registry: Registry, name: str, poison: int, size: int | None, kind: str | None, error: str | None = None
) -> Explained:
    """For the record at `poison`, from 1, of a batch of `size` (None: the mapping's). `error`: type, or "type: message", of what the
    function fails with. Raises ConfigError."""
    if name not in config.mappings:
        raise ConfigError(unknown("mapping", name, config.mappings))
    mapping = config.mappings[name]
    count = size or mapping.settings.batching.size
    if poison > count:
        raise ConfigError(f"there is no record {poison} in a batch of {count}; allowed 1 to {count}")
    if error is not None and kind == "partial":
        raise ConfigError("a function that names records in its response fails with no error; leave out --error, or --kind partial")
    fails = kind or ("partial" if error is None and mapping.settings.failure.reporting else "full")
    if fails == "partial" and not mapping.settings.failure.reporting:
        raise ConfigError(f'mapping {name!r} knows no partial failure; set function_response_types = ["ReportBatchItemFailures"]')
    connector = registry.connector(mapping.type)
    policy, traits = connector.policy(mapping.options, mapping.settings), connector.traits(mapping.options)
    if not isinstance(policy, Block | Redeliver):
        raise ConfigError(f"the source type {mapping.type!r} of mapping {name!r} has a policy of its own, which cannot be explained")
    found = explain(policy, count, poison - 1, cast("Kind", fails), visibility=traits.visibility, fault=_fault(error))
    return Explained(found, traits.assumed)


def _fault(error: str | None) -> Fault:
    if error is None:
        return POISON
    type_, _, message = error.partition(": ")
    return replace(POISON, type=type_, message=message)
