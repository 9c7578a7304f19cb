"""Opening the journal: its directory, its lock, its permissions, and the check before the first write.

A file that is not ours, newer, damaged or of another source is refused unchanged, because it may hold a user's only
copy.
"""

import contextlib
import fcntl
import json
import os
import secrets
import sqlite3
import time
from pathlib import Path
from typing import Final

from kvfs.core.errors import JournalLockedError, JournalUnreadableError
from kvfs.journal import side
from kvfs.journal.disk import sync_directory
from kvfs.journal.segment import ID_BYTES, VERSION, read_head, segments_of

APPLICATION_ID: Final = 0x6B766A31  # "kvj1": tells our journal from any other SQLite file
CHECK_SECONDS: Final = 3.0  # the integrity check of a huge side table ends here, undecided counts as sound
DAMAGE: Final = (sqlite3.Error, ValueError, TypeError, KeyError)  # exceptions of reading a garbled file


def lock(path: Path, mountpoint: str) -> int:
    """Take `<path>.lock`, leave pid and mount point in it; return its descriptor, which unlocks when closed.

    Raises JournalLockedError naming the owner.
    """
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 65536, 0)
        os.close(descriptor)
        raise _locked(path, owner) from None
    if not _is_named(descriptor, Path(f"{path}.lock")):
        os.close(descriptor)
        raise _locked(path, b"")
    with contextlib.suppress(OSError):  # a full disk must not keep the lock from being taken
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "mountpoint": mountpoint}).encode(), 0)
    return descriptor


def _is_named(descriptor: int, name: Path) -> bool:
    """Return whether the open file still has that name, because a directory may be removed while it is waited for."""
    try:
        return os.path.samestat(os.fstat(descriptor), name.stat())
    except FileNotFoundError:
        return False


def _locked(path: Path, owner: bytes) -> JournalLockedError:
    try:
        found = json.loads(owner)
        pid, mountpoint = int(found["pid"]), str(found["mountpoint"])
    except (ValueError, KeyError, TypeError):
        pid, mountpoint = 0, ""
    who = f"process {pid or '(unknown)'}" + (f", mounted at {mountpoint}" if mountpoint else "")
    return JournalLockedError(f"the journal {path} is in use by {who}", pid=pid, mountpoint=mountpoint)


def prepare(path: Path, source: str, created: float) -> None:
    """Make the file if there is none, in one step under another name; else check it."""
    if path.exists():
        check(path, source)
        return
    if logs := segments_of(path):
        raise unreadable(path, f"it is gone, but {logs[0].name} is still there")
    fresh = path.with_name(path.name + ".new")
    for leftover in (fresh, Path(f"{fresh}-journal")):
        leftover.unlink(missing_ok=True)
    os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    try:
        with contextlib.closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
            _create(connection, source, created)
    except sqlite3.Error as exc:
        raise side.translate(exc, path) from exc
    fresh.replace(path)
    sync_directory(path.parent)


def _create(connection: sqlite3.Connection, source: str, created: float) -> None:
    connection.executescript(
        f"BEGIN; {side.META}; {side.FILES}; {side.SHOWN}; {side.GONE}; PRAGMA user_version = {VERSION}; COMMIT;"
    )
    meta = [("source", source), ("created", str(int(created))), ("id", secrets.token_hex(ID_BYTES))]
    connection.executemany("INSERT INTO meta VALUES (?, ?)", meta)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def check(path: Path, source: str | None) -> None:
    """Refuse a file that is no sound journal of `source` (None: of any).

    It only reads: even SQLite's log is unchanged.
    """
    deadline = time.monotonic() + CHECK_SECONDS
    try:
        with contextlib.closing(read_only(path)) as connection:
            connection.set_progress_handler(lambda: time.monotonic() > deadline, 100_000)
            reason = _fault(connection, source) or _stranger(path, connection) or _damage(connection)
    except DAMAGE as exc:
        if getattr(exc, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
            return
        reason = f"it is damaged ({exc})"
    if reason is not None:
        raise unreadable(path, reason)


def _fault(connection: sqlite3.Connection, source: str | None) -> str | None:
    """Why this file cannot be our journal of `source`, or None."""
    if pragma(connection, "application_id") != APPLICATION_ID:
        return "it is not a journal of kvfs"
    version = pragma(connection, "user_version")
    if version > VERSION:
        return f"it was written by a newer kvfs (journal version {version}, this one knows {VERSION})"
    if version < VERSION:
        return f"it was written by an older kvfs (journal version {version}, this one knows {VERSION})"
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if lacking := side.TABLES - names:
        return f"it lacks {', '.join(sorted(lacking))}"
    found = meta(connection, "source")
    if source is not None and found != source:
        return f"it belongs to {found if found is not None else 'nobody'!r}, not to {source!r}"
    return None


def _stranger(path: Path, connection: sqlite3.Connection) -> str | None:
    """Return why a file beside the journal is not its log, or None."""
    mine = identity(connection)
    for segment in segments_of(path):
        head = read_head(segment)
        if head is None:
            continue  # nothing in it can be read: see `replay`
        if head.identity != mine:
            return f"{segment.name} beside it is of another journal"
        if head.version != VERSION:
            return f"{segment.name} beside it was written by another kvfs (version {head.version}, not {VERSION})"
    return None


def _damage(connection: sqlite3.Connection) -> str | None:
    """Describe the damage inside the file, or return None. It takes long for a large one."""
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    return None if verdict == "ok" else f"it is damaged ({verdict})"


def meta(connection: sqlite3.Connection, name: str) -> str | None:
    """Return a value of the file's table `meta`."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return str(row[0]) if row else None


def identity(connection: sqlite3.Connection) -> bytes:
    """Return the random identity of this journal; empty where the file does not say."""
    return bytes.fromhex(meta(connection, "id") or "")


def pragma(connection: sqlite3.Connection, name: str) -> int:
    """Return a number that SQLite keeps of the file."""
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def unreadable(path: Path, reason: str) -> JournalUnreadableError:
    """Return the refusal of a journal, with the way out."""
    return JournalUnreadableError(
        f"the journal {path} cannot be used: {reason}. It may hold changes that were never sent, so it "
        f"is left as it is. Move it, {path}-wal and {path}-log.* away together to start with an empty one, or "
        "use the kvfs version and the source that wrote it."
    )


def read_only(path: Path) -> sqlite3.Connection:
    """Open a connection that cannot alter the file."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)


def connect(path: Path) -> tuple[sqlite3.Connection, bytes]:
    """Open the loop's connection to the side table, and return the journal's id."""
    connection = side.connect(path)
    try:
        return connection, identity(connection)
    except sqlite3.Error as exc:
        connection.close()
        raise side.translate(exc, path) from exc


def remove_leftovers(path: Path) -> None:
    """Remove the files of an unfinished snapshot. Raises OSError."""
    for leftover in path.parent.glob(f"{path.name}-log.*.new"):
        leftover.unlink()
