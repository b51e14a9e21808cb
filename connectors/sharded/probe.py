"""What `check --live` finds out about a stream of shards, by reading where nothing has come yet: what the services have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeVar

from connectors.sharded.sequence import Start
from connectors.sharded.shards import REFUSED, Refused, ShardReading
from poller.errors import NotConnected, SourceError
from poller.settings import Finding


class Closing(Protocol):
    """A client."""

    async def aclose(self) -> None: ...


C = TypeVar("C", bound=Closing)
T = TypeVar("T")


async def probed(connect: Callable[[], Awaitable[C]], find: Callable[[C], AsyncIterator[Finding]]) -> list[Finding]:
    """What `find` found, and what it raised. Raises nothing of the service."""
    findings = list[Finding]()
    try:
        client = await connect()
        try:
            async for finding in find(client):
                findings.append(finding)
        finally:
            await client.aclose()
    except (NotConnected, SourceError) as error:
        findings.append(Finding("error", str(error)))
    return findings


def told(answer: T | Refused) -> T:
    """For who looks once: what is refused is raised, as NotConnected."""
    if isinstance(answer, REFUSED):
        raise NotConnected(answer.text)
    return answer


async def read(client: ShardReading[Any], stream: str, shard: str, start: Start) -> None:
    """Whether we may. Raises NotConnected, SourceError."""
    told(await client.records(told(await client.iterator(stream, shard, start)), shard, 1))


def counted(count: int, more: bool) -> str:
    """How many shards, for a person; `more`: at least."""
    return f"{'more than ' if more else ''}{count} shard{'' if count == 1 else 's'}"
