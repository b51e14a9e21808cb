"""A fleet moves from the Kinesis Client Library to the daemon and back: one lease table, each record once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.acceptance.harness import Site
from tests.acceptance.shards import Stream
from tests.servers.dynamodb.client import TablesClient
from tests.servers.kcl.program import Kcl, lease_table

pytestmark = [pytest.mark.slow, pytest.mark.servers, pytest.mark.longest]


async def _table(url: str) -> str:
    async with TablesClient(url) as client:
        return await lease_table(client)


def test_there_and_back(site: Site, kinesis_local: str, dynamodb: str, tmp_path: Path) -> None:
    app, kcl = asyncio.run(_table(dynamodb)), Kcl(kinesis_local, dynamodb, tmp_path)
    orders = Stream(kinesis_local)
    bodies = [f"m{n}" for n in range(40)]
    orders.fill(bodies[:25])
    there = asyncio.run(kcl.consume(orders.name, app, 10))
    assert there.data == bodies[:10]

    leases = f"dynamodb://{app}?region=us-east-1&endpoint={dynamodb}"
    site.write(site.function(), site.mapping("orders", orders.source, batch_size=4), leases=leases)
    with site.daemon() as daemon:
        daemon.until(lambda: site.handled(*bodies[10:25]))
        orders.fill(bodies[25:30])
        daemon.until(lambda: site.handled(*bodies[10:30]))
        daemon.stop()
    # KCL does not say whether its last record was an aggregate with more in it: AWS's way of reading takes that one record again.
    assert site.bodies("ended") == dict.fromkeys(bodies[9:30], 1)

    orders.fill(bodies[30:])
    back = asyncio.run(kcl.consume(orders.name, app, 10, worker="kcl-2"))
    assert back.data == bodies[30:]
