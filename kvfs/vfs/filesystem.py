"""One file system: the objects of this room, put together, and the few calls that need several of them."""

from collections.abc import Callable
from dataclasses import dataclass

from kvfs.cache.namespaces import NamespaceTable
from kvfs.core.errors import NotPermittedError
from kvfs.core.model import Key, NamespaceId
from kvfs.core.names import DirRef
from kvfs.core.patterns import LocalNames
from kvfs.vfs.attributes import Attributes
from kvfs.vfs.files import Files, Invalidator, Sender
from kvfs.vfs.handles import DirectoryHandle, HandleTable
from kvfs.vfs.inheritance import Inheritance
from kvfs.vfs.inodes import InodeTable
from kvfs.vfs.nodes import ControlFile, Directory, File, Node, Root
from kvfs.vfs.overlay import Overlay
from kvfs.vfs.renames import Renames
from kvfs.vfs.roots import Roots
from kvfs.vfs.tree import Tree


@dataclass(frozen=True, slots=True)
class Options:
    """What the file system is asked to be. Seconds and bytes."""

    timeout: float = 30.0
    max_pending: int = 10 * 1024**3
    durable: bool = False
    read_only: bool = False
    umask: int = 0o022
    exact_sizes: bool = True
    local_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """For df: keys and bytes, as far as known, pending ones included."""

    keys: int
    bytes: int


class FileSystem:
    """`mount` says where the root is: None for the list of namespaces, else a place inside one."""

    def __init__(
        self,
        overlay: Overlay,
        table: NamespaceTable,
        sender: Sender,
        invalidator: Invalidator,
        now: Callable[[], float],
        options: Options,
        mount: tuple[NamespaceId, DirRef] | None = None,
    ) -> None:
        self.overlay = overlay
        self.table = table
        self.options = options
        root = Root(1) if mount is None else Directory(1, 0, *mount)
        self.inodes = InodeTable(root)
        self.handles = HandleTable()
        self.inheritance = Inheritance(now)
        self.files = Files(
            overlay,
            self.inodes,
            self.handles,
            self.inheritance,
            sender,
            invalidator,
            LocalNames(options.local_names),
            now,
            options.timeout,
            options.max_pending,
            options.durable,
        )
        self.roots = Roots(table, overlay, self.inodes, sender, now, options.timeout)
        self.tree = Tree(overlay, self.inodes, self.handles, self.files, self.roots, now)
        self.renames = Renames(overlay, self.inodes, self.tree, self.files, self.roots, self.inheritance, now)
        self.attributes = Attributes(
            overlay, self.files, now, umask=options.umask, exact_sizes=options.exact_sizes
        )
        overlay.loader.on_changed = self.attributes.content_changed
        self._sender = sender
        self._invalidator = invalidator

    async def create(
        self, parent: int, name: bytes, *, mode: int, exclusive: bool, truncate: bool, append: bool
    ) -> tuple[File, int, bool]:
        """O_CREAT: the file, a handle on it, and whether the kernel may keep its pages."""
        node, is_new = await self.tree.create(parent, name, mode=mode, exclusive=exclusive)
        if is_new:
            node, number = self.files.create(node.namespace, node.key, mode=mode, append=append)
            return node, number, False
        number, keep = await self.files.open(node, write=True, truncate=truncate, append=append)
        return node, number, keep

    async def open(self, node: Node, *, write: bool, truncate: bool, append: bool) -> tuple[int, bool, bool]:
        """A handle, whether the kernel may keep its pages, and whether it should bypass them."""
        if isinstance(node, ControlFile):
            if write:
                raise NotPermittedError("control files are read")
            number, _ = await self.files.open(node, write=False, truncate=False, append=False)
            return number, False, True
        if not isinstance(node, File):
            raise NotPermittedError("not a file")
        number, keep = await self.files.open(node, write=write, truncate=truncate, append=append)
        return number, keep, False

    async def sync_directory(self, handle: DirectoryHandle) -> None:
        """fsync(2) of a directory: what was changed below it is in the store."""
        node = self.inodes.get(handle.ino)
        if not isinstance(node, Directory):
            return
        rows = self.overlay.journal.under(node.namespace, node.ref.prefix)
        keys = [(node.namespace, change.key) for change in rows if change.state in ("pending", "rejected")]
        if keys:
            await self._sender.send_now(keys, self.options.timeout)

    def usage(self) -> Usage:
        """Keys and bytes known."""
        keys, held = self.attributes.usage()
        return Usage(keys + self.overlay.journal.pending_count, held + self.overlay.journal.pending_bytes)

    def forget_knowledge(self, namespace: NamespaceId | None = None, prefix: str = "") -> None:
        """`kvfs refresh`: what is cached of a place is asked for anew."""
        if namespace is None:
            self.table.forget()
            for known in list(self.table.ids()):
                self.overlay.forget(known)
            return
        self.overlay.forget(namespace, prefix)

    def forget_kernel(self, node: Node) -> None:
        """Make the kernel ask anew about a node and everything known below it."""
        if isinstance(node, Directory):
            files, directories = self.inodes.below(node.namespace, node.ref.prefix)
            for directory in directories:
                self._invalidator.attributes(directory.ino)
            for file in files:
                self.forget_kernel(file)
        elif isinstance(node, File):
            self._invalidator.attributes(node.ino)
            self.forget_kernel_name(node.namespace, node.key)
        else:
            for namespace in self.table.ids():
                top = self.inodes.peek_directory(namespace, DirRef.ROOT)
                if top is not None:
                    self.forget_kernel(top)

    def forget_kernel_name(self, namespace: NamespaceId, key: Key) -> None:
        """Make the kernel look the name of a key up anew."""
        naming = self.overlay.naming
        parent = self.inodes.peek_directory(namespace, naming.parent_of_key(key))
        if parent is not None and parent.lookups:
            self._invalidator.entry(parent.ino, naming.name_of_key(key).encode())

    def check_invariants(self) -> None:
        """Raise AssertionError when a table disagrees with another."""
        self.inodes.check_invariants()
        self.overlay.values.check_invariants()
        self.overlay.journal.check_invariants()
