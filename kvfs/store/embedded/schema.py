"""The embedded store's file: its tables, its version, and how it is created, recognised and refused.

A file that is not ours, or of a newer version, is refused before anything could be written to it.
"""

import os
import sqlite3
import time
from pathlib import Path
from typing import Final

from kvfs.core.errors import UserError

APPLICATION_ID: Final = 0x6B766673  # "kvfs", in the header of every SQLite file at offset 68
VERSION: Final = 1
BUSY_SECONDS: Final = 5.0  # how long one process waits for another's transaction

_MAGIC: Final = b"SQLite format 3\x00"
_HEADER_BYTES: Final = 100
_DIRECTORY_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_PAGE_BYTES: Final = 8 * 1024  # of a new file: half the pages of a large value, and a small one in its leaf
_WAL_BYTES: Final = 64 * 1024 * 1024  # a large bulk write does not leave its size behind for ever

_SETTINGS: Final = (
    # For `local:` this file is the server, and what an fsync promised must outlive a power cut.
    "synchronous = FULL",
    f"journal_size_limit = {_WAL_BYTES}",
    # The `Checkpointer` is there before; this is for when it fails.
    f"wal_autocheckpoint = {_WAL_BYTES // _PAGE_BYTES}",
    # Debian's SQLite overwrites what is deleted with zeros: no more where that means writing a page for nothing.
    "secure_delete = FAST",
)

DDL: Final = """
CREATE TABLE namespaces (
    number  INTEGER PRIMARY KEY AUTOINCREMENT,  -- never given twice: a deleted one's keys are nobody's
    account TEXT NOT NULL,
    id      TEXT NOT NULL UNIQUE,               -- 32 hex digits
    title   TEXT NOT NULL,
    UNIQUE (account, title)
);
CREATE TABLE dropped (                          -- deleted namespaces whose keys are not all swept yet
    number  INTEGER PRIMARY KEY
);
CREATE TABLE keys (                             -- all that a listing needs, in its order, and no value
    namespace  INTEGER NOT NULL,                -- namespaces.number
    key        BLOB NOT NULL,                   -- UTF-8; a BLOB, so that the order is that of bytes
    content    INTEGER NOT NULL,                -- contents.id
    size       INTEGER NOT NULL,                -- bytes of the value
    metadata   BLOB,                            -- JSON; NULL for none
    expiration INTEGER,                         -- epoch seconds; NULL for never
    PRIMARY KEY (namespace, key)
) WITHOUT ROWID;
CREATE INDEX keys_expiring ON keys (expiration) WHERE expiration IS NOT NULL;
CREATE TABLE contents (
    id    INTEGER PRIMARY KEY,
    value BLOB NOT NULL
);
CREATE TRIGGER keys_deleted AFTER DELETE ON keys BEGIN
    DELETE FROM contents WHERE id = old.content;
END;
"""


def prepare(path: Path) -> sqlite3.Connection:
    """Return the writing connection to the store at `path`, which is created if there is none.

    Raises `UserError` when the file cannot be used; then it is as it was.
    """
    try:
        _create_file(path)
        _refuse_foreign(path)
        connection = connect(path)
        try:
            connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")  # of no effect on a file that has pages
            _check_or_create_tables(connection, path)
            _use_wal(connection, path)
        except BaseException:
            connection.close()
            raise
    except OSError as exc:
        raise UserError(f"cannot open the store {path}: {exc.strerror}") from exc
    except sqlite3.Error as exc:
        raise UserError(f"cannot open the store {path}: {exc}") from exc
    return connection


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection in autocommit mode; it may move between threads but not be used by two at once."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        for setting in _SETTINGS:
            connection.execute(f"PRAGMA {setting}")
    except BaseException:
        connection.close()
        raise
    return connection


def _create_file(path: Path) -> None:
    """Make an empty file readable by its owner only, unless there is one; missing parents likewise."""
    missing = [parent for parent in path.absolute().parents if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE))


def _refuse_foreign(path: Path) -> None:
    """Look at the header without SQLite, which might repair or extend a file that is not ours.

    The application id is in the file from its first commit on: it is created in rollback mode.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if not header:
        return
    application = int.from_bytes(header[68:72], "big")
    if not header.startswith(_MAGIC) or application != APPLICATION_ID:
        raise UserError(f"{path} is not a kvfs store; it was left as it is. Name another file.")
    _refuse_newer(path, int.from_bytes(header[60:64], "big"))


def _refuse_newer(path: Path, version: int) -> None:
    if version > VERSION:
        raise UserError(
            f"{path} is a kvfs store of version {version}, this kvfs reads up to {VERSION}; "
            "it was left as it is. Use a newer kvfs."
        )


def _check_or_create_tables(connection: sqlite3.Connection, path: Path) -> None:
    """Check the version as SQLite sees it (the header may lag behind the WAL); fill an empty file."""
    version = _user_version(connection)
    _refuse_newer(path, version)
    if version:
        return
    with connection:
        connection.execute("BEGIN EXCLUSIVE")
        if _user_version(connection) == 0:  # else another process was first
            _create_tables(connection)


def _create_tables(connection: sqlite3.Connection) -> None:
    statement = ""
    for line in DDL.splitlines(keepends=True):  # `executescript` would commit first
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _user_version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def _use_wal(connection: sqlite3.Connection, path: Path) -> None:
    """Use WAL mode, in which readers and a writer of several processes do not block each other."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            mode: str = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            break
        except sqlite3.OperationalError:  # SQLite does not wait when two processes change the mode at once
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    if mode != "wal":
        raise UserError(f"the store {path} must lie on a local disk: SQLite's WAL does not work there")
