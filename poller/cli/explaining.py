"""The policy of a mapping, from its configuration alone: no source is opened."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, cast

from poller.config import Config, MappingConfig
from poller.errors import ConfigError
from poller.explain import Explanation, explain
from poller.policy import Block, Redeliver
from poller.registry import Registry, unknown
from poller.settings import Traits
from poller.units import duration

SAFE_RECEIVES = 10
"""What a safe mapping adds to a queue that has no redrive policy."""

LISTED = ("kafka",)
"""Sources whose partial failures name exactly what is retried."""


class Explained(NamedTuple):
    """`notes`: what the configuration alone does not tell."""

    explanation: Explanation
    notes: tuple[str, ...]


def explained(config: Config, registry: Registry, name: str, poison: int, size: int | None, kind: str | None) -> Explained:
    """For the record at `poison`, from 1, of a batch of `size` (None: the mapping's). Raises ConfigError."""
    if name not in config.mappings:
        raise ConfigError(unknown("mapping", name, config.mappings))
    mapping = config.mappings[name]
    count = size or mapping.settings.batching.size
    if poison > count:
        raise ConfigError(f"there is no record {poison} in a batch of {count}; allowed 1 to {count}")
    fails = kind or ("partial" if mapping.settings.failure.reporting else "full")
    if fails == "partial" and not mapping.settings.failure.reporting:
        raise ConfigError(f'mapping {name!r} knows no partial failure; set function_response_types = ["ReportBatchItemFailures"]')
    policy, notes = policy_of(mapping, registry.connector(mapping.type).traits(mapping.options))
    visibility = duration(getattr(mapping.options, "visibility_timeout", "30s"))
    return Explained(explain(policy, count, poison - 1, cast("Literal['full', 'partial']", fails), visibility=visibility), notes)


def policy_of(mapping: MappingConfig, traits: Traits) -> tuple[Block | Redeliver, tuple[str, ...]]:
    """What the source will bring, as far as the configuration says, and what it does not say."""
    failure = mapping.settings.failure
    if traits.kind == "stream":
        partial: Literal["cut", "listed"] = "listed" if mapping.type in LISTED else "cut"
        return Block(failure.maximum_retry_attempts, failure.maximum_record_age, failure.bisect, failure.backoff, partial), ()
    options: Any = mapping.options
    redrive = getattr(options, "redrive", None)
    limit = None if redrive is None else int(redrive.maximum_receive_count)
    ours = failure.maximum_receive_count
    if ours is None and limit is None and mapping.settings.safe:
        ours = SAFE_RECEIVES
    backoff = failure.backoff if failure.backoff_set else None
    groups = bool(getattr(options, "release_failed_groups", False))
    known = hasattr(options, "redrive")
    notes = () if known else ("the queue's own redrive policy and visibility timeout are not known here, and are not counted",)
    return Redeliver(ours, limit, backoff, groups), notes
