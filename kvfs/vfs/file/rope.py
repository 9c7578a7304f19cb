"""The bytes of an open file while they change: what is appended in large pieces is not copied until it must be.

A file written from its start to its end, as most are, is never more than its pieces: joined once, when it is
closed. Everything else happens in one buffer.
"""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from kvfs.core import content
from kvfs.log.spool import Stream

PIECE: Final = 32 * 1024  # bytes: smaller ones are cheaper copied than kept
STREAM_BYTES: Final = 512 * 1024  # a content that grew to this from nothing goes to the disk as it grows


class Rope(Struct, eq=False):
    """A content of at most VALUE_BYTES. `len()` is its size; `of` makes one.

    Invariant: the content is `_base` and then `_tail`; `stream`, if there is one, was fed exactly that.
    """

    _base: bytes | bytearray = b""
    _size: int = 0
    _open_stream: Callable[[], Stream] | None = None
    _tail: list[bytes] = []  # each has its own: so it is with structs
    stream: Stream | None = None
    changed: bool = False  # by anybody since it was made

    @staticmethod
    def of(value: bytes = b"", open_stream: Callable[[], Stream] | None = None) -> "Rope":
        """Return a content that nobody has changed yet."""
        return Rope(value, len(value), open_stream)

    def __len__(self) -> int:
        return self._size

    def read(self, offset: int, size: int) -> bytes | memoryview:
        """Return at most `size` bytes from `offset`; a view where nobody can change what it shows."""
        if self._tail:
            self._flatten()
        if isinstance(self._base, bytes):
            return memoryview(self._base)[offset : offset + size]
        return content.read_at(self._base, offset, size)

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes there; a hole before them reads as zeros. Raises `FileTooBigError`, unchanged then."""
        size = self._size
        content.check_size(offset + len(data))
        if offset == size and isinstance(data, bytes) and (len(data) >= PIECE or not size):
            self._append(data)
            return
        if offset != size:
            self._abandon()
        elif self.stream is not None:
            self.stream.feed(bytes(data))
        buffer = self._buffer()
        content.splice(buffer, offset, data)
        self._size = len(buffer)

    def _append(self, data: bytes) -> None:
        self.changed = True
        if not data:
            return
        self._tail.append(data)
        self._size += len(data)
        if self.stream is not None:
            self.stream.feed(data)
        elif self._size >= STREAM_BYTES and not self._base and self._open_stream is not None:
            self.stream = self._open_stream()
            for piece in self._tail:
                self.stream.feed(piece)

    def resize(self, size: int) -> None:
        """Cut off what is beyond `size`, or grow to it with zeros. Raises `FileTooBigError`."""
        content.check_size(size)
        self._abandon()
        if size:
            content.resize(self._buffer(), size)
        else:
            self._base, self._tail = b"", []
        self._size, self.changed = size, True

    def pieces(self) -> list[bytes]:
        """Return the content as it is now, in pieces nobody changes."""
        base = [bytes(self._base)] if self._base else []
        return base + self._tail

    def value(self) -> bytes:
        """Return the content as it is now, in one piece."""
        return b"".join(self.pieces())  # a single piece is not copied

    def take_stream(self) -> Stream | None:
        """Return the stream that was fed this very content; it gets no more of it."""
        stream, self.stream = self.stream, None
        return stream

    def joined(self, value: bytes) -> None:
        """Keep `value`, which is the content, instead of the pieces."""
        if self._tail:
            self._base, self._tail = value, []

    def close(self) -> None:
        """Drop the content, which nobody wants any more."""
        self._abandon()

    def _abandon(self) -> None:
        stream = self.take_stream()
        if stream is not None:
            stream.abandon()

    def _buffer(self) -> bytearray:
        """Return the whole content in one place, for changing it."""
        self.changed = True
        if not isinstance(self._base, bytearray):
            self._base = bytearray(self._base)
        for piece in self._tail:
            self._base += piece
        self._tail.clear()
        return self._base

    def _flatten(self) -> None:
        if isinstance(self._base, bytearray):
            self._buffer()
        else:
            self._base, self._tail = self.value(), []
