"""The SQLite file of one namespace, as miniflare makes it: `_mf_entries`, one row a key.

Every function takes a connection that `connect` or `connect_reading` made, and blocks: call it in a thread.
workerd waits for no lock, so a write of ours that meets one of the Worker's makes the Worker's fail; therefore a
transaction here holds the lock for as short a time as possible, and values are in their files before it begins.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

from kvfs.core.model import Key, KeyInfo, Metadata

BUSY_SECONDS: Final = 10.0

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS _mf_entries (
  key TEXT PRIMARY KEY,
  blob_id TEXT NOT NULL,
  expiration INTEGER,
  metadata TEXT
);
CREATE INDEX IF NOT EXISTS _mf_entries_expiration_idx ON _mf_entries(expiration);
"""


class MiniflareRow(Struct, frozen=True):
    """One key: the file of its value, its expiration in epoch milliseconds, its metadata as JSON text."""

    key: str
    blob: str
    expiration: int | None
    metadata: str | None

    @property
    def seconds(self) -> int | None:
        """The expiration in whole epoch seconds, as KV shows it."""
        return None if self.expiration is None else self.expiration // 1000

    @property
    def document(self) -> Metadata | None:
        """The metadata as kvfs keeps it."""
        return None if self.metadata is None or self.metadata == "null" else self.metadata.encode()


def connect(file: Path) -> sqlite3.Connection:
    """Return a connection that writes; the file, its directory and the table are made where they are missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(file, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA synchronous = FULL")
        if not _has_table(db):
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db


def connect_reading(file: Path) -> sqlite3.Connection:
    """Return a connection that only reads. Raises `sqlite3.OperationalError` where there is no such file."""
    db = sqlite3.connect(
        f"{file.absolute().as_uri()}?mode=rw",  # not `ro`: a WAL of a process that died has to be recovered
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    db.execute("PRAGMA query_only = ON")
    return db


def _has_table(db: sqlite3.Connection) -> bool:
    query = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = '_mf_entries'"
    return bool(db.execute(query).fetchone()[0])


def find(db: sqlite3.Connection, keys: Iterable[str], now_ms: int) -> dict[str, MiniflareRow]:
    """Return the rows of `keys` that have not expired, from one snapshot."""
    wanted = list(keys)
    marks = ", ".join("?" * len(wanted))
    query = f"SELECT key, blob_id, expiration, metadata FROM _mf_entries WHERE key IN ({marks})"
    rows = (MiniflareRow(*row) for row in db.execute(query, wanted))
    return {row.key: row for row in rows if row.expiration is None or row.expiration > now_ms}


def list_after(
    db: sqlite3.Connection, prefix: str, after: str | None, limit: int, now_ms: int
) -> list[KeyInfo]:
    """Return up to `limit` keys that start with `prefix` and follow `after`, in UTF-8 order, which is SQLite's."""
    query = (
        "SELECT key, blob_id, expiration, metadata FROM _mf_entries"
        " WHERE key >= ?1 AND (?2 IS NULL OR key > ?2) AND substr(key, 1, ?3) = ?1"
        " AND (expiration IS NULL OR expiration > ?4) ORDER BY key LIMIT ?5"
    )
    rows = db.execute(query, (prefix, after, len(prefix), now_ms, limit))
    return [KeyInfo(Key(row.key), row.document, row.seconds) for row in (MiniflareRow(*row) for row in rows)]


def replace(db: sqlite3.Connection, rows: Iterable[MiniflareRow]) -> list[str]:
    """Put the rows, all or none; returns the blobs that nothing names any more."""
    with db:
        db.execute("BEGIN IMMEDIATE")
        old = [blob for row in rows for blob in _put(db, row)]
    return old


def _put(db: sqlite3.Connection, row: MiniflareRow) -> Iterator[str]:
    for (blob,) in db.execute("SELECT blob_id FROM _mf_entries WHERE key = ?", (row.key,)).fetchall():
        yield blob
    values = (row.key, row.blob, row.expiration, row.metadata)
    db.execute(
        "INSERT OR REPLACE INTO _mf_entries (key, blob_id, expiration, metadata) VALUES (?, ?, ?, ?)", values
    )


def remove(db: sqlite3.Connection, keys: Iterable[str]) -> list[str]:
    """Remove the keys, all or none; returns the blobs that nothing names any more."""
    query = "DELETE FROM _mf_entries WHERE key = ? RETURNING blob_id"
    with db:
        db.execute("BEGIN IMMEDIATE")
        return [blob for key in keys for (blob,) in db.execute(query, (key,)).fetchall()]
