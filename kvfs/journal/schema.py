"""The tables of the journal: the one place that says what each column and each sentinel means.

Creating, recognising and migrating the file belong here too; nothing here knows what a change is for.
"""

import secrets
import sqlite3
from typing import Final

ID_BYTES: Final = 16
APPLICATION_ID: Final = 0x6B766A31  # "kvj1": tells our journal from any other SQLite file
VERSION: Final = 4

DDL: Final = """
-- What the file is for.
-- name: 'source' (identity of the account or store; another source refuses the file),
--       'created' (epoch seconds), 'id' (16 random bytes in hex: the redo log beside it names it),
--       'applied' (the number of the last record of the redo log that is in the tables).
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- The newest change of each key. A row leaves when it settled, or when it is deleted before it was sent.
CREATE TABLE changes (
    namespace   TEXT NOT NULL,
    key         TEXT NOT NULL,
    seq         INTEGER NOT NULL,  -- grows with every change, never reused; an ack names it
    kind        TEXT NOT NULL CHECK (kind IN ('put', 'delete')),
    state       TEXT NOT NULL CHECK (state IN ('pending', 'settling', 'rejected', 'local')),
    size        INTEGER NOT NULL,  -- of the value; 0 for a tombstone
    metadata    BLOB,              -- JSON text, UTF-8; NULL: none
    expiration  INTEGER,           -- epoch seconds; NULL: never
    base        BLOB,              -- digest of the store's value this mount had read;
                                   -- X'': known absent; NULL: never read
    attempted   INTEGER NOT NULL,  -- 1: a request that may have carried this seq has left
    recorded_at REAL NOT NULL,     -- epoch seconds
    acked_at    REAL,              -- epoch seconds; set by ack, NULL before
    error       TEXT,              -- why it was rejected, or what the last attempt said
    body        INTEGER,           -- bodies.id; NULL exactly for tombstones
    may_exist   INTEGER NOT NULL,  -- 1: whatever base says, the store may hold the key because of an
                                   -- earlier change of ours
    ancestors   BLOB NOT NULL,     -- digests, 16 bytes each, of values a stale store may still
                                   -- answer and that are our own doing; zeros, then 8 bytes of
                                   -- epoch seconds: one written over unread by then
    waits_for   INTEGER,           -- of a rename's tombstone: seq of the put that must land first; no such
                                   -- pending or rejected put: it has landed
    guarded     INTEGER NOT NULL DEFAULT 0,  -- 1: a tombstone that may delete only the value that base names
                                   -- (of a rename, or of a value that expired unsent); 0: it deletes what is there
    PRIMARY KEY (namespace, key)
) WITHOUT ROWID;

-- Contents. Several changes may share one (rename); it goes with the last of them.
CREATE TABLE bodies (
    id     INTEGER PRIMARY KEY,
    size   INTEGER NOT NULL,
    digest BLOB NOT NULL,  -- 16 bytes: see streaming.digest
    value  BLOB,           -- NULL: it is in the file spool/<spool> beside the journal
    spool  TEXT            -- NULL: it is in value
);

-- What this machine keeps about keys, pending or not. NULL: not set here, the caller has its default.
CREATE TABLE local_files (
    namespace TEXT NOT NULL,
    key       TEXT NOT NULL,
    mode      INTEGER,  -- permission bits
    mtime     INTEGER,  -- epoch nanoseconds, as the other times
    ctime     INTEGER,
    atime     INTEGER,
    shown     BLOB NOT NULL DEFAULT X'',  -- the first 8 bytes of the digest of the content that the mtime was
                                          -- shown with; X'': not known
    PRIMARY KEY (namespace, key)
) WITHOUT ROWID;

-- Of keys that are not in local_files: the content they were shown with. At most 64 bytes a key on the disk, which
-- is why keys are named by hashes: two that share one (of 2^64) would only be dated wrongly.
CREATE TABLE shown (
    place   BLOB PRIMARY KEY,  -- 4 bytes of a hash of the namespace, 8 of one of the key
    digest  BLOB NOT NULL,     -- 8 bytes, as in local_files
    changed INTEGER            -- epoch nanoseconds: when a content was found that differed; NULL: never
) WITHOUT ROWID;

-- Directories that mkdir made on this machine, until rmdir.
CREATE TABLE local_dirs (
    namespace TEXT NOT NULL,
    prefix    TEXT NOT NULL,     -- text every key below it starts with
    start     INTEGER NOT NULL,  -- where its last component begins in prefix (core.names)
    mode      INTEGER,
    mtime     INTEGER,           -- epoch nanoseconds
    ctime     INTEGER,
    PRIMARY KEY (namespace, prefix, start)
) WITHOUT ROWID;

-- When this machine saw a namespace first: the time shown for what was never changed here.
CREATE TABLE namespaces (
    id         TEXT PRIMARY KEY,
    first_seen INTEGER NOT NULL
) WITHOUT ROWID;
"""

