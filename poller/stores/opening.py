"""From the URLs of the configuration to one store: its lanes and its journal may live in different places.

[poller] store    everything, unless
         leases   says where checkpoints, states and leases are, or
         journal  says where failures are kept
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from poller.errors import ConfigError, StoreError
from poller.registry import Registry
from poller.settings import StoreKind
from poller.stores.kinds import BUILT_IN
from poller.stores.urls import masked, scheme

if TYPE_CHECKING:
    from poller.failures.protocols import Journal, Outbox, Parking, Runs, Upkeep
    from poller.protocols import Acknowledged, Ledger, Store

T = TypeVar("T", bound="Ledger")


class Places(msgspec.Struct, frozen=True):
    """URLs as the configuration has them; "" for `leases` and `journal` is the store's place."""

    store: str
    leases: str = ""
    journal: str = ""

    @property
    def lanes(self) -> tuple[str, str]:
        """Where checkpoints, states and leases are: (key, URL)."""
        return ("leases", self.leases) if self.leases else ("store", self.store)

    @property
    def failures(self) -> tuple[str, str]:
        """Where the journal is: (key, URL)."""
        return ("journal", self.journal) if self.journal else ("store", self.store)

    def __repr__(self) -> str:
        return f"<Places store={masked(self.store)!r} leases={masked(self.leases)!r} journal={masked(self.journal)!r}>"


class JoinedStore:
    """`poller.protocols.Store`: the lanes of one place and the journal of another."""

    def __init__(self, ledger: Ledger, store: Store) -> None:
        self._parts = (ledger, store)
        self.checkpoints = ledger.checkpoints
        self.states = ledger.states
        self.leases = ledger.leases
        self.journal: Journal = store.journal
        self.parking: Parking = store.parking
        self.outbox: Outbox = store.outbox
        self.runs: Runs = store.runs
        self.upkeep: Upkeep = store.upkeep
        self.acknowledged: Acknowledged = store.acknowledged

    async def aclose(self) -> None:
        """Both. Tolerated twice."""
        try:
            await self._parts[0].aclose()
        finally:
            await self._parts[1].aclose()

    def __repr__(self) -> str:
        return f"<JoinedStore {self._parts[0]!r} {self._parts[1]!r}>"


def kind_of(url: str, registry: Registry) -> StoreKind:
    """Raises PluginError for a kind that is not installed."""
    name = scheme(url)
    return BUILT_IN[name] if name in BUILT_IN else registry.store(name)


async def open_store(places: Places, base: Path, registry: Registry) -> Store:
    """All of it. Raises ConfigError, PluginError, StoreError, StoreUnavailable, which name the key of the configuration."""
    if places.lanes[1] == places.failures[1]:
        key, url = places.lanes
        return await _opened(key, kind_of(url, registry).store(url, base))
    (lanes_key, lanes), (failures_key, failures) = places.lanes, places.failures
    ledger = await _opened(lanes_key, kind_of(lanes, registry).ledger(lanes, base))
    try:
        return JoinedStore(ledger, await _opened(failures_key, kind_of(failures, registry).store(failures, base)))
    except BaseException:
        await ledger.aclose()
        raise


async def open_journal(places: Places, base: Path, registry: Registry) -> Store:
    """The place of the journal alone, for who asks for nothing else. Raises as `open_store`."""
    key, url = places.failures
    return await _opened(key, kind_of(url, registry).store(url, base))


async def _opened(key: str, opening: Awaitable[T]) -> T:
    with _naming(key):
        return await opening


@contextmanager
def _naming(key: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError([f"[poller] {key}: {problem}" for problem in error.problems]) from error
    except StoreError as error:
        raise type(error)(f"[poller] {key}: {error}") from error
