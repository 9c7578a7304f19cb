"""What keeps the journal's files in shape while the loop writes: checkpoints, leftovers of the log and the spool,
syncs.

All of it in threads with a connection or descriptor of its own; the loop's connection is never waited for.
"""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import trio

from kvfs.journal.contents import Bodies
from kvfs.journal.disk import sync_log
from kvfs.journal.log import RedoLog
from kvfs.journal.opening import checkpoint, translate


class Upkeep:
    """Checkpoints and syncs of one journal."""

    def __init__(self, path: Path, bodies: Bodies, redo: RedoLog) -> None:
        self._path = path
        self._bodies = bodies
        self._redo = redo
        self._due = trio.Event()
        self._lock = trio.Lock()
        self._syncs_started = 0
        self._syncs_done = 0

    def note(self) -> None:
        """Called after each commit: something may have come due."""
        if self._redo.retired or self._bodies.garbage:
            self._due.set()

    async def wait_due(self) -> None:
        """Until there is something to do."""
        await self._due.wait()
        self._due = trio.Event()

    async def tidy(self) -> None:
        """Remove files of the log that the tables have, and files of the spool that no row needs.

        Before either goes, what takes its place is forced out: after a power cut nothing may name a file that
        is gone, and no record be neither in a log nor in a table.
        """
        garbage, self._bodies.garbage = self._bodies.garbage, []
        retired, self._redo.retired = self._redo.retired, []
        try:
            await trio.to_thread.run_sync(self._tidy, garbage, retired)
        except BaseException as exc:
            self._bodies.garbage += garbage
            self._redo.retired[:0] = retired  # the oldest go first
            if isinstance(exc, sqlite3.Error):
                raise translate(exc, self._path) from exc
            raise

    def _tidy(self, garbage: Sequence[str], retired: Sequence[Path]) -> None:
        if garbage:
            self.sync()
            self._bodies.unlink(garbage)
        if retired:
            sync_log(self._path)
            self._redo.remove(retired)
        checkpoint(self._path)

    def sync(self) -> None:
        """Force everything to the disk that was committed before the call; for a thread. Raises OSError."""
        self._redo.sync()

    async def make_durable(self) -> None:
        """Return once everything committed before the call is on the disk; concurrent callers share a sync.

        Raises OSError when the disk refuses.
        """
        wanted = self._syncs_started + 1  # one under way may have begun before our commit
        async with self._lock:
            if self._syncs_done >= wanted:
                return
            self._syncs_started += 1
            await trio.to_thread.run_sync(self.sync)
            self._syncs_done = self._syncs_started
