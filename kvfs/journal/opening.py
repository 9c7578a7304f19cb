"""Opening the journal file: its directory, its lock, its permissions, and the look before the first write.

A file that is not ours, newer, damaged or of another source is refused unchanged: it may hold the only copy
of what somebody wrote.
"""

import contextlib
import fcntl
import json
import os
import sqlite3
import time
from pathlib import Path
from typing import Final

from kvfs.core.errors import JournalError, JournalFullError, JournalLockedError, JournalUnreadableError
from kvfs.journal import log, schema
from kvfs.journal.disk import sync_directory, sync_log
from kvfs.journal.torn import keep_unread

CHECK_SECONDS: Final = 3.0  # the integrity check of a huge journal ends here, undecided counts as sound
LOG_BYTES: Final = 64 * 1024 * 1024  # a write-ahead log above this is cut
FREE_PAGES: Final = 4096  # of 4 KiB: with more of them unused the file is cut when it is closed
DAMAGE: Final = (sqlite3.Error, ValueError, TypeError, KeyError)  # what reading a garbled file may raise
_FULL: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY})


def translate(error: sqlite3.Error, path: Path) -> JournalError:
    """What a failed statement means to the caller: no room, or a journal that cannot be used."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _FULL:
        return JournalFullError(f"the journal {path} cannot be written ({error}); make room and try again")
    return JournalError(f"the journal {path} failed: {error}")


def lock(path: Path, mountpoint: str) -> int:
    """Take `<path>.lock`, leave pid and mount point in it; returns its descriptor, closing it unlocks.

    Raises JournalLockedError naming the owner.
    """
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 65536, 0)
        os.close(descriptor)
        raise _locked(path, owner) from None
    with contextlib.suppress(OSError):  # a full disk must not keep the lock from being taken
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "mountpoint": mountpoint}).encode(), 0)
    return descriptor


def _locked(path: Path, owner: bytes) -> JournalLockedError:
    try:
        found = json.loads(owner)
        pid, mountpoint = int(found["pid"]), str(found["mountpoint"])
    except (ValueError, KeyError, TypeError):
        pid, mountpoint = 0, ""
    who = f"process {pid or '(unknown)'}" + (f", mounted at {mountpoint}" if mountpoint else "")
    return JournalLockedError(f"the journal {path} is in use by {who}", pid=pid, mountpoint=mountpoint)


def prepare(path: Path, source: str, created: float) -> None:
    """Make the file if there is none, in one step under another name; check the one there is."""
    if path.exists():
        _check(path, source)
        return
    if logs := log.files_of(path):
        raise unreadable(path, f"it is gone, but {logs[0].name} is still there")
    fresh = path.with_name(path.name + ".new")
    for leftover in (fresh, Path(f"{fresh}-journal")):
        leftover.unlink(missing_ok=True)
    os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    try:
        with contextlib.closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
            schema.create(connection, source, created)
    except sqlite3.Error as exc:
        raise translate(exc, path) from exc
    fresh.replace(path)
    sync_directory(path.parent)


def _check(path: Path, source: str) -> None:
    """Refuse what is not a sound journal of `source`. Read-only: even the write-ahead log stays as it is."""
    deadline = time.monotonic() + CHECK_SECONDS
    try:
        with contextlib.closing(_read_only(path)) as connection:
            connection.set_progress_handler(lambda: time.monotonic() > deadline, 100_000)
            reason = (
                schema.fault(connection, source)
                or log.stranger(path, schema.identity(connection), schema.VERSION)
                or schema.damage(connection)
            )
    except DAMAGE as exc:
        if getattr(exc, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
            return
        reason = f"it is damaged ({exc})"
    if reason is not None:
        raise unreadable(path, reason)


def unreadable(path: Path, reason: str) -> JournalUnreadableError:
    """The refusal of a journal, with the way out."""
    return JournalUnreadableError(
        f"the journal {path} cannot be used: {reason}. It may hold changes that were never sent, so it "
        f"is left as it is. Move it, {path}-wal and {path}-redo.* away together to start with an empty one, or "
        "use the kvfs version and the source that wrote it."
    )


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)


def connect(path: Path) -> sqlite3.Connection:
    """The connection of the loop: explicit transactions, WAL, checkpoints left to `checkpoint`."""
    try:
        connection = sqlite3.connect(path, isolation_level=None, cached_statements=256)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA secure_delete = OFF")  # Debian's default ON writes every freed page again
        keep_unread(connection, path)
        if schema.migrate(connection):
            sync_log(path)  # the id is on the disk before a log names it
    except sqlite3.Error as exc:
        raise translate(exc, path) from exc
    return connection


def kept_logs(path: Path) -> list[Path]:
    """What was kept of damaged logs, until somebody takes it away."""
    return list(path.parent.glob(f"{path.name}-*.damaged-*"))


def checkpoint(path: Path) -> None:
    """Copy the write-ahead log into the file; for a thread.

    The writer is not held up, unless it wrote so steadily that the log never came to be all copied: then for
    the moment that the rest of it takes, so that it can begin again at the start of the log.
    """
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        if os.stat(f"{path}-wal").st_size > LOG_BYTES:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def shrink(connection: sqlite3.Connection) -> None:
    """Give room of what was sent back to the disk, if it is worth it; for the end."""
    with contextlib.suppress(sqlite3.Error):
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        if free > FREE_PAGES:
            connection.executescript("PRAGMA incremental_vacuum")  # `execute` would free a single page
