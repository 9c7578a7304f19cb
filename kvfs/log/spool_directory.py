"""The files of the spool: how they come to be, how often each is needed, and when they go.

Invariant: a file is complete before a record names it, and goes only after the record by which it was needed no more is
on the disk, *because* after a power cut no record may name a file that is gone.
"""

import os
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import trio

from kvfs.core.digest import Buffer
from kvfs.core.errors import JournalError
from kvfs.log.disk import sync_directory
from kvfs.log.spool import PARTIAL, Body, Stream


class SpoolDirectory:
    """The spool of one journal. `garbage` are files that are not needed, to be removed."""

    def __init__(self, directory: Path, *, durable: bool) -> None:
        self.directory = directory
        self.garbage: list[str] = []
        self.needed: dict[str, int] = {}  # file name → how often
        self.on_gone: Callable[[str], None] = lambda name: None  # the file is needed no more
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
        """Note that a spooled body left memory: unless it was recorded, its file is not needed."""
        if name not in self.needed:
            self.garbage.append(name)

    # needs that come and go

    def need(self, name: str) -> None:
        """Note that a file is needed once more."""
        self.needed[name] = self.needed.get(name, 0) + 1

    def release(self, name: str) -> None:
        """Note that a file is needed once less; the last time it becomes garbage."""
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
        """Return those that are not needed. A body may leave memory before another record of it exists."""
        return [name for name in dict.fromkeys(names) if name not in self.needed]

    # the disk

    def opened(self, name: str) -> BinaryIO:
        """Open a file to be read; it stays readable though it goes meanwhile. Raises JournalError."""
        try:
            return (self.directory / name).open("rb")
        except OSError as exc:
            raise JournalError(f"a content of the journal cannot be read: {exc}") from exc

    async def force(self, name: str, checked: Callable[[bytes], bytes]) -> None:
        """Return once a file and its name are on the disk. Raises OSError, or what `checked` raises.

        `checked` must return its content, or raise when the disk answers something else.
        """
        if not self._durable:
            await trio.to_thread.run_sync(self._force, name, checked)

    def _force(self, name: str, checked: Callable[[bytes], bytes]) -> None:
        """Force a file; one whose sync failed is written anew, because a later sync may succeed over a hole."""
        if name in self._doubtful:
            path, fresh = self.directory / name, self.directory / f"{name}{PARTIAL}"
            fresh.write_bytes(checked(path.read_bytes()))
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
        """Return files in the spool that are not needed; only at open, when no body is about to be recorded."""
        return [name for name in os.listdir(self.directory) if name not in self.needed]

    def is_whole(self, name: str, size: int) -> bool:
        """Return whether a file is all there: a power cut may take one that was not forced out."""
        try:
            return (self.directory / name).stat().st_size == size
        except FileNotFoundError:
            return False

    def unlink(self, names: Iterable[str]) -> None:
        """Remove files; for a thread."""
        for name in names:
            (self.directory / name).unlink(missing_ok=True)
