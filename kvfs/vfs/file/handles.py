"""Handles: what a program opened, and the numbers the kernel knows it by."""

from copy import copy

from msgspec import Struct

from kvfs.core.errors import BadHandleError, KvfsError
from kvfs.vfs.dirstream import DirStream
from kvfs.vfs.file.open_file import OpenFile
from kvfs.vfs.inode.nodes import ControlFile, File


class FileHandle(Struct, eq=False):
    """One open(2). `append`: it had O_APPEND when it was opened; `write`: it may change the content.

    `flushed`: a close(2) reached us; of several descriptors it need not have been the last. `wrote` is the version
    of the content that its last change made. `failed`: a write failed, so nothing of it is recorded any more.
    `left` is the content that it goes on with when the file no longer has that.
    """

    node: File
    append: bool = False
    write: bool = False
    flushed: bool = False
    wrote: int = 0
    failed: KvfsError | None = None
    left: OpenFile | None = None

    def check(self) -> None:
        """Raise again what a write of this handle raised: each time another object, as tracebacks grow."""
        if self.failed is not None:
            raise copy(self.failed)


class TextHandle(Struct, eq=False):
    """An open control file: its text as of the open."""

    node: ControlFile
    text: bytes


class DirectoryHandle(Struct, eq=False):
    """An open directory; `entries` for the fixed ones (root, control), else a stream."""

    ino: int
    parent: int
    entries: list[tuple[str, int]] | None = None
    stream: DirStream | None = None


Handle = FileHandle | TextHandle | DirectoryHandle


class HandleTable:
    """Handle numbers, never used twice."""

    def __init__(self) -> None:
        self._handles: dict[int, Handle] = {}
        self._next = 1

    def add(self, handle: Handle) -> int:
        """Return the number of a new handle."""
        number = self._next
        self._next += 1
        self._handles[number] = handle
        return number

    def get(self, number: int) -> Handle:
        """Return a handle. Raises `BadHandleError`."""
        try:
            return self._handles[number]
        except KeyError:
            raise BadHandleError(f"handle {number} is not open") from None

    def file(self, number: int) -> FileHandle:
        """Return a handle that must be a file's. Raises `BadHandleError`."""
        handle = self._handles.get(number)
        if not isinstance(handle, FileHandle):
            raise BadHandleError(f"handle {number} is no open file")
        return handle

    def directory(self, number: int) -> DirectoryHandle:
        """Return a handle that must be a directory's. Raises `BadHandleError`."""
        handle = self._handles.get(number)
        if not isinstance(handle, DirectoryHandle):
            raise BadHandleError(f"handle {number} is no open directory")
        return handle

    def remove(self, number: int) -> Handle | None:
        """Forget a handle; None when it was not there."""
        return self._handles.pop(number, None)

    def of(self, node: File) -> list[FileHandle]:
        """Return the handles of one file; it looks at all that are open."""
        handles = self._handles.values()
        return [handle for handle in handles if isinstance(handle, FileHandle) and handle.node is node]

    def open_files(self) -> int:
        """Count the files that are open; it looks at all handles."""
        handles = self._handles.values()
        return len({handle.node.ino for handle in handles if isinstance(handle, FileHandle)})

    def lists(self, ino: int) -> bool:
        """Return True if somebody has the directory open; it looks at all handles."""
        handles = self._handles.values()
        return any(isinstance(handle, DirectoryHandle) and handle.ino == ino for handle in handles)

    def items(self) -> list[tuple[int, Handle]]:
        """Return everything that is open."""
        return list(self._handles.items())

    def __len__(self) -> int:
        return len(self._handles)
