"""The attempts that a mapping's records would get, from its configuration alone: no source is opened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple, cast, get_args

from poller.breaker import HALF, IN_A_ROW, LOOKED_AT
from poller.config import Config
from poller.errors import ConfigError
from poller.explain import POISON, Explanation, Kind, explain
from poller.failures.parking import holds
from poller.model import Fault, Reason
from poller.policy import Block, Redeliver
from poller.registry import Registry, unknown
from poller.settings import BreakerSettings
from poller.units import show_duration


class Explained(NamedTuple):
    """`assumed`: what the configuration alone does not tell, and what was taken for it. `parks`: the record holds its key once it is given
    up, and what comes later of that key waits. `breaker`: what its circuit breaker changes, where it is not one record that fails."""

    explanation: Explanation
    assumed: tuple[str, ...]
    parks: bool = False
    breaker: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        yield from self.explanation.lines()
        if self.parks:
            yield "later records of its key are parked behind it, until it is replayed or dropped; other keys go on"
        yield from self.assumed
        yield from self.breaker


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
    end = found.ends[found.poison]
    parks = end is not None and end.how in get_args(Reason) and holds(cast("Reason", end.how), mapping.settings)
    return Explained(found, traits.assumed, parks, tuple(_breaker(mapping.settings.breaker)))


def _breaker(settings: BreakerSettings | None) -> Iterator[str]:
    if settings is None:
        yield "no circuit breaker: while the function fails for everything, every record spends its attempts like this one"
        return
    initial, maximum, patience = map(show_duration, (settings.initial, settings.maximum, settings.patience))
    yield (
        f"circuit breaker: one record does not open it; {IN_A_ROW} batches in a row that fail alike do, or {HALF} of the last {LOOKED_AT}, "
        "no two with a key in common"
    )
    yield f"while it is open a batch at a time probes, after {initial}, then up to {maximum}; what fails within {patience} costs no attempt"


def _fault(error: str | None) -> Fault:
    if error is None:
        return POISON
    type_, _, message = error.partition(": ")
    return replace(POISON, type=type_, message=message)
