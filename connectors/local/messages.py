"""Messages in the database: SQS's rules as transactions. Every function here runs inside one transaction of the writer.

    put --> visible --receive--> in flight --delete--> gone
               ^                    |  |
               +--timeout, release--+  +--received too often: moved to the dead-letter queue

A receipt is (id, receives): it is unique for each receive, because an id is never used twice and the count only grows. It goes stale when
the message is received again, deleted or moved. Unlike SQS's FIFO queues, a receipt whose visibility timeout is over still deletes as
long as nobody has received the message since: the work is done, and doing it again would help nobody.

Group `ready` is when a message group may be received from: when the last of its messages in flight becomes visible. The row is there as
long as the group may have messages; it makes receiving cost the same however many messages wait in a blocked group.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from sqlite3 import Connection

import orjson

from connectors.local.format import Message, queue_arn
from poller.errors import SourceError

GROUP_LIMIT = 10
"""At most so many messages of one group in one receive, as SQS's receives have no more."""

DEDUPLICATION_SECONDS = 300.0

_DEAD_LETTER_RETENTION = 14 * 86400.0
"""Of a dead-letter queue nobody configured: SQS's longest. Its clock goes on from when a message was first sent (standard queues)."""

_COLUMNS = "id, receives, earlier, sent, first, message_id, body, md5, size, attributes, attributes_md5, group_id, deduplication, origin"

Receipt = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue as it is set up now. Durations are seconds; `dead_letter` is a queue's id."""

    id: int
    name: str
    fifo: bool
    visibility: float
    retention: float
    dead_letter: int | None
    dead_letter_name: str | None
    maximum_receives: int | None


@dataclass(frozen=True, slots=True)
class Draft:
    """A message to be put. `deduplication` None: no repeat of anything; FIFO messages then get their own id as deduplication id."""

    message_id: str
    body: str
    md5: str
    size: int
    attributes: str | None
    attributes_md5: str | None
    group: str | None
    deduplication: str | None


@dataclass(frozen=True, slots=True)
class Received:
    """What a receive brought, and how many it `moved` to the dead-letter queue or found `expired` by retention."""

    messages: list[Message]
    moved: int
    expired: int


def ensure(connection: Connection, name: str, fifo: bool, visibility: float, retention: float, redrive: tuple[str, int] | None) -> Queue:
    """The queue, made if it is not there; what is configured last holds. Raises SourceError when its kind would have to change."""
    dead_letter = None
    if redrive is not None:
        dead_letter = _make(connection, redrive[0], fifo, visibility, _DEAD_LETTER_RETENTION)
    identity = _make(connection, name, fifo, visibility, retention)
    settings = (visibility, retention, dead_letter, None if redrive is None else redrive[1])
    connection.execute(
        "UPDATE queues SET visibility=?, retention=?, dead_letter=?, maximum_receives=? "
        "WHERE id=? AND (visibility, retention, dead_letter, maximum_receives) IS NOT (?, ?, ?, ?)",
        (*settings, identity, *settings),
    )
    return Queue(identity, name, fifo, visibility, retention, dead_letter, redrive and redrive[0], redrive and redrive[1])


def found(connection: Connection, name: str) -> Queue | None:
    """The queue of this name as it is, None if there is none."""
    row = connection.execute(
        "SELECT q.id, q.name, q.fifo, q.visibility, q.retention, q.dead_letter, d.name, q.maximum_receives "
        "FROM queues q LEFT JOIN queues d ON d.id=q.dead_letter WHERE q.name=?",
        (name,),
    ).fetchone()
    return None if row is None else Queue(row[0], row[1], bool(row[2]), *row[3:])


def _make(connection: Connection, name: str, fifo: bool, visibility: float, retention: float) -> int:
    row = connection.execute("SELECT id, fifo FROM queues WHERE name=?", (name,)).fetchone()
    if row is None:
        cursor = connection.execute(
            "INSERT INTO queues (name, fifo, visibility, retention) VALUES (?, ?, ?, ?)", (name, fifo, visibility, retention)
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid
    identity, was_fifo = row
    if bool(was_fifo) != fifo:
        kinds = ("a standard queue", "a FIFO queue")
        raise SourceError(f"local queue {name!r} is {kinds[was_fifo]} and cannot become {kinds[fifo]}; give the new queue another name")
    return int(identity)


# --- in -------------------------------------------------------------------------------------------------------------------------------


def put(connection: Connection, queue: Queue, drafts: Sequence[Draft], now: float) -> int:
    """Append the drafts in order; returns how many were written, repeats left out."""
    if queue.fifo:
        drafts = _without_repeats(connection, queue, drafts, now)
        connection.executemany(
            "INSERT OR IGNORE INTO groups (queue, name, ready) VALUES (?, ?, ?)", [(queue.id, draft.group, now) for draft in drafts]
        )
    connection.executemany(
        "INSERT INTO messages (queue, visible, sent, message_id, body, md5, size, attributes, attributes_md5, group_id, deduplication) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                *(queue.id, now, now, draft.message_id, draft.body, draft.md5, draft.size, draft.attributes, draft.attributes_md5),
                *(draft.group, draft.deduplication or (draft.message_id if queue.fifo else None)),
            )
            for draft in drafts
        ],
    )
    return len(drafts)


