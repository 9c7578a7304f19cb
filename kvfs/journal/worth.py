"""The worth of a journal that nobody has open: changes, something this machine keeps, or nothing."""

from enum import Enum
from pathlib import Path

from kvfs.core.errors import JournalError
from kvfs.journal.replay import Replay, kept_logs
from kvfs.kept import sidefile
from kvfs.log.segment import VERSION


class Worth(Enum):
    """The least that may happen to a journal, by its worth."""

    CHANGES = "changes"  # unsent changes, local files, or an unreadable part: never goes
    KEPT = "kept"  # modes, times, digests, directories that were made
    NOTHING = "nothing"


def worth(path: Path) -> Worth:
    """Return the worth of the journal there. The caller must hold its lock; nothing of it is altered."""
    try:
        if sidefile.source_of(path, VERSION) is None:
            return Worth.CHANGES  # of another format: only the kvfs that wrote it can tell
        has_side = sidefile.has_rows(path)
        replay = Replay(path)
    except (JournalError, OSError, *sidefile.DAMAGE):
        return Worth.CHANGES
    if replay.fault or replay.lost or kept_logs(path):
        return Worth.CHANGES
    index, kept = replay.recorded.index, replay.recorded.kept
    if index.count > len(index.settling):
        return Worth.CHANGES
    if has_side or index.count or any(kept.directories.values()) or any(kept.unsaved.values()):
        return Worth.KEPT
    return Worth.NOTHING
