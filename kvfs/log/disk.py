"""Syncs to the disk (for threads: they take milliseconds or worse), and the meaning of their errors."""

import errno
import os
from pathlib import Path
from typing import Final

from kvfs.core.errors import JournalError, JournalFullError

_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def is_full(error: OSError) -> bool:
    """Return whether the call would have worked with more free room."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def refusal(error: OSError, what: str) -> JournalError:
    """Return a failed call of the disk as an error of the journal: no room, or the disk's own word for it."""
    if error.errno in _NO_ROOM:
        return JournalFullError(f"{what} ({error}); make room and try again")
    return JournalError(f"{what} ({error})")


def no_room() -> OSError:
    """Return the refusal of a write whose room is needed for something else."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def not_forced(why: str) -> OSError:
    """Return the refusal of a sync that cannot be relied on."""
    return OSError(errno.EIO, why)


def sync_file(path: Path) -> None:
    """Force a file to the disk; one that does not exist (any more) has nothing to force."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Force names made or removed in `path` to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
