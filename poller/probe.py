"""`check --live`: whether sources and destinations can be reached and functions loaded: nothing is read, sent or run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from poller.config import Config, DestinationConfig, MappingConfig, handler_kind
from poller.errors import PollerError
from poller.failures.delivery import Opening
from poller.model import Busy, Fault, Response
from poller.registry import Registry
from poller.settings import Context, Finding, FunctionLog, FunctionSettings
from poller.stores.memory import MemoryStore

SOURCE_SECONDS = 15.0
FUNCTION_SECONDS = 30.0
"""A function may be loaded twice, each within Lambda's 10 s."""


@runtime_checkable
class Warm(Protocol):
    """A handler that can load its function before the first invocation."""

    async def warm(self) -> Fault | Busy | None:
        """Load the function as its first invocation would, and run nothing; None: it is loaded. Tolerated twice."""


@dataclass(frozen=True, slots=True)
class Probed:
    """One finding, and what it is about: "mapping orders", "function orders"."""

    what: str
    finding: Finding


async def probe(config: Config, registry: Registry, log: FunctionLog) -> list[Probed]:
    """Everything in the order of the file, all at once. `log` gets what functions print while they are loaded."""
    sources = [_bounded(_source(mapping, config, registry), SOURCE_SECONDS) for mapping in config.mappings.values()]
    functions = [_bounded(_function(settings, registry, log), FUNCTION_SECONDS) for settings in config.functions.values()]
    pairs = [(mapping, each) for mapping in config.mappings.values() for each in mapping.destinations]
    destinations = [_bounded(_destination(mapping, each, config, registry), SOURCE_SECONDS) for mapping, each in pairs]
    found = await asyncio.gather(*sources, *destinations, *functions)
    names = [
        *(f"mapping {name}" for name in config.mappings),
        *(f"destination {each.shown} of mapping {mapping.settings.name}" for mapping, each in pairs),
        *(f"function {name}" for name in config.functions),
    ]
    return [Probed(name, finding) for name, findings in zip(names, found, strict=True) for finding in findings]


async def _bounded(probing: Coroutine[Any, Any, list[Finding]], seconds: float) -> list[Finding]:
    try:
        async with asyncio.timeout(seconds):
            return await probing
    except TimeoutError:
        return [Finding("error", f"no answer within {seconds:.0f} s")]
    except PollerError as error:
        return [Finding("error", str(error))]


async def _source(mapping: MappingConfig, config: Config, registry: Registry) -> list[Finding]:
    timeout = config.functions[mapping.settings.function].timeout
    # A store of its own, which nobody sees: a probe leaves nothing behind.
    context = Context(mapping.settings, MemoryStore(), "check", time.time, config.base, config.state)
    findings = await registry.connector(mapping.type).probe(mapping.options, context, timeout)
    return findings or [Finding("ok", "can be reached")]


async def _destination(mapping: MappingConfig, destination: DestinationConfig, config: Config, registry: Registry) -> list[Finding]:
    opening = Opening(registry, config.base, config.state, time.time, _nobody)
    kind = registry.destination(destination.kind)
    findings = await kind.probe(destination.to, destination.options, opening.context(mapping))
    return [Finding(each.level, destination.redacted(each.text)) for each in findings] or [Finding("ok", "can be sent to")]


async def _nobody(name: str, payload: bytes) -> Response:  # noqa: ARG001
    return Busy(0.0, "nothing is run to check")


async def _function(settings: FunctionSettings, registry: Registry, log: FunctionLog) -> list[Finding]:
    handler = registry.handler(handler_kind(settings))(settings, log)
    try:
        if not isinstance(handler, Warm):
            return [Finding("ok", f"not tried: handlers of the kind {handler_kind(settings)!r} are first loaded by an invocation")]
        match await handler.warm():
            case None:
                return [Finding("ok", f"{settings.handler} is loaded")]
            case Busy(reason=reason):
                return [Finding("error", reason or "cannot be started now")]
            case Fault() as fault:
                return [Finding("error", "\n    ".join((f"{fault.type}: {fault.message}", *fault.trace)))]
    finally:
        await handler.aclose()
