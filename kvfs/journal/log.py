"""The redo log: what was committed and need not be in the tables yet, in files beside the journal.

A commit is one record at the end of one file, and costs one system call; SQLite's own costs twenty. Records are
numbered, across files, and the tables say up to which number they have them: a power cut may leave either ahead of
the other. A file goes only when the tables, forced to the disk, have all of it. Layout: a head, then records, each
with a head of its own; every head says by a sum that it is whole.
"""

import logging
import os
import re
import struct
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zlib import crc32

from kvfs.core.errors import JournalFullError
from kvfs.journal.disk import sync_directory, sync_file
from kvfs.journal.schema import ID_BYTES

ROTATE_BYTES: Final = 8 * 1024 * 1024  # a file of this size is the last's successor's turn

_MAGIC: Final = b"kvfsredo"
_HEAD: Final = struct.Struct(f"<8sI{ID_BYTES}s")  # magic, version of the journal's tables, the journal's id
_RECORD: Final = struct.Struct("<QII")  # number, bytes of the payload, their sum
_SUM: Final = struct.Struct("<I")  # of the head before it
_RECORD_HEAD: Final = _RECORD.size + _SUM.size

log = logging.getLogger("kvfs.journal")


def _with_sum(head: bytes) -> bytes:
    return head + _SUM.pack(crc32(head))


def _is_whole(head: bytes) -> bool:
    return head[-_SUM.size :] == _SUM.pack(crc32(head[: -_SUM.size]))


def files_of(path: Path) -> list[Path]:
    """The redo log of the journal at `path`, oldest file first."""
    name = re.compile(re.escape(path.name) + r"-redo\.([0-9]+)")
    found = [(int(match[1]), file) for file in path.parent.iterdir() if (match := name.fullmatch(file.name))]
    return [file for _, file in sorted(found)]


def stranger(path: Path, identity: bytes, version: int) -> str | None:
    """Why a file of the log cannot be replayed into the journal of that id and version; None: all can be."""
    for file in files_of(path):
        with file.open("rb") as opened:
            head = opened.read(_HEAD.size + _SUM.size)
        if len(head) < _HEAD.size + _SUM.size or not _is_whole(head):
            continue  # nothing in it can be read: see `Damage`
        magic, made_by, owner = _HEAD.unpack(head[: _HEAD.size])
        if magic != _MAGIC or owner != identity:
            return f"{file.name} beside it is of another journal"
        if made_by != version:
            return f"{file.name} beside it was written by another kvfs (version {made_by}, not {version})"
    return None


class RedoLog:
    """Appends to the newest file. All but `sync` and `remove` are the loop's.

    Invariant: the newest file ends after the record `last`, or `_is_torn`.
    """

    def __init__(self, path: Path, identity: bytes, version: int, last: int = 0) -> None:
        """`last`: the number of the last record that the tables have."""
        self._path = path
        self.last = last
        self._head = _with_sum(_HEAD.pack(_MAGIC, version, identity))
        self._number = max((int(file.suffix[1:]) for file in files_of(path)), default=0)
        self._descriptor = -1
        self._current: Path | None = None
        self._is_torn = False
        self._made = 0  # files so far
        self._named = 0  # of them, those whose names are on the disk
        self.size = 0
        self._full: deque[tuple[int, Path]] = deque()  # before it, oldest first: with their last records
        self.retired: list[Path] = []  # in the tables to the last record; to be removed

    def append(self, payload: bytes) -> None:
        """One record. Raises JournalFullError: then it is not there."""
        try:
            if self._descriptor < 0:
                self._begin()
            if self._is_torn:
                self._cut()
            head = _RECORD.pack(self.last + 1, len(payload), crc32(payload))
            self._write(head + _SUM.pack(crc32(head)), payload)
            self.last += 1
        except OSError as exc:
            raise JournalFullError(
                f"the journal {self._path} cannot be written ({exc}); make room and try again"
            ) from exc

    def _begin(self) -> None:
        self._number += 1
        self._current = self._path.with_name(f"{self._path.name}-redo.{self._number}")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self._current, flags, 0o600)
        self.size = 0
        self._made += 1
        self._write(self._head)

    def _write(self, head: bytes, payload: bytes = b"") -> None:
        wanted = len(head) + len(payload)
        self._is_torn = True
        written = os.writev(self._descriptor, (head, payload))
        while written < wanted:  # the disk is full, or the record is longer than a call takes: 2 GiB
            rest = memoryview(head + payload)[written:]
            if not (more := os.writev(self._descriptor, [rest])):
                raise OSError(f"only {written:,} of {wanted:,} bytes were taken")
            written += more
        self._is_torn = False
        self.size += wanted

    def _cut(self) -> None:
        """What an append that failed may have left behind the last record goes."""
        os.ftruncate(self._descriptor, self.size)
        self._is_torn = False
        if not self.size:
            self._write(self._head)

    def rotate(self) -> bool:
        """The next record begins a new file, unless what an append left behind has to be cut off first."""
        if self._current is None or self._is_torn:
            return False
        self._full.append((self.last, self._current))
        self.close()
        return True

    def applied(self, number: int) -> None:
        """The tables have the records up to that number: of the files that are full, those that end there go."""
        while self._full and self._full[0][0] <= number:
            self.retired.append(self._full.popleft()[1])

    def close(self) -> None:
        """Let go of the newest file."""
        if self._descriptor >= 0:
            with suppress(OSError):  # a write that failed was told by the write
                os.close(self._descriptor)
        self._descriptor, self._current, self.size, self._is_torn = -1, None, 0, False

    # in threads

    def sync(self) -> None:
        """Force every record to the disk that was appended before the call. Raises OSError."""
        made = self._made
        for file in files_of(self._path):
            sync_file(file)  # one that is gone by now is in the tables, on the disk
        if self._named < made:
            sync_directory(self._path.parent)
            self._named = max(self._named, made)

    @staticmethod
    def remove(files: Iterable[Path]) -> None:
        """The tables, on the disk, have all that is in these, the oldest first. Raises OSError."""
        for file in files:
            file.unlink(missing_ok=True)


