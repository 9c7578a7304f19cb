"""The journal: changes made here that are not known to be in the store.

Invariants:
- `def` methods end before anything else of the process runs. When one returns, its change is in the log and survives
  `kill -9`; when it raises, nothing happened. `async def` ones may wait for a thread.
- The log comes first and memory follows (`transaction`), *because* then nothing ever has to be rolled back.
- The log is the only truth about changes: index and contents are the result of a replay. A snapshot says the same in
  fewer bytes; the side table takes over the attributes of keys without a change.
- A change leaves when the store has it and has answered for it long enough, when a newer one takes its place, or when
  the user gives it up. What cannot be read is kept under another name, never deleted.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from kvfs.changes.records import Recorded
from kvfs.changes.totals import Totals
from kvfs.core.errors import JournalError, JournalFullError
from kvfs.core.model import Change
from kvfs.journal import opener
from kvfs.journal.contents import Contents
from kvfs.journal.heirs import inherit_log, inherit_side
from kvfs.journal.local_attributes import LocalAttributes
from kvfs.journal.news import News
from kvfs.journal.outbox import Outbox
from kvfs.journal.reader import JournalReader
from kvfs.journal.recovery import recover
from kvfs.journal.transaction import Transactions
from kvfs.journal.upkeep import Upkeep
from kvfs.journal.writer import JournalWriter
from kvfs.kept.facts import LocalFacts
from kvfs.kept.side import SideTable
from kvfs.log.disk import refusal
from kvfs.log.log import Log
from kvfs.log.reserve import OPENING, Reserve
from kvfs.log.spool_directory import SpoolDirectory


class Journal:
    """Made by `Journal.open`; a context manager that closes itself.

    `writer` records what the file system does, `outbox` is what the sender works with, `reader` is asked by key,
    and lists, `totals` counts, `news` tells of changes, `attributes` is what this machine keeps beside. The
    methods of these that are used most can be called on the journal.
    """

    def __init__(self, transactions: Transactions, upkeep: Upkeep, now: Callable[[], float]) -> None:
        self.path = transactions.log.path
        self._transactions = transactions
        self._upkeep = upkeep
        self._close: list[Callable[[], None]] = []
        self.maintain, self.tidy = upkeep.maintain, upkeep.tidy
        self.attributes = LocalAttributes(transactions)
        self.generation = transactions.kept.generation
        self.totals = Totals(transactions.index)
        self.news = News(self.totals, now, upkeep.note)
        transactions.on_commit = self.news.committed
        contents = transactions.contents
        self.reader = reader = JournalReader(transactions.index, contents)
        self.writer = writer = JournalWriter(transactions, now)
        self.outbox = outbox = Outbox(transactions)
        self.newest = contents.newest
        self.stage, self.spool, self.stream = contents.stage, contents.files.spool, contents.files.stream
        self.get, self.under = reader.get, reader.under
        self.any_under, self.puts_under = reader.any_under, reader.puts_under
        self.value, self.read_value, self.read_soon = reader.value, reader.read_value, reader.read_soon
        self.digest, self.rejected = reader.digest, reader.rejected
        self.record_put, self.record_delete = writer.record_put, writer.record_delete
        self.amend, self.move, self.drop_namespace = writer.amend, writer.move, writer.drop_namespace
        self.retry, self.discard = writer.retry, writer.discard
        self.expire, self.set_beside, self.spare = writer.expire, writer.set_beside, writer.spare
        self.pending, self.iter_pending, self.row = reader.pending, reader.iter_pending, outbox.row
        self.blocker, self.waiting_for, self.release = outbox.blocker, outbox.waiting_for, outbox.release
        self.mark_attempted, self.ack, self.set_error = outbox.mark_attempted, outbox.ack, outbox.set_error
        self.note_failure = outbox.note_failure
        self.reject, self.reject_namespace = outbox.reject, outbox.reject_namespace
        self.settled, self.settle = outbox.settled, outbox.settle

    # opening and closing

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        source: str,
        now: Callable[[], float],
        mountpoint: str = "",
        durable: bool = False,
        heir_of: Path | None = None,
    ) -> "Journal":
        """Open or make the journal of `source` (identity of the account or store).

        With `durable`, contents in the spool are forced to the disk at once (`make_durable` does the rest).
        A new one begins with what is kept of keys by another of the source, `heir_of`, if there is that.
        Raises JournalLockedError, JournalUnreadableError (the file is left as it is), JournalFullError, or
        JournalError when the directory cannot be used.
        """
        path = path.absolute()
        undo: list[Callable[[], None]] = []
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = opener.lock(path, mountpoint)
            undo.append(lambda: os.close(lock))
            reserve = Reserve(path)
            undo.append(reserve.close)
            reserve.make_way(OPENING)
            is_new = opener.prepare(path, source, now())
            is_heir = is_new and heir_of is not None and inherit_side(heir_of, path, source)
            spool = path.with_name(path.name + ".spool")
            spool.mkdir(mode=0o700, exist_ok=True)
            side = SideTable(path)
            undo.append(side.close)
            log = Log(path, side.identity, reserve)
            undo.append(log.close)
            contents = Contents(log, SpoolDirectory(spool, durable=durable))
            recorded = Recorded(LocalFacts(side), contents.exchange)
            transactions = Transactions(log, recorded, contents)
            recover(transactions)
            if heir_of is not None and is_heir:
                inherit_log(heir_of, transactions)
            reserve.refill(transactions.index.count)
        except BaseException as exc:
            while undo:
                undo.pop()()
            if isinstance(exc, OSError):
                raise JournalError(f"the journal {path} cannot be opened: {exc}") from exc
            raise
        upkeep = Upkeep(transactions)
        journal = cls(transactions, upkeep, now)
        undo.insert(2, lambda: reserve.refill(transactions.index.count))  # SQLite's side files are gone then
        journal._close = [*undo, upkeep.finish]
        return journal

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files and give the lock back. What is pending stays for the next open."""
        while self._close:
            self._close.pop()()

    def transaction(self) -> AbstractContextManager[None]:
        """Group methods that write: all or none of them take effect. The caller must not await inside."""
        return self._transactions

    def when_full(self, give_way: Callable[[], bool]) -> None:
        """Have `give_way` called when the disk is full, again and again as long as it returns that it has made room."""
        self._transactions.log.give_way = give_way

    # totals

    @property
    def pending_count(self) -> int:
        """Return the number of changes to be sent."""
        return self.totals.pending_count

    @property
    def pending_bytes(self) -> int:
        """Return the bytes of their values."""
        return self.totals.pending_bytes

    @property
    def changes(self) -> int:
        """Grows whenever `get`, `under`, `any_under` or the attributes may answer otherwise than before."""
        return self.generation.number

    async def make_durable(self, change: Change | None = None) -> None:
        """Wait until all recorded before the call survives a power cut; concurrent callers share a sync.

        Of contents in the spool that holds for `change`, a put, and in a durable journal for all. Raises
        JournalError when the disk refuses.
        """
        try:
            if change is not None:
                await self._transactions.contents.force(self.reader.row_of(change))
            await self._upkeep.make_durable()
        except OSError as exc:
            raise refusal(exc, f"the journal {self.path} cannot be forced to the disk") from exc
        except JournalFullError:
            raise
        except JournalError as exc:
            raise JournalError(f"the journal {self.path} cannot be forced to the disk: {exc}") from exc

    def __repr__(self) -> str:
        return f"<Journal {self.path}, {self.pending_count} pending>"
