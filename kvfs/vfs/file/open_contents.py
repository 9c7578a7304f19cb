"""The content of an open file: read, written and resized in memory."""

from collections.abc import Callable

from kvfs.core.errors import BadHandleError, KvfsError
from kvfs.core.limits import VALUE_BYTES
from kvfs.core.times import nanoseconds
from kvfs.vfs.file.failures import Failures
from kvfs.vfs.file.handles import FileHandle, Handle, HandleTable, TextHandle
from kvfs.vfs.file.identity import CHANGED
from kvfs.vfs.file.open_file import OpenFile
from kvfs.vfs.file.outside import Invalidator
from kvfs.vfs.inode.nodes import File
from kvfs.vfs.view.overlay import Overlay


class OpenContents:
    """Reads and changes contents through handles. Nothing here waits."""

    def __init__(
        self,
        overlay: Overlay,
        handles: HandleTable,
        failures: Failures,
        invalidator: Invalidator,
        now: Callable[[], float],
    ) -> None:
        self._touched = overlay.unsaved.touched
        self._handles = handles
        self._failures = failures
        self._invalidator = invalidator
        self._now = now

    def read(self, number: int, offset: int, size: int) -> bytes | memoryview:
        """Read at most `size` bytes; fewer only at the end."""
        handle = self._handles.get(number)
        if isinstance(handle, TextHandle):
            return handle.text[offset : offset + size]
        return open_of(handle).buffer.read(offset, size)

    def write(self, number: int, offset: int, data: bytes) -> int:
        """Put bytes into the content. Raises `FileTooBigError`, and from then on whenever the handle is used."""
        handle = self.usable(number)
        shared, node, end = open_of(handle), handle.node, offset + len(data)
        if handle.append:
            offset = self._append_offset(node, shared, offset, len(data))
        elif node.end is None or end > node.end:
            node.end = end
        try:
            shared.buffer.write(offset, data)
        except KvfsError as exc:
            self._failures.fail(handle, shared, exc)
            raise
        self._is_changed(shared)
        handle.wrote = shared.version
        node.shown = CHANGED
        return len(data)

    def _is_changed(self, shared: OpenFile) -> None:
        """Note that the content is another one now."""
        shared.version += 1
        self._touched()
        shared.mtime_ns, shared.written_last = nanoseconds(self._now()), True

    def _append_offset(self, node: File, shared: OpenFile, offset: int, size: int) -> int:
        """Return the offset of a write through a handle with O_APPEND.

        Where the kernel says, because a mapping is written in place, and so is a file whose O_APPEND was taken
        away since. But an append comes at the end as the kernel knows it: that is not the end where it was told
        a size that was a guess, or is out of date.
        """
        end, believed = len(shared.buffer), node.end
        node.end = max(believed or 0, offset + size)
        if offset != end and (offset == believed or offset >= VALUE_BYTES):
            self._invalidator.attributes(node.ino)  # so that the next append comes at the end
            return end
        return offset

    def resize(self, shared: OpenFile, size: int) -> None:
        """Cut a content, or fill it up with zeros."""
        shared.buffer.resize(size)
        self._is_changed(shared)

    def usable(self, number: int) -> FileHandle:
        """Return a file's handle. Raises `BadHandleError`, and again what a write of it raised."""
        handle = self._handles.file(number)
        handle.check()
        return handle


def open_of(handle: Handle) -> OpenFile:
    """Return the content that a handle works on. Raises `BadHandleError`."""
    if not isinstance(handle, FileHandle):
        raise BadHandleError("no open file")
    shared = handle.left or handle.node.open
    assert shared is not None, "a handle holds its file open"
    return shared
