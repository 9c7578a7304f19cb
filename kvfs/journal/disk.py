"""Forcing what was written to the disk: for threads, it takes milliseconds or worse."""

import os
from pathlib import Path


def sync_file(path: Path) -> None:
    """Force what was written to a file to the disk; one that is not there (any more) has nothing to force."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def sync_log(path: Path) -> None:
    """Force the write-ahead log of the journal's tables to the disk.

    Opening the log by itself is safe: SQLite's locks lie on the database and its -shm, which must never be
    opened beside it (closing them would drop the locks).
    """
    sync_file(Path(f"{path}-wal"))


def sync_directory(path: Path) -> None:
    """Force names made or removed in `path` to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
