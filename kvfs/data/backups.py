"""Backups in a directory: full exports, and between them changes, as far as listings and digests tell.

Beside them is an index: key, metadata, expiration and digest of everything in the newest backup. The next one compares
with it. A change is a line of NDJSON like that of an export; a deleted key is {"key": …, "deleted": true}.
"""

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from msgspec import Struct

from kvfs.core.errors import KvfsError, UserError
from kvfs.core.expiry import is_expired
from kvfs.core.model import Entry, Key
from kvfs.data import compression, jsonentry
from kvfs.data.items import HARMLESS, Item, Loaded, Problem
from kvfs.data.jsonentry import JsonEntry
from kvfs.data.place import Reader, read_all
from kvfs.data.retention import Backup, backup_of

INDEX: Final = ".kvfs-index.sqlite"
_TABLE: Final = """CREATE TABLE IF NOT EXISTS {name} (
    key BLOB PRIMARY KEY, metadata BLOB, expiration INTEGER, digest BLOB) WITHOUT ROWID"""


class _Deletion(Struct):
    key: str
    deleted: bool = False


class BackupIndex:
    """The content of the newest backup, by key. `name` is that backup's."""

    def __init__(self, directory: Path) -> None:
        path = directory / INDEX
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._db = sqlite3.connect(path, isolation_level=None, timeout=0.2, check_same_thread=False)
        try:
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(_TABLE.format(name="held"))
            self._db.execute("CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT)")
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as exc:
            self._db.close()
            raise UserError(f"another backup to {directory} is running: wait for it to end") from exc

    def close(self) -> None:
        """Close the index."""
        self._db.close()

    @property
    def name(self) -> str:
        """Return the backup that it describes; "" for none."""
        row = self._db.execute("SELECT value FROM facts WHERE name = 'backup'").fetchone()
        return str(row[0]) if row else ""

    def replace(self, backup: str, found: Iterator[JsonEntry]) -> int:
        """Describe a full backup by its records; return how many keys it has."""
        self._db.execute("BEGIN")
        self._db.execute("DELETE FROM held")
        self._db.executemany("INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?)", map(_row, found))
        self.commit(backup)
        return self.count()

    def begin(self) -> None:
        """Begin to take changes, which count when `commit` is called."""
        self._db.execute("BEGIN")
        self._db.execute(_TABLE.format(name="temp.seen"))
        self._db.execute("DELETE FROM temp.seen")

    def commit(self, backup: str) -> None:
        """Describe the changes, because they are in the file of this backup."""
        self._db.execute("INSERT OR REPLACE INTO facts VALUES ('backup', ?)", (backup,))
        self._db.execute("COMMIT")

    def roll_back(self) -> None:
        """Forget the changes, because they are in no file."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def count(self) -> int:
        """Count the keys."""
        row: tuple[int] = self._db.execute("SELECT count(*) FROM held").fetchone()
        return row[0]

    def is_listed_so(self, item: Item) -> bool:
        """Return whether a key is known with this metadata and expiration; it is seen then."""
        key = item.key.encode()
        self._db.execute("INSERT OR REPLACE INTO temp.seen VALUES (?, NULL, NULL, NULL)", (key,))
        row = self._db.execute("SELECT metadata, expiration FROM held WHERE key = ?", (key,)).fetchone()
        return bool(row == (item.metadata, item.expiration))

    def note(self, key: Key, entry: Entry) -> bool:
        """Note an entry; return whether it differs from the one before."""
        row = (key.encode(), entry.metadata, entry.expiration, _digest(entry.value))
        if self._db.execute("SELECT * FROM held WHERE key = ?", row[:1]).fetchone() == row:
            return False
        self._db.execute("INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?)", row)
        return True

    def take_gone(self) -> Iterator[Key]:
        """Return the keys that were not seen any more, and forget them."""
        rows = self._db.execute(
            "SELECT key FROM held WHERE key NOT IN (SELECT key FROM temp.seen)"
        ).fetchall()
        for (key,) in rows:
            self._db.execute("DELETE FROM held WHERE key = ?", (key,))
            yield Key(key.decode())


class BackupChanges(Struct):
    """The content of a backup of changes: keys that changed, keys that are gone, keys that could not be read."""

    changed: int = 0
    gone: int = 0
    problems: list[Problem] = []


async def write_changes(
    index: BackupIndex, reader: Reader, file: BinaryIO, now: Callable[[], float], *, listing_only: bool
) -> BackupChanges:
    """Write what changed since the newest backup to `file`.

    Every value is read and its digest compared; with `listing_only` only those of keys that are new, or whose
    metadata or expiration is another. A key that could not be read is neither changed nor gone: the next backup
    tries again. While a row of the listing is no key, no key is gone: it may be that key's row.
    """
    found, is_whole = BackupChanges(), True

    def write(loaded: Sequence[Loaded]) -> None:
        found.changed += _write(index, loaded, file)

    async with aclosing(reader.scan("")) as parts:
        async for part in parts:
            found.problems += part.problems
            is_whole = is_whole and not part.problems
            items = [item for item in part.items if not is_expired(item.expiration, now())]
            known = [index.is_listed_so(item) for item in items]
            wanted = [
                item for item, is_known in zip(items, known, strict=True) if not (listing_only and is_known)
            ]
            problems = await read_all(reader.take, wanted, write)
            found.problems += (one for one in problems if one.kind not in HARMLESS)
    gone = list(index.take_gone()) if is_whole else []
    lines = b"".join(msgspec.json.encode(_Deletion(key, True)) + b"\n" for key in gone)
    _write_member(file, [lines] if lines else [])
    found.gone = len(gone)
    return found


def _write(index: BackupIndex, loaded: Sequence[Loaded], file: BinaryIO) -> int:
    different = [one for one in loaded if index.note(one.item.key, one.entry)]
    pieces = [
        piece
        for one in different
        for piece in (*jsonentry.encode(one.item.key, one.entry, one_line=True), b"\n")
    ]
    _write_member(file, pieces)
    return len(different)


def _write_member(file: BinaryIO, pieces: Sequence[bytes]) -> None:
    if pieces:
        member = compression.member("zstd")
        for piece in pieces:
            file.write(member.compress(piece))
        file.write(member.flush())


def read_backup(path: Path) -> Iterator[tuple[Key, JsonEntry | None]]:
    """Yield the entries of one backup, None for a deleted key. Raises `UserError` for a file that is damaged."""
    kind = compression.SUFFIXES.get(path.suffix, "zstd")
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(compression.reading(file, kind), 1):
                yield _read_line(path, number, line)
    except compression.errors() as exc:
        raise UserError(f"{path} is damaged: {exc}") from exc


def _read_line(path: Path, number: int, line: bytes) -> tuple[Key, JsonEntry | None]:
    if b'"deleted":true' in line:
        found = msgspec.json.decode(line, type=_Deletion)
        if found.deleted:
            return Key(found.key), None
    record = jsonentry.decode(line, f"line {number}")
    if record.fault:
        raise UserError(f"{path} is damaged: {record.where}: {record.fault}")
    return Key(record.key), record


def verify(path: Path) -> tuple[int, int]:
    """Read a backup from its first byte to its last; return its entries and deletions. Raises `UserError`."""
    entries = deletions = 0
    for _, record in read_backup(path):
        entries += record is not None
        deletions += record is None
    return entries, deletions


def backups_in(directory: Path) -> list[Backup]:
    """Return the backups of a directory, the oldest first."""
    found = (backup_of(name) for name in os.listdir(directory))
    return sorted(
        (backup for backup in found if backup is not None), key=lambda one: (one.at, not one.is_full)
    )


def merge(directory: Path, chain: Sequence[Backup], file: BinaryIO) -> int:
    """Write the state that a chain of backups ends in as NDJSON; return the number of keys."""
    db = sqlite3.connect("", isolation_level=None)
    db.execute("CREATE TABLE seen (key BLOB PRIMARY KEY) WITHOUT ROWID")
    db.execute("BEGIN")
    count = 0
    try:
        for backup in reversed(chain):
            for key, record in read_backup(directory / backup.name):
                if db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key.encode(),)).rowcount and record:
                    file.writelines([*jsonentry.encode(key, record.entry, one_line=True), b"\n"])
                    count += 1
    finally:
        db.close()
    return count


def _row(record: JsonEntry) -> tuple[bytes, bytes | None, int | None, bytes]:
    if record.fault:
        raise KvfsError(f"{record.where}: {record.fault}")
    entry = record.entry
    return record.key.encode(), entry.metadata, entry.expiration, _digest(entry.value)


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()
