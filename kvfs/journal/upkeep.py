"""Maintenance of the journal's files while the loop writes: snapshots, leftovers of the spool, syncs.

All of it in threads; the loop only takes the cut of a snapshot and changes the places of contents, slice by slice.
"""

import logging
import math
from contextlib import AbstractContextManager, nullcontext

import trio

from kvfs.changes.cut import Cut
from kvfs.core.errors import JournalError
from kvfs.journal import snapshot
from kvfs.journal.snapshot import Moved
from kvfs.journal.transaction import Transactions
from kvfs.log.segment import segment_path
from kvfs.warmthread import WarmThread

_LOOKS = 16  # commits
_SLICE = 1000  # contents whose place changes between two checkpoints of the loop

log = logging.getLogger("kvfs.journal")


class Upkeep:
    """Does the snapshots and syncs of one journal."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._contents = transactions.contents
        self._log = transactions.log
        self._due = trio.Event()
        self._sync_lock = trio.Lock()
        self._snapshot_lock = trio.Lock()
        self._floor = 0  # the log's size that a snapshot is not worth below: one failed at less
        self._row_bytes = snapshot.ROW_BYTES  # in the latest snapshot: keys and metadata may be long
        self._too_large = math.inf  # a snapshot of this size had no room on a full disk
        self._synced = -1  # the newest record that a sync of this mount has forced to the disk
        self._thread = WarmThread("kvfs-sync")
        self._next_look = 0  # the number of the record from which on a snapshot may be due

    def note(self) -> None:
        """Note a commit, after which a task may be due."""
        log = self._log
        if (
            log.last >= self._next_look or log.reserve.is_short
        ):  # else not, because a look costs a part of a commit
            self._next_look = log.last + _LOOKS
            if self._wants_snapshot():
                self._due.set()
        if self._contents.files.garbage:
            self._due.set()

    def _wants_snapshot(self) -> bool:
        """Return whether much of the log is dead; on a full disk any dead record is worth a snapshot that fits."""
        size, alive = self._log.size, self._living()
        if self._log.reserve.is_short:
            return size > alive + snapshot.SHORT_BYTES and alive < self._too_large / 2
        return size >= self._floor and self._is_mostly_dead(alive, snapshot.SNAPSHOT_BYTES)

    def _is_mostly_dead(self, alive: int, least: int) -> bool:
        return self._log.size > alive + max(alive, least)

    def _living(self) -> int:
        return snapshot.living(self._transactions, self._row_bytes)

    async def maintain(self) -> None:
        """Do `tidy` as it comes due, for ever."""
        while True:
            await self._due.wait()
            self._due = trio.Event()
            await self.tidy()

    async def tidy(self) -> None:
        """Write a snapshot if it is worth it, and remove files of the spool that no row needs, in threads.

        Raises JournalError, OSError when the disk refuses.
        """
        await trio.lowlevel.checkpoint()
        if self._wants_snapshot():
            try:
                await self.snapshot()
            except (JournalError, OSError) as exc:
                self._floor = self._log.size + snapshot.SNAPSHOT_BYTES
                self._too_large = self._living()
                log.warning("the journal's log stays as long as it is for now: %s", exc)
        garbage = self._contents.files.take_garbage()
        try:
            if garbage:
                await self.make_durable()
                garbage = self._contents.files.unneeded(garbage)
                await trio.to_thread.run_sync(self._contents.files.unlink, garbage)
        except BaseException:
            self._contents.files.garbage += garbage
            raise
        self._refill()

    def _refill(self) -> None:
        """Set room aside again, once something made room."""
        if self._log.reserve.is_short:
            self._log.reserve.refill(self._transactions.index.count)

    async def snapshot(self) -> None:
        """Write the log anew, without dead records. Raises JournalError, OSError."""
        async with self._snapshot_lock:
            cut = snapshot.cut(self._transactions)
            contents = snapshot.living(self._transactions, 0)
            with self._with_room():
                moved = await trio.to_thread.run_sync(self._written, cut)
            self._measure_rows(cut, contents)
            for index, (content, offset) in enumerate(moved, start=1):
                content.segment, content.offset = cut.number, offset
                if index % _SLICE == 0:
                    await trio.lowlevel.checkpoint()
            await trio.to_thread.run_sync(self._log.retire, cut.number)
            self._floor, self._too_large = 0, math.inf
            self._refill()

    def _measure_rows(self, cut: Cut, contents: int) -> None:
        """Learn how long rows are, or a snapshot of long ones would be due again at once."""
        size = segment_path(self._log.path, cut.number).stat().st_size - contents
        mean = size // max(1, len(cut.rows) + len(cut.directories) + len(cut.files))
        self._row_bytes = min(max(snapshot.ROW_BYTES, mean), snapshot.MOST_ROW_BYTES)

    def _with_room(self) -> AbstractContextManager[None]:
        """Write a snapshot; on a full disk one that fits into the reserve is written into that room."""
        reserve, size = self._log.reserve, self._living()
        if reserve.is_short and reserve.could_hold(size):
            return reserve.lent(self._transactions.index.count)
        return nullcontext()

    def _written(self, cut: Cut) -> Moved:
        """Write in a thread, and in one go, because a cancellation must not come between."""
        path, moved = snapshot.write(cut, self._log)
        self._log.replace(path)
        return moved

    def finish(self) -> None:
        """Rewrite a mostly dead log at the end, in one go. If the disk refuses, the log stays as it is."""
        self._thread.close()
        try:
            self._transactions.kept.not_saved()
            alive = snapshot.living(self._transactions, snapshot.ROW_BYTES)
            if self._log.is_doubtful or self._is_mostly_dead(alive, snapshot.END_BYTES):
                cut = snapshot.cut(self._transactions)
                with self._with_room():
                    self._written(cut)
                self._log.retire(cut.number)  # nobody asks for a content any more
            if self._contents.files.garbage:
                self._log.sync()
                self._contents.files.unlink(self._contents.files.take_garbage())
        except (JournalError, OSError) as exc:
            log.warning("the journal's log stays as long as it is: %s", exc)

    async def make_durable(self) -> None:
        """Return once everything committed before the call is on the disk; concurrent callers share a sync.

        After a sync that failed a snapshot replaces the records that may be lost: see `log`. Raises OSError,
        JournalError when the disk refuses.
        """
        wanted = self._log.last
        if self._is_durable(wanted):
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        try:
            self._sync_lock.acquire_nowait()  # a lock that is free is a turn of the loop all the same
        except trio.WouldBlock:
            await self._sync_lock.acquire()
        try:
            if self._is_durable(wanted):  # another's sync, begun after our commit
                return
            if self._log.is_doubtful:
                await self.snapshot()
            last = self._log.last
            await self._thread.run(self._log.sync)
            self._synced = last
        finally:
            self._sync_lock.release()

    def _is_durable(self, last: int) -> bool:
        """Return whether the record of that number is known to be on the disk, and all before it."""
        return self._synced >= last and not self._log.is_doubtful
