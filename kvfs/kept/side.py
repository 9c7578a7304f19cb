"""The side table: local attributes of keys without a change, in the SQLite file of the journal.

There may be millions of them, so they are not in memory. The file also says whose journal it is (`sidefile`).

Invariants:
- Every row was in the log before. The log may drop it once `force` returned, *because* a commit of SQLite's survives a
  kill, and no power cut.
- Repeating a `save` does no harm, *because* each of its rows has all attributes of a key.
"""

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from kvfs.core.errors import JournalError, JournalFullError
from kvfs.core.model import Key, KeyRef, NamespaceId
from kvfs.kept.local import SHOWN_BYTES, LocalAttrs

META: Final = """
-- name: 'source' (identity of the account or store; another source refuses the file),
--       'created' (epoch seconds), 'id' (16 random bytes in hex: each segment of the log names it).
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID
"""
FILES: Final = """
-- attrs: a `LocalAttrs`, MessagePack. No row: nothing is kept of the key here, the caller has its default.
CREATE TABLE files (
    namespace TEXT NOT NULL,
    key       TEXT NOT NULL,
    attrs     BLOB NOT NULL,
    PRIMARY KEY (namespace, key)
) WITHOUT ROWID
"""
SHOWN: Final = """
-- Of keys that are not in files: the content they were shown with. At most 64 bytes a key on the disk, which is why
-- keys are named by hashes: two that share one (of 2^64) would only be dated wrongly.
CREATE TABLE shown (
    place   BLOB PRIMARY KEY,  -- 4 bytes of a hash of the namespace, 8 of one of the key
    digest  BLOB NOT NULL,     -- `LocalAttrs.shown`
    changed INTEGER            -- epoch nanoseconds: when a content was found that differed; NULL: never
) WITHOUT ROWID
"""
GONE: Final = """
-- Of keys that were deleted here, the latest: the content they were last shown with. Whoever makes one anew makes
-- another file, and that is dated if its content is another.
CREATE TABLE gone (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    place  BLOB NOT NULL UNIQUE,
    digest BLOB NOT NULL
)
"""
TABLES: Final = frozenset({"meta", "files", "shown", "gone"})

_PUT: Final = "INSERT OR REPLACE INTO files VALUES (?, ?, ?)"
_PUT_SHOWN: Final = "INSERT OR REPLACE INTO shown VALUES (?, ?, ?)"
_DROP: Final = "DELETE FROM files WHERE namespace = ? AND key = ?"
_DROP_SHOWN: Final = "DELETE FROM shown WHERE place = ?"
_DROP_NAMESPACE: Final = "DELETE FROM files WHERE namespace = ?"
_DROP_ALL_SHOWN: Final = "DELETE FROM shown WHERE place BETWEEN ? AND ?"
_PUT_GONE: Final = "INSERT OR REPLACE INTO gone (place, digest) VALUES (?, ?)"
_DROP_GONE: Final = "DELETE FROM gone WHERE place = ?"
_DROP_ALL_GONE: Final = "DELETE FROM gone WHERE place BETWEEN ? AND ?"
_TRIM_GONE: Final = "DELETE FROM gone WHERE number <= (SELECT max(number) FROM gone) - ?"
_GET_GONE: Final = "SELECT digest FROM gone WHERE place = ?"
GONE_KEPT: Final = 50_000  # deleted keys: some megabytes
_GET: Final = "SELECT attrs FROM files WHERE namespace = ? AND key = ?"
_GET_SHOWN: Final = "SELECT digest, changed FROM shown WHERE place = ?"
_NAMESPACE_BYTES: Final = 4
_KEY_BYTES: Final = 8
_FULL: Final = {sqlite3.SQLITE_FULL}
_BUSY_SECONDS: Final = 10.0

encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(LocalAttrs).decode


class SideBusyError(JournalError):
    """A thread forces the side table to the disk, which takes as long as the disk likes: nothing can be saved now."""


def translate(error: sqlite3.Error, path: Path) -> JournalError:
    """Translate SQLite's error: no room, or a journal that cannot be used."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
        return SideBusyError(f"the journal {path} is in use: {error}")
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _FULL:
        return JournalFullError(f"the journal {path} cannot be written ({error}); make room and try again")
    return JournalError(f"the journal {path} failed: {error}")


def _connect(path: Path) -> sqlite3.Connection:
    """Open a connection with explicit transactions, a write-ahead log, and checkpoints left to `force`."""
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_SECONDS)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA secure_delete = OFF")  # Debian's default ON writes every freed page again
    except sqlite3.Error as exc:
        raise translate(exc, path) from exc
    return connection


def meta(connection: sqlite3.Connection, name: str) -> str | None:
    """Return a value of the file's table `meta`."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return str(row[0]) if row else None


def identity(connection: sqlite3.Connection) -> bytes:
    """Return the random identity of this journal; empty where the file does not say."""
    return bytes.fromhex(meta(connection, "id") or "")


def short_place(namespace: NamespaceId, key: Key) -> bytes:
    """Return the 12 bytes that stand for a key in the table `shown`; a namespace's keys lie side by side."""
    return _hash(namespace, _NAMESPACE_BYTES) + _hash(key, _KEY_BYTES)


