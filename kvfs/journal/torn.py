"""What of a write-ahead log SQLite does not read: it is kept under another name before it is written over.

The end of a log that a crash tore holds nothing that was promised. But SQLite stops at the first frame that is
damaged, and what lies behind it, or all of the log when its head is damaged, would go unseen. The format is
https://www.sqlite.org/fileformat2.html#the_write_ahead_log.
"""

import logging
import os
import shutil
import sqlite3
import struct
import time
from pathlib import Path
from typing import Final

_HEAD: Final = struct.Struct(">8I")  # magic, version, page size, checkpoint, two salts, two sums
_FRAME: Final = struct.Struct(">4I8x")  # page, pages of the database after a commit or 0, two salts
_MAGIC: Final = 0x377F0682  # its last bit: the sums are over big-endian words

log = logging.getLogger("kvfs.journal")


def keep_unread(connection: sqlite3.Connection, path: Path) -> Path | None:
    """Copy the log of the journal at `path` aside if it has commits that SQLite does not see.

    `connection` must be the only one. Raises OSError, sqlite3.Error.
    """
    source = Path(f"{path}-wal")
    if not source.exists() or source.stat().st_size <= _HEAD.size:
        return None
    _, _, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    seen = max(moved, 0)
    if not has_unread_commit(source, seen):
        return None
    kept = path.with_name(f"{path.name}-wal.damaged-{time.time_ns()}")
    descriptor = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as target, source.open("rb") as file:
        shutil.copyfileobj(file, target)
        target.flush()
        os.fsync(descriptor)
    log.error(
        "the log of the journal is damaged: what was recorded after its first %d pages cannot be read; "
        "the log is kept as %s",
        *(seen, kept),
    )
    return kept


def has_unread_commit(path: Path, seen: int) -> bool:
    """Whether the log holds a commit behind its first `seen` frames, or its head is damaged."""
    with path.open("rb") as file:
        head = file.read(_HEAD.size)
        if not _is_sound(head):
            return True
        _, _, page, _, *salts, _, _ = _HEAD.unpack(head)
        size = _FRAME.size + page
        file.seek(seen * size, os.SEEK_CUR)
        while len(frame := file.read(size)) == size:
            _, commit, *found = _FRAME.unpack_from(frame)
            if commit and found == salts:
                return True
    return False


def _is_sound(head: bytes) -> bool:
    """Whether the sums at the end of a log's head are those of what is before."""
    if len(head) != _HEAD.size:
        return False
    magic, *_, first, second = _HEAD.unpack(head)
    if magic & ~1 != _MAGIC:
        return False
    words = struct.unpack(">6I" if magic & 1 else "<6I", head[:24])
    a = b = 0
    for even, odd in zip(words[::2], words[1::2], strict=True):
        a = (a + even + b) & 0xFFFFFFFF
        b = (b + odd + a) & 0xFFFFFFFF
    return (a, b) == (first, second)