# reading


@dataclass(frozen=True, slots=True)
class Damage:
    """Where reading a file ended before its end; `is_cut`: by what an append that never returned leaves."""

    at: int
    is_cut: bool


class Reading:
    """The records of one file after the number `last`; when they are all read, `damage` says why there were no more.

    Of those up to `last` only the heads count: the tables have them.
    """

    def __init__(self, file: Path, last: int = 0) -> None:
        self._data = file.read_bytes()
        self._last = last
        self.damage: Damage | None = None

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        data, at = self._data, _HEAD.size + _SUM.size
        if len(data) < at or not _is_whole(data[:at]):
            self.damage = self._end(0, is_cut=len(data) < at)
            return
        while at < len(data):
            start = at + _RECORD_HEAD
            head = data[at:start]
            if len(head) < _RECORD_HEAD or not _is_whole(head):
                self.damage = self._end(at, is_cut=len(head) < _RECORD_HEAD)
                return
            number, length, expected = _RECORD.unpack_from(head)
            payload = data[start : start + length]
            if number > self._last:
                if len(payload) < length or crc32(payload) != expected:
                    self.damage = self._end(at, is_cut=len(payload) < length)
                    return
                yield number, payload
            at = start + length

    def _end(self, at: int, *, is_cut: bool) -> Damage:
        """Zeros are what a power cut leaves of what was never forced out."""
        return Damage(at, is_cut or not any(memoryview(self._data)[at:]))


class Leftover:
    """The log that the last run left: its records, and what becomes of its files.

    `last`: the number of the last record that was read, or that the tables had.
    """

    def __init__(self, path: Path, last: int) -> None:
        self._path = path
        self.last = last
        self.files = files_of(path)
        self._unread: list[Path] = []
        self._why = ""

    def records(self) -> Iterator[bytes]:
        """Those that the tables lack, in order, as far as they can be read.

        A gap between two numbers is an end, too: what follows stands on what is missing.
        """
        for index, file in enumerate(self.files):
            reading = Reading(file, self.last)
            for number, payload in reading:
                if number != self.last + 1:
                    self._keep(
                        self.files[index:], f"{self.last + 1} to {number - 1} are missing before {file.name}"
                    )
                    return
                self.last = number
                yield payload
            if reading.damage is not None and not reading.damage.is_cut:
                self._keep([file], f"some, from byte {reading.damage.at} of {file.name} on, cannot be read")

    def _keep(self, files: list[Path], why: str) -> None:
        self._unread += [file for file in files if file not in self._unread]
        self._why = self._why or why

    def put_away(self) -> None:
        """The tables, on the disk, have what could be read. Raises OSError.

        What could not, and may have been promised, is kept under another name.
        """
        suffix = f".damaged-{time.time_ns()}"
        for file in self.files:
            if file in self._unread:
                file.rename(f"{file}{suffix}")
            else:
                file.unlink()
        sync_directory(self._path.parent)
        if self._unread:
            log.error(
                "the log of the journal is damaged: of its records %s; the rest is kept with the ending %s",
                *(self._why, suffix),
            )
