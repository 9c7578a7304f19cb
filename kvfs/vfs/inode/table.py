"""Inode numbers ↔ nodes, and the kernel's lookup counts.

Invariants:
- A number is never used again within a mount, *because* then the kernel needs no generation beside it.
- Numbers are given in the order in which names are first shown, *because* tools that read a directory by inode number
  then read it in listing order.
- At most one node has a name. A node that lost its name is `detached`, and its number stays valid.
- A node goes when the kernel has forgotten all lookups of it and no handle holds it. A lookup is counted last of all,
  *because* a call that fails after it would leave a count that the kernel never gives back.
"""

from collections.abc import Callable

from kvfs.core.errors import StaleError
from kvfs.core.model import Key, NamespaceId
from kvfs.core.names import DirRef
from kvfs.vfs.inode.listed import ListedNodes
from kvfs.vfs.inode.nodes import ControlDirectory, ControlFile, Directory, File, Node, Root
from kvfs.vfs.inode.registry import Registry
from kvfs.vfs.inode.renaming import NodeNames


class InodeTable:
    """Every node the kernel may name, found or made; `names` alters their names, `listed` counts what listings show."""

    def __init__(self, root: Root | Directory) -> None:
        self._registry = registry = Registry(root)
        self._nodes, self._files, self._directories = registry.nodes, registry.files, registry.directories
        self.root = root
        self.names = NodeNames(registry)
        self.listed = ListedNodes(registry)

    def get(self, ino: int) -> Node:
        """Return the node of a number. Raises `StaleError` for one that is gone."""
        node = self._nodes.get(ino) or self._registry.wake(ino)
        if node is None:
            raise StaleError(f"inode {ino} is gone")
        return node

    def find(self, ino: int) -> Node | None:
        """Return the node of a number, None for one that is gone."""
        return self._nodes.get(ino) or self._registry.wake(ino)

    def open_file(self, namespace: NamespaceId, key: Key) -> File | None:
        """Return the node of a key, if somebody has it open."""
        node = self._files[namespace].get(key)
        return node if node is not None and node.open is not None else None

    def file(self, namespace: NamespaceId, key: Key) -> File:
        """Return the node of a key, made when there is none."""
        node = self._files[namespace].get(key)
        if node is not None:
            self._registry.made = None
            return node
        node = self._registry.wake(self._registry.resting.number_of(namespace, key))
        if node is None:
            node = File(self._registry.next, 0, namespace, key)
            self._registry.add(node)
            self._files[namespace][key] = node
        self._registry.made = node
        return node

    def directory(self, namespace: NamespaceId, ref: DirRef) -> Directory:
        """Return the node of a directory, made when there is none."""
        node = self._directories.get((namespace, ref))
        if node is None:
            node = Directory(self._registry.next, 0, namespace, ref)
            self._registry.add(node)
            self._directories[namespace, ref] = node
        return node

    def control(
        self, files: dict[str, Callable[[], bytes]]
    ) -> tuple[ControlDirectory, dict[str, ControlFile]]:
        """Make the nodes of the hidden directory."""
        directory = ControlDirectory(self._registry.next)
        self._registry.add(directory)
        nodes = {}
        for name, produce in files.items():
            nodes[name] = ControlFile(self._registry.next, 0, name, produce)
            self._registry.add(nodes[name])
        return directory, nodes

    def peek_file(self, namespace: NamespaceId, key: Key) -> File | None:
        """Return the node of a key if the kernel knows one."""
        return self._registry.known_file(namespace, key)

    def peek_directory(self, namespace: NamespaceId, ref: DirRef) -> Directory | None:
        """Return the node of a directory if the kernel knows one."""
        return self._directories.get((namespace, ref))

    def forget(self, ino: int, count: int) -> None:
        """Drop so many references, as the kernel did."""
        node = self._nodes.get(ino)
        if node is None:
            self._registry.resting.forget(ino, count)
            return
        node.lookups -= count
        self._registry.drop_unused(node)

    def drop_unused(self, node: Node) -> None:
        """Let go of a node that neither the kernel nor a handle holds."""
        self._registry.drop_unused(node)

    @property
    def count(self) -> int:
        """Nodes that are held."""
        return len(self._nodes) + len(self._registry.resting)

    def check_invariants(self) -> None:
        """Raise AssertionError when a table disagrees with another."""
        for namespace, files in self._files.items():
            for key, node in files.items():
                assert (node.namespace, node.key) == (namespace, key)
                assert self._nodes.get(node.ino) is node
                assert not node.detached
        for (namespace, ref), directory in self._directories.items():
            assert (directory.namespace, directory.ref) == (namespace, ref)
            assert self._nodes.get(directory.ino) is directory
        for known in self._nodes.values():
            assert self._nodes.get(known.ino) is known
            assert known.lookups >= 0
        self._registry.resting.check_invariants()
        for ino, namespace, key in self._registry.resting:
            assert ino not in self._nodes
            assert key not in self._files[namespace]
