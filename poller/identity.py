"""One mapping id has one source at a time: two would write one another's progress rows, and failures under one name.

The id is a lease whose owner is the source's identity, so every worker of the same source holds it together; it runs out after the last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from poller.errors import LaneLost, StoreError, StoreUnavailable
from poller.model import LaneKey, Lease
from poller.protocols import Store
from poller.work import Work

log = logging.getLogger("poller.daemon")

IDENTITY_SECONDS = 15.0
"""How long a mapping id belongs to one source identity after its last worker was heard of."""


class Identities:
    """Which source each mapping id of a store belongs to."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store, self._clock = store, clock

    async def claim(self, mapping: str, identity: str, before: str) -> None:
        """The id is this source's. `before`: the identity that the same mapping had until now, which it replaces, or "". Raises
        StoreUnavailable while a daemon has the id for another source."""
        if before not in ("", identity) and (held := await self._lease(mapping, before)) is not None:
            await self._store.leases.drop(held)  # it was ours, under the same options: it has been replaced
        if await self._lease(mapping, identity) is None:
            raise StoreUnavailable(
                f"mapping id {mapping!r} is in use with another source by a daemon on the same store; "
                f"give this mapping an `id` of its own, or wait {IDENTITY_SECONDS:.0f} s after that daemon has stopped"
            )

    async def keep(self, work: Work) -> None:
        """Renew what a mapping has claimed, until it is cancelled."""
        while True:
            await asyncio.sleep(IDENTITY_SECONDS / 3)
            if work.source:
                try:
                    await self._lease(work.settings.id, work.source)
                except (StoreError, LaneLost) as error:
                    log.warning("cannot renew: %s", error, extra={"mapping": work.settings.name})

    async def _lease(self, mapping: str, identity: str) -> Lease | None:
        return await self._store.leases.claim(LaneKey(mapping, "", ""), identity, self._clock(), IDENTITY_SECONDS)
