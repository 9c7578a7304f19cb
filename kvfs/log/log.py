"""The log: every change in the order of its making, appended to numbered segments (see `segment`).

Invariants:
- A record is in the log as soon as `append` returned, and survives `kill -9`; it survives a power cut after `sync`.
  When `append` raises, the log says what it said before.
- Memory changes only after `append` returned, *because* then nothing ever has to be rolled back.
- A segment whose sync failed is never trusted again, *because* the kernel reports a lost write once and then takes the
  page for clean: a later sync may succeed over a hole. `is_doubtful` stays until a snapshot, forced out, has taken the
  place of that segment and of all before it; until then nothing is told to be durable.
- Segments are removed only when such a snapshot has taken their place.
"""

import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from kvfs.core.errors import JournalError
from kvfs.log.disk import is_full, not_forced, refusal, sync_directory
from kvfs.log.reserve import Reserve
from kvfs.log.segment import Head, number_of, record_head, segment_path

_PARTS = 512  # contents of a record that are written as they are: a call takes 1,024 pieces


class Segment:
    """An open segment; the next record goes to offset `size`."""

    __slots__ = ("descriptor", "is_full", "is_synced", "number", "path", "size")

    def __init__(self, path: Path, flags: int = 0) -> None:
        self.path = path
        self.number = number_of(path)
        self.descriptor = os.open(path, flags | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self.size = os.fstat(self.descriptor).st_size
        self.is_full = not flags  # no record goes into it any more
        self.is_synced = False  # it is full, and on the disk


class Log:
    """Appends to the newest segment, reads from all. Methods not said to be for threads are the loop's."""

    def __init__(self, path: Path, identity: bytes, reserve: Reserve) -> None:
        self.path = path
        self.identity = identity
        self.reserve = reserve
        self.give_way: Callable[[], bool] = lambda: (
            False
        )  # make room on a full disk; False: there is none to be had
        self.last = 0  # the number of the newest record
        self._segments: dict[int, Segment] = {}
        self._current: Segment | None = None
        self._is_torn = False  # the newest segment has something behind its last record
        self._number = 0  # the number of the newest segment there may be
        self._doubtful = 0  # the newest segment whose sync failed, and so all before it
        self._has_new_names = False
        self._guard = threading.Lock()  # segments are forced out and closed by threads

    def adopt(self, segments: Iterable[Path], last: int) -> None:
        """Take the segments that were read at the open; the next record goes into a new one."""
        for path in segments:
            segment = Segment(path)
            self._segments[segment.number] = segment
            self._number = max(self._number, segment.number)
        self.last = last

    @property
    def size(self) -> int:
        """Return the bytes of all segments."""
        return sum(segment.size for segment in list(self._segments.values()))

    # appending

    def append(
        self, operations: bytes, contents: list[bytes], *, changes: int = 0, may_use_reserve: bool = False
    ) -> tuple[int, int]:
        """Append one record; return the segment and the offset of its first content.

        Raises JournalError, with nothing changed.

        `changes` is how many there are, for which the reserve must have room. A record that `may_use_reserve` goes
        into that room when the disk has no other.
        """
        while True:
            try:
                if changes > self.reserve.enough_for and not may_use_reserve:
                    self.reserve.ensure(changes)
                return self._append(operations, contents)
            except OSError as exc:
                size = len(operations) + sum(map(len, contents))
                if is_full(exc) and ((may_use_reserve and self.reserve.give(size)) or self.give_way()):
                    continue
                self.reserve.is_short = self.reserve.is_short or is_full(exc)
                raise refusal(exc, f"the journal {self.path} cannot be written") from exc

    def _append(self, operations: bytes, contents: list[bytes]) -> tuple[int, int]:
        if self._is_torn:
            self._cut()
        segment = self._current or self._begin()
        head = record_head(self.last + 1, operations, contents)
        start = segment.size
        self._write(segment, [head, operations, *contents])
        self.last += 1
        return segment.number, start + len(head) + len(operations)

    def _begin(self) -> Segment:
        self._number += 1
        segment = Segment(segment_path(self.path, self._number), os.O_CREAT | os.O_EXCL)
        try:
            self._write(segment, [Head(self.identity, self.last, is_snapshot=False).encode()])
        except OSError:
            self._is_torn = False
            os.close(segment.descriptor)
            segment.path.unlink(missing_ok=True)
            raise
        self._segments[segment.number] = self._current = segment
        self._has_new_names = True
        return segment

    def _write(self, segment: Segment, parts: list[bytes]) -> None:
        if len(parts) > _PARTS:
            parts = [b"".join(parts)]
        wanted = sum(map(len, parts))
        self._is_torn = True
        written = os.writev(segment.descriptor, parts)
        while written < wanted:  # the disk is full, or the record is longer than a call takes: 2 GiB
            rest = memoryview(b"".join(parts))[written:]
            if not (more := os.writev(segment.descriptor, [rest])):
                raise OSError(f"only {written:,} of {wanted:,} bytes were taken")
            written += more
        self._is_torn = False
        segment.size += wanted

    def _cut(self) -> None:
        """Cut off the rest of a failed append; if that fails, begin a new segment, which reads alike."""
        assert self._current is not None
        segment, self._is_torn = self._current, False
        try:
            os.ftruncate(segment.descriptor, segment.size)
        except OSError:
            self._leave()

    def _leave(self) -> None:
        """Leave the segment: the next record begins a new one."""
        if self._current is not None:
            self._current.is_full = True
        self._current, self._is_torn = None, False

    def roll(self) -> int:
        """Begin a new segment with the next record; return a number between those before and the new one."""
        self._leave()
        self._number += 1
        return self._number

    # reading

    def read(self, segment: int, offset: int, size: int) -> bytes:
        """Return the bytes of a content; for threads, too. Raises JournalError."""
        try:
            data = os.pread(self._segments[segment].descriptor, size, offset)
        except (OSError, KeyError) as exc:
            raise JournalError(f"a content of the journal {self.path} cannot be read: {exc}") from exc
        return data

    # to the disk: in threads

    @property
    def is_doubtful(self) -> bool:
        """True if a sync failed, and no snapshot has replaced the records that it may have lost."""
        return self._doubtful > 0

    def sync(self) -> None:
        """Force every record to the disk that was appended before the call. Raises OSError, see `is_doubtful`."""
        with self._guard:
            if self._doubtful:
                raise not_forced("a sync of the log failed before, and no copy of it is on the disk yet")
            try:
                for segment in list(self._segments.values()):
                    is_full = segment.is_full  # before the sync: the loop appends meanwhile
                    if not segment.is_synced:
                        os.fdatasync(segment.descriptor)
                        segment.is_synced = is_full
                if self._has_new_names:
                    self._has_new_names = False
                    sync_directory(self.path.parent)
            except OSError:
                self._has_new_names, self._doubtful = True, self._number
                raise

    def replace(self, snapshot: Path) -> None:
        """Note that a snapshot, on the disk, says what the segments before it say: they are not doubtful any more."""
        with self._guard:
            segment = Segment(snapshot)
            segment.is_synced = True
            self._segments[segment.number] = segment
            if self._doubtful <= segment.number:
                self._doubtful = 0

    def retire(self, before: int) -> None:
        """Remove the segments before that one, oldest first: nothing names their contents. Raises OSError."""
        with self._guard:
            for number in sorted(number for number in self._segments if number < before):
                segment = self._segments[number]
                segment.path.unlink(missing_ok=True)
                os.close(segment.descriptor)
                del self._segments[number]

    def close(self) -> None:
        """Close the segments."""
        self._current = None
        for segment in self._segments.values():
            with suppress(OSError):  # a write that failed was told by the write
                os.close(segment.descriptor)
        self._segments.clear()
