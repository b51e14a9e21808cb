"""The tables in PostgreSQL, as an ordered list of migrations, applied under a lock: many workers may start at once.

They are named `poller_...` and stand in the first schema of the connection's search_path.
"""

from __future__ import annotations

from connectors.postgresql.connections import Connection, Connections
from poller.errors import StoreError

_LOCK = 0x706F6C6C6572
"""The key of the advisory lock: "poller"."""

MIGRATION_SECONDS = 900.0
"""An index of all that was ever kept may have to be made; who gave up would begin it again, for ever."""

# All text compares by its bytes ("C"): ids are looked for by their first letters, and rows are locked in one order by everybody.
_FIRST = (
    # A lane's lease and its progress are one row: who saves is checked by the same statement. A dropped lease keeps its row, with no owner,
    # and so its counter: fencing tokens never come twice. `serial`: of the last change under this lease; a statement that arrives after
    # one that was sent later changes nothing. Times are of the server's clock, epoch seconds.
    """
    CREATE TABLE poller_lanes (
        number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        mapping TEXT COLLATE "C" NOT NULL,
        source TEXT COLLATE "C" NOT NULL,
        lane TEXT COLLATE "C" NOT NULL,
        owner TEXT COLLATE "C" NOT NULL,
        counter BIGINT NOT NULL,
        until DOUBLE PRECISION NOT NULL,
        wanted TEXT COLLATE "C" NOT NULL DEFAULT '',
        wanted_until DOUBLE PRECISION NOT NULL DEFAULT 0,
        serial BIGINT NOT NULL DEFAULT 0,
        progress BYTEA,
        UNIQUE (mapping, source, lane)
    ) WITH (fillfactor = 50)
    """,
    # A value in parts. `parts` is how many there are: what lies behind is of an older value.
    """
    CREATE TABLE poller_states (
        lane BIGINT NOT NULL REFERENCES poller_lanes (number),
        number BIGINT NOT NULL,
        part INTEGER NOT NULL,
        parts INTEGER NOT NULL,
        value BYTEA NOT NULL,
        PRIMARY KEY (lane, number, part)
    )
    """,
    # Where failures come from. Not a lane's own row: an append locks it, and saves must not wait for that.
    """
    CREATE TABLE poller_origins (
        number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        mapping TEXT COLLATE "C" NOT NULL,
        source TEXT COLLATE "C" NOT NULL,
        lane TEXT COLLATE "C" NOT NULL,
        UNIQUE (mapping, source, lane)
    )
    """,
    # A row of the journal. `fault` is JSON. `owner` and `until` are of the claim.
    """
    CREATE TABLE poller_failures (
        number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id TEXT COLLATE "C" NOT NULL UNIQUE,
        origin BIGINT NOT NULL REFERENCES poller_origins (number),
        function TEXT NOT NULL,
        reason TEXT NOT NULL,
        attempts BIGINT NOT NULL,
        fault BYTEA,
        first TEXT NOT NULL,
        last TEXT NOT NULL,
        time DOUBLE PRECISION NOT NULL,
        head BYTEA NOT NULL,
        tail BYTEA NOT NULL,
        kept TEXT COLLATE "C" NOT NULL,
        run TEXT NOT NULL,
        state TEXT COLLATE "C" NOT NULL DEFAULT 'kept',
        failures INTEGER NOT NULL DEFAULT 0,
        changed DOUBLE PRECISION NOT NULL,
        owner TEXT COLLATE "C" NOT NULL DEFAULT '',
        until DOUBLE PRECISION NOT NULL DEFAULT 0
    )
    """,
    "CREATE INDEX poller_failures_by_state ON poller_failures (state, time)",
    "CREATE INDEX poller_failures_by_time ON poller_failures (time, number)",
    # Numbers grow within a failure, in the order of its records.
    """
    CREATE TABLE poller_records (
        number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        failure BIGINT NOT NULL REFERENCES poller_failures (number),
        origin BIGINT NOT NULL,
        id TEXT COLLATE "C" NOT NULL,
        key TEXT,
        arrival DOUBLE PRECISION NOT NULL,
        identifier TEXT,
        json BYTEA NOT NULL
    )
    """,
    "CREATE INDEX poller_records_by_failure ON poller_records (failure, number)",
    "CREATE INDEX poller_records_by_id ON poller_records (origin, id)",
)

