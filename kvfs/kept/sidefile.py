"""The SQLite file that has the side table: whose journal it belongs to, and if it can be relied on.

Nothing here alters a file that was there before, but for `inherit`, whose file nobody has open yet.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kvfs.kept import side

APPLICATION_ID: Final = 0x6B766A31  # "kvj1": tells our journal from any other SQLite file
CHECK_SECONDS: Final = 3.0  # the integrity check of a huge side table ends here, undecided counts as sound
_KEPT: Final = ("files", "shown")
DAMAGE: Final = (sqlite3.Error, ValueError, TypeError, KeyError)  # exceptions of reading a garbled file


def create(path: Path, version: int, meta: dict[str, str], goal: Path) -> None:
    """Make the file, empty but for `meta`, and put it on the disk. Raises OSError, JournalError, of `goal`.

    The caller renames it to `goal`: until then it may be half of one, so it is forced to the disk once.
    """
    tables = "; ".join((side.META, side.FILES, side.SHOWN, side.GONE))
    numbers = f"PRAGMA user_version = {version}; PRAGMA application_id = {APPLICATION_ID}"
    try:
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)) as file:
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
                connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
                connection.executescript(f"BEGIN; {tables}; {numbers}")
                connection.executemany("INSERT INTO meta VALUES (?, ?)", list(meta.items()))
                connection.execute("COMMIT")
                connection.execute("PRAGMA journal_mode = WAL")
            os.fsync(file.fileno())
    except sqlite3.Error as exc:
        raise side.translate(exc, goal) from exc
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, str(goal)) from exc


def fault(path: Path, version: int, source: str | None, beside: Callable[[bytes], str | None]) -> str | None:
    """Return why the file is no sound one of `source` (None: of any), or None.

    `beside` does the same, by the identity, for the files beside it. It only reads: even SQLite's log is unchanged.
    """
    deadline = time.monotonic() + CHECK_SECONDS
    try:
        with contextlib.closing(_read_only(path)) as connection:
            connection.set_progress_handler(lambda: time.monotonic() > deadline, 100_000)
            reason = _mismatch(connection, version, source) or beside(side.identity(connection))
            return reason or _damage(connection)
    except DAMAGE as exc:
        if getattr(exc, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
            return None
        return f"it is damaged ({exc})"


def _mismatch(connection: sqlite3.Connection, version: int, source: str | None) -> str | None:
    """Why this file cannot be our journal of `source`, or None."""
    if _pragma(connection, "application_id") != APPLICATION_ID:
        return "it is not a journal of kvfs"
    if (found := _pragma(connection, "user_version")) != version:
        age = "a newer" if found > version else "an older"
        return f"it was written by {age} kvfs (journal version {found}, this one knows {version})"
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if lacking := side.TABLES - names:
        return f"it lacks {', '.join(sorted(lacking))}"
    owner = side.meta(connection, "source")
    if source is not None and owner != source:
        return f"it belongs to {owner if owner is not None else 'nobody'!r}, not to {source!r}"
    return None


def _damage(connection: sqlite3.Connection) -> str | None:
    """Describe the damage inside the file, or return None. It takes long for a large one."""
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    return None if verdict == "ok" else f"it is damaged ({verdict})"


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _read_only(path: Path) -> sqlite3.Connection:
    """Open a connection that cannot alter the file."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)


def source_of(path: Path, version: int) -> str | None:
    """Return the source whose file it is; None where it does not say, or is of another version. Raises `DAMAGE`."""
    with contextlib.closing(_read_only(path)) as connection:
        return side.meta(connection, "source") if _pragma(connection, "user_version") == version else None


def has_rows(path: Path) -> bool:
    """Return whether something is kept of a key. Raises `DAMAGE`."""
    with contextlib.closing(_read_only(path)) as connection:
        return any(connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() for table in _KEPT)


def inherit(other: Path, path: Path) -> None:
    """Keep what the side table of the other file has; nobody may have this one open yet. Raises `DAMAGE`."""
    with (
        contextlib.closing(_read_only(other)) as theirs,
        contextlib.closing(sqlite3.connect(path, isolation_level=None)) as ours,
    ):
        ours.execute("BEGIN IMMEDIATE")
        for table in _KEPT:
            rows = theirs.execute(f"SELECT * FROM {table}")
            ours.executemany(f"INSERT OR IGNORE INTO {table} VALUES (?, ?, ?)", rows)
        ours.execute("COMMIT")
