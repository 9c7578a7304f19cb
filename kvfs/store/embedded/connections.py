"""The connections to the embedded store: threads, transactions, and SQLite's errors as ours."""

import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import inf
from pathlib import Path
from typing import Final, Self, TypeVar

import trio

from kvfs.core.errors import OvertakenError, UnavailableError
from kvfs.store.embedded.checkpoint import Checkpointer
from kvfs.store.embedded.inmemory import is_in_memory
from kvfs.store.embedded.schema import BUSY_SECONDS, connect, prepare
from kvfs.warmthread import WarmThread

T = TypeVar("T")

READERS: Final = 4

_BUSY_TIMEOUT: Final = "PRAGMA busy_timeout = {:.0f}"
_AT_ONCE: Final = -inf  # the moment until which a lock is waited for
_ROW_BYTES: Final = 1024  # bytes of the WAL that a changed row takes beside its value, about

_REASONS: Final = {
    sqlite3.SQLITE_BUSY: "is busy: another process has been writing for too long",
    sqlite3.SQLITE_LOCKED: "is busy",
    sqlite3.SQLITE_FULL: "cannot grow: no room left on its disk",
    sqlite3.SQLITE_READONLY: "cannot be written: the file or its disk is read-only",
    sqlite3.SQLITE_IOERR: "cannot be read or written: its disk reports an error",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened any more",
    sqlite3.SQLITE_CORRUPT: "is damaged: stop kvfs, keep a copy, and try `sqlite3 FILE .recover`",
    sqlite3.SQLITE_NOTADB: "is damaged: it is no SQLite file any more",
}


class Connections:
    """One connection that writes and a few that read, each used by one thread at a time, none on the loop.

    The limiters hand out exactly as many turns as there are connections. A call that is cancelled while its
    thread runs waits for it: transactions are short, and the connection is in a known state afterwards. What other
    processes have locked is waited for until the caller's deadline, and for `BUSY_SECONDS` at most.
    """

    def __init__(self, path: Path, writer: sqlite3.Connection, readers: list[sqlite3.Connection]) -> None:
        # constants
        self._path = path
        self._writer = writer
        # state: every reader is in `_idle` unless a thread is using it
        self._idle = deque(readers)
        self._checkpointer = Checkpointer(path)
        self.others = 0  # times that a write found that somebody else had written since the one before
        self._version = 0  # SQLite's word for it: another one whenever another connection has written
        self._writing = WarmThread("kvfs-store")
        self.is_in_memory = is_in_memory(path)
        self._patience: dict[
            sqlite3.Connection, float
        ] = {}  # seconds for which each waits for locks, once set
        self._reading = trio.CapacityLimiter(len(readers))

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open or create the file. Blocks; raises `UserError`."""
        writer = prepare(path)
        readers = [connect(path) for _ in range(READERS)]
        for reader in readers:
            reader.execute("PRAGMA query_only = ON")
        return cls(path, writer, readers)

    def close(self) -> None:
        """Close all; the last one of the file writes the WAL back. Blocks."""
        self._writing.close()
        self._checkpointer.close()
        for connection in (*self._idle, self._writer):
            connection.close()

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run `query` in a thread, on one snapshot of the database."""
        return await trio.to_thread.run_sync(self._read, query, _until(), limiter=self._reading)

    async def write(
        self, change: Callable[[sqlite3.Connection], T], size: int = 0, others: int | None = None
    ) -> T:
        """Run `change`, which stores values of `size` bytes, in a thread, in one transaction: whole or not at all.

        Raises `OvertakenError` instead if somebody else has written since `others` was what it says.
        """
        return await self._writing.run(partial(self._write, change, size, others, _until()))

    def write_now(
        self, change: Callable[[sqlite3.Connection], None], size: int = 0, others: int | None = None
    ) -> None:
        """Run `change` as `write` does, but here, and wait for no other writer: raise `UnavailableError` then.

        Only a store in memory is so quick that the loop may wait for it.
        """
        self._refuse_busy()
        if self._checkpointer.is_behind:
            raise UnavailableError(f"the store {self._path} is busy with its WAL")
        self._write(change, size, others, _AT_ONCE)

    async def write_soon(
        self, change: Callable[[sqlite3.Connection], None], size: int = 0, others: int | None = None
    ) -> None:
        """Do `write_now` in a thread, because a disk is waited for."""
        self._refuse_busy()
        await self._writing.run(partial(self._write, change, size, others, _AT_ONCE))

    def _refuse_busy(self) -> None:
        if self._writing.is_busy:
            raise UnavailableError(f"the store {self._path} is busy")

    def _read(self, query: Callable[[sqlite3.Connection], T], until: float = inf) -> T:
        connection = self._idle.popleft()
        try:
            with self._errors_as_ours(), connection:
                self._wait_until(connection, until)
                connection.execute("BEGIN")
                return query(connection)
        finally:
            self._idle.append(connection)

    def _write(
        self, change: Callable[[sqlite3.Connection], T], size: int, others: int | None, until: float = inf
    ) -> T:
        rows = self._writer.total_changes
        with self._errors_as_ours(), self._writer:  # commits, or rolls back
            self._wait_until(self._writer, until)
            self._writer.execute("BEGIN IMMEDIATE")
            self._look_for_others()
            if others is not None and others != self.others:
                raise OvertakenError(f"another process has written to {self._path}")
            done = change(self._writer)
        self._checkpointer.note(size + (self._writer.total_changes - rows) * _ROW_BYTES)
        return done

    def _wait_until(self, connection: sqlite3.Connection, until: float) -> None:
        """Have it wait for locks of other processes until that moment (monotonic), for `BUSY_SECONDS` at most.

        SQLite is told only if that is something else than before, *because* a short put takes little longer itself.
        """
        seconds = min(BUSY_SECONDS, max(0.0, until - time.monotonic()))
        if self._patience.get(connection, BUSY_SECONDS) != seconds:
            connection.execute(_BUSY_TIMEOUT.format(1000 * seconds))
            self._patience[connection] = seconds

    def _look_for_others(self) -> None:
        """Look for other writers, inside a transaction that writes: so nobody comes between this and the commit."""
        version: int = self._writer.execute("PRAGMA data_version").fetchone()[0]
        if version != self._version:
            self._version = version
            self.others += 1

    @contextmanager
    def _errors_as_ours(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.ProgrammingError, sqlite3.IntegrityError):
            raise  # ours to fix, not the user's
        except sqlite3.DatabaseError as exc:
            reason = _REASONS.get(exc.sqlite_errorcode & 0xFF, f"failed: {exc}")
            raise UnavailableError(f"the store {self._path} {reason}") from exc


def _until() -> float:
    """Return the moment (monotonic) until which the caller waits."""
    return time.monotonic() + trio.current_effective_deadline() - trio.current_time()
