"""The history on the disk: segments, newest last. Its methods are for threads, one at a time.

Bounds are kept by removing the oldest segment, *because* that needs no room: history is what gives way first when the
disk fills up.
"""

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kvfs.core.model import How
from kvfs.history.allowance import Bounds
from kvfs.history.version import LARGE, NO_ROOM, OWN_FILE, SAME_CONTENT, UNREADABLE, Version, VersionBatch
from kvfs.history.version_segment import VersionSegment, segments

INLINE_BYTES: Final = 128 * 1024  # a larger content has a file of its own
INCOMING: Final = "incoming"
_SHARE: Final = 16  # of the bounds: what a segment may have, so that trimming takes no more than that
_LEAST_BYTES: Final = 4096
_MOST_FREE: Final = 1024**3  # bytes of the disk that history leaves free, or a tenth of it
_FREE_SHARE: Final = 10

VersionContent = bytes | Path | None
"""The content of a version: bytes in memory, a file in `incoming`, or None for no content."""

log = logging.getLogger("kvfs.history")


@dataclass(frozen=True, slots=True)
class HistoryTotals:
    """Versions, those with a content, bytes on the disk, the moment of the oldest (epoch seconds, None: none)."""

    versions: int
    kept: int
    bytes: int
    oldest: float | None


