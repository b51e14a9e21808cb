"""A worker of the Kinesis Client Library, 3.5, as a process (Consume.java)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.servers.dynamodb.client import TablesClient
from tests.servers.process import JARS, jars, launch, stop

Version = Literal["CLIENT_VERSION_CONFIG_3X", "CLIENT_VERSION_CONFIG_COMPATIBLE_WITH_2X"]
"""How KCL shares leases: as version 3, by a leader, or as version 2, each worker for itself."""

SECONDS = 40


@dataclass(frozen=True, slots=True)
class Told:
    """What it was given and did. `records`: (shard, sequence number, sub-sequence number, data), in order. `ended`: shards."""

    records: Sequence[tuple[str, str, int, str]]
    ended: Sequence[str]
    output: str

    @property
    def data(self) -> list[str]:
        return [data for *_, data in self.records]


@dataclass(frozen=True, slots=True)
class Kcl:
    """KCL against one Kinesis and one DynamoDB. `table` is its lease table: the name of the application."""

    kinesis: str
    dynamodb: str
    folder: Path

    async def consume(
        self, stream: str, table: str, count: int, worker: str = "kcl", version: Version = "CLIENT_VERSION_CONFIG_3X"
    ) -> Told:
        """Until `count` records were given and checkpointed."""
        libraries = jars("kcl")
        java = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Daws.cborEnabled=false", f"-Dversion={version}"]
        given = [self.kinesis, self.dynamodb, stream, table, worker, str(count), str(SECONDS)]
        before = (self.folder / "output").stat().st_size if (self.folder / "output").exists() else 0
        process = launch([*java, "-cp", f"{libraries}:{JARS / 'kcl' / 'libs' / 'classes'}", "Consume", *given], self.folder)
        try:
            code = await asyncio.to_thread(process.wait, SECONDS + 30)
        finally:
            stop(process)
        output = (self.folder / "output").read_bytes()[before:].decode()
        assert code == 0, output[-4000:]
        lines = [line.split(" ", 4) for line in output.splitlines()]
        records = [(line[1], line[2], int(line[3]), line[4]) for line in lines if line[0] == "record"]
        return Told(records, [line[1] for line in lines if line[0] == "ended"], output)


async def lease_table(client: TablesClient) -> str:
    """An empty one, with the index that KCL 3 would else wait twenty seconds for; returns its name."""
    name, keys = f"app-{uuid.uuid4().hex}", [("leaseOwner", "HASH"), ("leaseKey", "RANGE")]
    index = {
        "IndexName": "LeaseOwnerToLeaseKeyIndex",
        "KeySchema": [{"AttributeName": each, "KeyType": kind} for each, kind in keys],
        "Projection": {"ProjectionType": "KEYS_ONLY"},
    }
    await client._tables.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": each, "AttributeType": "S"} for each, _ in keys],
        KeySchema=[{"AttributeName": "leaseKey", "KeyType": "HASH"}],
        GlobalSecondaryIndexes=[index],
    )
    return name
