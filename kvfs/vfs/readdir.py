"""The entries of directories: opendir and readdir."""

from collections.abc import Callable

from kvfs.core.model import NamespaceId
from kvfs.core.names import DirRef
from kvfs.vfs.answers import Answer
from kvfs.vfs.attributes import Attributes
from kvfs.vfs.dirstream import DirStream, KeptStreams
from kvfs.vfs.file.handles import DirectoryHandle, HandleTable
from kvfs.vfs.inode.nodes import Directory, Node, Root
from kvfs.vfs.inode.table import InodeTable
from kvfs.vfs.retold import Retold
from kvfs.vfs.roots import Roots
from kvfs.vfs.tree import Parent, Tree
from kvfs.vfs.view.overlay import UNKNOWN, Overlay
from kvfs.vfs.view.types import SeenView, Tell


class Directories:
    """Handles on directories, and the listings that were read to their end."""

    def __init__(
        self,
        overlay: Overlay,
        inodes: InodeTable,
        handles: HandleTable,
        tree: Tree,
        roots: Roots,
        now: Callable[[], float],
    ) -> None:
        self._overlay = overlay
        self._inodes = inodes
        self._handles = handles
        self._tree = tree
        self._roots = roots
        self._now = now
        self.streams = KeptStreams()

    def opendir(self, ino: int) -> Answer[int]:
        """Return the number of a handle on a directory's entries as they are from now on."""
        node = self._tree.parent(ino)
        handle = DirectoryHandle(ino, self._parent_ino(node))
        if isinstance(node, Root):
            return self._open_root(handle)
        if isinstance(node, Directory):
            handle.stream = self._stream(node.namespace, node.ref)
        else:
            handle.entries = [(name, file.ino) for name, file in self._tree.hidden.files.items()]
        return self._handles.add(handle)

    async def _open_root(self, handle: DirectoryHandle) -> int:
        handle.entries = [(name, child.ino) for name, child in (await self._roots.entries()).items()]
        return self._handles.add(handle)

    def rewind(self, handle: DirectoryHandle) -> None:
        """Do rewinddir: the entries are as they are from now on."""
        if handle.stream is not None and (handle.stream.entries or handle.stream.complete):
            handle.stream = self._stream(handle.stream.namespace, handle.stream.ref)

    def _stream(self, namespace: NamespaceId, ref: DirRef) -> DirStream:
        """Return a directory's entries; those of the last reading, where another would find the same."""
        stream = self.streams.get((namespace, ref))
        if stream is None or not stream.is_current(self._now()):
            stream = DirStream(self._overlay, namespace, ref)
        stream.note_reader()
        return stream

    def _parent_ino(self, node: Parent) -> int:
        """Return the inode of `..` of a directory, as far as the kernel knows."""
        root = self._inodes.root
        if not isinstance(node, Directory) or node is root or not node.ref.prefix:
            return root.ino
        if isinstance(root, Directory) and root.ref == node.ref:
            return root.ino
        known = self._inodes.peek_directory(node.namespace, self._overlay.naming.parent_of(node.ref))
        return known.ino if known is not None else root.ino


class Readdir:
    """Tells entries with their attributes, which counts as a lookup of each."""

    def __init__(
        self,
        overlay: Overlay,
        inodes: InodeTable,
        directories: Directories,
        attributes: Attributes,
        retold: Retold,
        now: Callable[[], float],
    ) -> None:
        self._overlay = overlay
        self._inodes = inodes
        self._directories = directories
        self._attributes = attributes
        self._retold = retold
        self._now = now

    def read(self, handle: DirectoryHandle, start: int, tell: Tell) -> Answer[None]:
        """Tell entries from an offset on that have arrived; if none has, wait for the first, not for more.

        `.` and `..` are at the offsets 1 and 2, entry i of the stream is at i + 3. An answer that fails carries no
        entries, *because* nobody would give their lookups back.
        """
        if start == 0:
            self._directories.rewind(handle)
        for offset, ino in ((1, handle.ino), (2, handle.parent)):
            if start < offset:
                attr = self._attributes.peek(self._inodes.get(ino))
                if not tell(b"." * offset, attr, offset, False):
                    return None
        first, stream, now = max(start - 2, 0), handle.stream, self._now()
        if stream is None or not stream.is_current(now):
            index, told, _ = self._arrived(handle, first, tell)
            return None if told or _has_arrived(handle, index) else self._first(handle, index, tell)
        index, has_told = first, True
        while has_told:
            index, is_full = self._retold.tell(stream, index, now, tell)
            if is_full:
                return None
            index, has_told, is_full = self._arrived(handle, index, tell, most=1)
            if is_full:
                return None
        return None

    async def _first(self, handle: DirectoryHandle, index: int, tell: Tell) -> None:
        told = False
        while not told:
            stream = handle.stream  # another reading of the handle may have begun anew meanwhile
            assert stream is not None, "only a stream's entries arrive late"
            if not await stream.reach(index):
                self._directories.streams.keep(stream)
                return
            index, told, _ = self._arrived(handle, index, tell)

    def _arrived(
        self, handle: DirectoryHandle, index: int, tell: Tell, *, most: int | None = None
    ) -> tuple[int, bool, bool]:
        """Take up to `most` entries that arrived; return the index after, if any was told, and if there was no room."""
        told = 0
        while told != most and _has_arrived(handle, index):
            found = self._entry(handle, index)
            if found is None:
                break
            name, node, seen = found
            index += 1
            if node is None:
                continue
            attr, encoded = self._attributes.peek(node, seen), name.encode()
            if not tell(encoded, attr, index + 2, False):
                self._inodes.drop_unused(node)
                return index - 1, True, True
            if handle.stream is not None:
                self._retold.remember(handle.stream, index - 1, encoded, node, attr, seen)
            self._inodes.listed.show(node)
            told += 1
        return index, bool(told), False

    def _entry(self, handle: DirectoryHandle, index: int) -> tuple[str, Node | None, SeenView] | None:
        """Return an entry that has arrived, with what is known of a file; no node: it is gone. None: the end."""
        stream = handle.stream
        if stream is None:
            entries = handle.entries or []
            if index >= len(entries):
                return None
            name, ino = entries[index]
            return name, self._inodes.find(ino), UNKNOWN
        if index >= len(stream.entries):
            self._directories.streams.keep(stream)
            return None
        name, target = stream.entry(index)
        if isinstance(target, DirRef):
            return name, self._inodes.directory(stream.namespace, target), UNKNOWN
        seen = self._overlay.known.peek(stream.namespace, target, stale=True)
        return name, self._inodes.file(stream.namespace, target) if seen is not None else None, seen


def _has_arrived(handle: DirectoryHandle, index: int) -> bool:
    """Return whether entry `index`, or that there is none, can be told without waiting."""
    stream = handle.stream
    return stream is None or stream.complete or index < len(stream.entries)
