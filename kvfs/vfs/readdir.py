"""The entries of directories: opendir and readdir, and the hidden directory at the root."""

from collections.abc import Callable

from kvfs.core.errors import NotADirectoryError_
from kvfs.core.model import NamespaceId
from kvfs.core.names import DirRef
from kvfs.vfs.dirstream import DirStream, KeptStreams
from kvfs.vfs.file.handles import DirectoryHandle, HandleTable
from kvfs.vfs.inode.nodes import ControlDirectory, ControlFile, Directory, Node, Root
from kvfs.vfs.inode.table import InodeTable
from kvfs.vfs.roots import Roots
from kvfs.vfs.view.overlay import UNKNOWN, Overlay
from kvfs.vfs.view.types import SeenView

Parent = Root | Directory | ControlDirectory


class Readdir:
    """Numbered entries, by handles on directories. `Tree` is made of it."""

    def __init__(
        self,
        overlay: Overlay,
        inodes: InodeTable,
        handles: HandleTable,
        roots: Roots,
        now: Callable[[], float],
    ) -> None:
        self._overlay = overlay
        self._inodes = inodes
        self._handles = handles
        self._roots = roots
        self._now = now
        self.control_directory: ControlDirectory | None = None
        self.control_files: dict[str, ControlFile] = {}
        self._streams = KeptStreams()

    def add_control(self, files: dict[str, Callable[[], bytes]]) -> None:
        """Put the hidden directory at the root."""
        self.control_directory, self.control_files = self._inodes.control(files)

    def parent(self, ino: int) -> Parent:
        """The node of a directory. Raises `NotADirectoryError_`, `StaleError`."""
        node = self._inodes.get(ino)
        if not isinstance(node, Root | Directory | ControlDirectory):
            raise NotADirectoryError_("not a directory")
        return node

    async def opendir(self, ino: int) -> int:
        """A handle on a directory's entries as they are from now on."""
        found = self.opendir_at_once(ino)
        if found is not None:
            return found
        handle = DirectoryHandle(ino, self.parent_ino(self.parent(ino)))
        handle.entries = [(name, child.ino) for name, child in (await self._roots.entries()).items()]
        return self._handles.add(handle)

    def opendir_at_once(self, ino: int) -> int | None:
        """`opendir`, where that takes no waiting; None where it does."""
        node = self.parent(ino)
        if isinstance(node, Root):
            return None
        handle = DirectoryHandle(ino, self.parent_ino(node))
        if isinstance(node, Directory):
            handle.stream = self._stream(node.namespace, node.ref)
        else:
            handle.entries = [(name, file.ino) for name, file in self.control_files.items()]
        return self._handles.add(handle)

    async def entry(self, handle: DirectoryHandle, index: int) -> tuple[str, Node | None] | None:
        """Entry `index` of an open directory (no node: it is gone by now), or None at the end."""
        if handle.stream is not None:
            await handle.stream.reach(index)
        found = self.arrived_entry(handle, index)
        return found[:2] if found is not None else None

    def arrived_entry(self, handle: DirectoryHandle, index: int) -> tuple[str, Node | None, SeenView] | None:
        """`entry` of an index that `has_arrived`, with what is known of it if it is a file."""
        stream = handle.stream
        if stream is None:
            entries = handle.entries or []
            if index >= len(entries):
                return None
            name, ino = entries[index]
            return name, self._inodes.find(ino), UNKNOWN
        if index >= len(stream.entries):
            self._streams.keep(stream)
            return None
        name, target = stream.entry(index)
        if isinstance(target, DirRef):
            return name, self._inodes.directory(stream.namespace, target), UNKNOWN
        seen = self._overlay.known.peek(stream.namespace, target, stale=True)
        return name, self._inodes.file(stream.namespace, target) if seen is not None else None, seen

    def has_arrived(self, handle: DirectoryHandle, index: int) -> bool:
        """Return whether entry `index`, or that there is none, can be told without waiting."""
        stream = handle.stream
        return stream is None or stream.complete or index < len(stream.entries)

    def rewind(self, handle: DirectoryHandle) -> None:
        """rewinddir: the entries as they are from now on."""
        if handle.stream is not None and (handle.stream.entries or handle.stream.complete):
            handle.stream = self._stream(handle.stream.namespace, handle.stream.ref)

    def _stream(self, namespace: NamespaceId, ref: DirRef) -> DirStream:
        """A directory's entries; those of the last reading, where another would find the same."""
        stream = self._streams.get((namespace, ref))
        if stream is None or not stream.is_current(self._now()):
            stream = DirStream(self._overlay, namespace, ref)
        stream.note_reader()
        return stream

    def parent_ino(self, node: Parent) -> int:
        """Return the inode of `..` of a directory, as far as the kernel knows."""
        if not isinstance(node, Directory) or node is self._inodes.root:
            return self._inodes.root.ino
        root = self._inodes.root
        if isinstance(root, Directory) and root.ref == node.ref:
            return root.ino
        if not node.ref.prefix:
            return root.ino
        known = self._inodes.peek_directory(node.namespace, self._overlay.naming.parent_of(node.ref))
        return known.ino if known is not None else root.ino
