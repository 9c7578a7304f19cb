"""The calls of `FakeKernel`, made by a real process of a real kernel."""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from support.whole_files import WholeFiles

_LIBC = ctypes.CDLL(None, use_errno=True)
_NOREPLACE = 1


@dataclass(slots=True)
class File:
    """An open file."""

    number: int
    append: bool


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of stat(2) that the models look at."""

    is_directory: bool
    size: int
    mtime: int


def _stat(found: os.stat_result) -> Stat:
    return Stat(bool(found.st_mode & 0o040000), found.st_size, int(found.st_mtime))


class RealKernel(WholeFiles):
    """System calls by path below a mount point. They raise OSError."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _at(self, path: str) -> bytes:
        return os.fsencode(f"{self.root}{path}")

    async def stat(self, path: str) -> Stat:
        """stat(2)."""
        return _stat(os.stat(self._at(path)))

    async def fstat(self, file: File) -> Stat:
        """fstat(2)."""
        return _stat(os.fstat(file.number))

    async def open(self, path: str, flags: int = os.O_RDONLY) -> File:
        """open(2)."""
        return File(os.open(self._at(path), flags, 0o644), bool(flags & os.O_APPEND))

    async def pread(self, file: File, offset: int, size: int) -> bytes:
        """pread(2)."""
        return os.pread(file.number, min(size, 1 << 26), offset)

    async def pwrite(self, file: File, offset: int, data: bytes) -> int:
        """pwrite(2)."""
        return os.pwrite(file.number, data, offset)

    async def ftruncate(self, file: File, size: int) -> None:
        """ftruncate(2)."""
        os.ftruncate(file.number, size)

    async def flush(self, file: File) -> None:
        """close(2) of one of several descriptors."""
        os.close(os.dup(file.number))

    async def fsync(self, file: File) -> None:
        """fsync(2)."""
        os.fsync(file.number)

    async def close(self, file: File) -> None:
        """close(2)."""
        os.close(file.number)

    async def truncate(self, path: str, size: int) -> None:
        """truncate(2)."""
        os.truncate(self._at(path), size)

    async def utimens(self, path: str, mtime: int) -> None:
        """utimensat(2)."""
        os.utime(self._at(path), (mtime, mtime))

    async def getxattr(self, path: str, name: str) -> bytes:
        """getxattr(2)."""
        return os.getxattr(self._at(path), name)

    async def setxattr(self, path: str, name: str, value: bytes) -> None:
        """setxattr(2)."""
        os.setxattr(self._at(path), name, value)

    async def removexattr(self, path: str, name: str) -> None:
        """removexattr(2)."""
        os.removexattr(self._at(path), name)

    async def listxattr(self, path: str) -> list[str]:
        """listxattr(2)."""
        return os.listxattr(self._at(path))

    async def unlink(self, path: str) -> None:
        """unlink(2)."""
        os.unlink(self._at(path))

    async def mkdir(self, path: str) -> None:
        """mkdir(2)."""
        os.mkdir(self._at(path))

    async def rmdir(self, path: str) -> None:
        """rmdir(2)."""
        os.rmdir(self._at(path))

    async def rename(self, old: str, new: str, *, no_replace: bool = False) -> None:
        """renameat2(2)."""
        flags = _NOREPLACE if no_replace else 0
        if _LIBC.renameat2(-100, self._at(old), -100, self._at(new), flags):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    async def listdir(self, path: str) -> list[str]:
        """Return the names in a directory."""
        return [os.fsdecode(name) for name in os.listdir(self._at(path))]
