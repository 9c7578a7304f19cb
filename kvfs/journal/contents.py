"""Contents of puts: small ones in the log, large ones in files beside it (the spool).

In memory is only the small one that was staged last, *because* an fsync sends it at once.

Invariant: what is read is what was recorded. Every content is compared with its digest, *because* a disk may answer
something else, and that must not be sent as what somebody wrote.
"""

from collections.abc import Callable
from functools import partial

import trio
from msgspec import Struct

from kvfs.changes.rules import Content, Row, checked
from kvfs.core.digest import digest
from kvfs.log.log import Log
from kvfs.log.spool import Body, soon
from kvfs.log.spool_directory import SpoolDirectory


class _Reading(Struct):
    """A content that a thread is reading, or has read."""

    name: str
    done: trio.Event
    value: bytes | None = None


class Contents:
    """Reads contents, small ones from the log, large ones from `files`."""

    def __init__(self, log: Log, files: SpoolDirectory) -> None:
        self.files = files
        self._log = log
        self._reading: _Reading | None = None  # by `read_soon`, the last; until it is sent
        self._staged: Body | None = None
        files.on_gone = self._let_go

    def _let_go(self, name: str) -> None:
        if self._reading is not None and self._reading.name == name:
            self._reading = None

    def exchange(self, before: Content | None, after: Content | None) -> None:
        """Note the content that a row had, and the other that it has now; a file goes with the last row of it."""
        if after is not None and after.spool is not None:
            self.files.need(after.spool)
        if before is not None and before.spool is not None:
            self.files.release(before.spool)

    def stage(self, value: bytes) -> Body:
        """Make a body of a small content, kept in memory until it is recorded."""
        self._staged = staged = Body(len(value), digest(value), bytes(value), None)
        return staged

    async def force(self, row: Row) -> None:
        """Return once a content that is in a file is on the disk, and its name. Raises OSError, JournalError."""
        if row.content is not None and row.content.spool is not None:
            await self.files.force(row.content.spool, partial(checked, row))

    def read(self, row: Row) -> bytes:
        """Return the content of a put; from a file it may take milliseconds. Raises JournalError."""
        content = row.content
        assert content is not None
        if content.spool is None:
            return checked(row, self._log.read(content.segment, content.offset, row.size))
        with self.files.opened(content.spool) as file:
            return checked(row, file.read())

    def newest(self, row: Row) -> bytes:
        """Return the content as `read` does; that which was staged last from memory, as it was recorded."""
        staged = self._staged
        if staged is not None and staged.value is not None and staged.digest == row.digest:
            return staged.value
        return self.read(row)

    async def read_async(self, row: Row) -> bytes:
        """Return the content, a spooled one by a thread. It stays readable though the row goes meanwhile."""
        assert row.content is not None
        if row.content.spool is None:
            return self.read(row)
        with self.files.opened(row.content.spool) as file:  # before any checkpoint: the file is there now
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
        """Have a thread read a spooled content; the loop calls `then` with it, if it can be read.

        As a rule it is sent soon after: `read_async` need not read it again.
        """
        assert row.content is not None
        assert row.content.spool is not None
        file = self.files.opened(row.content.spool)

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
        self._reading = reading  # not before, or its waiters would wait for ever
