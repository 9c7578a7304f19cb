"""The nodes of a mount, by number and by what they are; the tables that the other modules here share.

Invariants:
- Every node is in `nodes` under its number; a file or directory that is not detached is also found by what it is.
- No file is a node and at rest. Control nodes live as long as the mount.
"""

from collections import defaultdict

from kvfs.core.model import Key, NamespaceId
from kvfs.core.names import DirRef
from kvfs.core.numbered import Numbered
from kvfs.vfs.inode.nodes import ROOT_INO, ControlDirectory, ControlFile, Directory, File, Node, Root
from kvfs.vfs.inode.resting import Resting


class Registry:
    """The tables, and how a node enters and leaves them. `made`: by the last call of `InodeTable.file`."""

    def __init__(self, root: Root | Directory) -> None:
        root.ino = ROOT_INO
        self.root = root
        self.nodes: Numbered[Node] = Numbered()
        self.nodes[ROOT_INO] = root
        self.files: defaultdict[NamespaceId, dict[Key, File]] = defaultdict(dict)
        self.directories: dict[tuple[NamespaceId, DirRef], Directory] = {}
        self.resting = Resting()
        self.made: File | None = None  # a file that nobody else holds yet
        self.next = ROOT_INO + 1
        if isinstance(root, Directory):
            self.directories[root.namespace, root.ref] = root

    def add(self, node: Node) -> None:
        """Add a node that was made with the number `next`."""
        self.nodes[node.ino] = node
        self.next += 1

    def wake(self, ino: int | None) -> File | None:
        """Return the node of a file at rest."""
        found = self.resting.take(ino) if ino is not None else None
        if ino is None or found is None:
            return None
        namespace, key, lookups = found
        node = self.nodes[ino] = self.files[namespace][key] = File(ino, lookups, namespace, key)
        return node

    def known_file(self, namespace: NamespaceId, key: Key) -> File | None:
        """Return the node of a key if the kernel knows one."""
        return self.files[namespace].get(key) or self.wake(self.resting.number_of(namespace, key))

    def unname(self, node: File) -> None:
        """Take the node out of the table of names, if it is the one of its name."""
        files = self.files[node.namespace]
        if files.get(node.key) is node:
            del files[node.key]
            if not files:  # a dict never shrinks
                del self.files[node.namespace]

    def drop_unused(self, node: Node) -> None:
        """Let go of a node that neither the kernel nor a handle holds."""
        if node.lookups > 0 or node is self.root or isinstance(node, (ControlDirectory, ControlFile)):
            return
        if isinstance(node, Directory) and node.ref == DirRef.ROOT and not node.detached:
            return  # a namespace: few, and an open listing of the root names them by number
        if isinstance(node, File):
            if node.open is not None:
                return
            self.unname(node)
        elif isinstance(node, Directory) and self.directories.get((node.namespace, node.ref)) is node:
            del self.directories[node.namespace, node.ref]
        self.nodes.pop(node.ino)
