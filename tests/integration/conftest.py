"""What tests of one module and another ask for by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest


@pytest.fixture
async def goodbyes() -> AsyncIterator[None]:
    """A broker answers our end of TLS only after the delay that it gives refused logins, and aiokafka does not wait for it: we do."""
    yield
    transports = cast("Any", asyncio.get_running_loop())._transports
    async with asyncio.timeout(10):
        while any(each._sock is not None for each in transports.values()):
            await asyncio.sleep(0.01)
