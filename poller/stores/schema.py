"""What the store's SQLite file holds: its tables, as an ordered list of migrations. See database.py for how they are applied."""

from __future__ import annotations

from poller.stores.writer import Schema

_FIRST = (
    # Progress of ordered lanes (poller.progress.encode).
    """
    CREATE TABLE checkpoints (
        mapping TEXT NOT NULL,
        source TEXT NOT NULL,
        lane TEXT NOT NULL,
        progress BLOB NOT NULL,
        PRIMARY KEY (mapping, source, lane)
    ) STRICT, WITHOUT ROWID
    """,
    # A dropped lease keeps its row, with no owner, and so its counter: fencing tokens never come twice.
    """
    CREATE TABLE leases (
        mapping TEXT NOT NULL,
        source TEXT NOT NULL,
        lane TEXT NOT NULL,
        owner TEXT NOT NULL,
        counter INTEGER NOT NULL,
        until REAL NOT NULL,
        PRIMARY KEY (mapping, source, lane)
    ) STRICT, WITHOUT ROWID
    """,
    # Where failures come from, by number: the index of record ids is hot, and would repeat three long texts for each record.
    """
    CREATE TABLE lanes (
        number INTEGER PRIMARY KEY,
        mapping TEXT NOT NULL,
        source TEXT NOT NULL,
        lane TEXT NOT NULL,
        UNIQUE (mapping, source, lane)
    ) STRICT
    """,
    # A row of the journal. `fault` is JSON. `owner` and `until` are of the claim.
    """
    CREATE TABLE failures (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        lane INTEGER NOT NULL REFERENCES lanes (number),
        function TEXT NOT NULL,
        reason TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        fault BLOB,
        first TEXT NOT NULL,
        last TEXT NOT NULL,
        time REAL NOT NULL,
        head BLOB NOT NULL,
        tail BLOB NOT NULL,
        kept TEXT NOT NULL,
        run TEXT NOT NULL,
        state TEXT NOT NULL,
        failures INTEGER NOT NULL,
        changed REAL NOT NULL,
        owner TEXT NOT NULL,
        until REAL NOT NULL
    ) STRICT
    """,
    "CREATE INDEX failures_by_state ON failures (state, time)",
    "CREATE INDEX failures_by_time ON failures (time)",
    # Numbers grow within a failure, in the order of its records.
    """
    CREATE TABLE records (
        number INTEGER PRIMARY KEY,
        failure INTEGER NOT NULL REFERENCES failures (number),
        lane INTEGER NOT NULL,
        id TEXT NOT NULL,
        key TEXT,
        arrival REAL NOT NULL,
        identifier TEXT,
        json BLOB NOT NULL
    ) STRICT
    """,
    "CREATE INDEX records_by_failure ON records (failure)",
    "CREATE INDEX records_by_id ON records (lane, id)",
)

_SHARING = (
    # Who asked for a lease that another holds, and until when it would be kept for him.
    "ALTER TABLE leases ADD COLUMN wanted TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE leases ADD COLUMN wanted_until REAL NOT NULL DEFAULT 0",
    # Values that a lane's progress refers to by number. They may be large: a table with rows of their own, not WITHOUT ROWID.
    """
    CREATE TABLE states (
        mapping TEXT NOT NULL,
        source TEXT NOT NULL,
        lane TEXT NOT NULL,
        number INTEGER NOT NULL,
        value BLOB NOT NULL,
        PRIMARY KEY (mapping, source, lane, number)
    ) STRICT
    """,
)

_RUNS = (
    # A replay (poller.failures.runs.encode).
    """
    CREATE TABLE runs (
        number INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        version INTEGER NOT NULL,
        began REAL NOT NULL,
        body BLOB NOT NULL
    ) STRICT
    """,
    # Its trail: what it did to which rows. `failure` is a row's id: the trail outlives what upkeep removes from the journal.
    # `failures`: a JSON list of ids, "" for none.
    """
    CREATE TABLE steps (
        number INTEGER PRIMARY KEY,
        run INTEGER NOT NULL REFERENCES runs (number),
        failure TEXT NOT NULL,
        outcome TEXT NOT NULL,
        time REAL NOT NULL,
        who TEXT NOT NULL,
        failures TEXT NOT NULL,
        edited INTEGER NOT NULL
    ) STRICT
    """,
    "CREATE INDEX steps_by_failure ON steps (run, failure)",
)

