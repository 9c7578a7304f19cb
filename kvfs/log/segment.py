"""A segment of the log: a head, then records, each with a head of its own. This is the format of the file.

Invariants:
- Every head has a sum, and every record one over its operations and one over its contents, *because* a torn write, a
  hole or a flipped bit must be told from a record that was written. A record with sound operations and a bad content
  counts all the same where another follows: it was written once, and only that content is lost (its digest says so).
- Records are numbered without a gap, across segments. A snapshot's own records are numbered from 1; its head names
  the last record of the log that it includes, so that the segment after it follows on.
- A record is its operations, then the contents that these bring: a content can be read by its offset.
"""

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final
from zlib import crc32

ID_BYTES: Final = 16
VERSION: Final = 6  # the version of the journal: its operations, their encoding, and the side table

_MAGIC: Final = b"kvfs-log"
_HEAD: Final = struct.Struct(
    f"<8sII{ID_BYTES}sQ"
)  # magic, version, is a snapshot, the journal's id, last record
_RECORD: Final = struct.Struct("<QIQII")  # number, bytes of operations and of contents, sums of these
_SUM: Final = struct.Struct("<I")  # the checksum of the head before it
SEGMENT_HEAD: Final = _HEAD.size + _SUM.size
RECORD_HEAD: Final = _RECORD.size + _SUM.size
_CHUNK: Final = 1024 * 1024


def _is_whole(head: bytes) -> bool:
    return head[-_SUM.size :] == _SUM.pack(crc32(head[: -_SUM.size]))


@dataclass(frozen=True, slots=True)
class Head:
    """The header of a segment; `last` is the number of the last record before it, or included in it."""

    identity: bytes
    last: int
    is_snapshot: bool
    version: int = VERSION

    def encode(self) -> bytes:
        """Encode the header for the beginning of the file."""
        head = _HEAD.pack(_MAGIC, self.version, self.is_snapshot, self.identity, self.last)
        return head + _SUM.pack(crc32(head))


def record_head(number: int, operations: bytes, contents: list[bytes]) -> bytes:
    """Return the head of a record."""
    total = size = 0
    for content in contents:
        total = crc32(content, total)
        size += len(content)
    head = _RECORD.pack(number, len(operations), size, crc32(operations), total)
    return head + _SUM.pack(crc32(head))


def read_head(path: Path) -> Head | None:
    """Return the head of a segment, None when it is cut or damaged; a whole one of another file has no identity."""
    with path.open("rb") as file:
        return _decoded(file.read(SEGMENT_HEAD))


def _decoded(data: bytes) -> Head | None:
    if len(data) < SEGMENT_HEAD or not _is_whole(data):
        return None
    magic, version, is_snapshot, identity, last = _HEAD.unpack_from(data)
    return Head(identity if magic == _MAGIC else b"", last, bool(is_snapshot), version)


# names


def segment_path(path: Path, number: int) -> Path:
    """Return the path of a segment of the journal at `path`."""
    return path.with_name(f"{path.name}-log.{number}")


def number_of(segment: Path) -> int:
    """Return the number in a name that `segment_path` made."""
    return int(segment.suffix[1:])


def segments_of(path: Path) -> list[Path]:
    """Return the segments of the journal at `path`, oldest first."""
    name = re.compile(re.escape(f"{path.name}-log.") + "[0-9]+")
    return sorted((file for file in path.parent.iterdir() if name.fullmatch(file.name)), key=number_of)


# reading


@dataclass(frozen=True, slots=True)
class Damage:
    """The point where a segment cannot be read on; with `is_cut` an append that never returned left it so."""

    at: int
    is_cut: bool


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it is in a segment: `contents` is the offset of the first content."""

    number: int
    operations: bytes
    contents: int


class SegmentReading:
    """The records of one segment, in order; when they are all read, `damage` says why there were no more.

    `is_last` is true if no segment follows it.
    """

    def __init__(self, path: Path, *, is_last: bool = True) -> None:
        self.path = path
        self.head = read_head(path)
        self.damage: Damage | None = None
        self._may_be_torn = is_last and self.head is not None and not self.head.is_snapshot

    def __iter__(self) -> Iterator[Record]:
        with self.path.open("rb", buffering=_CHUNK) as file:
            size = os.fstat(file.fileno()).st_size
            if self.head is None:
                self.damage = self._end(file, 0, is_cut=size < SEGMENT_HEAD)
                return
            at, held = file.seek(SEGMENT_HEAD), None
            while at < size:
                found = self._record(file, at, size)
                if isinstance(found, Damage):
                    self.damage = found
                    break
                record, is_sound, end = found
                if held is not None:
                    yield held
                held = None
                if is_sound:
                    yield record
                else:
                    held, bad = record, at
                at = end
            if held is not None and not self._may_be_torn:
                yield held
            elif held is not None:
                self.damage = self._end(file, bad, is_cut=False)

    def _record(self, file: BinaryIO, at: int, size: int) -> tuple[Record, bool, int] | Damage:
        """Return the record at an offset, whether its contents are sound, and where it ends."""
        head = file.read(RECORD_HEAD)
        if len(head) < RECORD_HEAD or not _is_whole(head):
            return self._end(file, at, is_cut=len(head) < RECORD_HEAD)
        number, length, rest, expected, sound = _RECORD.unpack_from(head)
        start = at + RECORD_HEAD + length
        end = start + rest
        payload = file.read(length + rest) if end <= size else b""
        if end > size or crc32(payload[:length]) != expected:
            return self._end(file, at, is_cut=end > size)
        contents = memoryview(payload)[length:]
        return Record(number, payload[:length], start), crc32(contents) == sound, end

    @staticmethod
    def _end(file: BinaryIO, at: int, *, is_cut: bool) -> Damage:
        """Judge the end of a segment: zeros are the rest of records that a power cut found not forced out."""
        file.seek(at)
        while not is_cut and (piece := file.read(_CHUNK)):
            if any(piece):
                return Damage(at, is_cut=False)
        return Damage(at, is_cut=True)
