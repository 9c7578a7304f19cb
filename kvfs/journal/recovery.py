"""Recovery of the state of the last run: the log into memory, and unfinished work.

Invariant: a journal that is refused is left as it is, so nothing is altered before all of the log was read.
"""

import logging

from msgspec.structs import replace

from kvfs.changes.rules import Row
from kvfs.core.errors import JournalError
from kvfs.core.model import ChangeState
from kvfs.journal.opener import unreadable
from kvfs.journal.replay import Replay, kept_logs
from kvfs.journal.transaction import Transactions
from kvfs.log.spool import PARTIAL

log = logging.getLogger("kvfs.journal")

MANY = 10_000  # changes of which it is worth a word that they are looked at
LOST = "its content did not survive a power failure"  # the error of a change whose spooled file is gone


def recover(transactions: Transactions) -> None:
    """Fill memory from the log, and finish unfinished work. Raises JournalError."""
    path = transactions.log.path
    try:
        replay = Replay(path, transactions.recorded)
        if replay.fault is not None:
            raise unreadable(path, replay.fault)
        for unfinished in path.parent.glob(f"{path.name}-log.*.new"):  # a snapshot
            unfinished.unlink()
        replay.put_away()
        transactions.log.adopt(replay.segments, replay.last)
    except OSError as exc:
        raise JournalError(f"the log of the journal {path} cannot be read: {exc}") from exc
    if transactions.kept.unsaved or transactions.kept.dropped:
        transactions.kept.try_to_save()
    if (count := transactions.index.count) >= MANY:
        text = f"looking at the contents of {count:,} changes"
        log.info("%s", text, extra={"doing": text})
    files = transactions.contents.files
    for row in transactions.index.all():
        if row.content is not None and (name := row.content.spool) and not files.is_whole(name, row.size):
            _lose(transactions, row)
    orphans = files.orphans()
    files.garbage.clear()  # of files that a row of the log named once; they are among the orphans
    if kept_logs(path):  # whole ones may be what is named in these
        orphans = [name for name in orphans if name.endswith(PARTIAL)]
    if orphans:
        transactions.log.sync()
        files.unlink(orphans)


def _lose(transactions: Transactions, row: Row) -> None:
    """Give up the content of a row that is gone: the store has it, or the user is told."""
    with transactions.of_sending():
        if row.state is ChangeState.SETTLING:
            transactions.remove(row, row.attrs)
        else:
            transactions.put(replace(row, state=ChangeState.REJECTED, error=LOST), row)
