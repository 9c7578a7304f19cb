"""Parts an open file from its name when another client has written the name meanwhile.

A program that has a file open keeps the content it opened. A program that comes by the name gets the present one. The
kernel has one page cache for an inode, so the two must be two inodes, or a reader would see a mixture: the open file
keeps its inode and loses its name, as if another file had been renamed over it.

A file that was changed through this mount is never parted: until the change has settled, it is what is there.
"""

from typing import Final, TypeVar

from kvfs.cache.values import Clean
from kvfs.core.digest import digest
from kvfs.core.errors import DeniedError, NotFoundError, UnavailableError
from kvfs.core.model import Change, Key, NamespaceId
from kvfs.vfs.file.open_file import OpenFile
from kvfs.vfs.file.outside import Uploader
from kvfs.vfs.inode.nodes import File, Node
from kvfs.vfs.inode.table import InodeTable
from kvfs.vfs.view.overlay import Overlay

N = TypeVar("N", bound=Node)

TRIES: Final = 3  # it is asked for again when it was written, closed or renamed meanwhile


class Versions:
    """Tells whether the open content is the present one. `Files` has one."""

    def __init__(self, overlay: Overlay, inodes: InodeTable, sender: Uploader) -> None:
        self._overlay = overlay
        self._inodes = inodes
        self._sender = sender

    def is_current(self, node: Node) -> bool:
        """Return True if an opener may share what is open, as far as is known without waiting."""
        shared = self._clean(node) if isinstance(node, File) else None
        if shared is None or not isinstance(node, File):
            return True
        held = self._overlay.values.peek((node.namespace, node.key))
        if held is not None and held.known_at > shared.known_at and not _confirm(shared, held):
            return False
        return self._overlay.reads.is_known_since(node.namespace, node.key, shared.known_at)

    async def renew(self, node: N) -> N | File:
        """Return the node of the name: another than `node` if the open content is not the present one.

        If the store cannot be asked, what is open is all there is.
        """
        if not isinstance(node, File):
            return node
        for _ in range(TRIES):
            shared = self._clean(node)
            if shared is None or self.is_current(node):
                break
            try:
                found = await self._overlay.reads.content(node.namespace, node.key, hurried=True)
            except (UnavailableError, DeniedError, NotFoundError):
                break
            if self._clean(node) is not shared or _confirm(shared, found):
                continue
            self._part(node, shared)
            return self._inodes.file(node.namespace, node.key)
        return node

    def replaced(self, namespace: NamespaceId, key: Key) -> None:
        """The name has another value by now, for certain: whoever has the file open keeps what was opened.

        What was written to it and not closed goes on to be the file, as after any write of a program.
        """
        node = self._inodes.peek_file(namespace, key)
        shared = node.open if node is not None else None
        if node is None or shared is None or node.detached or shared.created or shared.dirty:
            return
        self._part(node, shared)

    def name_anew(self, node: File, shared: OpenFile) -> None:
        """Give a file that lost its name another one, because it was written: a copy beside what is there."""
        name = self._sender.beside(node.namespace, node.key)
        target = self._inodes.open_file(node.namespace, name)
        if target is not None and target.open is not None and target.open.dirty:
            return  # another program writes there: its content is saved, as after a replacement by rename
        shared.base = b"" if name != node.key else None
        shared.superseded, shared.seen = False, True
        self._inodes.names.move_file(node, name)
        self._overlay.unsaved.touched()

    def _clean(self, node: File) -> OpenFile | None:
        """Return the open file if it came from the store and no change made here hides the store."""
        shared = node.open
        if shared is None or node.detached or shared.created or shared.dirty:
            return None
        change: Change | None = self._overlay.journal.get(node.namespace, node.key)
        return shared if change is None else None

    def _part(self, node: File, shared: OpenFile) -> None:
        attributes = self._overlay.journal.attributes.file_attrs(node.namespace, node.key)
        if attributes is not None:  # fstat(2) goes on showing what it showed
            shared.mtime_ns = shared.mtime_ns if shared.mtime_ns is not None else attributes.mtime_ns
            shared.mode = shared.mode if shared.mode is not None else attributes.mode
        self._inodes.names.detach(node)
        shared.superseded = True


def _confirm(shared: OpenFile, found: Clean) -> bool:
    """Return True if the store's answer is what is open; then its attributes are that file's."""
    if shared.closed is not None:
        if found.value is not shared.closed and found.value != shared.closed:
            return False
        shared.closed = found.value
    elif shared.base is None or digest(found.value) != shared.base:
        return False
    shared.known_at = max(shared.known_at, found.known_at)
    shared.metadata, shared.expiration = found.metadata, found.expiration
    return True
