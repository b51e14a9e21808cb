"""What `check --live` finds out about a table's stream, by reading where nothing has come yet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from connectors.dynamodb_streams.client import RETENTION, DynamoDBClient, StreamPage
from connectors.dynamodb_streams.options import TURN_ON, DynamoDBOptions, stream, where
from connectors.sharded.sequence import LATEST, TRIM_HORIZON
from connectors.sharded.shards import REFUSED, Refused
from poller.errors import NotConnected, SourceError
from poller.settings import Finding, MappingSettings
from poller.units import show_duration


async def probe(connect: Callable[[], Awaitable[DynamoDBClient]], options: DynamoDBOptions, settings: MappingSettings) -> list[Finding]:
    """Raises nothing of DynamoDB."""
    try:
        client = await connect()
    except (NotConnected, SourceError) as error:
        return [Finding("error", str(error))]
    try:
        return [finding async for finding in _found(client, options, settings)]
    except (NotConnected, SourceError) as error:
        return [Finding("error", str(error))]
    finally:
        await client.aclose()


async def _found(client: DynamoDBClient, options: DynamoDBOptions, settings: MappingSettings) -> AsyncIterator[Finding]:
    arn = stream(options)
    if arn is None:
        streams = await client.streams(where(options.table).name)
        if isinstance(streams, REFUSED):
            yield _error(streams)
            return
        if not streams:
            yield Finding("error", f"table {where(options.table).name} has no stream, or is not there; {TURN_ON}")
            return
        arn = streams[-1]
    page = await client.shards(arn)
    if isinstance(page, REFUSED):
        yield _error(page)
        return
    if page.status not in {"ENABLED", "ENABLING"}:
        yield Finding("warning", f"{arn} is {page.status}: what is left in it is read, and nothing more comes; {TURN_ON}")
    yield await _read(client, arn, page)
    age = settings.failure.maximum_record_age
    if age is not None and age > RETENTION:
        text = f"maximum_record_age is {show_duration(age)}, but DynamoDB keeps changes for {show_duration(RETENTION)}"
        yield Finding("warning", f"{text}: what is about to go is discarded before")


async def _read(client: DynamoDBClient, arn: str, page: StreamPage) -> Finding:
    if not page.shards:
        return Finding("ok", f"{arn} is there, and has no shards yet")
    # LATEST of a closed shard is its end, and gives nothing to read with.
    shard = next((each for each in reversed(page.shards) if each.last is None), page.shards[-1])
    iterator = await client.iterator(arn, shard.name, LATEST if shard.last is None else TRIM_HORIZON)
    if isinstance(iterator, REFUSED):
        return _error(iterator)
    records = await client.records(iterator, shard.name, 1)
    if isinstance(records, REFUSED):
        return _error(records)
    count = len(page.shards)
    shards = f"{'more than ' if page.more else ''}{count} shard{'' if count == 1 else 's'}"
    keys = " and ".join(page.keys)
    return Finding("ok", f"{arn} is there, has {shards}, shows {page.view} of items with the key {keys}, and we may read it")


def _error(refused: Refused) -> Finding:
    return Finding("error", refused.text)