TABLES: Final = frozenset({"meta", "changes", "bodies", "local_files", "shown", "local_dirs", "namespaces"})

MIGRATIONS: Final[dict[int, str]] = {
    1: "INSERT INTO meta VALUES ('id', lower(hex(randomblob(16))));",
    2: """
ALTER TABLE local_files ADD COLUMN shown BLOB NOT NULL DEFAULT X'';
CREATE TABLE shown (
    place   BLOB PRIMARY KEY,
    digest  BLOB NOT NULL,
    changed INTEGER
) WITHOUT ROWID;
UPDATE local_files SET mtime = mtime * 1000000000, ctime = ctime * 1000000000, atime = atime * 1000000000;
UPDATE local_dirs SET mtime = mtime * 1000000000, ctime = ctime * 1000000000;
""",
    3: "ALTER TABLE changes ADD COLUMN guarded INTEGER NOT NULL DEFAULT 0;",
}
"""Script that takes a file from version n to n + 1, by n; each runs in one transaction."""


def create(connection: sqlite3.Connection, source: str, created: float) -> None:
    """Lay the tables into an empty file."""
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.executescript(f"BEGIN; {DDL} PRAGMA user_version = {VERSION}; COMMIT;")
    meta = [("source", source), ("created", str(int(created))), ("id", secrets.token_hex(ID_BYTES))]
    connection.executemany("INSERT INTO meta VALUES (?, ?)", meta)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def migrate(connection: sqlite3.Connection) -> bool:
    """Bring an older file to VERSION, a version a transaction; whether it was older."""
    found = _pragma(connection, "user_version")
    for version in range(found, VERSION):
        connection.executescript(f"BEGIN; {MIGRATIONS[version]} PRAGMA user_version = {version + 1}; COMMIT;")
    return found < VERSION


def identity(connection: sqlite3.Connection) -> bytes:
    """What tells this journal from every other; empty in a file of version 1."""
    return bytes.fromhex(_meta(connection, "id") or "")


def applied(connection: sqlite3.Connection) -> int:
    """The number of the last record of the redo log that the tables have."""
    return int(_meta(connection, "applied") or 0)


def note_applied(connection: sqlite3.Connection, number: int) -> None:
    """The tables have the records up to this one, with the transaction under way."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('applied', ?)", (str(number),))


def fault(connection: sqlite3.Connection, source: str) -> str | None:
    """Why this file cannot be our journal of `source`, or None. Only reads.

    Raises sqlite3.DatabaseError when the file is no database or damaged.
    """
    if _pragma(connection, "application_id") != APPLICATION_ID:
        return "it is not a journal of kvfs"
    version = _pragma(connection, "user_version")
    if version > VERSION:
        return f"it was written by a newer kvfs (journal version {version}, this one knows {VERSION})"
    if version < VERSION and version not in MIGRATIONS:
        return f"its version {version} is unknown"
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version == VERSION and not names >= TABLES:
        return f"it lacks {', '.join(sorted(TABLES - names))}"
    found = _meta(connection, "source")
    if found != source:
        return f"it belongs to {found if found is not None else 'nobody'!r}, not to {source!r}"
    return None


def damage(connection: sqlite3.Connection) -> str | None:
    """What is wrong inside of it, or None; takes long for a large one. Only reads."""
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    return None if verdict == "ok" else f"it is damaged ({verdict})"


def _meta(connection: sqlite3.Connection, name: str) -> str | None:
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return str(row[0]) if row else None


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