class Shelf:
    """Writes batches, and trims. `lost` are the versions that the disk had no room for."""

    def __init__(self, directory: Path, bounds: Bounds, digest: Callable[[bytes], bytes]) -> None:
        self.directory = directory
        self.lost = 0
        self._bounds = bounds
        self._digest = digest
        self._share = max(_LEAST_BYTES, bounds.bytes // _SHARE)
        self._segments: list[VersionSegment] = []
        self._current: VersionSegment | None = None
        self._lock = threading.Lock()  # `give_way` is the loop's

    def open(self, now: float) -> None:
        """Read the segments that are there. Raises OSError."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.rmtree(self.directory / INCOMING, ignore_errors=True)  # left by a daemon that was killed
        (self.directory / INCOMING).mkdir(mode=0o700)
        self._segments = segments(self.directory)
        self._measure()
        self._trim(now)

    def _measure(self) -> None:
        seen: set[int] = set()
        for segment in self._segments:
            segment.measure(seen)

    @property
    def size(self) -> int:
        """Return the bytes of all segments."""
        return sum(segment.bytes for segment in self._segments)

    @property
    def most_bytes(self) -> int:
        """Return the bytes that all segments may have."""
        return self._bounds.bytes

    def totals(self) -> HistoryTotals:
        """Return the totals. Another thread may write meanwhile: then they may be a moment old."""
        summaries = [one.summary for one in list(self._segments) if one.summary.count]
        oldest = min((summary.oldest for summary in summaries), default=None)
        count, kept = sum(one.count for one in summaries), sum(one.kept for one in summaries)
        return HistoryTotals(count, kept, self.size, oldest)

    # writing

    def add(self, noted: list[tuple[Version, VersionContent]], titles: Mapping[str, str], now: float) -> None:
        """Write versions; `now` is epoch seconds. Versions that the disk does not take are lost, and counted."""
        with self._lock:
            for some in self._shares(noted):
                try:
                    self._try_to_add(some, titles, now)
                except OSError as exc:
                    if not self.lost:
                        log.warning("what is replaced or deleted is not kept: %s (kvfs history)", exc)
                    self.lost += len(some)
                finally:
                    for _, content in some:
                        if isinstance(content, Path):
                            content.unlink(missing_ok=True)
                self._trim(now)

    def _shares(
        self, noted: list[tuple[Version, VersionContent]]
    ) -> Iterator[list[tuple[Version, VersionContent]]]:
        """Split versions into groups of at most a segment, because trimming removes whole segments."""
        some: list[tuple[Version, VersionContent]] = []
        size = 0
        for version, content in noted:
            more = len(content) if isinstance(content, bytes) else version.size if content is not None else 0
            if some and size + more > self._share:
                yield some
                some, size = [], 0
            some.append((version, content))
            size += more
        yield some

    def _try_to_add(
        self, noted: list[tuple[Version, VersionContent]], titles: Mapping[str, str], now: float
    ) -> None:
        if not self._has_room():
            raise OSError(NO_ROOM)
        try:
            self._add(noted, titles, now)
        except OSError:
            if not self._drop_oldest():
                raise
            self._add(noted, titles, now)

    def _add(
        self, noted: list[tuple[Version, VersionContent]], titles: Mapping[str, str], now: float
    ) -> None:
        segment = self._writable(now)
        contents: dict[bytes, bytes] = {}
        offsets: dict[bytes, int] = {}
        size = 0
        for version, content in noted:
            if content is None:
                continue
            value = content if isinstance(content, bytes) else None
            version.size = len(value) if value is not None else version.size
            if version.size > self._bounds.bytes:
                version.why = LARGE
                continue
            is_compared = not version.digest
            if is_compared:
                version.digest = self._digest(content if isinstance(content, bytes) else content.read_bytes())
            if version.how is How.ATTRIBUTES:
                version.offset = SAME_CONTENT
                continue
            offset = offsets.get(version.digest)
            if offset is None:
                offset = segment.holds(version.digest)
            if (
                offset is None
                and value is not None
                and not is_compared
                and self._digest(value) != version.digest
            ):
                version.why = UNREADABLE  # because nobody compared what the journal's log answered
                continue
            if offset is None and value is not None and len(value) <= INLINE_BYTES:
                offset = offsets[version.digest] = segment.offset_after(size)
                contents[version.digest] = value
                size += len(value)
            elif offset is None:
                self._add_large(segment, version.digest, content)
                offset = OWN_FILE
            version.offset = offset
        batch = VersionBatch(dict(titles), [version for version, _ in noted])
        segment.append(batch, list(contents.items()))

    def _add_large(self, segment: VersionSegment, digest: bytes, content: bytes | Path) -> None:
        if any(segment.link(other, digest) for other in reversed(self._segments) if other is not segment):
            return
        if isinstance(content, bytes):
            segment.write_file(content, digest)
        else:
            segment.take(content, digest)

    def _writable(self, now: float) -> VersionSegment:
        current, bounds = self._current, self._bounds
        if current is not None:
            is_large = current.bytes > self._share
            is_old = bool(current.summary.count) and now - current.summary.oldest > bounds.seconds / _SHARE
            if not is_large and not is_old:
                return current
            self.close()
        number = self._segments[-1].number + 1 if self._segments else 1
        segment = VersionSegment(self.directory / f"{number:08}")
        try:
            segment.begin()
        except OSError:
            segment.remove()
            raise
        self._segments.append(segment)
        self._current = segment
        return segment

    def close(self) -> None:
        """Complete the segment that is being written. The next version begins another."""
        if self._current is not None:
            self._current.close()
            self._current = None

    # bounds

    def trim(self, now: float) -> None:
        """Remove versions beyond the bounds, and as many as the disk needs."""
        with self._lock:
            self._trim(now)
            if self._segments:
                self._has_room()

    def _trim(self, now: float) -> None:
        while self._segments and self._is_beyond(self._segments[0], now):
            self._drop_oldest()

    def _is_beyond(self, oldest: VersionSegment, now: float) -> bool:
        if not oldest.summary.count:
            is_over = oldest is not self._current
        else:
            is_over = oldest.summary.newest < now - self._bounds.seconds
        return is_over or self.size > self._bounds.bytes

    def _drop_oldest(self) -> bool:
        """Drop the oldest segment; return True if there was one."""
        if not self._segments:
            return False
        oldest = self._segments.pop(0)
        if oldest is self._current:
            self._current = None
        if oldest.remove():
            self._measure()  # a shared content is the other segment's alone now
        return True

    def _has_room(self) -> bool:
        """Return whether the disk has more free than history has to leave; the oldest goes until it has."""
        while True:
            disk = os.statvfs(self.directory)
            size = disk.f_frsize
            if disk.f_bavail * size > free_needed(disk.f_blocks * size):
                return True
            if not self._drop_oldest():
                return False

    def clear(self) -> None:
        """Remove all segments."""
        with self._lock:
            while self._drop_oldest():
                pass

    def give_way(self) -> bool:
        """Make room at once, half of all versions, for a caller that needs it more.

        Return False if there is none, or a thread is writing it.

        The loop calls it.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            count = -(-len(self._segments) // 2)
            for _ in range(count):
                self._drop_oldest()
            return bool(count)
        finally:
            self._lock.release()


def free_needed(size: int) -> int:
    """Return the bytes that a disk of this size must have free, or history gives way."""
    return min(_MOST_FREE, size // _FREE_SHARE)


def clear(directory: Path) -> None:
    """Remove a history that no daemon is writing."""
    with suppress(FileNotFoundError):
        shutil.rmtree(directory)
