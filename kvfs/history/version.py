"""A version: what a key was until something took its place. And the frames in which versions are on the disk.

A file of versions is a row of frames: length and sum, then a batch. Frames after a torn one do not count, and nothing
is ever appended after one, *because* every daemon begins a file of its own.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from zlib import crc32

import msgspec
from msgspec import Struct

from kvfs.core.model import How, Key, Metadata, NamespaceId

AWAY: Final = "the value was not on this machine"
RENAMED: Final = "it has another name"
BUSY: Final = "too much was replaced at once"
LARGE: Final = "it is larger than the whole history may be"
UNREADABLE: Final = "it could not be read from this disk"
NO_ROOM: Final = "the disk of the state directory is nearly full"

UNKNOWN_SIZE: Final = -1
OWN_FILE: Final = -1
SAME_CONTENT: Final = -2

_FRAME: Final = struct.Struct("<II")
_MOST: Final = 64 * 1024 * 1024  # bytes of a frame: a longer one was never written


class Version(Struct, array_like=True, gc=False):
    """A key until `at` (epoch seconds), when `how` took its place; `other` is the other name of a rename.

    `size` is -1 where it is not known. Where the content is not kept, `why` says the reason. `offset` is where a small
    content begins in the segment's file of contents; -1: it has a file of its own; -2: it is that of the next version,
    or of the key now, because only the attributes changed. `since` is when this machine recorded the value, None for
    one that it read: then it was last told by the store at `known_at`. `mode` and `mtime_ns` are those that this
    machine kept beside. New fields go to the end and have a default.
    """

    at: float
    namespace: NamespaceId
    key: Key
    how: How
    other: Key = Key("")
    size: int = -1
    digest: bytes = b""
    metadata: Metadata | None = None
    expiration: int | None = None
    since: float | None = None
    known_at: float | None = None
    mode: int | None = None
    mtime_ns: int | None = None
    why: str = ""
    offset: int = OWN_FILE

    @property
    def is_kept(self) -> bool:
        """True if there is a content to restore."""
        return not self.why


class VersionBatch(Struct, array_like=True, gc=False):
    """Versions that were written together, oldest first, and the directory names of their namespaces."""

    titles: dict[str, str]
    versions: list[Version]


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(VersionBatch).decode


def frame(batch: VersionBatch) -> bytes:
    """Return a batch as it is on the disk."""
    payload = _encode(batch)
    return _FRAME.pack(len(payload), crc32(payload)) + payload


def frames(path: Path) -> Iterator[VersionBatch]:
    """Return the batches of a file, up to the first frame that is not whole; none of a file that is gone."""
    try:
        file = path.open("rb")
    except OSError:
        return
    with file:
        while len(head := file.read(_FRAME.size)) == _FRAME.size:
            length, total = _FRAME.unpack(head)
            payload = file.read(length) if length <= _MOST else b""
            if len(payload) != length or crc32(payload) != total:
                return
            try:
                yield _decode(payload)
            except msgspec.MsgspecError:  # written by a newer kvfs
                return
