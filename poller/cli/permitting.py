"""What one mapping of a configuration must be allowed, asked of its parts: source, destinations, ledger. Nothing is connected to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from poller.config import Config
from poller.config.tree import MappingConfig
from poller.errors import ConfigError
from poller.permissions import (
    DestinationPermissions,
    LedgerPermissions,
    Needed,
    Principal,
    Somewhere,
    SourcePermissions,
    policies,
    remarks,
)
from poller.registry import Registry, unknown
from poller.stores.kinds import BUILT_IN
from poller.stores.urls import masked, scheme

KEYS = (
    "what is encrypted with a KMS key of your own needs more on that key: kms:Decrypt to read, kms:GenerateDataKey and kms:Decrypt to send"
)


class Permitted(NamedTuple):
    """A policy for each who asks, and sentences about the rest."""

    principals: tuple[Principal, ...]
    remarks: tuple[str, ...]


def permitted(config: Config, registry: Registry, name: str, place: Somewhere) -> Permitted:
    """Raises ConfigError: there is no such mapping."""
    if name not in config.mappings:
        raise ConfigError(unknown("mapping", name, config.mappings))
    needed = [*_needed(config, registry, config.mappings[name], place)]
    found = policies(needed)
    return Permitted(found, (*remarks(needed), *([KEYS] if found else [])))


def _needed(config: Config, registry: Registry, mapping: MappingConfig, place: Somewhere) -> Iterator[Needed]:
    connector = registry.connector(mapping.type)
    if isinstance(connector, SourcePermissions):
        yield connector.permissions(mapping.options, mapping.settings, place)
    else:
        yield _none(f"the source ({mapping.type})")
    for each in mapping.destinations:
        kind = registry.destination(each.kind)
        if isinstance(kind, DestinationPermissions):
            yield kind.permissions(each.to, each.options, place)
        else:
            yield _none(f"the destination {masked(each.name)}")
    url = config.leases_url or config.store_url
    if scheme(url) in BUILT_IN:
        return
    store = registry.store(scheme(url))
    if isinstance(store, LedgerPermissions):
        yield store.permissions(url, mapping.settings.id, place)
    else:
        yield _none(f"the store ({scheme(url)})")


def _none(what: str) -> Needed:
    return Needed(remarks=(f"{what} is nothing that IAM guards",))
