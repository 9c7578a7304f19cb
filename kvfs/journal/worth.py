"""The worth of a journal that nobody has open: changes, something this machine keeps, or nothing."""

from contextlib import closing
from enum import Enum
from pathlib import Path

from kvfs.core.errors import JournalError
from kvfs.journal.opener import DAMAGE, pragma, read_only
from kvfs.journal.replay import Replay, kept_logs
from kvfs.journal.segment import VERSION


class Worth(Enum):
    """The least that may happen to a journal, by its worth."""

    CHANGES = "changes"  # unsent changes, local files, or an unreadable part: never goes
    KEPT = "kept"  # modes, times, digests, directories that were made
    NOTHING = "nothing"


def worth(path: Path) -> Worth:
    """Return the worth of the journal there. The caller must hold its lock; nothing of it is altered."""
    try:
        with closing(read_only(path)) as database:
            if pragma(database, "user_version") != VERSION:
                return Worth.CHANGES  # only the kvfs that wrote it can tell
            tables = ("files", "shown")
            has_side = any(database.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() for table in tables)
        replay = Replay(path)
    except (JournalError, OSError, *DAMAGE):
        return Worth.CHANGES
    if replay.fault or replay.lost or kept_logs(path):
        return Worth.CHANGES
    index, kept = replay.recorded.index, replay.recorded.kept
    if index.count > len(index.settling):
        return Worth.CHANGES
    if has_side or index.count or any(kept.directories.values()) or any(kept.unsaved.values()):
        return Worth.KEPT
    return Worth.NOTHING
