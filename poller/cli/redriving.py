"""`poller replay --from ADDRESS`: dead letters are taken into the journal, and are replayed from there as any failures."""

from __future__ import annotations

import time
import tomllib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import Any

import click
import msgspec

from poller.cli.journal import opened, overview
from poller.cli.options import Chosen
from poller.cli.text import amount, clean, moment
from poller.config import Config, DestinationConfig, MappingConfig
from poller.config.destinations import TO, kind_of
from poller.errors import ConfigError, SourceError
from poller.failures.protocols import Journal
from poller.failures.runs import Plan
from poller.protocols import Store
from poller.redrive.letters import DeadLetters, Readable, RedriveContext, Regainer, Regaining
from poller.redrive.taking import Taken, take
from poller.registry import DESTINATIONS, Registry
from poller.settings import Surrounded, Surroundings
from poller.stores.opening import Places, open_journal
from poller.stores.urls import masked


async def taken(config: Config, origin: str, chosen: Chosen, *, dry: bool) -> Taken:
    """What lies at the address, in the journal. Raises UsageError, ConfigError, NotConnected, SourceError, StoreError."""
    mapping = _mapping(config, chosen)
    registry = Registry()
    address = resolved(config, mapping, origin, registry)

    async def fetch(place: str) -> bytes:
        return await _fetched(place, registry, (*mapping.destinations, address), context)

    context = RedriveContext(mapping.settings, mapping.options, config.base, config.state, time.time, fetch)
    async with _journal(config, dry) as journal, _both(registry, mapping, address, context) as (letters, regainer):
        return await take(letters, regainer, journal, context, masked(address.to), dry=dry)


def planned(plan: Plan, found: Taken) -> Plan:
    """The plan of what was taken alone."""
    return replace(plan, selection=replace(plan.selection, ids=tuple(found.rows)))


def resolved(config: Config, mapping: MappingConfig, origin: str, registry: Registry) -> DestinationConfig:
    """The address with its options: those of a destination of the configuration that has it, of `{ to = "...", ... }` itself, or defaults.

    Raises ConfigError, PluginError."""
    named = [each for every in (mapping, *config.mappings.values()) for each in every.destinations if origin in (each.name, each.to)]
    if named:
        return named[0]
    table = _table(origin) if origin.lstrip().startswith("{") else {TO: origin}
    to = table.pop(TO, None)
    if not isinstance(to, str):
        raise ConfigError(f'--from {{ ... }}: it has no key {TO!r}; write an address, or {{ to = "ADDRESS", ... }}')
    kind = kind_of(to)
    if kind not in registry.names(DESTINATIONS):
        raise ConfigError(f"--from {masked(to)}: no such kind of address; it is an ARN or a URL of one of {_readable(registry)}")
    part = registry.destination(kind)
    try:
        options = msgspec.convert(table, part.options)
        if isinstance(part, Surrounded):
            options = part.completed(to, options, Surroundings(mapping.options, frozenset(config.functions)))
        return DestinationConfig(to, to, kind, options, part.traits(to, options))
    except msgspec.ValidationError as error:
        raise ConfigError(f"--from {masked(to)}: {error}") from None
    except ConfigError as error:
        raise ConfigError([f"--from {masked(to)}: {problem}" for problem in error.problems]) from None


def readable(registry: Registry, address: DestinationConfig) -> Readable:
    """Its kind. Raises ConfigError where nothing can be read from such an address."""
    part = registry.destination(address.kind)
    if not isinstance(part, Readable):
        raise ConfigError(f"--from {address.shown}: nothing can be read from there; it can from an address of {_readable(registry)}")
    return part


def _mapping(config: Config, chosen: Chosen) -> MappingConfig:
    if chosen.ids:
        raise click.UsageError("--from replays what it finds at the address: leave out the ids")
    if chosen.mapping is None:
        raise click.UsageError("--from needs --mapping NAME: whose function is to run what is there")
    found = [each for each in config.mappings.values() if chosen.mapping in (each.settings.name, each.settings.id)]
    if not found:
        raise click.UsageError(f"--mapping: there is no mapping {chosen.mapping!r}; there are {', '.join(config.mappings)}")
    return found[0]


