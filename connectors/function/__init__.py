"""`function:NAME`: a function of the configuration is invoked with the invocation record, as Lambda does with a destination of its kind.

Its result is not looked at. It has not taken a delivery if it raises, runs out of time, or cannot be reached; then it is tried again.
"""

from __future__ import annotations

import re
from typing import assert_never

import msgspec

from connectors.bodies import body
from poller.errors import ConfigError, NotConnected
from poller.failures.journal import Delivery
from poller.model import Busy, Fault, Returned
from poller.quotas import MAXIMUM_EVENT_BYTES
from poller.settings import DestinationContext, DestinationTraits, Finding, Surroundings

_ADDRESS = re.compile(r"function:(.+)", re.DOTALL)


class FunctionOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A function of the configuration, `function:NAME`, without options: time-out, memory and concurrency are its own."""


class FunctionDestination:
    """See `poller.failures.protocols.Destination`."""

    def __init__(self, name: str, context: DestinationContext) -> None:
        self._name = name
        self._context = context

    def __repr__(self) -> str:
        return f"<FunctionDestination {self._name}>"

    async def send(self, delivery: Delivery) -> None:
        event = await body(delivery, self._context, MAXIMUM_EVENT_BYTES)
        match await self._context.invoke(self._name, event):
            case Returned():
                return
            case Busy(after, reason):
                raise NotConnected(f"function {self._name} is not reached now{reason and ': '}{reason}", retry_after=after)
            case Fault(kind, type):
                # Not its message: that may hold what it was given.
                raise NotConnected(f"function {self._name} failed ({kind}: {type}); its log says why")
            case _ as never:
                assert_never(never)

    async def aclose(self) -> None:
        """The function is the daemon's to close."""


class FunctionKind:
    """See `poller.settings.DestinationKind`, and `poller.settings.Surrounded`."""

    options: type[msgspec.Struct] = FunctionOptions

    def __repr__(self) -> str:
        return "<FunctionKind>"

    def completed(self, to: str, options: FunctionOptions, around: Surroundings) -> FunctionOptions:
        """What it was given: only looks whether the function is there."""
        name = _name(to)
        if name not in around.functions:
            known = ", ".join(sorted(around.functions)) or "none"
            raise ConfigError(f"found the function {name!r}, which [functions] does not have; allowed {known}")
        return options

    def traits(self, to: str, options: FunctionOptions) -> DestinationTraits:  # noqa: ARG002 (the protocol's)
        _name(to)
        return DestinationTraits(maximum_bytes=MAXIMUM_EVENT_BYTES, seconds=None)

    async def open(self, to: str, options: FunctionOptions, context: DestinationContext) -> FunctionDestination:  # noqa: ARG002 (the protocol's)
        return FunctionDestination(_name(to), context)

    async def probe(self, to: str, options: FunctionOptions, context: DestinationContext) -> list[Finding]:  # noqa: ARG002 (the protocol's)
        return [Finding("ok", f"function {_name(to)} is invoked with what became of batches; it was not invoked now")]


def _name(to: str) -> str:
    found = _ADDRESS.fullmatch(to)
    if found is None:
        raise ConfigError(f'{to!r} names no function; write "function:" and the name of one of [functions]')
    return found[1]


kind = FunctionKind()