def _without_repeats(connection: Connection, queue: Queue, drafts: Sequence[Draft], now: float) -> list[Draft]:
    """A repeat within five minutes is taken and dropped, even if the first is long deleted. In the same transaction as the insert."""
    connection.execute("DELETE FROM deduplications WHERE queue=? AND until<=?", (queue.id, now))
    fresh = []
    for draft in drafts:
        if draft.deduplication is not None:
            cursor = connection.execute(
                "INSERT OR IGNORE INTO deduplications (queue, id, until) VALUES (?, ?, ?)",
                (queue.id, draft.deduplication, now + DEDUPLICATION_SECONDS),
            )
            if cursor.rowcount == 0:
                continue
        fresh.append(draft)
    return fresh


# --- out ------------------------------------------------------------------------------------------------------------------------------


def receive(connection: Connection, queue: Queue, limit: int, now: float) -> Received:
    """At most `limit` messages, hidden from now on for the visibility timeout."""
    taking = _Taking(connection, queue, now)
    if queue.fifo:
        taking.from_groups(limit)
    else:
        taking.any(limit)
    return Received(taking.messages(), taking.moved, taking.expired)


def due(connection: Connection, queue: Queue) -> float | None:
    """When the next message is visible (in the past: now), None without any message. Only looks."""
    column, table = ("ready", "groups") if queue.fifo else ("visible", "messages")
    (moment,) = connection.execute(f"SELECT min({column}) FROM {table} WHERE queue=?", (queue.id,)).fetchone()
    return None if moment is None else float(moment)


class _Taking:
    """One receive under way."""

    def __init__(self, connection: Connection, queue: Queue, now: float) -> None:
        self.connection = connection
        self.queue = queue
        self.now = now
        self.rows: list[tuple] = []  # type: ignore[type-arg]
        self.moved = 0
        self.expired = 0

    def any(self, limit: int) -> None:
        while len(self.rows) < limit:
            rows = self.connection.execute(
                f"SELECT {_COLUMNS} FROM messages WHERE queue=? AND visible<=? ORDER BY visible, id LIMIT ?",
                (self.queue.id, self.now, limit - len(self.rows)),
            ).fetchall()
            if not rows:
                return
            self._take(rows)

    def from_groups(self, limit: int) -> None:
        """Groups in the order they became ready; of each its first messages."""
        while len(self.rows) < limit:
            groups = self.connection.execute(
                "SELECT name FROM groups WHERE queue=? AND ready<=? ORDER BY ready, name LIMIT ?",
                (self.queue.id, self.now, limit - len(self.rows)),
            ).fetchall()
            if not groups:
                return
            before = len(self.rows), self.moved, self.expired
            for (group,) in groups:
                self._from_group(group, min(GROUP_LIMIT, limit - len(self.rows)))
            if before == (len(self.rows), self.moved, self.expired):
                return  # these groups were only said to be ready; a transaction must end whatever the file holds

    def _from_group(self, group: str, limit: int) -> None:
        before = len(self.rows)
        while limit > len(self.rows) - before:
            # Named, because without statistics SQLite prefers the other index and walks through the whole queue for each group.
            # Those just taken are invisible, so the group's next ones come.
            rows = self.connection.execute(
                f"SELECT {_COLUMNS} FROM messages INDEXED BY messages_by_group "
                "WHERE queue=? AND group_id=? AND visible<=? ORDER BY id LIMIT ?",
                (self.queue.id, group, self.now, limit - (len(self.rows) - before)),
            ).fetchall()
            if not rows:
                break
            self._take(rows)
        if limit > 0:
            _settle_group(self.connection, self.queue, group, self.now)

    def _take(self, rows: list[tuple]) -> None:  # type: ignore[type-arg]
        queue, now = self.queue, self.now
        oldest = now - queue.retention
        expired = [row[0] for row in rows if row[3] < oldest]
        if expired:
            _execute_for(self.connection, "DELETE FROM messages WHERE id IN", expired)
            self.expired += len(expired)
            rows = [row for row in rows if row[3] >= oldest]
        if queue.dead_letter is not None and queue.maximum_receives is not None:
            spent = [row[0] for row in rows if row[1] >= queue.maximum_receives]
            if spent:
                _move(self.connection, queue, queue.dead_letter, spent, now)
                self.moved += len(spent)
                rows = [row for row in rows if row[1] < queue.maximum_receives]
        _execute_for(
            self.connection,
            "UPDATE messages SET receives=receives+1, visible=?, first=coalesce(first, ?) WHERE id IN",
            [row[0] for row in rows],
            (now + queue.visibility, now),
        )
        self.rows += rows

    def messages(self) -> list[Message]:
        now = self.now
        return [Message(row[0], row[1] + 1, row[2], now, row[3], now if row[4] is None else row[4], *row[5:]) for row in self.rows]


