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

SCHEMA = Schema(name="a poller store", application=0x706F6C6C, migrations=(_FIRST, _SHARING))
