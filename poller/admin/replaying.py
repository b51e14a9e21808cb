"""A replay over every mapping that the selected rows belong to: what the daemon's `replay` command runs, and the command line alone.

selection -> preview -> for each mapping of it: poller.replay with the mapping's limits and its function of today
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from poller.admin.control import Command
from poller.config import MappingConfig
from poller.errors import StoreError
from poller.functions import Function
from poller.model import Selection
from poller.protocols import Journal, Policy
from poller.registry import Registry
from poller.replay import Tally, preview
from poller.replay import replay as replay_mapping

if TYPE_CHECKING:
    from poller.daemon import Daemon


@dataclass(frozen=True, slots=True)
class Replaying:
    """What a replay needs besides its selection. `function` gives the function of a name; `grace`: seconds that what runs has at a stop."""

    journal: Journal
    mappings: Iterable[MappingConfig]
    registry: Registry
    function: Callable[[str], Function]
    clock: Callable[[], float]
    random: Random
    grace: float

    async def run(self, selection: Selection, concurrency: int) -> AsyncGenerator[dict[str, int]]:
        """`poller.replay.Tally`s of the whole as plain values, the last one final. Closing it stops the run in order.

        Raises StoreError for ids that are not there and for rows of a mapping that is not configured, before anything has begun;
        PluginError if a mapping's connector is not there any more, ConfigError for an id that may be several; and what
        `poller.replay.replay` raises.
        """
        wanted = await self._wanted(selection)
        run, owner = _names()
        done: Counter[str] = Counter()
        expected = sum(rows for _, _, rows in wanted)
        yield {**asdict(Tally()), "total_rows": expected}
        for mapping, policy, rows in wanted:
            expected -= rows
            last: dict[str, int] = {}
            async with aclosing(
                replay_mapping(
                    self.journal,
                    replace(selection, mapping=mapping.settings.id),
                    self.function(mapping.settings.function),
                    mapping.settings,
                    policy=policy,
                    run=run,
                    owner=owner,
                    clock=self.clock,
                    random=self.random,
                    concurrency=concurrency,
                    grace=self.grace,
                )
            ) as tallies:
                async for last in tallies:
                    told = {key: done[key] + last[key] for key in last}
                    yield {**told, "total_rows": told["total_rows"] + expected}
            done.update(last)

    async def _wanted(self, selection: Selection) -> list[tuple[MappingConfig, Policy, int]]:
        """The mappings of the rows, each with its source's policy and how many rows there are."""
        missing = [each for each in selection.ids if not await self.journal.count(Selection(ids=(each,), states=()))]
        if missing:
            raise StoreError(f"no such failure in the journal: {', '.join(missing)}")
        counts = (await preview(self.journal, selection, self.clock())).mappings
        known = {mapping.settings.id: mapping for mapping in self.mappings}
        strange = sorted(counts.keys() - known.keys())
        if strange:
            raise StoreError(
                f'failures of {", ".join(strange)}: no mapping has that id now; give one `id = "{strange[0]}"` to run them with, '
                "or replay a --mapping that is configured"
            )
        return [(known[each], self._policy(known[each]), count.rows) for each, count in counts.items()]

    def _policy(self, mapping: MappingConfig) -> Policy:
        return self.registry.connector(mapping.type).policy(mapping.options, mapping.settings)


def command(daemon: Daemon) -> Command:
    """The control command `replay` of a running daemon: its functions and permits, its store. It stops when the daemon does."""

    async def replay(
        ids: Iterable[str] = (),
        mapping: str | None = None,
        after: float | None = None,
        before: float | None = None,
        copies: bool = False,
        concurrency: int = 1,
    ) -> AsyncIterator[dict[str, Any]]:
        selection = Selection(ids=tuple(ids), mapping=mapping, after=after, before=before, copies=copies)
        config = daemon.config
        replaying = Replaying(
            daemon.store.journal,
            config.mappings.values(),
            daemon.registry,
            daemon.functions.__getitem__,
            daemon.clock,
            daemon.random,
            config.shutdown_grace,
        )
        async with aclosing(replaying.run(selection, concurrency)) as tallies, aclosing(_until(daemon.stopping, tallies)) as answers:
            async for tally in answers:
                yield tally
        if daemon.stopping.is_set():
            raise StoreError("the daemon is stopping: what was not done is kept, and another replay takes it")

    return replay


async def _until(stopping: asyncio.Event, tallies: AsyncGenerator[dict[str, int]]) -> AsyncGenerator[dict[str, int]]:
    """What comes before `stopping` is set; a run may be silent for as long as a function takes."""
    loop = asyncio.get_running_loop()
    stop = loop.create_task(stopping.wait())
    try:
        while True:
            following = loop.create_task(anext(tallies, None))
            try:
                await asyncio.wait((following, stop), return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not following.done():
                    following.cancel()  # ends the run in order, within its grace
                    await asyncio.gather(following, return_exceptions=True)
            if following.cancelled():
                return
            tally = following.result()
            if tally is None:
                return
            yield tally
    finally:
        stop.cancel()


def _names() -> tuple[str, str]:
    """(run, owner), of this run alone."""
    run = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:6]}"
    return run, f"replay-{socket.gethostname()}-{os.getpid()}-{run}"
