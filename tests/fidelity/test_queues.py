"""What AWS did with queues, done again: the real connector and engine over SQS in memory on a virtual clock, and over a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiobotocore.session import get_session

from connectors.sqs import SqsConnector
from poller.testing.clock import run_virtually
from poller.testing.sqs import FakeSqs
from tests.fidelity.cases import WITHOUT_CASES, Case, cases_of, recorded
from tests.fidelity.parameters import configured, of
from tests.fidelity.played_queues import PLAYS, Play
from tests.fidelity.queues import Broker, MemoryBroker, ServerBroker
from tests.fidelity.stage import Recorder, Stage, answer_of

pytestmark = WITHOUT_CASES

CASES = [pytest.param(play, case, id=case["name"]) for group, play in PLAYS.items() for case in cases_of(group)]

SERVED = [
    pytest.param(play, case, id=case["name"])
    for group, play in PLAYS.items()
    for case in cases_of(group)
    # The same but for a number, or another pattern of a language that needs no server.
    if case["name"] not in {"sqs/batching/batch-size-100", "sqs/batching/batch-size-1000"}
    and not (group == "filtered messages" and case["name"] not in {"sqs/filter/single", "sqs/filter/valid-json-filter"})
]


@pytest.mark.parametrize(("play", "case"), CASES)
def test_in_memory(play: Play, case: Case, tmp_path: Path) -> None:
    async def main() -> None:
        await play(MemoryBroker(), case, tmp_path)

    run_virtually(main())


@recorded("no queue")
def test_a_queue_that_is_missing_is_said_and_looked_for(case: Case, tmp_path: Path) -> None:
    """AWS makes no such mapping. Here the file may be there before the queue is."""
    assert "NonExistentQueue" in case["expect"]["message"]

    async def main() -> None:
        sqs, function = FakeSqs(), Recorder(answer_of(case))
        mapping = Stage(configured(tmp_path, of(case))).run(function, open_source=SqsConnector(lambda *_: _given(sqs)).open)
        await asyncio.sleep(1.0)
        assert (mapping.state, mapping.last_error) == ("reconnecting", "there is no queue orders")
        sqs.send(sqs.create("orders"), "m1")
        await function.ended(1)
        assert mapping.state == "running"

    run_virtually(main())


async def _given(sqs: FakeSqs) -> FakeSqs:
    return sqs


@pytest.fixture
async def server(elasticmq: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Broker]:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "x")
    async with get_session().create_client("sqs", region_name="us-east-1", endpoint_url=elasticmq) as client:
        yield ServerBroker(client, elasticmq)


@pytest.mark.servers
@pytest.mark.parametrize(("play", "case"), SERVED)
async def test_on_a_server(play: Play, case: Case, server: Broker, tmp_path: Path) -> None:
    await play(server, case, tmp_path)
