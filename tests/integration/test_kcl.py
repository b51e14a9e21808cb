"""The Kinesis Client Library itself, version 3.5, and we go on where the other stopped, in one lease table: nothing is left out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connectors.dynamodb import kind
from connectors.sharded.sequence import start, token
from poller.model import LaneKey, Lease
from poller.progress import Progress
from poller.protocols import Ledger
from tests.servers.dynamodb.client import TablesClient
from tests.servers.kcl.program import Kcl, lease_table
from tests.servers.kinesis.client import StreamsClient

pytestmark = [pytest.mark.servers, pytest.mark.slow]


@pytest.fixture
def kcl(kinesis_local: str, dynamodb: str, tmp_path: Path) -> Kcl:
    return Kcl(kinesis_local, dynamodb, tmp_path)


@pytest.fixture
async def app(tables: TablesClient) -> str:
    return await lease_table(tables)


@pytest.fixture
async def ledger(app: str, dynamodb: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ledger]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    opened = await kind.ledger(f"dynamodb://{app}?region=us-east-1&endpoint={dynamodb}", Path())
    yield opened
    await opened.aclose()


async def taken(ledger: Ledger, key: LaneKey) -> Lease:
    """Its worker has stopped: seen twice, ten seconds apart, its counter is the same."""
    lease = await ledger.leases.claim(key, "us", 0.0, 10.0) or await ledger.leases.claim(key, "us", 10.0, 10.0)
    assert lease is not None
    return lease


async def read(streams: StreamsClient, stream: str, shard: str, position: int) -> list[tuple[int, str]]:
    """(token, data) of a shard's records from this position on."""
    begin = start(position, "TRIM_HORIZON")
    given = {} if begin.sequence is None else {"StartingSequenceNumber": begin.sequence}
    client = streams._kinesis
    iterator = await client.get_shard_iterator(StreamName=stream, ShardId=shard, ShardIteratorType=begin.kind, **given)
    answer = await client.get_records(ShardIterator=iterator["ShardIterator"])
    found = [(token(each["SequenceNumber"], 1), each["Data"].decode()) for each in answer["Records"]]
    return [each for each in found if each[0] >= position]


async def test_kcl_goes_on_with_the_shards_that_we_left(kcl: Kcl, ledger: Ledger, app: str, streams: StreamsClient) -> None:
    """One ended, one in the middle of its work, one claimed and never read."""
    stream = await streams.create()
    (parent,) = await streams.open_shards(stream)
    await streams.put_to(stream, parent, [b"parent"])
    left, unread = await streams.split(stream, parent)
    sequences = await streams.put_to(stream, left, [b"left-%d" % n for n in range(10)])
    await streams.put_to(stream, unread, [b"unread-1", b"unread-2"])
    source = (await streams.summary(stream))["StreamARN"]
    tokens = [token(each) for each in sequences]
    # 5 is under way, what comes after it is done: KCL knows no such thing.
    under_way = Progress("TRIM_HORIZON", width=2, frontier=tokens[7] + 1, positions=((0, tokens[5]),), closed=True)
    saves: dict[str, list[Progress]] = {
        parent: [Progress("TRIM_HORIZON", frontier=1, closed=True, ended=True)],
        left: [Progress("TRIM_HORIZON", frontier=tokens[2] + 1), under_way],
        unread: [],
    }
    for shard, saved in saves.items():
        lease = await taken(ledger, LaneKey("orders", source, shard))
        for progress in saved:
            await ledger.checkpoints.save(lease, progress)
        await ledger.leases.drop(lease)
    assert await ledger.checkpoints.load(LaneKey("orders", source, left)) == under_way

    told = await kcl.consume(stream, app, 9)
    assert [data for data in told.data if data.startswith("left")] == [f"left-{n}" for n in range(3, 10)], "what was done since 2 once more"
    assert sorted(data for data in told.data if not data.startswith("left")) == ["unread-1", "unread-2"]
    for shard in (left, unread):
        found = await ledger.checkpoints.load(LaneKey("orders", source, shard))
        assert found is not None and await read(streams, stream, shard, found.checkpoint) == []
