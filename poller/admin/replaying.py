"""A named replay over every mapping that its rows belong to: what the daemon's `replay` command runs, and the command line alone.

plan -> a run in the store -> taken by this process -> rows, listed once -> for each mapping of them: poller.replay with its limits and
its function of today, or the one of the plan, or what sends them to another place
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from poller.admin.commands import Command
from poller.admin.resending import Fits, Resending
from poller.config import MappingConfig
from poller.errors import ConfigError, PluginError, StoreError, StoreUnavailable
from poller.failures.delivery import Opening
from poller.failures.journal import Entry, Selection
from poller.failures.payload import edit_of
from poller.failures.runs import SOURCE, Plan, Run, aborted
from poller.functions import Function
from poller.policy import Block
from poller.protocols import Policy, Store
from poller.registry import Registry
from poller.replay import Part, Replay, Tally
from poller.replay import replay as replay_mapping
from poller.replay.counting import every
from poller.replay.hold import Hold, change, take
from poller.replay.listing import Rows, listed, released
from poller.replay.matching import matching
from poller.settings import Batching, FailureSettings, Filterable, MappingSettings

if TYPE_CHECKING:
    from poller.daemon import Daemon


@dataclass(frozen=True, slots=True)
class Replaying:
    """What a replay needs besides its plan. `functions` gives the function of a name, and raises KeyError; `grace`: seconds that what runs
    has at a stop; `who` is told in the trail."""

    store: Store
    mappings: Iterable[MappingConfig]
    registry: Registry
    functions: Callable[[str], Function]
    opening: Opening
    clock: Callable[[], float]
    random: Random
    grace: float
    who: str

    async def run(self, name: str, again: bool = False, concurrency: int | None = None) -> AsyncGenerator[dict[str, int]]:
        """The run of this name, from where it stands: `poller.replay.Tally`s as plain values, the last one final. Closing it stops the run
        in order, and leaves it paused; so does pausing or aborting it elsewhere.

        Raises StoreError for a run that cannot be started, ids that are not there, and rows of a mapping that is not configured, before
        anything has begun; PluginError if a mapping's connector is not there any more, ConfigError for an id that may be several; and what
        `poller.replay.replay` raises.
        """
        owner = f"replay-{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
        run = await take(self.store.runs, name, owner, self.clock, again)
        hold, done = Hold(self.store.runs, run, self.clock), False
        try:
            last: dict[str, int] = {}
            async with aclosing(self._whole(run, owner, concurrency, hold.leaving)) as tallies:
                async for last in tallies:
                    yield last
            done = not hold.leaving.is_set() and not last["given_back"]
        finally:
            await hold.aclose(done)

    async def _whole(self, run: Run, owner: str, concurrency: int | None, leaving: asyncio.Event) -> AsyncGenerator[dict[str, int]]:
        try:
            parts, edit = await self._parts(run), edit_of(run.plan, self.filterable)
        except (ConfigError, PluginError):
            await self._given_up(run)
            raise
        except StoreError as error:
            if not isinstance(error, StoreUnavailable):
                await self._given_up(run)
            raise
        left = sum(len(rows) for _, rows in parts)
        await change(self.store.runs, run.name, lambda run: replace(run, total=left))
        done: Counter[str] = Counter()
        yield {**asdict(Tally()), "total_rows": left}
        at_once, known = concurrency or run.plan.concurrency or 1, await released(self.store.runs, run)
        part = Part(run, owner, self.who, self.clock, at_once, edit=edit, released=known)
        for mapping, rows in parts:
            if leaving.is_set():
                break
            left -= len(rows)
            last: dict[str, int] = {}
            async with aclosing(self._one(part, mapping, rows, leaving)) as tallies:
                async for last in tallies:
                    told = {key: done[key] + last[key] for key in last}
                    yield {**told, "total_rows": told["total_rows"] + left}
            done.update(last)

    async def _one(self, part: Part, mapping: MappingConfig, rows: Rows, leaving: asyncio.Event) -> AsyncGenerator[dict[str, int]]:
        settings, plan = mapping.settings, part.run.plan

        async def known() -> Rows:
            return rows

        async with AsyncExitStack() as stack:
            if plan.to:
                function, fits = await Resending(self.opening, plan.to).open(mapping, part.concurrency, stack)
                part = replace(part, edit=_fitting(part.edit, fits))
            else:
                function = self._function(plan.function or settings.function)
            policy = self._policy(mapping)

            def whole(told: Callable[[], None]) -> Replay:
                return Replay(self.store, part, known, function, settings, policy=policy, random=self.random, report=told)

            async with aclosing(replay_mapping(whole, leaving, self.grace)) as tallies:
                async for tally in tallies:
                    yield tally

    async def _parts(self, run: Run) -> list[tuple[MappingConfig, Rows]]:
        """The mappings of the rows that are left, each with them."""
        plan, journal = run.plan, self.store.journal
        missing = [each for each in plan.selection.ids if not await journal.count(Selection(ids=(each,), states=()))]
        if missing:
            raise StoreError(f"no such failure in the journal: {', '.join(missing)}")
        found = await listed(journal, self.store.runs, run, self.matches(plan))
        if plan.selection.ids and not found and not run.counts:
            await self._tell_parked(plan.selection.ids)
        known = {mapping.settings.id: mapping for mapping in self.mappings}
        strange = sorted(found.keys() - known.keys())
        if strange and not plan.function and plan.to in ("", SOURCE):
            raise StoreError(
                f'failures of {", ".join(strange)}: no mapping has that id now; give one `id = "{strange[0]}"` to run them with, '
                "replay a --mapping that is configured, or say --to-function NAME, or --to ADDRESS"
            )
        if plan.function:
            self._function(plan.function)
        parts = [(known.get(each) or gone(each), rows) for each, rows in found.items()]
        for mapping, _ in parts if plan.to else ():
            Resending(self.opening, plan.to).look(mapping)
        return parts

    async def _tell_parked(self, ids: Sequence[str]) -> None:
        """Raises StoreError if one of these, of which none can run, is parked: that is why."""
        journal = self.store.journal
        for row in await journal.select(Selection(ids=tuple(ids), states=("parked",), limit=1)):
            first = Selection(mapping=row.entry.mapping, key=row.entry.records[0].key, states=("kept", "claimed"), limit=1)
            before = "".join(f" (failure {each.entry.id[:12]})" for each in await journal.select(first))
            raise StoreError(
                f"failure {row.entry.id[:12]} is parked: replay what has failed of its key before it{before}, "
                "and it runs after that by itself"
            )

    def matches(self, plan: Plan) -> Callable[[Entry], bool]:
        """Which of the selected rows a plan means. Raises ConfigError for what is no pattern."""
        return matching(plan.pattern, self.filterable) if plan.pattern else every

    def filterable(self, mapping: str) -> Filterable | None:
        """Where the data of a mapping's records stand; None: it is not configured any more."""
        return filterable(self.mappings, self.registry, mapping)

    def _function(self, name: str) -> Function:
        try:
            return self.functions(name)
        except KeyError:
            raise StoreError(f"there is no function {name!r} in the configuration") from None

    def _policy(self, mapping: MappingConfig) -> Policy:
        if not mapping.type:
            return Block.of(mapping.settings, "cut")
        return self.registry.connector(mapping.type).policy(mapping.options, mapping.settings)

    async def _given_up(self, run: Run) -> None:
        """A run that could not begin, and has done nothing, is not kept for a resume."""
        if not run.counts:
            await change(self.store.runs, run.name, lambda run: aborted(run, self.clock()))


