"""What keeps the journal's files in shape while the loop writes: snapshots, leftovers of the spool, syncs.

All of it in threads; the loop only takes the cut of a snapshot and changes the places of contents, slice by slice.
"""

import logging

import trio

from kvfs.core.errors import JournalError
from kvfs.journal import snapshot
from kvfs.journal.snapshot import Cut, Moved
from kvfs.journal.transaction import Transactions

log = logging.getLogger("kvfs.journal")


class Upkeep:
    """Snapshots and syncs of one journal."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._contents = transactions.contents
        self._log = transactions.log
        self._due = trio.Event()
        self._sync_lock = trio.Lock()
        self._snapshot_lock = trio.Lock()
        self._floor = 0  # the log's size that a snapshot is not worth below: one failed at less
        self._syncs_started = 0
        self._syncs_done = 0

    def note(self) -> None:
        """Called after each commit: something may have come due."""
        if self._contents.garbage or self._wants_snapshot():
            self._due.set()

    def _wants_snapshot(self) -> bool:
        return self._log.size >= self._floor and snapshot.is_due(self._transactions)

    async def wait_due(self) -> None:
        """Until there is something to do."""
        await self._due.wait()
        self._due = trio.Event()

    async def tidy(self) -> None:
        """Write a snapshot if it is worth it, and remove files of the spool that no row needs.

        Raises JournalError, OSError when the disk refuses.
        """
        await trio.lowlevel.checkpoint()
        if self._wants_snapshot():
            try:
                await self.snapshot()
            except (JournalError, OSError) as exc:
                self._floor = self._log.size + snapshot.SNAPSHOT_BYTES
                log.warning("the journal's log stays as long as it is for now: %s", exc)
        garbage = self._contents.take_garbage()
        try:
            if garbage:
                await self.make_durable()
                garbage = self._contents.unneeded(garbage)
                await trio.to_thread.run_sync(self._contents.unlink, garbage)
        except BaseException:
            self._contents.garbage += garbage
            raise

    async def snapshot(self) -> None:
        """Write the log anew, without what says nothing any more. Raises JournalError, OSError."""
        async with self._snapshot_lock:
            cut = snapshot.cut(self._transactions)
            moved = await trio.to_thread.run_sync(self._written, cut)
            for _ in snapshot.adopt(cut, moved):
                await trio.lowlevel.checkpoint()
            await trio.to_thread.run_sync(self._log.retire, cut.number)
            self._floor = 0

    def _written(self, cut: Cut) -> Moved:
        """In a thread, and in one go: a cancellation must not come between."""
        path, moved = snapshot.write(cut, self._log)
        self._log.replace(path)
        return moved

    def finish(self) -> None:
        """At the end, in one go: a log that says little is not left long. What the disk refuses stays as it is."""
        try:
            self._transactions.kept.save()
            if self._log.is_doubtful or snapshot.is_due(self._transactions, snapshot.END_BYTES):
                cut = snapshot.cut(self._transactions)
                moved = self._written(cut)
                for _ in snapshot.adopt(cut, moved):
                    pass
                self._log.retire(cut.number)
            if self._contents.garbage:
                self._log.sync()
                self._contents.unlink(self._contents.take_garbage())
        except (JournalError, OSError) as exc:
            log.warning("the journal's log stays as long as it is: %s", exc)

    async def make_durable(self) -> None:
        """Return once everything committed before the call is on the disk; concurrent callers share a sync.

        After a sync that failed a snapshot takes the place of what that may have lost: see `log`. Raises
        OSError, JournalError when the disk refuses.
        """
        wanted = self._syncs_started + 1  # one under way may have begun before our commit
        async with self._sync_lock:
            if self._syncs_done >= wanted:
                return
            self._syncs_started += 1
            number = self._syncs_started
            if self._log.is_doubtful:
                await self.snapshot()
            await trio.to_thread.run_sync(self._log.sync)
            self._syncs_done = number
