"""What one mapping of a configuration must be allowed, asked of its parts: source, destinations, ledger, and where its letters are taken
from. Nothing is connected to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from poller.cli.redriving import readable, resolved
from poller.config import Config, DestinationConfig
from poller.config.tree import MappingConfig
from poller.errors import ConfigError
from poller.feed import Returning
from poller.permissions import (
    DestinationPermissions,
    LedgerPermissions,
    LetterPermissions,
    Needed,
    Principal,
    ReturnPermissions,
    Somewhere,
    SourcePermissions,
    policies,
    remarks,
)
from poller.registry import Registry, unknown
from poller.stores.kinds import BUILT_IN
from poller.stores.urls import scheme

KEYS = (
    "what is encrypted with a KMS key of your own needs more on that key: kms:Decrypt to read, kms:GenerateDataKey and kms:Decrypt to send"
)


class Permitted(NamedTuple):
    """A policy for each who asks, and sentences about the rest."""

    principals: tuple[Principal, ...]
    remarks: tuple[str, ...]


def permitted(config: Config, registry: Registry, name: str, place: Somewhere, origin: str | None = None, back: bool = False) -> Permitted:
    """`origin`: with what `poller replay --from` it needs; `back`: with what `--to source` needs. Raises ConfigError: there is no such
    mapping, or nothing to be read there."""
    if name not in config.mappings:
        raise ConfigError(unknown("mapping", name, config.mappings))
    mapping = config.mappings[name]
    needed = [*_needed(config, registry, mapping, place)]
    if origin is not None:
        needed += _read(registry, mapping, resolved(config, mapping, origin, registry), place)
    if back:
        needed.append(_returned(registry, mapping, place))
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
            yield _none(f"the destination {each.shown}")
    url = config.leases_url or config.store_url
    if scheme(url) in BUILT_IN:
        return
    store = registry.store(scheme(url))
    if isinstance(store, LedgerPermissions):
        yield store.permissions(url, mapping.settings.id, place)
    else:
        yield _none(f"the store ({scheme(url)})")


def _returned(registry: Registry, mapping: MappingConfig, place: Somewhere) -> Needed:
    connector = registry.connector(mapping.type)
    if not isinstance(connector, Returning):
        raise ConfigError(f"mapping {mapping.settings.name}: its source, of type {mapping.type!r}, cannot be written to")
    if isinstance(connector, ReturnPermissions):
        return connector.returning(mapping.options, place)
    return _none(f"the source ({mapping.type})")


def _read(registry: Registry, mapping: MappingConfig, address: DestinationConfig, place: Somewhere) -> Iterator[Needed]:
    """The letters, and the destinations of the mapping that have the events which found no room in a letter: they take any size."""
    readable(registry, address)
    for each in (address, *(each for each in mapping.destinations if each.traits.maximum_bytes is None and each != address)):
        kind = registry.destination(each.kind)
        if isinstance(kind, LetterPermissions):
            yield kind.reading(each.to, each.options, mapping.options, mapping.settings.id, place)
        elif each == address:
            yield _none(f"what lies at {each.shown}")


def _none(what: str) -> Needed:
    return Needed(remarks=(f"{what} is nothing that IAM guards",))
