"""A write that failed publishes nothing: the file is again what it was at the last good close."""

import logging
from typing import Final

from kvfs.core.errors import KvfsError
from kvfs.vfs.file.handles import FileHandle, HandleTable
from kvfs.vfs.file.open_file import OpenFile
from kvfs.vfs.file.outside import Invalidator
from kvfs.vfs.file.rope import Rope
from kvfs.vfs.inode.nodes import File
from kvfs.vfs.view.overlay import Overlay

log: Final = logging.getLogger("kvfs.vfs")


class Failures:
    """Takes a content back, and tells who wrote of it."""

    def __init__(self, overlay: Overlay, handles: HandleTable, invalidator: Invalidator) -> None:
        self._overlay = overlay
        self._handles = handles
        self._invalidator = invalidator

    def fail(self, handle: FileHandle, shared: OpenFile, error: KvfsError) -> None:
        """Take a failed write back to the last good close; each writer of it gets the error at close."""
        for other in self._handles.of(handle.node):
            if other is handle or (other.left is handle.left and other.wrote > shared.saved):
                other.failed = error
        if shared is handle.node.open:
            self.give_up(handle.node, shared, error)

    def give_up(self, node: File, shared: OpenFile, error: KvfsError) -> None:
        """Make the file again what it was at the last good close.

        Where that is not in memory, the file goes on without this content, which stays with the handles it has.
        """
        log.info("%r: what was written since the last good close is not kept: %s", node.key, error)
        shared.buffer.close()
        if shared.closed is not None or shared.created:
            shared.buffer = Rope.of(shared.closed or b"", self._overlay.journal.stream)
            shared.buffer.changed = True
            shared.mtime_ns = shared.mtime_ns if shared.created else None
            shared.shown = False
        else:
            for other in self._handles.of(node):
                if other.left is None:
                    other.left = shared
                    other.failed = error if other.write else None
            node.open = None
        shared.version = shared.saved = shared.version + 1
        node.shown = None
        self._overlay.unsaved.touched()
        self._invalidator.attributes(node.ino)
