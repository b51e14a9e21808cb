"""What `check --live` finds out about a stream, by reading where nothing has come yet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from connectors.kinesis.client import KinesisClient
from connectors.kinesis.options import KinesisOptions
from connectors.sharded.probe import counted, probed, read, told
from connectors.sharded.sequence import LATEST
from poller.settings import Finding, MappingSettings
from poller.units import show_duration


async def probe(connect: Callable[[], Awaitable[KinesisClient]], options: KinesisOptions, settings: MappingSettings) -> list[Finding]:
    """Raises nothing of Kinesis."""
    return await probed(connect, lambda client: _found(client, options, settings))


async def _found(client: KinesisClient, options: KinesisOptions, settings: MappingSettings) -> AsyncIterator[Finding]:
    stream = told(await client.stream(options.stream))
    if stream.status not in {"ACTIVE", "UPDATING"}:
        yield Finding("warning", f"{stream.arn} is {stream.status}; it is read once it is ACTIVE")
        return
    page = told(await client.shards(options.stream))
    if not page.shards:
        yield Finding("error", f"{stream.arn} has no shards; check `endpoint`")
        return
    # A closed one may have been read to its end, and AWS answers that with no iterator.
    shard = next((shard.name for shard in page.shards if shard.last is None), page.shards[-1].name)
    await read(client, options.stream, shard, LATEST)
    yield Finding("ok", f"{options.stream} is there, has {counted(len(page.shards), page.more is not None)}, and we may read it")
    yield _retention(stream.arn, stream.retention, settings)
    if options.consumer_arn is not None:
        consumer = told(await client.describe_consumer(options.consumer_arn))
        if consumer.status != "ACTIVE":
            yield Finding("warning", f"{consumer.arn} is {consumer.status}; until it is ACTIVE, the stream is polled")
        else:
            yield Finding("ok", f"{consumer.arn} is ACTIVE (subscribing was not tried: it would end the subscription of who reads now)")


def _retention(arn: str, retention: float, settings: MappingSettings) -> Finding:
    kept, age = show_duration(retention), settings.failure.maximum_record_age
    if age is not None and age > retention:
        text = f"maximum_record_age is {show_duration(age)}, but {arn} keeps records for {kept}: what is about to go is discarded before"
        return Finding("warning", text)
    return Finding("ok", f"{arn} keeps records for {kept}")
