"""A rewind: what the daemon's `rewind` command runs, and the command line where none runs.

    preview (nothing is touched)
    pause in the ledger -> every worker leaves the lanes -> all leases or none -> write, parents first -> leases dropped -> pause ended

Whoever dies on the way leaves each lane where it was or where it was to be, leases that run out, and a pause that ends by itself.

Leases run out after 10 s, and so does the pause; who stops half-way says which lanes it has done. Of two rewinds at once the second is
refused. An idempotency window is forgotten first: a crash in between costs protection, never the rewind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from poller.admin.commands import Command
from poller.admin.lanes import Lanes, asked_of
from poller.config import MappingConfig
from poller.errors import NotConnected, PollerError
from poller.ordered import Reader
from poller.ordered_source import LEASE_SECONDS, OrderedSource
from poller.pause import LOOK_SECONDS, Pause, Pauses
from poller.progress import ORIGIN, Progress
from poller.registry import Registry
from poller.rewind import Change, KeepsPositions, Positioned, Target, ToOrigin, ToPosition, Verifying, changes, origin_of
from poller.settings import Context
from poller.unbroken import unbroken

if TYPE_CHECKING:
    from poller.daemon import Daemon

SLACK_SECONDS = 5.0
"""What leaving a lane may take besides the grace of what runs."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Where to: "TRIM_HORIZON", "LATEST", a time (`moment`, epoch seconds) or a position as `status` shows it (`position`)."""

    lane: str | None = None
    origin: str = ""
    moment: float | None = None
    position: str = ""


@dataclass(frozen=True, slots=True)
class Moved:
    """What becomes of one lane, for a person. `again`, `skipped`: records that are read again, or never; None: the source cannot tell.

    `attempts`: batches under retry, which begin at their first attempt again, if they are read again at all.
    """

    lane: str
    start: str
    to: str
    again: int | None
    skipped: int | None
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Preview:
    """`held`: by whom lanes are held now, besides this worker. `paused`: who has paused it, and it stays so. `forgets`: it has an
    idempotency window, and what that remembers of any lane is forgotten."""

    mapping: str
    source: str
    lanes: list[Moved]
    held: dict[str, str] = field(default_factory=dict)
    paused: str = ""
    forgets: bool = False


