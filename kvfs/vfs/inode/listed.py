"""Lookup counts of the files that listings show: the kernel counts each showing as a lookup.

A file that a listing shows and nobody uses rests (`resting`), because a million nodes would take too much memory.
"""

from kvfs.core.model import Key, NamespaceId
from kvfs.vfs.inode.nodes import ROOT_INO, File, Node
from kvfs.vfs.inode.registry import Registry


class ListedNodes:
    """Counts the lookups of READDIRPLUS."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._nodes = registry.nodes
        self._files = registry.files
        self._resting = registry.resting

    def show(self, node: Node) -> None:
        """Count a lookup of a node that a listing just showed to the kernel. A file nobody holds may rest now."""
        node.lookups += 1
        if node is self._registry.made and isinstance(node, File) and node.ino != ROOT_INO:
            self._registry.made = None
            if self._resting.add(node.ino, node.namespace, node.key, node.lookups):
                del self._nodes[node.ino], self._files[node.namespace][node.key]

    def show_again(self, ino: int) -> bool:
        """Count one lookup more of a file that a listing shows again; return False when it is gone."""
        node = self._nodes.get(ino)
        if node is None:
            return self._resting.shown_again(ino)
        node.lookups += 1
        return True

    def show_key(self, namespace: NamespaceId, key: Key, before: int = 0) -> int | None:
        """Return the number of a file that a listing shows, with one lookup more; None if it is open or must be a node.

        `before` is the number of the file that it showed before this one.
        """
        ino = self._resting.show(namespace, key, before + 1)
        if ino is not None:
            return ino
        node = self._files[namespace].get(key)
        if node is not None:
            if node.open is not None:
                return None
            node.lookups += 1
            return node.ino
        ino = self._registry.next
        if not self._resting.add(ino, namespace, key, 1):
            return None
        self._registry.next += 1
        return ino

    def is_open(self, ino: int) -> bool:
        """Return whether a number is that of an open file."""
        node = self._nodes.get(ino)
        return isinstance(node, File) and node.open is not None
