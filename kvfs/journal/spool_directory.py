"""The files of the spool: how they come to be, which rows need them, and when they go.

Invariant: a file is complete before a row names it, and goes only after the record that took its last row away is on
the disk, *because* after a power cut no row may name a file that is gone.
"""

import os
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import trio

from kvfs.core.digest import Buffer
from kvfs.core.errors import JournalError
from kvfs.journal.disk import sync_directory
from kvfs.journal.rules import Content, Row, checked
from kvfs.journal.spool import PARTIAL, Body, Stream


class SpoolDirectory:
    """The spool of one journal. `garbage` are files that no row needs, to be removed."""

    def __init__(self, directory: Path, *, durable: bool) -> None:
        self.directory = directory
        self.garbage: list[str] = []
        self.needed: dict[str, int] = {}  # file name → rows that need it
        self.on_gone: Callable[[str], None] = lambda name: None  # no row needs the file any more
        self._durable = durable
        self._doubtful: set[str] = set()  # a sync of these failed: see `log`

    # new files

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
        """Return a spooled content whose pieces arrive one by one; `Stream.finish` then makes its body."""
        return Stream(self.directory, durable=self._durable, made=self._spooled_body)

    def _spooled_body(self, size: int, found: bytes, name: str) -> Body:
        body = Body(size, found, None, name)
        weakref.finalize(body, self._abandon, name).atexit = False
        return body

    def _abandon(self, name: str) -> None:
        """Note that a spooled body left memory: unless a row has it, its file is not needed."""
        if name not in self.needed:
            self.garbage.append(name)

    # rows that come and go

    def exchange(self, before: Content | None, after: Content | None) -> None:
        """Note the content that a row had, and the other that it has now; a file goes with the last row of it."""
        if after is not None and after.spool is not None:
            self.needed[after.spool] = self.needed.get(after.spool, 0) + 1
        if before is not None and before.spool is not None:
            self._release(before.spool)

    def _release(self, name: str) -> None:
        self.needed[name] -= 1
        if not self.needed[name]:
            del self.needed[name]
            self._doubtful.discard(name)
            self.garbage.append(name)
            self.on_gone(name)

    def take_garbage(self) -> list[str]:
        """Return the garbage so far, which is the caller's from now on."""
        garbage, self.garbage = self.garbage, []
        return self.unneeded(garbage)

    def unneeded(self, names: list[str]) -> list[str]:
        """Return the spool files that no row needs. A body may leave memory before another row of it exists."""
        return [name for name in dict.fromkeys(names) if name not in self.needed]

    # the disk

    def opened(self, name: str) -> BinaryIO:
        """Open a file to be read; it stays readable though it goes meanwhile. Raises JournalError."""
        try:
            return (self.directory / name).open("rb")
        except OSError as exc:
            raise JournalError(f"a content of the journal cannot be read: {exc}") from exc

    async def force(self, row: Row) -> None:
        """Return once a content that is in a file is on the disk, and its name. Raises OSError, JournalError."""
        content = row.content
        if content is not None and content.spool is not None and not self._durable:
            await trio.to_thread.run_sync(self._force, row, content.spool)

    def _force(self, row: Row, name: str) -> None:
        """Force a file; one whose sync failed is written anew, because a later sync may succeed over a hole."""
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
        """Return files in the spool that no row needs; only at open, when no body is about to be recorded."""
        return [name for name in os.listdir(self.directory) if name not in self.needed]

    def is_whole(self, row: Row) -> bool:
        """Return whether the content is all there: a power cut may take a spooled file that was not forced out."""
        if row.content is None or row.content.spool is None:
            return True
        try:
            return (self.directory / row.content.spool).stat().st_size == row.size
        except FileNotFoundError:
            return False

    def unlink(self, names: Iterable[str]) -> None:
        """Remove files; for a thread."""
        for name in names:
            (self.directory / name).unlink(missing_ok=True)
