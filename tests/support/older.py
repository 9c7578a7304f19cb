"""Makes a journal of the format before out of one of this format, for crash runs of the conversion."""

import secrets
import sqlite3
from contextlib import closing
from pathlib import Path
from zlib import crc32

import msgspec
from support.journals import open_journal, segments, source_of

from kvfs.core.model import Change
from kvfs.journal import legacy
from kvfs.journal.opener import APPLICATION_ID
from kvfs.journal.rules import Row

DDL = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE changes (
    namespace TEXT NOT NULL, key TEXT NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL,
    size INTEGER NOT NULL, metadata BLOB, expiration INTEGER, base BLOB, attempted INTEGER NOT NULL,
    recorded_at REAL NOT NULL, acked_at REAL, error TEXT, body INTEGER, may_exist INTEGER NOT NULL,
    ancestors BLOB NOT NULL, waits_for INTEGER, guarded INTEGER NOT NULL, PRIMARY KEY (namespace, key)) WITHOUT ROWID;
CREATE TABLE bodies (id INTEGER PRIMARY KEY, size INTEGER NOT NULL, digest BLOB NOT NULL, value BLOB, spool TEXT);
CREATE TABLE local_files (
    namespace TEXT NOT NULL, key TEXT NOT NULL, mode INTEGER, mtime INTEGER, ctime INTEGER, atime INTEGER,
    shown BLOB NOT NULL, PRIMARY KEY (namespace, key)) WITHOUT ROWID;
CREATE TABLE local_dirs (
    namespace TEXT NOT NULL, prefix TEXT NOT NULL, start INTEGER NOT NULL, mode INTEGER, mtime INTEGER,
    ctime INTEGER, PRIMARY KEY (namespace, prefix, start)) WITHOUT ROWID;
CREATE TABLE shown (place BLOB PRIMARY KEY, digest BLOB NOT NULL, changed INTEGER) WITHOUT ROWID;
CREATE TABLE namespaces (id TEXT PRIMARY KEY, first_seen INTEGER NOT NULL) WITHOUT ROWID;
"""


def make_older(path: Path) -> None:
    """Rewrite the journal at `path`, which nobody has open, as the version before would have left it, closed."""
    source = source_of(path)
    with open_journal(path, source=source) as journal:
        rows = journal._transactions.index.all()
        values = {row.change.seq: journal.value(row.change) for row in rows if _is_inline(row)}
    for name in (*segments(path), path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.executescript(DDL)
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {legacy.BEFORE}")
        identity = secrets.token_bytes(16)
        meta = [("source", source), ("id", identity.hex()), ("applied", "0")]
        database.executemany("INSERT INTO meta VALUES (?, ?)", meta)
        for row in rows:
            _insert(database, row, values.get(row.change.seq))
    path.chmod(0o600)
    path.with_name(f"{path.name}-redo.1").write_bytes(_redo(identity))
    path.with_name(f"{path.name}-log.1").write_bytes(b"of a conversion that failed")


def _redo(identity: bytes) -> bytes:
    """Return a log of one record: a namespace was seen, and is gone."""
    head = legacy._HEAD.pack(legacy._MAGIC, legacy.BEFORE, identity, 0)[:-4]
    payload = msgspec.msgpack.encode([[8, ["x" * 32, 1]], [9, ["x" * 32]]])
    record = legacy._RECORD.pack(1, len(payload), crc32(payload), 0)[:-4]
    return head + crc32(head).to_bytes(4, "little") + record + crc32(record).to_bytes(4, "little") + payload


def _is_inline(row: Row) -> bool:
    return row.content is not None and row.content.spool is None


def _insert(database: sqlite3.Connection, row: Row, value: bytes | None) -> None:
    change: Change = row.change
    body = None
    if row.content is not None:
        body = change.seq
        columns = (body, change.size, row.digest, value, row.content.spool)
        database.execute("INSERT INTO bodies VALUES (?, ?, ?, ?, ?)", columns)
    columns = (
        change.namespace, change.key, change.seq, change.kind, change.state, change.size, change.metadata,
        change.expiration, change.base, change.attempted, change.recorded_at, change.acked_at, change.error, body,
        row.may_exist, row.ancestors, row.waits_for, row.guarded,
    )  # fmt: skip
    database.execute(f"INSERT INTO changes VALUES ({', '.join('?' * 18)})", columns)
    if row.attrs is not None:
        attrs = row.attrs  # the older format has no others
        times = (attrs.mtime_ns, attrs.ctime_ns, attrs.atime_ns)
        columns = (change.namespace, change.key, attrs.mode, *times, attrs.shown)
        database.execute("INSERT INTO local_files VALUES (?, ?, ?, ?, ?, ?, ?)", columns)
