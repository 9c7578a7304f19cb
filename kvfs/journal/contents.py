"""Contents of puts: small ones in the log, large ones in files beside it (the spool).

In memory is only the small one that was staged last, *because* an fsync sends it at once.

Invariant: what is read is what was recorded. Every content is compared with its digest, *because* a disk may answer
something else, and that must not be sent as what somebody wrote.
"""

from functools import partial

from kvfs.changes.rules import Content, Row, checked
from kvfs.core.digest import digest
from kvfs.log.log import Log
from kvfs.log.spool import Body
from kvfs.log.spool_directory import SpoolDirectory


class Contents:
    """Keeps contents and reads them, small ones in the log, large ones in `files`."""

    def __init__(self, log: Log, files: SpoolDirectory) -> None:
        self.files = files
        self._log = log
        self._staged: Body | None = None

    def exchange(self, before: Content | None, after: Content | None) -> None:
        """Note the content that a row had, and the other that it has now; a file goes with the last row of it."""
        if after is not None and after.spool is not None:
            self.files.need(after.spool)
        if before is not None and before.spool is not None:
            self.files.release(before.spool)

    def stage(self, value: bytes) -> Body:
        """Make a body of a small content, kept in memory until it is recorded."""
        self._staged = staged = Body(len(value), digest(value), value, None)
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
            return checked(row, self.logged(row))
        with self.files.opened(content.spool) as file:
            return checked(row, file.read())

    def logged(self, row: Row) -> bytes:
        """Return a content that is in the log as the disk answers it: whoever keeps it must compare its digest."""
        assert row.content is not None
        return self._log.read(row.content.segment, row.content.offset, row.size)

    def newest(self, row: Row) -> bytes:
        """Return the content as `read` does; that which was staged last from memory, as it was recorded."""
        staged = self._staged
        if staged is not None and staged.value is not None and staged.digest == row.digest:
            return staged.value
        return self.read(row)
