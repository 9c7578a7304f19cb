"""What keeps the journal file in shape while the loop writes: checkpoints, leftovers of the spool, syncs.

All of it in threads with a connection or descriptor of its own; the loop's connection is never waited for.
"""

import sqlite3
from pathlib import Path
from typing import Final

import trio

from kvfs.writeback.bodies import Bodies
from kvfs.writeback.opening import checkpoint, sync_log, translate

CHECKPOINT_BYTES: Final = 8 * 1024 * 1024


class Upkeep:
    """Checkpoints and syncs of one journal file."""

    def __init__(self, path: Path, bodies: Bodies) -> None:
        self._path = path
        self._bodies = bodies
        self._due = trio.Event()
        self._lock = trio.Lock()
        self._syncs_started = 0
        self._syncs_done = 0

    def note(self, written: int) -> bool:
        """Called after each commit with the bytes written since the last checkpoint; True when one is due."""
        due = written >= CHECKPOINT_BYTES or len(self._bodies.garbage) > 0
        if due:
            self._due.set()
        return due

    async def wait_due(self) -> None:
        """Until there is something to do."""
        await self._due.wait()
        self._due = trio.Event()

    async def tidy(self) -> None:
        """Move the log into the file and remove files of the spool that no row needs.

        The log is forced out first: after a power cut an older state must not name a file that is gone.
        """
        garbage, self._bodies.garbage = self._bodies.garbage, []
        try:
            await trio.to_thread.run_sync(self._tidy, garbage)
        except (sqlite3.Error, OSError) as exc:
            self._bodies.garbage += garbage
            raise (translate(exc, self._path) if isinstance(exc, sqlite3.Error) else exc) from exc

    def _tidy(self, garbage: list[str]) -> None:
        if garbage:
            sync_log(self._path)
            self._bodies.unlink(garbage)
        checkpoint(self._path)

    async def make_durable(self) -> None:
        """Return once everything committed before the call is on the disk; concurrent callers share a sync.

        Raises OSError when the disk refuses.
        """
        wanted = self._syncs_started + 1  # one under way may have begun before our commit
        async with self._lock:
            if self._syncs_done >= wanted:
                return
            self._syncs_started += 1
            await trio.to_thread.run_sync(sync_log, self._path)
            self._syncs_done = self._syncs_started