def _fitting(edit: Callable[[Entry], Entry | None], fits: Fits) -> Callable[[Entry], Entry | None]:
    """The same edit, and an error for what could not be sent as it is then."""

    def edited(entry: Entry) -> Entry | None:
        changed = edit(entry)
        fits(changed or entry)
        return changed

    return edited


def filterable(mappings: Iterable[MappingConfig], registry: Registry, name: str) -> Filterable | None:
    """As `Replaying.filterable`."""
    for mapping in mappings:
        if mapping.settings.id == name:
            return registry.connector(mapping.type).traits(mapping.options).filterable
    return None


def gone(mapping: str) -> MappingConfig:
    """What stands for a mapping that is not configured any more: the defaults, and no source."""
    return MappingConfig(MappingSettings(mapping, mapping, "", Batching(1), FailureSettings(), 1), "", None)


def command(daemon: Daemon) -> Command:
    """The control command `replay` of a running daemon: its functions and permits, its store. It stops when the daemon does."""

    async def replay(run: str, who: str, again: bool = False, concurrency: int | None = None) -> AsyncIterator[dict[str, Any]]:
        config = daemon.config
        replaying = Replaying(
            daemon.store,
            config.mappings.values(),
            daemon.registry,
            daemon.functions.__getitem__,
            daemon.delivering(),
            daemon.clock,
            daemon.random,
            config.shutdown_grace,
            who,
        )
        async with (
            aclosing(replaying.run(run, again, concurrency)) as tallies,
            aclosing(_until(daemon.stopping, tallies)) as answers,
        ):
            async for tally in answers:
                yield tally
        if daemon.stopping.is_set():
            raise StoreError(f"the daemon is stopping: what was not done is kept, and `poller replay resume {run}` goes on")

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
