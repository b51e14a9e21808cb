"""What `check --live` finds out about a table's stream, by reading where nothing has come yet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from connectors.dynamodb_streams.client import RETENTION, DynamoDBClient
from connectors.dynamodb_streams.options import TURN_ON, DynamoDBOptions, stream, where
from connectors.sharded.probe import counted, probed, read, told
from connectors.sharded.sequence import LATEST, TRIM_HORIZON
from poller.settings import Finding, MappingSettings
from poller.units import show_duration


async def probe(connect: Callable[[], Awaitable[DynamoDBClient]], options: DynamoDBOptions, settings: MappingSettings) -> list[Finding]:
    """Raises nothing of DynamoDB."""
    return await probed(connect, lambda client: _found(client, options, settings))


async def _found(client: DynamoDBClient, options: DynamoDBOptions, settings: MappingSettings) -> AsyncIterator[Finding]:
    arn = stream(options)
    if arn is None:
        streams = told(await client.streams(where(options.table).name))
        if not streams:
            yield Finding("error", f"table {where(options.table).name} has no stream, or is not there; {TURN_ON}")
            return
        arn = streams[-1]
    page = told(await client.shards(arn))
    if page.status not in {"ENABLED", "ENABLING"}:
        yield Finding("warning", f"{arn} is {page.status}: what is left in it is read, and nothing more comes; {TURN_ON}")
    if page.shards:
        # LATEST of a closed shard is its end, and gives nothing to read with.
        shard = next((each for each in reversed(page.shards) if each.last is None), page.shards[-1])
        await read(client, arn, shard.name, LATEST if shard.last is None else TRIM_HORIZON)
        shards, keys = counted(len(page.shards), page.more is not None), " and ".join(page.keys)
        yield Finding("ok", f"{arn} is there, has {shards}, shows {page.view} of items with the key {keys}, and we may read it")
    else:
        yield Finding("ok", f"{arn} is there, and has no shards yet")
    age = settings.failure.maximum_record_age
    if age is not None and age > RETENTION:
        text = f"maximum_record_age is {show_duration(age)}, but DynamoDB keeps changes for {show_duration(RETENTION)}"
        yield Finding("warning", f"{text}: what is about to go is discarded before")
