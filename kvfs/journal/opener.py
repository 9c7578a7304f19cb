"""Opening the journal: its directory, its lock, its permissions, and the check before the first write.

A file that is not ours, newer, damaged or of another source is refused unchanged, because it may hold a user's only
copy.
"""

import contextlib
import fcntl
import json
import os
import secrets
from functools import partial
from pathlib import Path

from kvfs.core.errors import JournalLockedError, JournalUnreadableError
from kvfs.kept import sidefile
from kvfs.log.disk import sync_directory
from kvfs.log.segment import ID_BYTES, VERSION, read_head, segments_of


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


def prepare(path: Path, source: str, created: float) -> bool:
    """Make the file if there is none, in one step under another name, and return True; else check it."""
    if path.exists():
        check(path, source)
        return False
    if logs := segments_of(path):
        raise unreadable(path, f"it is gone, but {logs[0].name} is still there")
    fresh = path.with_name(path.name + ".new")
    for end in ("", "-journal", "-wal", "-shm"):
        Path(f"{fresh}{end}").unlink(missing_ok=True)
    meta = {"source": source, "created": str(int(created)), "id": secrets.token_hex(ID_BYTES)}
    sidefile.create(fresh, VERSION, meta, path)
    fresh.replace(path)
    sync_directory(path.parent)
    return True


def check(path: Path, source: str | None) -> None:
    """Refuse a file that is no sound journal of `source` (None: of any). It only reads."""
    if (reason := sidefile.fault(path, VERSION, source, partial(_stranger, path))) is not None:
        raise unreadable(path, reason)


def _stranger(path: Path, mine: bytes) -> str | None:
    """Return why a file beside the journal of that identity is not its log, or None."""
    for segment in segments_of(path):
        head = read_head(segment)
        if head is None:
            continue  # nothing in it can be read: see `replay`
        if head.identity != mine:
            return f"{segment.name} beside it is of another journal"
        if head.version != VERSION:
            return f"{segment.name} beside it was written by another kvfs (version {head.version}, not {VERSION})"
    return None


def unreadable(path: Path, reason: str) -> JournalUnreadableError:
    """Return the refusal of a journal, with the way out."""
    return JournalUnreadableError(
        f"the journal {path} cannot be used: {reason}. It may hold changes that were never sent, so it "
        f"is left as it is. Move it, {path}-wal and {path}-log.* away together to start with an empty one, or "
        "use the kvfs version and the source that wrote it."
    )