_OUTBOX = (
    # Of the last invocation.
    "ALTER TABLE failures ADD COLUMN request_id TEXT NOT NULL DEFAULT ''",
    # AUTOINCREMENT: a number is never given twice. `entry` is MessagePack (posts.py); `time` is the entry's.
    """
    CREATE TABLE outbox (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL,
        mapping TEXT NOT NULL,
        destination TEXT NOT NULL,
        outcome TEXT NOT NULL,
        time REAL NOT NULL,
        entry BLOB NOT NULL,
        result BLOB,
        attempts INTEGER NOT NULL,
        due REAL NOT NULL,
        error TEXT NOT NULL
    ) STRICT
    """,
    "CREATE INDEX outbox_by_destination ON outbox (mapping, destination)",
    "CREATE INDEX outbox_failed ON outbox (mapping, destination) WHERE attempts > 0",
    "CREATE UNIQUE INDEX outbox_successes ON outbox (mapping, destination, id) WHERE outcome = 'success'",
)

_GROUPS = (
    # The fingerprint of the fault ('': not worked out yet, see upkeep.py), and how much a row holds (kept.py: weight).
    "ALTER TABLE failures ADD COLUMN fingerprint TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE failures ADD COLUMN size INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE failures ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0",
    # All that is counted of a group, so that no row is read for it; and its rows by time.
    "CREATE INDEX failures_by_fingerprint ON failures (fingerprint, time, lane, state, size, bytes)",
    "CREATE INDEX records_by_key ON records (key, failure) WHERE key IS NOT NULL",
)

_REDRIVE = (
    # The address of the dead letter that it was made from.
    "ALTER TABLE failures ADD COLUMN taken_from TEXT NOT NULL DEFAULT ''",
)

_DAMAGED = (
    # Whether it could not be read when it was tried last.
    "ALTER TABLE outbox ADD COLUMN damaged INTEGER NOT NULL DEFAULT 0",
    "CREATE INDEX outbox_damaged ON outbox (mapping, destination) WHERE damaged = 1",
)

_ACKNOWLEDGED = (
    # Mappings that have, or had, an idempotency window, by number. What was asked for until `forgotten` is put no more.
    """
    CREATE TABLE acknowledged_mappings (
        number INTEGER PRIMARY KEY,
        mapping TEXT NOT NULL UNIQUE,
        forgotten REAL NOT NULL
    ) STRICT
    """,
    # A record each, by the hash of its name.
    """
    CREATE TABLE acknowledged (
        mapping INTEGER NOT NULL REFERENCES acknowledged_mappings (number),
        name BLOB NOT NULL,
        until REAL NOT NULL,
        PRIMARY KEY (mapping, name)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX acknowledged_by_time ON acknowledged (mapping, until)",
)

_PARKING = (
    # Whether the keys of its records are held while it is open.
    "ALTER TABLE failures ADD COLUMN holds INTEGER NOT NULL DEFAULT 0",
    # A key that an open row holds (held.py). `place`: in the order of the rows of a key; `parked` is that of the row.
    """
    CREATE TABLE held (
        number INTEGER PRIMARY KEY,
        failure INTEGER NOT NULL REFERENCES failures (number),
        mapping TEXT NOT NULL,
        source TEXT NOT NULL,
        key TEXT NOT NULL,
        parked INTEGER NOT NULL,
        place INTEGER NOT NULL,
        UNIQUE (failure, key)
    ) STRICT
    """,
    "CREATE INDEX held_by_key ON held (mapping, source, key, parked, place, number)",
    # The rows that were parked behind this one: a JSON list of ids, "" for none.
    "ALTER TABLE steps ADD COLUMN released TEXT NOT NULL DEFAULT ''",
)

SCHEMA = Schema(
    name="a poller store",
    application=0x706F6C6C,
    migrations=(_FIRST, _SHARING, _RUNS, _OUTBOX, _GROUPS, _REDRIVE, _DAMAGED, _ACKNOWLEDGED, _PARKING),
)
