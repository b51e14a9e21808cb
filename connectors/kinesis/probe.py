"""What `check --live` finds out about a stream, by reading where nothing has come yet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from connectors.kinesis.client import KinesisClient
from connectors.kinesis.options import KinesisOptions
from connectors.sharded.sequence import LATEST
from connectors.sharded.shards import REFUSED, Refused
from poller.errors import NotConnected, SourceError
from poller.settings import Finding, MappingSettings
from poller.units import show_duration


async def probe(connect: Callable[[], Awaitable[KinesisClient]], options: KinesisOptions, settings: MappingSettings) -> list[Finding]:
    """Raises nothing of Kinesis."""
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


async def _found(client: KinesisClient, options: KinesisOptions, settings: MappingSettings) -> AsyncIterator[Finding]:
    stream = await client.stream(options.stream)
    if isinstance(stream, REFUSED):
        yield _error(stream)
        return
    if stream.status not in {"ACTIVE", "UPDATING"}:
        yield Finding("warning", f"{stream.arn} is {stream.status}; it is read once it is ACTIVE")
        return
    page = await client.shards(options.stream)
    if isinstance(page, REFUSED):
        yield _error(page)
        return
    if not page.shards:
        yield Finding("error", f"{stream.arn} has no shards; check `endpoint`")
        return
    # A closed one may have been read to its end, and AWS answers that with no iterator.
    shard = next((shard.name for shard in page.shards if shard.last is None), page.shards[-1].name)
    yield await _read(client, options, shard, len(page.shards), page.more is not None)
    yield _retention(stream.arn, stream.retention, settings)
    if options.consumer_arn is not None:
        consumer = await client.describe_consumer(options.consumer_arn)
        if isinstance(consumer, REFUSED):
            yield _error(consumer)
        elif consumer.status != "ACTIVE":
            yield Finding("warning", f"{consumer.arn} is {consumer.status}; until it is ACTIVE, the stream is polled")
        else:
            yield Finding("ok", f"{consumer.arn} is ACTIVE (subscribing was not tried: it would end the subscription of who reads now)")


async def _read(client: KinesisClient, options: KinesisOptions, shard: str, count: int, more: bool) -> Finding:
    iterator = await client.iterator(options.stream, shard, LATEST)
    if isinstance(iterator, REFUSED):
        return _error(iterator)
    records = await client.records(iterator, shard, 1)
    if isinstance(records, REFUSED):
        return _error(records)
    shards = f"{count} shard{'' if count == 1 else 's'}"
    return Finding("ok", f"{options.stream} is there, has {'more than ' if more else ''}{shards}, and we may read it")


def _retention(arn: str, retention: float, settings: MappingSettings) -> Finding:
    kept, age = show_duration(retention), settings.failure.maximum_record_age
    if age is not None and age > retention:
        text = f"maximum_record_age is {show_duration(age)}, but {arn} keeps records for {kept}: what is about to go is discarded before"
        return Finding("warning", text)
    return Finding("ok", f"{arn} keeps records for {kept}")


def _error(refused: Refused) -> Finding:
    return Finding("error", refused.text)