def _execute_for(connection: Connection, statement: str, ids: Sequence[int], parameters: tuple[float, ...] = ()) -> None:
    if ids:
        connection.execute(f"{statement} (SELECT value FROM json_each(?))", (*parameters, orjson.dumps(ids).decode()))


def _move(connection: Connection, queue: Queue, target: int, ids: Sequence[int], now: float) -> None:
    """To the dead-letter queue, under a new id, so that old receipts mean nothing there. Counts go on in what functions see, not in what
    policies see: the dead-letter queue's own consumer has its tries for itself. FIFO: the time sent is anew, as on SQS."""
    _execute_for(
        connection,
        "INSERT INTO messages (queue, visible, earlier, sent, first, message_id, body, md5, size, attributes, attributes_md5, group_id, "
        "deduplication, origin) SELECT ?, ?, earlier+receives, CASE WHEN group_id IS NULL THEN sent ELSE ? END, first, message_id, body, "
        "md5, size, attributes, attributes_md5, group_id, deduplication, ? FROM messages WHERE id IN",
        ids,
        (target, now, now, queue_arn(queue.name)),  # type: ignore[arg-type]
    )
    if queue.fifo:
        _execute_for(
            connection,
            "INSERT OR IGNORE INTO groups (queue, name, ready) SELECT ?, group_id, ? FROM messages WHERE id IN",
            ids,
            (target, now),
        )
    _execute_for(connection, "DELETE FROM messages WHERE id IN", ids)


# --- what becomes of what was received ------------------------------------------------------------------------------------------------


def settle(
    connection: Connection,
    queue: Queue,
    deletes: Iterable[Receipt],
    changes: Iterable[tuple[float, Receipt]],
    groups: set[str],
    now: float,
) -> int:
    """Delete, and change when others become visible (epoch seconds); returns how many receipts were good. `groups`: of all of these."""
    cursor = connection.executemany("DELETE FROM messages WHERE id=? AND receives=?", deletes)
    good = max(cursor.rowcount, 0)
    cursor = connection.executemany(
        "UPDATE messages SET visible=? WHERE id=? AND receives=?", [(visible, *receipt) for visible, receipt in changes]
    )
    good += max(cursor.rowcount, 0)
    for group in groups:
        _settle_group(connection, queue, group, now)
    return good


def _settle_group(connection: Connection, queue: Queue, group: str, now: float) -> None:
    """Say anew when the group is ready. What was received of a group are always its first messages, never more than one receive holds."""
    (last,) = connection.execute(
        "SELECT max(visible) FROM (SELECT visible FROM messages INDEXED BY messages_by_group WHERE queue=? AND group_id=? "
        "ORDER BY id LIMIT ?)",
        (queue.id, group, GROUP_LIMIT),
    ).fetchone()
    if last is None:
        connection.execute("DELETE FROM groups WHERE queue=? AND name=?", (queue.id, group))
    else:
        connection.execute("UPDATE groups SET ready=max(?, ?) WHERE queue=? AND name=?", (last, now, queue.id, group))


def expire(connection: Connection, queue: Queue, now: float, limit: int = 5000) -> int:
    """Delete what nobody received for the whole retention, at most `limit`; what is tried again meanwhile expires at a receive."""
    cursor = connection.execute(
        "DELETE FROM messages WHERE id IN (SELECT id FROM messages WHERE queue=? AND visible<? AND sent<? LIMIT ?)",
        (queue.id, now - queue.retention, now - queue.retention, limit),
    )
    return cursor.rowcount
