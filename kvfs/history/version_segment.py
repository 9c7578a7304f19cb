"""A segment: a directory with a file of versions, one of small contents, and a file for each large content.

It holds all that its versions need, so that its removal needs nothing else; a large content that an older segment has
too is one file with two names. `summary` is written when a segment is complete, so that its figures need no reading of
the whole.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from kvfs.history.version import OWN_FILE, Version, VersionBatch, frame, frames

VERSIONS: Final = "versions"
CONTENTS: Final = "contents"
SUMMARY: Final = "summary.json"
_PIECES: Final = 512  # contents that one call of the system takes


@dataclass(slots=True)
class Summary:
    """The figures of a segment: versions, versions with a content, the moments of the first and last."""

    count: int = 0
    kept: int = 0
    oldest: float = 0.0
    newest: float = 0.0

    def add(self, version: Version) -> None:
        """Count one more."""
        self.oldest = version.at if not self.count else min(self.oldest, version.at)
        self.newest = max(self.newest, version.at)
        self.count += 1
        self.kept += version.is_kept


class VersionSegment:
    """One segment, for one thread at a time. Methods that write raise OSError and leave it as it was."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = int(path.name)  # its place in the order
        self.bytes = 0
        self.summary = Summary()
        self._contents: dict[bytes, int] = {}  # digest → offset, of those written by this process
        self._files: list[int] = []
        self._sizes = [0, 0]

    # writing

    def begin(self) -> None:
        """Make the directory and its files."""
        self.path.mkdir(mode=0o700)
        for name in (VERSIONS, CONTENTS):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            self._files.append(os.open(self.path / name, flags, 0o600))

    def holds(self, digest: bytes) -> int | None:
        """Return the location of the content with that digest, if it is in here."""
        found = self._contents.get(digest)
        if found is None and (self.path / digest.hex()).exists():
            return OWN_FILE
        return found

    def offset_after(self, pieces: int) -> int:
        """Return the offset of a content that is written after `pieces` bytes which are not written yet."""
        return self._sizes[1] + pieces

    def append(self, batch: VersionBatch, contents: list[tuple[bytes, bytes]]) -> None:
        """Write the small contents, by digest, and then the versions that name them."""
        try:
            pieces = [value for _, value in contents]
            for start in range(0, len(pieces), _PIECES):
                _write(self._files[1], pieces[start : start + _PIECES])
            _write(self._files[0], [framed := frame(batch)])
        except OSError:
            for file, size in zip(self._files, self._sizes, strict=True):
                with suppress(OSError):
                    os.ftruncate(file, size)
            raise
        offset = self._sizes[1]
        for digest, value in contents:
            self._contents[digest] = offset
            offset += len(value)
        self.bytes += offset - self._sizes[1] + len(framed)
        self._sizes = [self._sizes[0] + len(framed), offset]
        for version in batch.versions:
            self.summary.add(version)

    def take(self, file: Path, digest: bytes) -> None:
        """Make a large content that is a file of this disk one of the segment's."""
        target = self.path / digest.hex()
        self.bytes += file.stat().st_size
        file.rename(target)

    def write_file(self, value: bytes, digest: bytes) -> None:
        """Write a large content into a file."""
        target = self.path / digest.hex()
        partial = target.with_suffix(".tmp")
        try:
            with open(partial, "xb", opener=_private) as file:
                file.write(value)
            partial.rename(target)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        self.bytes += len(value)

    def link(self, other: "VersionSegment", digest: bytes) -> bool:
        """Share a large content with another segment, if that has it."""
        try:
            os.link(other.path / digest.hex(), self.path / digest.hex())
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close it: nothing more is written, and its figures are written beside it."""
        files, self._files = self._files, []
        self._contents = {}
        for file in files:
            os.close(file)
        if files:
            with suppress(OSError), open(self.path / SUMMARY, "x", opener=_private) as summary:
                json.dump(asdict(self.summary), summary)

    # reading

    def measure(self, seen: set[int]) -> None:
        """Count its bytes, without those of files in `seen`, by inode number, and its versions without a summary."""
        self.bytes = 0
        with suppress(FileNotFoundError):
            for entry in os.scandir(self.path):
                found = entry.stat()
                if found.st_ino not in seen:
                    seen.add(found.st_ino)
                    self.bytes += found.st_size
        if not self.summary.count:
            self.summary = self._summed()

    def _summed(self) -> Summary:
        try:
            return Summary(**json.loads((self.path / SUMMARY).read_bytes()))
        except (OSError, ValueError, TypeError):
            summary = Summary()
            for batch in frames(self.path / VERSIONS):
                for version in batch.versions:
                    summary.add(version)
            return summary

    def batches(self) -> Iterator[VersionBatch]:
        """Yield its versions, oldest first."""
        return frames(self.path / VERSIONS)

    def content(self, version: Version) -> bytes:
        """Return a content of one of its versions. Raises OSError when the segment is gone."""
        if version.offset == OWN_FILE:
            return (self.path / version.digest.hex()).read_bytes()
        with (self.path / CONTENTS).open("rb") as file:
            file.seek(version.offset)
            return file.read(version.size)

    def remove(self) -> bool:
        """Remove all of it; return True if a content of it has another name, in another segment or elsewhere."""
        has_shared = False
        for file in self._files:
            os.close(file)
        self._files = []
        with suppress(FileNotFoundError), os.scandir(self.path) as entries:
            has_shared = any(entry.stat().st_nlink > 1 for entry in entries)
        shutil.rmtree(self.path, ignore_errors=True)
        return has_shared


def segments(directory: Path) -> list[VersionSegment]:
    """Return the segments of a history, oldest first."""
    try:
        names = [name for name in os.listdir(directory) if name.isdecimal()]
    except FileNotFoundError:
        return []
    return [VersionSegment(directory / name) for name in sorted(names, key=int)]


def _write(file: int, pieces: list[bytes]) -> None:
    left: list[memoryview] = [memoryview(piece) for piece in pieces if piece]
    while left:
        written = os.writev(file, left)
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if written:
            left[0] = left[0][written:]


def _private(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_CLOEXEC, 0o600)