def _table(text: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = tomllib.loads(f"from = {text}")["from"]
    except ValueError as error:
        raise ConfigError(f"--from: not TOML: {error}") from None
    return found


@asynccontextmanager
async def _both(
    registry: Registry, mapping: MappingConfig, address: DestinationConfig, context: RedriveContext
) -> AsyncIterator[tuple[DeadLetters, Regainer]]:
    part, connector = readable(registry, address), registry.connector(mapping.type)
    if not isinstance(connector, Regaining):
        raise ConfigError(f"mapping {mapping.settings.name}: records of a {mapping.type} source cannot be made again from letters")
    regainer = connector.regainer(mapping.options, context)
    try:
        letters = await part.letters(address.to, address.options, context)
        try:
            yield letters, regainer
        finally:
            await letters.aclose()
    finally:
        await regainer.aclose()


async def _fetched(place: str, registry: Registry, known: Sequence[DestinationConfig], context: RedriveContext) -> bytes:
    """With the options of a destination of the same kind, of which the mapping's own come first. Raises SourceError, NotConnected."""
    kind = kind_of(place)
    named = kind if kind in registry.names(DESTINATIONS) else ""
    if not named or not isinstance(part := registry.destination(named), Readable):
        raise SourceError(f"its event is at {place}, where nothing can be read")
    options = next((each.options for each in known if each.kind == kind), None)
    letters = await part.letters(place, msgspec.convert({}, part.options) if options is None else options, context)
    try:
        found = [letter for letter in await letters.fetch(2) if letter.name == place]
    finally:
        await letters.aclose()
    if not found:
        raise SourceError(f"its event should be at {place}, where nothing is")
    return found[0].body


def _readable(registry: Registry) -> str:
    return ", ".join(name for name in registry.names(DESTINATIONS) if isinstance(registry.destination(name), Readable))


@asynccontextmanager
async def _journal(config: Config, dry: bool) -> AsyncIterator[Journal]:
    """Looking makes no file; taking does."""
    async with opened(config) as looked:
        if dry:
            yield looked.journal
            return
    store: Store = await open_journal(Places(config.store_url, config.leases_url, config.journal_url), config.base, Registry())
    try:
        yield store.journal
    finally:
        await store.aclose()


# --- for a person -----------------------------------------------------------------------------------------------------------------------


def document(found: Taken) -> dict[str, Any]:
    """For a program."""
    shown = asdict(replace(found, sample=[]))
    del shown["sample"]
    return shown | {
        "rows": [*found.rows],
        "remarks": [*found.remarks],
        "left": [{"name": name, "why": why} for name, why in found.left],
    }


def page(found: Taken, dry: bool) -> str:
    """What was taken, or would be."""
    would = "would take" if dry else "took"
    what = f"{amount(found.taken, 'failure')} with {amount(found.records, 'record')}"
    lines = [f"{would} {what} from {found.address}, of {found.found:,} found there"]
    if found.known:
        lines.append(f"{found.known:,} are in the journal already, not replayed yet")
    if found.handled:
        lines.append(f"{found.handled:,} are in the journal already, replayed or dropped: not run again")
    if found.until is not None:
        lines.append(
            f"the records of {found.fetched:,} were fetched from their source, which keeps the first of them until {moment(found.until)}"
        )
    if found.gone:
        lines.append(f"LOST: the records of {found.gone:,} are gone from their source; the letters are left where they are")
    lines += found.remarks
    if found.left:
        lines.append(f"left where they are: {found.left_count:,} that are no failures of this mapping, or cannot be had")
        lines += [f"    {name}: {why}" for name, why in found.left]
        if found.left_count > len(found.left):
            lines.append(f"    ... and {found.left_count - len(found.left):,} more")
    if not dry and found.stays and found.found:
        lines.append(found.stays)
    elif not dry and (rest := found.taken + found.known + found.handled - found.removed):
        lines.append(f"{rest:,} could not be removed from there; they are in the journal, and recognised next time")
    if found.more:
        lines.append("there may be more: run the same command again")
    if dry and found.sample:
        lines += ["", "the first:", overview(found.sample)]
    return clean("\n".join(lines))