def _hash(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=size).digest()


class SideTable:
    """The side table of one journal. All but `force` is the loop's, and never waits for it."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises JournalError."""
        self._path = path
        self._db = _connect(path)
        try:
            self._db.execute("PRAGMA busy_timeout = 0")
            self.identity = identity(self._db)
            self._has_files = (
                self._ask("SELECT 1 FROM files LIMIT 1", ()) is not None
            )  # mostly there are none
            self._has_shown = self._ask("SELECT 1 FROM shown LIMIT 1", ()) is not None
            self._has_gone = self._ask("SELECT 1 FROM gone LIMIT 1", ()) is not None
        except BaseException as exc:
            self._db.close()
            if isinstance(exc, sqlite3.Error):
                raise translate(exc, path) from exc
            raise

    @property
    def is_empty(self) -> bool:
        """True if nothing is kept of any key."""
        return not (self._has_files or self._has_shown or self._has_gone)

    def _ask(self, statement: str, columns: tuple[Any, ...]) -> Any:
        try:
            return self._db.execute(statement, columns).fetchone()
        except sqlite3.Error as exc:
            raise translate(exc, self._path) from exc

    def get(self, place: KeyRef) -> LocalAttrs | None:
        """Return the attributes of a key. Raises JournalError."""
        try:
            if self._has_files and (row := self._ask(_GET, place)) is not None:
                return _decode(row[0])
        except msgspec.DecodeError as exc:
            raise JournalError(f"the journal {self._path} has damaged attributes ({exc})") from exc
        if self._has_shown and (row := self._ask(_GET_SHOWN, (short_place(*place),))) is not None:
            return LocalAttrs(None, row[1], row[1], None, row[0])
        if self._has_gone and (row := self._ask(_GET_GONE, (short_place(*place),))) is not None:
            return LocalAttrs(shown=row[0], is_gone=True)
        return None

    def save(self, files: Mapping[KeyRef, LocalAttrs | None], dropped: Iterable[NamespaceId] = ()) -> None:
        """Keep all of these in one transaction, after nothing is kept of the namespaces. Raises JournalError."""
        dropped = list(dropped)
        firsts = [_hash(namespace, _NAMESPACE_BYTES) for namespace in dropped]
        spans = [(first, first + b"\xff" * (_KEY_BYTES + 1)) for first in firsts]
        writes: dict[str, list[tuple[Any, ...]]] = {
            _DROP_NAMESPACE: [(namespace,) for namespace in dropped],
            _DROP_ALL_SHOWN: spans,
            _DROP_ALL_GONE: spans,
        }
        writes |= self._rows(files)
        if not any(writes.values()):
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for statement, rows in writes.items():
                if rows:
                    self._db.executemany(statement, rows)
            self._db.execute("COMMIT")
        except sqlite3.Error as exc:
            raise translate(exc, self._path) from exc
        finally:
            if self._db.in_transaction:
                self._roll_back()
        self._has_files = self._has_files or bool(writes[_PUT])
        self._has_shown = self._has_shown or bool(writes[_PUT_SHOWN])
        self._has_gone = self._has_gone or bool(writes[_PUT_GONE])

    def _roll_back(self) -> None:
        self._db.execute("ROLLBACK")

    def _rows(self, files: Mapping[KeyRef, LocalAttrs | None]) -> dict[str, list[tuple[Any, ...]]]:
        """Sort rows by statement: a long row is removed before a short one, which may stay."""
        found: dict[str, list[tuple[Any, ...]]] = {
            statement: []
            for statement in (_DROP, _DROP_SHOWN, _DROP_GONE, _PUT, _PUT_SHOWN, _PUT_GONE, _TRIM_GONE)
        }
        for place, attrs in files.items():
            if attrs is not None and not attrs.is_short:
                found[_PUT].append((*place, encode(attrs)))
            elif self._has_files:
                found[_DROP].append(place)
            if attrs is not None and attrs.is_short and not attrs.is_gone:
                found[_PUT_SHOWN].append((short_place(*place), attrs.shown[:SHOWN_BYTES], attrs.mtime_ns))
            elif self._has_shown and (attrs is None or attrs.is_gone):
                found[_DROP_SHOWN].append((short_place(*place),))
            if attrs is not None and attrs.is_gone:
                found[_PUT_GONE].append((short_place(*place), attrs.shown[:SHOWN_BYTES]))
            elif self._has_gone:
                found[_DROP_GONE].append((short_place(*place),))
        if found[_PUT_GONE]:
            found[_TRIM_GONE].append((GONE_KEPT,))
        return found

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def force(path: Path) -> None:
    """Force all rows saved before the call into the file, and the file to the disk; for a thread. Raises JournalError.

    The pages are written again into the database, so that a sync of SQLite's own log that failed before is made up
    for.
    """
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=_BUSY_SECONDS)) as db:
            db.execute("PRAGMA synchronous = FULL")
            busy, *_ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as exc:
        raise translate(exc, path) from exc
    if busy:
        raise JournalError(f"the journal {path} cannot be forced to the disk: it is in use")