_RUNS = (
    # A replay (poller.failures.runs.encode).
    """
    CREATE TABLE poller_runs (
        number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name TEXT COLLATE "C" NOT NULL UNIQUE,
        version BIGINT NOT NULL,
        began DOUBLE PRECISION NOT NULL,
        body BYTEA NOT NULL
    )
    """,
    # Its trail: what it did to which rows. `failure` is a row's id: the trail outlives what upkeep removes from the journal.
    """
    CREATE TABLE poller_steps (
        number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        run BIGINT NOT NULL REFERENCES poller_runs (number),
        failure TEXT COLLATE "C" NOT NULL,
        outcome TEXT COLLATE "C" NOT NULL,
        time DOUBLE PRECISION NOT NULL,
        who TEXT NOT NULL,
        failures TEXT[] NOT NULL,
        edited BOOLEAN NOT NULL
    )
    """,
    "CREATE INDEX poller_steps_by_failure ON poller_steps (run, failure)",
)

_OUTBOX = (
    # Of the last invocation.
    "ALTER TABLE poller_failures ADD COLUMN request_id TEXT NOT NULL DEFAULT ''",
    # `entry` is MessagePack (poller.stores.posts); `time` is the entry's. Vacuumed early: rows come and go.
    """
    CREATE TABLE poller_outbox (
        number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id TEXT COLLATE "C" NOT NULL,
        mapping TEXT COLLATE "C" NOT NULL,
        destination TEXT COLLATE "C" NOT NULL,
        outcome TEXT COLLATE "C" NOT NULL,
        time DOUBLE PRECISION NOT NULL,
        entry BYTEA NOT NULL,
        result BYTEA,
        attempts BIGINT NOT NULL DEFAULT 0,
        due DOUBLE PRECISION NOT NULL,
        error TEXT NOT NULL DEFAULT ''
    ) WITH (autovacuum_vacuum_scale_factor = 0.05)
    """,
    "CREATE INDEX poller_outbox_by_destination ON poller_outbox (mapping, destination, number)",
    "CREATE INDEX poller_outbox_failed ON poller_outbox (mapping, destination, number) WHERE attempts > 0",
    "CREATE UNIQUE INDEX poller_outbox_successes ON poller_outbox (mapping, destination, id) WHERE outcome = 'success'",
)

_GROUPS = (
    # The fingerprint of the fault ('': not worked out yet, see upkeep.py), and how much a row holds (poller.stores.kept: weight).
    "ALTER TABLE poller_failures ADD COLUMN fingerprint TEXT COLLATE \"C\" NOT NULL DEFAULT ''",
    "ALTER TABLE poller_failures ADD COLUMN size BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE poller_failures ADD COLUMN bytes BIGINT NOT NULL DEFAULT 0",
    # All that is counted of a group, so that no row is read for it; and its rows by time.
    """
    CREATE INDEX poller_failures_by_fingerprint ON poller_failures (fingerprint, time, number)
    INCLUDE (origin, state, size, bytes)
    """,
    # The beginning of a key: a whole one may be longer than an index takes, and then it would keep its failure out of the journal.
    "CREATE INDEX poller_records_by_key ON poller_records (left(key, 200), failure) WHERE key IS NOT NULL",
)

_REDRIVE = (
    # The address of the dead letter that it was made from.
    "ALTER TABLE poller_failures ADD COLUMN taken_from TEXT NOT NULL DEFAULT ''",
)

