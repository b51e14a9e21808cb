"""Destinations as a person sees them: what waits for each, why, and how it is given up. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from shlex import quote
from typing import TYPE_CHECKING

from poller.cli.text import clean, moment, shortened, table

if TYPE_CHECKING:
    from poller.status import DestinationStatus

_HEADS = ("DESTINATION", "OF", "WAITING", "SINCE", "ATTEMPTS")


def overview(destinations: Sequence[DestinationStatus]) -> Iterator[str]:
    """The lines of a table; what is to be known of one stands below it."""
    head, *lines = table(_HEADS, map(_cells, destinations)).splitlines()
    yield head
    for each, line in zip(destinations, lines, strict=True):
        yield line
        if each.last_error:
            yield clean(f"    {shortened(each.last_error, 160)}")
        drop = clean(f"poller outbox drop {quote(each.name)} --mapping {quote(each.mapping)}")
        if each.damaged:
            yield f"    {each.damaged:,} of them cannot be read, and are set aside; to give these up: {drop} --damaged"
        if not each.configured:
            yield f"    the configuration names it no more: what waits is kept until it does; to give it up: {drop}"


def _cells(each: DestinationStatus) -> tuple[object, ...]:
    since = "" if each.oldest is None else moment(each.oldest)
    return (each.name, each.mapping, each.waiting, since, each.attempts or "")
