"""The reserve: room on the disk for the records of sending, held by a file beside the log that contains nothing.

Invariants:
- A change is recorded only while the reserve holds `BASE` and `CHANGE_BYTES` for each change there is, *because* then
  its way to the store (attempted, acknowledged, settled) can be recorded on a disk that takes not a byte more.
- Only records about the progress of a change take from it, and those that remove one that was never sent, with the
  directory that stays. The file gets shorter only by as much as they need, *because* other programs may take free
  room before we do.
- It is built again as soon as there is room, before anything new is recorded.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from kvfs.log.disk import is_full, no_room

BASE: Final = 512 * 1024  # a small snapshot, SQLite's side files, records of conflicts and refusals
CHANGE_BYTES: Final = 144  # three records of one change each
OPENING: Final = 128 * 1024  # bytes that SQLite's side files need for a journal to be opened
STARTING: Final = (
    32 * 1024
)  # bytes that a mount writes beside the journal: its record, and the names of the source
LEAST: Final = 64 * 1024  # stays set aside while the rest is lent
_STEP: Final = 64 * 1024
_BLOCK: Final = 4096
_ENDLESS: Final = 1 << 62


class Reserve:
    """The reserve of one journal; the loop's. `enough_for` is the number of changes that it has room for.

    `is_short`: the disk was full, and the reserve is not whole yet.
    """

    def __init__(self, journal: Path) -> None:
        self.path = journal.with_name(f"{journal.name}-reserve")
        self.size = 0
        self.enough_for = -1
        self.is_short = False
        self._descriptor = -1
        self._is_lent = False
        with suppress(FileNotFoundError):
            self._open(0)

    def _open(self, flags: int = os.O_CREAT) -> None:
        self._descriptor = os.open(self.path, flags | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._look()

    def _look(self) -> None:
        """Look at the file's size, because a mount that is being started takes from it, too."""
        self._has(os.fstat(self._descriptor).st_size)

    def _has(self, size: int) -> None:
        self.size = size
        self.enough_for = (size - BASE) // CHANGE_BYTES

    def ensure(self, changes: int) -> None:
        """Set the room for so many changes aside. Raises OSError when the disk is full."""
        if self.enough_for >= changes:
            return
        wanted = BASE + CHANGE_BYTES * changes
        try:
            if self._is_lent:
                raise no_room()
            if self._descriptor < 0:
                self._open()
            try:
                self._grow(wanted + _STEP)
            except OSError:
                self._grow(wanted)
        except OSError as exc:
            self.is_short = self.is_short or is_full(exc)
            raise
        self.is_short = False

    def _grow(self, size: int) -> None:
        """Make the file longer, or raise OSError with the file unchanged."""
        self._look()
        if size <= self.size:
            return
        try:
            os.posix_fallocate(self._descriptor, self.size, size - self.size)
        except OSError:
            os.ftruncate(self._descriptor, self.size)
            raise
        self._has(size)

    def refill(self, changes: int) -> None:
        """Set aside as much of the room for so many changes as the disk has; a full disk is no error here."""
        if self._is_lent:
            return
        wanted, piece = BASE + CHANGE_BYTES * changes, _ENDLESS
        try:
            if self._descriptor < 0:
                self._open()
            while self.size < wanted and piece >= _BLOCK:
                piece = min(piece, wanted - self.size)
                try:
                    self._grow(self.size + piece)
                except OSError:
                    piece //= 2
            if self.size > 2 * wanted + _STEP:
                self._shrink(self.size - wanted)
        except OSError:  # the disk has no room for its name
            pass
        self.is_short = self.size < wanted

    def give(self, size: int) -> bool:
        """Free so many bytes more on the disk, or all there are; return False if there is nothing left to give."""
        self.is_short = True
        if self.size == 0:
            return False
        self._shrink(-(-size // _BLOCK) * _BLOCK)
        return True

    def _shrink(self, size: int) -> None:
        self._look()
        left = max(0, self.size - size)
        os.ftruncate(self._descriptor, left)
        self._has(left)

    @contextmanager
    def lent(self, changes: int) -> Iterator[None]:
        """Lend nearly all of it for work that makes room; nothing new is recorded meanwhile."""
        self._is_lent = True
        try:
            self.give(max(0, self.size - LEAST))
            yield
        finally:
            self._is_lent = False
            self.refill(changes)

    def could_hold(self, size: int) -> bool:
        """Return whether a file of that size would fit if the reserve were lent."""
        return _free(self.path.parent) + self.size - LEAST > size

    def make_way(self, size: int) -> None:
        """Give as much as is lacking of that much free room."""
        lacking = size - _free(self.path.parent)
        if lacking > 0:
            self.give(lacking)

    def close(self) -> None:
        """Close the file, which keeps its room."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def make_way(journal: Path, size: int) -> None:
    """Do `Reserve.make_way` for a journal that a mount has not opened yet, for the files it writes before."""
    reserve = Reserve(journal)
    with suppress(FileNotFoundError):  # a sweep has removed the directory: opening the journal makes it anew
        reserve.make_way(size)
    reserve.close()


def _free(directory: Path) -> int:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize
