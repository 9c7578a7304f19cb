"""The embedded store without threads, for tests of simulated time.

`autojump_clock` jumps whenever every task waits, and waiting for a thread looks like that: a deadline may
pass while SQLite works. Here SQLite works on the loop.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import trio

from kvfs.store.embedded.connections import Connections
from kvfs.store.embedded.sqlite_store import SqliteStore


class InlineConnections(Connections):
    """Connections used by the calling task itself."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open connections as always, but without waiting for the disk."""
        connections = super().open(path)
        connections._writer.execute("PRAGMA synchronous = OFF")
        return connections

    async def read(self, query):
        """Run `query` here."""
        await trio.lowlevel.checkpoint()
        return self._read(query)

    async def write(self, change, size=0, others=None):
        """Run `change` here."""
        await trio.lowlevel.checkpoint()
        return self._write(change, size, others)

    async def write_soon(self, change, size=0, others=None):
        """Run `change` here."""
        await trio.lowlevel.checkpoint()
        self.write_now(change, size, others)


@contextmanager
def inline_threads() -> Iterator[None]:
    """Do at once all that would be done in a thread, so that simulated time does not pass meanwhile."""
    before = trio.to_thread.run_sync

    async def run_sync(act, *args, **_):
        await trio.lowlevel.checkpoint()
        return act(*args)

    trio.to_thread.run_sync = run_sync
    try:
        yield
    finally:
        trio.to_thread.run_sync = before


@contextmanager
def open_inline(
    path: Path, *, account: str = "local", now: Callable[[], float] = time.time
) -> Iterator[SqliteStore]:
    """Return a `SqliteStore` on the file at `path` that needs no threads."""
    connections = InlineConnections.open(path)
    try:
        yield SqliteStore(connections, account, now)
    finally:
        connections.close()
