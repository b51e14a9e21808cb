"""The ledger in DynamoDB keeps the contracts of checkpoints, states and leases."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connectors.dynamodb import kind
from poller.protocols import Ledger, Store
from poller.testing.states import StatesContract
from poller.testing.stores import CheckpointsContract, LeasesContract

pytestmark = pytest.mark.servers


@pytest.fixture
async def store(dynamodb: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ledger]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    url = f"dynamodb://c{uuid.uuid4().hex[:12]}-{{mapping}}-{{source}}?region=us-east-1&endpoint={dynamodb}"
    ledger = await kind.ledger(url, Path())
    yield ledger
    await ledger.aclose()


class TestCheckpoints(CheckpointsContract):
    pass


class TestStates(StatesContract):
    pass


class TestLeases(LeasesContract):
    pass


async def test_it_is_no_store(store: Ledger) -> None:
    assert not isinstance(store, Store)
