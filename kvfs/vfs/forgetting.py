"""Makes caches and the kernel learn anew what they know of a path, a namespace or a name."""

from collections.abc import Sequence

import trio

from kvfs.cache.namespace_table import NamespaceTable
from kvfs.core.errors import NotFoundError
from kvfs.core.model import Key, NamespaceId
from kvfs.core.names import SELF, DirRef
from kvfs.vfs.answers import answered
from kvfs.vfs.file.outside import Invalidator
from kvfs.vfs.inode.nodes import Directory, File, Node
from kvfs.vfs.inode.table import InodeTable
from kvfs.vfs.tree import Tree
from kvfs.vfs.view.overlay import Overlay


class Forgetting:
    """Makes the caches and the kernel forget. Nothing that was written here is forgotten."""

    def __init__(
        self,
        overlay: Overlay,
        table: NamespaceTable,
        inodes: InodeTable,
        tree: Tree,
        invalidator: Invalidator,
        timeout: float,
    ) -> None:
        self._overlay = overlay
        self._table = table
        self._inodes = inodes
        self._tree = tree
        self._invalidator = invalidator
        self._timeout = timeout

    async def refresh(self, names: Sequence[str]) -> None:
        """Forget what was read at and below a path, given by its names. Raises `NotFoundError`."""
        node: Node = self._inodes.root
        walked = []
        try:
            for name in names:
                found = await answered(self._tree.lookup(node.ino, name.encode(errors="surrogateescape")))
                if found is None:
                    raise NotFoundError(f"{name!r} is not there")
                node = found
                walked.append(node)
            if isinstance(node, Directory):
                own = self._overlay.naming.self_key(node.ref)
                self.forget_knowledge(node.namespace, node.ref.prefix if own is None else own)
            elif isinstance(node, File):
                self.forget_knowledge(node.namespace, node.key)
            else:
                self.forget_knowledge()
            self.forget_kernel(node)
            self._forget_absences()
        finally:
            for node in reversed(walked):
                self._inodes.drop_unused(node)

    def given_up(self, namespace: NamespaceId, key: Key) -> None:
        """Forget the old state of a key whose change by this mount is gone: the store is asked again."""
        self._overlay.values.drop((namespace, key))
        self._overlay.listings.forget(namespace, key)
        node = self._inodes.peek_file(namespace, key)
        if node is not None:
            self._invalidator.attributes(node.ino)
        self.forget_kernel_name(namespace, key)
        self._forget_absences()

    async def reach_kernel(self) -> None:
        """Return when the kernel has forgotten what it was told to, or after `--timeout`.

        A name stays while a request in its directory is under way: so no request of the kernel may await this.
        """
        with trio.move_on_after(self._timeout):
            await self._invalidator.entries_forgotten()

    def _forget_absences(self) -> None:
        for parent, name in self._tree.absences.take():
            self._invalidator.entry(parent, name)

    def forget_knowledge(self, namespace: NamespaceId | None = None, prefix: str = "") -> None:
        """Do `kvfs refresh`: cached knowledge of a place is asked for anew."""
        if namespace is None:
            self._table.forget()
            for known in list(self._table.ids()):
                self._overlay.known.forget(known)
            return
        self._overlay.known.forget(namespace, prefix)

    def forget_kernel(self, node: Node) -> None:
        """Make the kernel ask anew about a node and everything known below it."""
        if isinstance(node, Directory):
            own = self._overlay.naming.self_key(node.ref)
            files, directories = self._inodes.names.below(node.namespace, node.ref.prefix)
            if own is not None and (file := self._inodes.peek_file(node.namespace, own)) is not None:
                files.append(file)
            for directory in directories:
                directory.doubted = True
                self._invalidator.attributes(directory.ino)
            for file in files:
                self.forget_kernel(file)
        elif isinstance(node, File):
            self._invalidator.attributes(node.ino)
            self.forget_kernel_name(node.namespace, node.key)
        else:
            for namespace in self._table.ids():
                top = self._inodes.peek_directory(namespace, DirRef.ROOT)
                if top is not None:
                    self.forget_kernel(top)

    def forget_kernel_name(self, namespace: NamespaceId, key: Key) -> None:
        """Make the kernel look the name of a key up anew."""
        naming = self._overlay.naming
        self._forget_entry(namespace, naming.parent_of_key(key), naming.name_of_key(key))
        if naming.separator:
            prefix = key + naming.separator
            self._forget_entry(namespace, DirRef(prefix, len(prefix)), SELF)

    def directory_vanished(self, directory: Directory) -> None:
        """Make the kernel look the name up anew of a directory that somebody still has open."""
        naming, ref = self._overlay.naming, directory.ref
        self._forget_entry(directory.namespace, naming.parent_of(ref), naming.name_in_parent(ref))

    def _forget_entry(self, namespace: NamespaceId, parent: DirRef, name: str) -> None:
        """Make the kernel forget a name in a directory, if it may remember any; the root it never looks up."""
        node = self._inodes.peek_directory(namespace, parent)
        if node is not None and (node.lookups > 0 or node is self._inodes.root):
            self._invalidator.entry(node.ino, name.encode())
