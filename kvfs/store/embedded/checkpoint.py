"""Checkpoints of the embedded store's WAL: in a thread and with a connection of its own, after the answer.

SQLite would checkpoint within the commit that made the WAL long: whoever stores 25 MiB waited for them to be
written twice, and synced twice.
"""

import logging
import sqlite3
import threading
from pathlib import Path
from typing import Final

from kvfs.store.embedded.schema import connect

WORTH_BYTES: Final = 4 * 1024 * 1024  # of the WAL; SQLite's own measure (a thousand pages of 4 KiB)
MOST_BYTES: Final = 16 * WORTH_BYTES  # from here on the writer waits: its disk is too slow for it

log = logging.getLogger("kvfs.store")


class Checkpointer:
    """Writes the WAL back when it has grown by about `WORTH_BYTES`; `note` is the writer's, any thread's.

    A WAL begins anew when all of it was written back and nothing was added meanwhile. Where something always is, it
    would grow for ever: from `MOST_BYTES` on the writer does it, and adds nothing meanwhile. A checkpoint may fail
    without harm: the next one, or the end of the last connection, does its work.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = connect(path)
        self._page_bytes: int = self._connection.execute("PRAGMA page_size").fetchone()[0]
        self._grown = 0  # bytes, about, since the last checkpoint began
        self._length = 0  # bytes that lay before them
        self._is_running = False
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="kvfs-checkpoint", daemon=True)
        self._thread.start()

    @property
    def is_behind(self) -> bool:
        """True if `note` may soon have to wait."""
        return self._length + self._grown >= MOST_BYTES // 2

    def note(self, count: int) -> None:
        """Note that the WAL has grown by about so many bytes. Blocks where it is too long; not inside a transaction."""
        with self._changed:
            self._grown += count
            if self._grown >= WORTH_BYTES:
                self._changed.notify_all()
            if self._length + self._grown >= MOST_BYTES:
                self._changed.wait_for(lambda: not self._is_running)
                self._length, is_done = self._checkpoint(self._length + self._grown)
                self._grown = 0
                if is_done:  # and nobody adds to it: the next transaction begins it anew
                    self._length = 0

    def close(self) -> None:
        """Stop, after what is being written back. Blocks."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while self._begin():
            length, is_done = self._length, False
            try:
                length, is_done = self._checkpoint(length)
            finally:
                with self._changed:
                    self._is_running = False
                    # The next transaction begins it anew, unless that has begun already: a long one is doubtful.
                    self._length = 0 if is_done and not self._grown and length < MOST_BYTES else length
                    self._changed.notify_all()

    def _begin(self) -> bool:
        """Wait until a checkpoint is due; False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._grown >= WORTH_BYTES)
            self._length += self._grown
            self._grown = 0
            self._is_running = not self._ended
            return self._is_running

    def _checkpoint(self, length: int) -> tuple[int, bool]:
        """Write back what nobody reads any more: how long the WAL is (`length`, if it failed), whether it is done."""
        try:
            _, pages, done = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as exc:  # a full disk, say: the writer meets it too, and tells
            log.debug("%s: no checkpoint: %s", self._path, exc)
            return length, False
        return int(pages) * self._page_bytes, pages == done
