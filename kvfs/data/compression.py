"""gzip and Zstandard: files are written as a row of members (frames), each complete, and read through all of them.

So a file that is cut at the end of a member is a good file, and a copy that was killed goes on behind it.
"""

import gzip
import importlib
import io
import zlib
from typing import Any, BinaryIO, Final, Protocol, cast

from kvfs.core.errors import UserError

SUFFIXES: Final = {".gz": "gzip", ".zst": "zstd"}
_LEVEL: Final = 6


class Member(Protocol):
    """One member that is being written."""

    def compress(self, data: bytes, /) -> bytes:
        """Compress more of it; return what can be written already."""

    def flush(self) -> bytes:
        """Return the end of it."""


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def member(compression: str) -> Member:
    """Return a new member of a file; `compression` is "", "gzip" or "zstd"."""
    match compression:
        case "gzip":
            return cast("Member", zlib.compressobj(_LEVEL, wbits=31))
        case "zstd":
            return _zstd_member()
    return _Plain()


def reading(file: BinaryIO, compression: str) -> BinaryIO:
    """Return the bytes of a file before they were compressed."""
    match compression:
        case "gzip":
            return cast("BinaryIO", gzip.GzipFile(fileobj=file, mode="rb"))
        case "zstd":
            return _zstd_reading(file)
    return file


def errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that a damaged file can raise."""
    error = getattr(_zstd(), "ZstdError", None)
    found = (EOFError, zlib.error, gzip.BadGzipFile)
    return found if error is None else (*found, error)


def _zstd() -> Any:
    """Return Python's own module from 3.14 on, else the library; None when there is neither."""
    for name in ("compression.zstd", "zstandard"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def _needed() -> Any:
    zstd = _zstd()
    if zstd is None:
        raise UserError("zstandard is not installed: pip install zstandard, or use .gz")
    return zstd


def _zstd_member() -> Member:
    zstd = _needed()
    if hasattr(zstd, "ZstdDecompressor") and hasattr(zstd, "ZstdFile"):
        return cast("Member", zstd.ZstdCompressor())
    return cast("Member", zstd.ZstdCompressor().compressobj())


def _zstd_reading(file: BinaryIO) -> BinaryIO:
    zstd = _needed()
    if hasattr(zstd, "ZstdFile"):
        return cast("BinaryIO", zstd.ZstdFile(file, "rb"))
    raw = zstd.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    return cast("BinaryIO", io.BufferedReader(raw, 1024 * 1024))
