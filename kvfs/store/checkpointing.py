"""Checkpoints of the embedded store's WAL: in a thread and with a connection of its own, after the answer.

SQLite would checkpoint within the commit that made the WAL long: whoever stores 25 MiB waited for them to be
written twice, and synced twice.
"""

import logging
import sqlite3
import threading
from pathlib import Path
from typing import Final

from kvfs.store.sqlite_schema import connect

WORTH_BYTES: Final = 4 * 1024 * 1024  # of the WAL; SQLite's own measure (a thousand pages of 4 KiB)

log = logging.getLogger("kvfs.store")


class Checkpointer:
    """Writes the WAL back when it has grown by about `WORTH_BYTES`; `note` is the writer's, any thread's.

    It may fail or fall behind without harm: what it leaves, the writer's own limit and the last connection's
    end see to (`sqlite_schema.connect`).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = connect(path)
        self._grown = 0
        self._ended = False
        self._due = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="kvfs-checkpoint", daemon=True)
        self._thread.start()

    def note(self, count: int) -> None:
        """The WAL has grown by about so many bytes."""
        with self._due:
            self._grown += count
            if self._grown >= WORTH_BYTES:
                self._due.notify()

    def close(self) -> None:
        """Stop, after what is being written back. Blocks."""
        with self._due:
            self._ended = True
            self._due.notify()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while self._wait():
            try:
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            except sqlite3.Error as exc:  # a full disk, say: the writer meets it too, and tells
                log.debug("%s: no checkpoint: %s", self._path, exc)

    def _wait(self) -> bool:
        """Until a checkpoint is due; False at the end."""
        with self._due:
            self._due.wait_for(lambda: self._ended or self._grown >= WORTH_BYTES)
            self._grown = 0
            return not self._ended