_DAMAGED = (
    # Whether it could not be read when it was tried last.
    "ALTER TABLE poller_outbox ADD COLUMN damaged BOOLEAN NOT NULL DEFAULT false",
    "CREATE INDEX poller_outbox_damaged ON poller_outbox (mapping, destination) WHERE damaged",
)

_ACKNOWLEDGED = (
    # Mappings that have, or had, an idempotency window, by number. What was asked for until `forgotten` is put no more.
    """
    CREATE TABLE poller_acknowledged_mappings (
        number INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        mapping TEXT COLLATE "C" NOT NULL UNIQUE,
        forgotten DOUBLE PRECISION NOT NULL
    )
    """,
    # A record each, by the hash of its name.
    """
    CREATE TABLE poller_acknowledged (
        mapping INTEGER NOT NULL,
        name BYTEA NOT NULL,
        until DOUBLE PRECISION NOT NULL,
        PRIMARY KEY (mapping, name)
    )
    """,
    "CREATE INDEX poller_acknowledged_by_time ON poller_acknowledged (mapping, until)",
)

_PARKING = (
    # Whether the keys of its records are held while it is open.
    "ALTER TABLE poller_failures ADD COLUMN holds BOOLEAN NOT NULL DEFAULT false",
    # A key that an open row holds (held.py). `origin` has no lane. `place`: NULL is its own number; `parked` is that of the row.
    """
    CREATE TABLE poller_held (
        number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        failure BIGINT NOT NULL REFERENCES poller_failures (number) ON DELETE CASCADE,
        origin BIGINT NOT NULL REFERENCES poller_origins (number),
        digest BYTEA NOT NULL,
        key BYTEA NOT NULL,
        parked BOOLEAN NOT NULL,
        place BIGINT,
        UNIQUE (failure, digest)
    ) WITH (autovacuum_vacuum_scale_factor = 0.05)
    """,
    "CREATE INDEX poller_held_by_key ON poller_held (origin, digest, parked, (coalesce(place, number)), number)",
    # The rows that were parked behind this one.
    "ALTER TABLE poller_steps ADD COLUMN released TEXT[] NOT NULL DEFAULT '{}'",
)

# Not to_regclass: it answers from the session's cache, which has not heard yet of what another made while this one waited for the lock.
_IS_THERE = "SELECT count(*) FROM pg_class WHERE relname = 'poller_version' AND relkind = 'r' AND pg_table_is_visible(oid)"

MIGRATIONS = (_FIRST, _RUNS, _OUTBOX, _GROUPS, _REDRIVE, _DAMAGED, _ACKNOWLEDGED, _PARKING)
"""`MIGRATIONS[n]` takes version n to version n + 1; a released one never changes."""


async def migrate(connections: Connections) -> None:
    """The tables are there, at our version. Raises StoreError for a newer one, and where the role may not make them."""
    if await connections.run(_version) == len(MIGRATIONS):
        return

    async def work(connection: Connection) -> None:
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        # Asked again under the lock: another worker may have been here.
        version = await _version(connection)
        if version > len(MIGRATIONS):
            raise StoreError(
                f"{connections.place} was set up by a newer version of this program (schema {version}, known here: {len(MIGRATIONS)}): "
                "upgrade this program, or give another database or search_path"
            )
        if not version:
            await connection.execute("CREATE TABLE IF NOT EXISTS poller_version (version INTEGER NOT NULL)")
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                await connection.execute(statement)
        await connection.execute("DELETE FROM poller_version")
        await connection.execute("INSERT INTO poller_version VALUES ($1)", len(MIGRATIONS))

    await connections.run(work, begin="BEGIN", seconds=MIGRATION_SECONDS)


async def _version(connection: Connection) -> int:
    encoding = await connection.fetchval("SELECT current_setting('server_encoding')")
    if encoding != "UTF8":
        raise StoreError(f"the database is encoded in {encoding}: create one with ENCODING 'UTF8'")
    if not await connection.fetchval(_IS_THERE):
        return 0
    return int(await connection.fetchval("SELECT coalesce(max(version), 0) FROM poller_version"))
