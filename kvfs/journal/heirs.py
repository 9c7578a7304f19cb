"""A new journal that begins with what another of the same source keeps of keys, as far as that can be read.

Somebody may have the other one open, so it is only read. Its changes are not taken over, *because* they are to be sent
once.
"""

import logging
from pathlib import Path

from kvfs.changes.records import Recorded, SeenOp
from kvfs.core.errors import JournalError
from kvfs.journal.replay import Replay
from kvfs.journal.transaction import Transactions
from kvfs.kept import sidefile
from kvfs.log.segment import VERSION

log = logging.getLogger("kvfs.journal")


def inherit_side(other: Path, path: Path, source: str) -> bool:
    """Keep what the side table of the other journal has; return whether there is one, of that source.

    Nobody may have this one open yet.
    """
    is_there = False
    try:
        is_there = other.exists() and sidefile.source_of(other, VERSION) == source
        if is_there:
            sidefile.inherit(other, path)
    except sidefile.DAMAGE as exc:
        log.warning("modes and times that %s keeps are not taken over: %s", other, exc)
    return is_there


def inherit_log(other: Path, transactions: Transactions) -> None:
    """Keep what the log of the other journal says of keys, directories and namespaces, if there is room for it."""
    try:
        replay = Replay(other)
        if replay.fault is None:
            _take_over(replay.recorded, transactions)
    except (OSError, JournalError) as exc:  # a snapshot took the place of a segment, say
        log.warning("directories that %s keeps are not taken over: %s", other, exc)


def _take_over(recorded: Recorded, transactions: Transactions) -> None:
    kept = recorded.kept
    with transactions:
        for row in recorded.index.all():
            if row.attrs is not None and row.content is not None:
                transactions.set_attrs(*row.place, row.attrs)
        for place, attrs in kept.unsaved.items():
            transactions.set_attrs(*place, attrs)
        for namespace, directories in kept.directories.items():
            for directory in directories.values():
                transactions.set_directory(namespace, directory.prefix, directory.start, directory)
        for namespace, at in kept.seen.items():
            transactions.say(SeenOp(namespace, at))
