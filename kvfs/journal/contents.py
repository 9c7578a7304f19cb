"""Contents of puts: small ones in the journal file, large ones in files beside it (the spool).

A write of 25 MiB through SQLite holds the loop for a sixth of a second; a thread and a rename hold it for
nothing. A file is complete before a row names it, and goes only after the row that named it is gone for good.
"""

import os
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import trio
from msgspec import Struct

from kvfs.core.errors import JournalError
from kvfs.journal.disk import sync_directory
from kvfs.journal.spool import DIGEST_BYTES, INLINE_BYTES, Body, Buffer, Stream, digest, soon
from kvfs.journal.tables import Tables, Unapplied, Write

__all__ = ["DIGEST_BYTES", "INLINE_BYTES", "Bodies", "Body", "Buffer", "Stored", "Stream", "digest"]


class Stored(Struct, gc=False):
    """A body that rows refer to: how many, and its file in the spool if it has one."""

    refs: int
    spool: str | None


class _Reading(Struct):
    """A content that a thread is reading, or has read."""

    body: int
    done: trio.Event
    value: bytes | None = None


class Bodies:
    """The `bodies` table and the spool.

    Invariant between transactions: `stored` has exactly the table's ids, each with refs > 0; `_behind` the
    contents among them that SQLite was not told yet.
    """

    def __init__(self, tables: Tables, directory: Path, *, durable: bool) -> None:
        self._tables = tables
        self._directory = directory
        self._durable = durable
        self.stored: dict[int, Stored] = {}
        self._next = 1
        self._spooled: dict[str, int] = {}  # file name -> id, of those in the table
        self.garbage: list[str] = []  # files no row needs any more; removed once the log is on the disk
        self._behind: Unapplied[int, bytes] = Unapplied()  # contents that the table may lack
        self._fresh: dict[int, bytes] = {}  # those of the transaction under way
        self._idle: list[int] = []  # ids whose refs fell to 0, or that are new, in this transaction
        self._reading: _Reading | None = None  # by `read_soon`, the last; until it is sent

    def load(self) -> None:
        """Fill from the table; references are counted as the rows arrive."""
        for identity, spool in self._tables.look("SELECT id, spool FROM bodies ORDER BY id"):
            self.stored[identity] = Stored(0, spool)
            self._idle.append(identity)
            self._next = identity + 1
            if spool is not None:
                self._spooled[spool] = identity

    def stage(self, value: bytes) -> Body:
        """A small content, kept in memory until it is recorded."""
        return Body(len(value), digest(value), bytes(value), None)

    async def spool(self, value: Buffer) -> Body:
        """Write a content into the spool, in a thread. The caller leaves `value` unchanged meanwhile.

        Raises JournalFullError when the disk does not take it.
        """
        stream = self.stream()
        stream.feed(value)
        try:
            return await stream.finish()
        except trio.Cancelled:
            stream.abandon()
            raise

    def _spooled_body(self, size: int, found: bytes, name: str) -> Body:
        body = Body(size, found, None, name)
        weakref.finalize(body, self._abandon, name).atexit = False
        return body

    def stream(self) -> Stream:
        """A spooled content whose pieces arrive one by one; `Stream.finish` then makes its body."""
        return Stream(self._directory, durable=self._durable, made=self._spooled_body)

    def _abandon(self, name: str) -> None:
        """A spooled body left memory: unless a row has it, its file is of no use."""
        if name not in self._spooled:
            self.garbage.append(name)

    def insert(self, body: Body) -> int:
        """Give the body a row, inside the caller's transaction; a spooled one that has a row shares it."""
        if body.spool is not None and body.spool in self._spooled:
            return self._spooled[body.spool]
        identity = self._next
        self._tables.add(Write.PUT_BODY, (identity, body.size, body.digest, body.value, body.spool))
        if body.value is not None:
            self._fresh[identity] = body.value
        self._next += 1
        self.stored[identity] = Stored(0, body.spool)
        self._idle.append(identity)
        if body.spool is not None:
            self._spooled[body.spool] = identity
        return identity

    def reserve(self) -> int:
        """A number for `inserted`."""
        self._next += 1
        return self._next - 1

    def inserted(self, identity: int, value: bytes) -> None:
        """A small body is in the log under that number; a row will refer to it."""
        self.stored[identity] = Stored(0, None)
        self._behind[identity] = (self._tables.last, value)

    def acquire(self, identity: int) -> None:
        """One more row refers to it."""
        self.stored[identity].refs += 1

    def release(self, identity: int) -> None:
        """One row less refers to it; `sweep` removes it if it was the last."""
        stored = self.stored[identity]
        stored.refs -= 1
        if not stored.refs:
            self._idle.append(identity)

    @property
    def has_unused(self) -> bool:
        """Whether `sweep` has something to do."""
        return any(not stored.refs for stored in self.stored.values())

    def sweep(self) -> list[int]:
        """Delete the rows of bodies nobody refers to, as the end of a transaction; returns ids."""
        unused = [i for i in dict.fromkeys(self._idle) if i in self.stored and not self.stored[i].refs]
        for identity in unused:
            self._tables.add(Write.DROP_BODY, (identity,))
        return unused

    def forget(self, unused: Iterable[int]) -> None:
        """The transaction that swept `unused` is committed."""
        for identity, value in self._fresh.items():
            self._behind[identity] = (self._tables.last, value)
        self._fresh.clear()
        for identity in unused:
            self._behind.pop(identity, None)
            if self._reading is not None and self._reading.body == identity:
                self._reading = None
            name = self.stored.pop(identity).spool
            if name is not None:
                del self._spooled[name]
                self.garbage.append(name)
        self._idle.clear()

    def rolled_back(self) -> None:
        """The transaction failed and the rows' references are as before: what it inserted is gone."""
        for identity in self._idle:
            stored = self.stored.get(identity)
            if stored is not None and not stored.refs:
                del self.stored[identity]
                if stored.spool is not None:
                    del self._spooled[stored.spool]
        self._fresh.clear()
        self._idle.clear()

    def read(self, identity: int) -> bytes:
        """The content, wherever it is; from a file it may take milliseconds."""
        spool = self.stored[identity].spool
        if spool is None:
            return self._value(identity)
        with self._opened(spool) as file:
            return file.read()

    async def read_async(self, identity: int) -> bytes:
        """The content, a spooled one in a thread. It stays readable though the row goes meanwhile."""
        spool = self.stored[identity].spool
        if spool is None:
            return self._value(identity)
        with self._opened(spool) as file:  # before any checkpoint: the file is there now
            if (value := await self._being_read(identity)) is not None:
                return value
            return await trio.to_thread.run_sync(file.read)

    async def _being_read(self, identity: int) -> bytes | None:
        """What `read_soon` reads of it, if it does; once."""
        reading = self._reading
        if reading is None or reading.body != identity:
            return None
        await reading.done.wait()
        if self._reading is reading:
            self._reading = None
        return reading.value

    def read_soon(self, identity: int, then: Callable[[bytes], object]) -> None:
        """A spooled content, read by a thread; the loop calls `then` with it, if it can be read.

        As a rule it is sent soon after: `read_async` need not read it again.
        """
        spool = self.stored[identity].spool
        assert spool is not None
        file = self._opened(spool)

        def read() -> bytes:
            with file:
                return file.read()

        def arrived(value: bytes | None) -> None:
            reading.value = value
            reading.done.set()
            if value is not None:
                then(value)

        reading = _Reading(identity, trio.Event())
        soon(read, arrived)
        self._reading = reading  # not before: who waits for it must not wait for ever

    async def force(self, identity: int) -> None:
        """Return once a content that is in a file is on the disk, and its name. Raises OSError."""
        spool = self.stored[identity].spool
        if spool is not None and not self._durable:
            with self._opened(spool) as file:
                await trio.to_thread.run_sync(os.fsync, file.fileno())
            await trio.to_thread.run_sync(sync_directory, self._directory)

    def _opened(self, spool: str) -> BinaryIO:
        try:
            return (self._directory / spool).open("rb")
        except OSError as exc:
            raise JournalError(f"a content of the journal cannot be read: {exc}") from exc

    def _value(self, identity: int) -> bytes:
        if identity in self._fresh:
            return self._fresh[identity]
        if identity in self._behind:
            return self._behind[identity][1]
        (found,) = self._tables.look("SELECT value FROM bodies WHERE id = ?", (identity,)).fetchone()
        return found  # type: ignore[no-any-return]  # its column says what it is

    def applied(self, number: int) -> None:
        """The table has the contents of the records up to that number."""
        self._behind.applied(number)

    def orphans(self) -> list[str]:
        """Files in the spool that no row needs; only at open, when no body is about to be recorded."""
        return [name for name in os.listdir(self._directory) if name not in self._spooled]

    def is_whole(self, identity: int, size: int) -> bool:
        """Whether the content is all there: a power cut may take a spooled file that was not forced out."""
        spool = self.stored[identity].spool
        if spool is None:
            return True
        try:
            return (self._directory / spool).stat().st_size == size
        except FileNotFoundError:
            return False

    def unlink(self, names: Iterable[str]) -> None:
        """Remove files of the spool; for a thread."""
        for name in names:
            (self._directory / name).unlink(missing_ok=True)
