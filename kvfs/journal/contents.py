"""Contents of puts: small ones in the log, large ones in files beside it (the spool). None is kept in memory.

Invariants:
- A file of the spool is complete before a row names it, and goes only after the record that took its last row away is
  on the disk, *because* after a power cut no row may name a file that is gone.
- What is read is what was recorded: every content is compared with its digest, *because* a disk may answer
  something else, and that must not be sent as what somebody wrote.
"""

import os
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import trio
from msgspec import Struct

from kvfs.core.errors import JournalError
from kvfs.core.model import Seq
from kvfs.journal.disk import sync_directory
from kvfs.journal.log import Log
from kvfs.journal.rules import Content, Row
from kvfs.journal.spool import DIGEST_BYTES, INLINE_BYTES, PARTIAL, Body, Buffer, Stream, digest, soon

__all__ = ["DIGEST_BYTES", "INLINE_BYTES", "Body", "Buffer", "Contents", "Stream", "digest"]


class _Reading(Struct):
    """A content that a thread is reading, or has read."""

    name: str
    done: trio.Event
    value: bytes | None = None


class Contents:
    """Makes, reads and counts contents. `garbage` are files that no row needs, to be removed."""

    def __init__(self, log: Log, directory: Path, *, durable: bool) -> None:
        self.directory = directory
        self.garbage: list[str] = []
        self._log = log
        self._durable = durable
        self.spooled: dict[str, int] = {}  # file name → rows that need it
        self._doubtful: set[str] = set()  # a sync of these failed: see `log`
        self._reading: _Reading | None = None  # by `read_soon`, the last; until it is sent

    def stage(self, value: bytes) -> Body:
        """A small content, kept in memory until it is recorded."""
        return Body(len(value), digest(value), bytes(value), None)

    async def spool(self, value: Buffer) -> Body:
        """Write a content into the spool, in a thread. The caller leaves `value` unchanged meanwhile.

        Raises JournalError when the disk does not take it.
        """
        stream = self.stream()
        stream.feed(value)
        try:
            return await stream.finish()
        except trio.Cancelled:
            stream.abandon()
            raise

    def stream(self) -> Stream:
        """A spooled content whose pieces arrive one by one; `Stream.finish` then makes its body."""
        return Stream(self.directory, durable=self._durable, made=self._spooled_body)

    def _spooled_body(self, size: int, found: bytes, name: str) -> Body:
        body = Body(size, found, None, name)
        weakref.finalize(body, self._abandon, name).atexit = False
        return body

    def _abandon(self, name: str) -> None:
        """A spooled body left memory: unless a row has it, its file is of no use."""
        if name not in self.spooled:
            self.garbage.append(name)

    # rows that come and go

    def acquire(self, name: str) -> None:
        """One more row needs this file of the spool."""
        self.spooled[name] = self.spooled.get(name, 0) + 1

    def release(self, name: str) -> None:
        """One row less does; the file goes with the last."""
        self.spooled[name] -= 1
        if not self.spooled[name]:
            del self.spooled[name]
            self._doubtful.discard(name)
            self.garbage.append(name)
            if self._reading is not None and self._reading.name == name:
                self._reading = None

    def take_garbage(self) -> list[str]:
        """The garbage so far, which is the caller's from now on."""
        garbage, self.garbage = self.garbage, []
        return self.unneeded(garbage)

    def unneeded(self, names: list[str]) -> list[str]:
        """Return the spool files that no row needs. A body may leave memory before another row of it exists."""
        return [name for name in dict.fromkeys(names) if name not in self.spooled]

    # reading

    def read(self, row: Row) -> bytes:
        """The content of a put; from a file it may take milliseconds. Raises JournalError."""
        content = row.content
        assert content is not None
        if content.spool is None:
            return checked(row, self._log.read(content.segment, content.offset, row.change.size))
        with self._opened(content.spool) as file:
            return checked(row, file.read())

    async def read_async(self, row: Row) -> bytes:
        """The content, a spooled one in a thread. It stays readable though the row goes meanwhile."""
        assert row.content is not None
        if row.content.spool is None:
            return self.read(row)
        with self._opened(row.content.spool) as file:  # before any checkpoint: the file is there now
            if (value := await self._being_read(row.content.spool)) is not None:
                return value
            return await trio.to_thread.run_sync(lambda: checked(row, file.read()))

    async def _being_read(self, name: str) -> bytes | None:
        """Return the result of a `read_soon` of this name, if one is under way; only once."""
        reading = self._reading
        if reading is None or reading.name != name:
            return None
        await reading.done.wait()
        if self._reading is reading:
            self._reading = None
        return reading.value

    def read_soon(self, row: Row, then: Callable[[bytes], object]) -> None:
        """A spooled content, read by a thread; the loop calls `then` with it, if it can be read.

        As a rule it is sent soon after: `read_async` need not read it again.
        """
        assert row.content is not None
        assert row.content.spool is not None
        file = self._opened(row.content.spool)

        def read() -> bytes:
            with file:
                return checked(row, file.read())

        def arrived(value: bytes | None) -> None:
            reading.value = value
            reading.done.set()
            if value is not None:
                then(value)

        reading = _Reading(row.content.spool, trio.Event())
        soon(read, arrived)
        self._reading = reading  # not before: who waits for it must not wait for ever

    def _opened(self, name: str) -> BinaryIO:
        try:
            return (self.directory / name).open("rb")
        except OSError as exc:
            raise JournalError(f"a content of the journal cannot be read: {exc}") from exc

    # the spool

    async def force(self, row: Row) -> None:
        """Return once a content that is in a file is on the disk, and its name. Raises OSError, JournalError."""
        content = row.content
        if content is not None and content.spool is not None and not self._durable:
            await trio.to_thread.run_sync(self._force, row, content.spool)

    def _force(self, row: Row, name: str) -> None:
        """A file whose sync failed is written anew: a later sync of it may succeed over a hole."""
        if name in self._doubtful:
            path, fresh = self.directory / name, self.directory / f"{name}{PARTIAL}"
            fresh.write_bytes(checked(row, path.read_bytes()))
            fresh.chmod(0o600)
            self._sync(fresh)
            fresh.replace(path)
            self._doubtful.discard(name)
        else:
            try:
                self._sync(self.directory / name)
            except OSError:
                self._doubtful.add(name)
                raise
        sync_directory(self.directory)

    @staticmethod
    def _sync(path: Path) -> None:
        with path.open("rb") as file:
            os.fsync(file.fileno())

    def orphans(self) -> list[str]:
        """Files in the spool that no row needs; only at open, when no body is about to be recorded."""
        return [name for name in os.listdir(self.directory) if name not in self.spooled]

    def is_whole(self, row: Row) -> bool:
        """Return whether the content is all there: a power cut may take a spooled file that was not forced out."""
        if row.content is None or row.content.spool is None:
            return True
        try:
            return (self.directory / row.content.spool).stat().st_size == row.change.size
        except FileNotFoundError:
            return False

    def unlink(self, names: Iterable[str]) -> None:
        """Remove files of the spool; for a thread."""
        for name in names:
            (self.directory / name).unlink(missing_ok=True)


def content_of(body: Body, seq: Seq) -> Content:
    """Return the location that a body will have once it is recorded with the change of that number."""
    return Content(seq, body.spool)


def checked(row: Row, value: bytes) -> bytes:
    """Return `value` if it is the row's content. Raises JournalError when it is not what was recorded."""
    if len(value) != row.change.size or digest(value) != row.digest:
        raise JournalError(
            f"the content of {row.change.key!r} is damaged: what the disk answers is not what was recorded"
        )
    return value