@dataclass(frozen=True, slots=True)
class Rewinding:
    """A rewind of one mapping. `context` is of an owner of its own; `grace`: seconds that running functions have; `changed` is called
    when the mapping's pause has changed."""

    mapping: MappingConfig
    registry: Registry
    context: Context
    grace: float
    changed: Callable[[], None] = lambda: None

    async def preview(self, wish: Wish) -> Preview:
        """What it would do; nothing is touched. Raises PollerError: what cannot be rewound, or not there; SourceError, NotConnected."""
        async with self._lanes() as lanes:
            made = await self._planned(lanes, wish)
            moved = await asked_of([change for change in made if change.lane], partial(_moved, lanes))
            pause = await self._pauses.load(self.mapping.settings.id)
            held = await lanes.owners([change.lane for change in made])
            return self._shown(lanes, moved, held, pause)

    async def run(self, wish: Wish) -> Preview:
        """Do it. Raises as `preview`; StoreUnavailable if a lane could not be had: nothing has changed then; PollerError if somebody else
        is at it, or it stopped half-way, which the text tells."""
        async with self._lanes() as lanes:
            names = [change.lane for change in await self._planned(lanes, wish)]
            async with self._paused(), lanes.take(names, LOOK_SECONDS + self.grace + LEASE_SECONDS + SLACK_SECONDS):
                # Once more: until now the lanes went on. What has come since then (a shard) is not taken, and begins where its parents do.
                made = [change for change in await self._planned(lanes, wish) if change.lane in lanes.leases]
                moved = await asked_of([change for change in made if change.lane], partial(_moved, lanes))
                # Before anything is read again, and of every mapping: it may have had a window until a minute ago.
                await self.context.store.acknowledged.forget(self.mapping.settings.id, self.context.clock())
                await unbroken(_write(lanes, made))  # not left half-way when the client has gone, or the daemon stops
            pause = await self._pauses.load(self.mapping.settings.id)
            return self._shown(lanes, moved, {}, pause)

    def _shown(self, lanes: Lanes, moved: list[Moved], held: dict[str, str], pause: Pause | None) -> Preview:
        settings = self.mapping.settings
        by = pause.by if pause is not None else ""
        return Preview(settings.name, lanes.source.identity, moved, held, by, forgets=settings.idempotency is not None)

    @property
    def _pauses(self) -> Pauses:
        return Pauses(self.context.store, self.context.owner, self.context.clock)

    @asynccontextmanager
    async def _lanes(self) -> AsyncIterator[Lanes]:
        mapping, connector = self.mapping, self.registry.connector(self.mapping.type)
        if connector.traits(mapping.options).kind == "queue":
            raise PollerError(f"mapping {mapping.settings.name} polls a queue, which has no positions: what was handled is deleted from it")
        if isinstance(connector, KeepsPositions):
            name, how = mapping.settings.name, connector.rewound_by(mapping.options, mapping.settings.id)
            forget = "" if mapping.settings.idempotency is None else " --forget"
            raise PollerError(f"mapping {name}: {how}; between `poller pause {name}` and `poller resume {name}{forget}`")
        source = await connector.open(mapping.options, self.context)
        try:
            if not isinstance(source, OrderedSource):
                raise PollerError(f"mapping {mapping.settings.name}: sources of type {mapping.type!r} cannot be rewound")
            yield Lanes(self.context, source)
        finally:
            await source.aclose()

    async def _planned(self, lanes: Lanes, wish: Wish) -> tuple[Change, ...]:
        shards, kept = await lanes.look()
        known = {*kept, *(shard.name for shard in shards)}
        target = await self._target(lanes, wish, known)
        return changes(shards, kept, target, self.mapping.settings.width, wish.lane)

    async def _target(self, lanes: Lanes, wish: Wish, known: Collection[str]) -> Target:
        if wish.position:
            # Without a lane that is there, `changes` refuses it, whatever it is.
            return ToPosition(await _parsed(lanes, wish) if wish.lane in known else 0)
        now = self.context.clock()
        if wish.moment is not None and wish.moment > now:
            raise PollerError(f"{_iso(wish.moment)} is in the future: rewind to a time that was, or to LATEST")
        if wish.moment is not None:
            return ToOrigin(f"AT_TIMESTAMP {wish.moment!r}")
        return ToOrigin(f"AT_TIMESTAMP {now!r}", ahead=True) if wish.origin == "LATEST" else ToOrigin(wish.origin)

    @asynccontextmanager
    async def _paused(self) -> AsyncIterator[None]:
        """Nobody reads meanwhile."""
        try:
            async with self._pauses.kept(self.mapping.settings.id, f"a rewind by {self.context.owner}"):
                self.changed()
                yield
        finally:
            self.changed()


async def _write(lanes: Lanes, made: Sequence[Change]) -> None:
    for number, change in enumerate(made):
        try:
            await lanes.write(change)
        except PollerError as error:
            so_far = ", ".join(each.lane for each in made[:number] if each.lane) or "none"
            text = f"rewound so far: {so_far}; lane {change.lane} may be, and the others are where they were; rewind again, nothing is lost"
            raise PollerError(f"{text}: {error}") from error


# --- for a person ---------------------------------------------------------------------------------------------------------------------


async def _parsed(lanes: Lanes, wish: Wish) -> int:
    assert wish.lane is not None
    async with _reader(lanes, wish.lane) as reader:
        if not isinstance(reader, Positioned):
            raise PollerError(f"positions of {lanes.source.identity} cannot be written by a person; name a time, TRIM_HORIZON or LATEST")
        try:
            position = reader.parsed(wish.position)
        except ValueError as error:
            raise PollerError(f"{wish.position!r} is no position of lane {wish.lane}: {error}") from None
        head = await reader.head()
        if head is not None and ORIGIN < head[0] < position:
            raise PollerError(f"lane {wish.lane} ends at {reader.shown(head[0])}: there is nothing at {wish.position} yet")
        if isinstance(reader, Verifying):
            try:
                await reader.verify(position)
            except NotConnected as error:
                raise PollerError(f"lane {wish.lane} cannot be read from {wish.position}: {error}") from error
        return position


