"""What every acceptance test may ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance.harness import Site
from tests.acceptance.queues import LocalQueue, Queue, Sqs, SqsQueue


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def sqs(elasticmq: str) -> Iterator[Sqs]:
    queues = Sqs(elasticmq)
    yield queues
    queues.close()


@pytest.fixture(params=["local", pytest.param("sqs", marks=pytest.mark.servers)])
def queue(request: pytest.FixtureRequest, site: Site) -> Callable[..., Queue]:
    """Makes a queue of one kind, then of the other: `fifo`, and `visibility` in seconds."""
    if request.param == "local":
        return partial(LocalQueue, site)
    return partial(SqsQueue, site, request.getfixturevalue("sqs"))