async def _moved(lanes: Lanes, change: Change) -> Moved:
    before, after = change.before, change.after
    async with _reader(lanes, change.lane) as reader:
        again = skipped = None
        if before is None:
            again = 0
        elif after is None:
            again, skipped = 0, 0
        elif isinstance(reader, Positioned):
            old, new = await _place(reader, before), await _place(reader, after)
            if old is not None and new is not None:
                again = reader.distance(new, old) if new < old else 0
                skipped = reader.distance(old, new) if old < new else 0
        return Moved(change.lane, shown(before, reader), shown(after, reader), again, skipped, 0 if before is None else len(before.spans))


@asynccontextmanager
async def _reader(lanes: Lanes, lane: str) -> AsyncIterator[Reader]:
    reader = lanes.reader(lane)
    try:
        yield reader
    finally:
        await reader.aclose()


async def _place(reader: Positioned, progress: Progress) -> int | None:
    origin = origin_of(progress)
    return progress.checkpoint if origin is None else await reader.found(origin)


def shown(progress: Progress | None, reader: object) -> str:
    """Where a lane stands: "ended", an origin, or a position in the source's own terms."""
    if progress is None:
        return ""
    if progress.ended:
        return "ended"
    kind, _, moment = (origin_of(progress) or "").partition(" ")
    if kind:
        return f"{kind} {_iso(float(moment))}" if kind == "AT_TIMESTAMP" else kind
    return reader.shown(progress.checkpoint) if isinstance(reader, Positioned) else str(progress.checkpoint)


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- in a daemon ----------------------------------------------------------------------------------------------------------------------


def pause(daemon: Daemon) -> Command:
    """The control command `pause`: answers the pause that holds from now on. Workers of other daemons see it when they look again."""

    async def pause(mapping: str, by: str) -> AsyncIterator[dict[str, Any]]:
        kept = await daemon.pauses.put(_found(daemon, mapping).settings.id, Pause(daemon.clock(), by))
        _look(daemon, mapping)
        yield asdict(kept)

    return pause


def resume(daemon: Daemon) -> Command:
    """The control command `resume`: answers the pause that was there, or nothing. `forget`: and what its idempotency window remembers."""

    async def resume(mapping: str, forget: bool = False) -> AsyncIterator[dict[str, Any]]:
        found = _found(daemon, mapping).settings.id
        if forget:
            await daemon.store.acknowledged.forget(found, daemon.clock())
        ended = await daemon.pauses.end(found)
        _look(daemon, mapping)
        yield {} if ended is None else asdict(ended)

    return resume


def rewind(daemon: Daemon) -> Command:
    """The control command `rewind`: answers a `Preview`."""

    async def rewind(mapping: str, wish: dict[str, Any], preview: bool = False) -> AsyncIterator[dict[str, Any]]:
        config, target = daemon.config, _found(daemon, mapping)
        context = Context(target.settings, daemon.store, rewinder(daemon.owner), daemon.clock, config.base, config.state)
        rewinding = Rewinding(target, daemon.registry, context, config.shutdown_grace, lambda: _look(daemon, mapping))
        yield asdict(await (rewinding.preview if preview else rewinding.run)(Wish(**wish)))

    return rewind


def rewinder(owner: str) -> str:
    """An owner of leases for one rewind."""
    return f"rewind-{owner}-{uuid4().hex[:6]}"


def _found(daemon: Daemon, name: str) -> MappingConfig:
    mappings = daemon.config.mappings
    if name not in mappings:
        raise PollerError(f"the daemon runs no mapping {name!r}, only {', '.join(mappings) or 'none'}; after a change of the file: reload")
    return mappings[name]


def _look(daemon: Daemon, name: str) -> None:
    if name in daemon.running:
        daemon.running[name].look.set()
