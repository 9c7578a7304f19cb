"""Inode numbers ↔ nodes, and the kernel's lookup counts.

A number is never used again within a mount, so a generation is not needed. Numbers are given in the order
in which names are first shown: tools that read a directory by inode number read it in listing order.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kvfs.core.errors import StaleError
from kvfs.core.model import Key, NamespaceId
from kvfs.core.names import DirRef
from kvfs.vfs.inode.nodes import ROOT_INO, ControlDirectory, ControlFile, Directory, File, Node, Root
from kvfs.vfs.inode.resting import Resting


@dataclass(frozen=True, slots=True)
class InodeStatistics:
    """Nodes held, and how many of them are open files."""

    nodes: int
    open: int


class InodeTable:
    """Every node the kernel may name."""

    def __init__(self, root: Root | Directory) -> None:
        # Invariants: every node is in _nodes under its number; a file or directory that is not detached is
        # also found by what it is; control nodes live as long as the mount; no file is a node and at rest.
        root.ino = ROOT_INO
        self.root = root
        self._nodes: dict[int, Node] = {ROOT_INO: root}
        self._files: dict[tuple[NamespaceId, str], File] = {}
        self._directories: dict[tuple[NamespaceId, DirRef], Directory] = {}
        self._resting = Resting()
        self._made: File | None = None  # by the last call of `file`: nobody else holds it yet
        self._next = ROOT_INO + 1
        if isinstance(root, Directory):
            self._directories[root.namespace, root.ref] = root

    def get(self, ino: int) -> Node:
        """The node of a number. Raises `StaleError` for one that is gone."""
        try:
            return self._nodes[ino]
        except KeyError:
            node = self._wake(ino)
            if node is None:
                raise StaleError(f"inode {ino} is gone") from None
            return node

    def find(self, ino: int) -> Node | None:
        """The node of a number, None for one that is gone."""
        return self._nodes.get(ino) or self._wake(ino)

    def _wake(self, ino: int | None) -> File | None:
        """The node of a file at rest."""
        found = self._resting.take(ino) if ino is not None else None
        if ino is None or found is None:
            return None
        namespace, key, lookups = found
        node = self._nodes[ino] = self._files[namespace, key] = File(ino, lookups, namespace, key)
        return node

    def listed(self, node: Node) -> None:
        """A listing just showed the node to the kernel: one lookup more. A file nobody holds may rest now."""
        node.lookups += 1
        if node is self._made and isinstance(node, File) and node.ino != ROOT_INO:
            self._made = None
            if self._resting.add(node.ino, node.namespace, node.key, node.lookups):
                del self._nodes[node.ino], self._files[node.namespace, node.key]

    def listed_again(self, ino: int) -> bool:
        """A listing shows a file to the kernel that it showed before: one lookup more. False when it is gone."""
        node = self._nodes.get(ino)
        if node is None:
            return self._resting.shown_again(ino)
        node.lookups += 1
        return True

    def listed_key(self, namespace: NamespaceId, key: Key, before: int = 0) -> int | None:
        """A listing shows a file: its number, with one lookup more. None when it is open, or has to be a node.

        `before` is the number of the file that it showed before this one.
        """
        ino = self._resting.show(namespace, key, before + 1)
        if ino is not None:
            return ino
        node = self._files.get((namespace, key))
        if node is not None:
            if node.open is not None:
                return None
            node.lookups += 1
            return node.ino
        ino = self._next
        if not self._resting.add(ino, namespace, key, 1):
            return None
        self._next += 1
        return ino

    def is_open(self, ino: int) -> bool:
        """Return whether a number is that of an open file."""
        node = self._nodes.get(ino)
        return isinstance(node, File) and node.open is not None

    def open_file(self, namespace: NamespaceId, key: Key) -> File | None:
        """The node of a key, if somebody has it open."""
        node = self._files.get((namespace, key))
        return node if node is not None and node.open is not None else None

    def file(self, namespace: NamespaceId, key: Key) -> File:
        """The node of a key, made when there is none."""
        node = self._files.get((namespace, key))
        if node is not None:
            self._made = None
            return node
        node = self._wake(self._resting.number_of(namespace, key))
        if node is None:
            node = File(self._next, 0, namespace, key)
            self._add(node)
            self._files[namespace, key] = node
        self._made = node
        return node

    def directory(self, namespace: NamespaceId, ref: DirRef) -> Directory:
        """The node of a directory, made when there is none."""
        node = self._directories.get((namespace, ref))
        if node is None:
            node = Directory(self._next, 0, namespace, ref)
            self._add(node)
            self._directories[namespace, ref] = node
        return node

    def control(
        self, files: dict[str, Callable[[], bytes]]
    ) -> tuple[ControlDirectory, dict[str, ControlFile]]:
        """Make the nodes of the hidden directory."""
        directory = ControlDirectory(self._next)
        self._add(directory)
        nodes = {}
        for name, produce in files.items():
            nodes[name] = ControlFile(self._next, 0, name, produce)
            self._add(nodes[name])
        return directory, nodes

    def _add(self, node: Node) -> None:
        self._nodes[node.ino] = node
        self._next += 1

    def peek_file(self, namespace: NamespaceId, key: Key) -> File | None:
        """The node of a key if the kernel knows one."""
        return self._files.get((namespace, key)) or self._wake(self._resting.number_of(namespace, key))

    def peek_directory(self, namespace: NamespaceId, ref: DirRef) -> Directory | None:
        """The node of a directory if the kernel knows one."""
        return self._directories.get((namespace, ref))

    def detach(self, node: File | Directory) -> None:
        """Its name is gone; the kernel may go on using the number."""
        node.detached = True
        if isinstance(node, File):
            if node.open is not None:
                node.open.superseded = False  # `Versions` says so afterwards, where it is
            if self._files.get((node.namespace, node.key)) is node:
                del self._files[node.namespace, node.key]
        elif self._directories.get((node.namespace, node.ref)) is node:
            del self._directories[node.namespace, node.ref]
        self.drop_unused(node)

    def attach(self, node: File, key: Key) -> None:
        """A file that lost its name gets one; whoever had that is detached."""
        target = self.peek_file(node.namespace, key)
        if target is not None and target is not node:
            self.detach(target)
        node.detached, node.key = False, key
        self._files[node.namespace, key] = node

    def move_file(self, node: File, key: Key) -> None:
        """The file is another key of its namespace now; whoever had that name is detached."""
        target = self.peek_file(node.namespace, key)
        if target is not None and target is not node:
            self.detach(target)
        self._files.pop((node.namespace, node.key), None)
        node.key = key
        self._files[node.namespace, key] = node

    def move_directory(self, node: Directory, ref: DirRef) -> None:
        """The directory is another one of its namespace now; its inhabitants are moved by the caller."""
        target = self._directories.get((node.namespace, ref))
        if target is not None and target is not node:
            self.detach(target)
        self._directories.pop((node.namespace, node.ref), None)
        node.ref = ref
        self._directories[node.namespace, ref] = node

    def below(self, namespace: NamespaceId, prefix: str) -> tuple[list[File], list[Directory]]:
        """Every known node below a prefix, the directory of the prefix itself included."""
        for ino in self._resting.below(namespace, prefix):
            self._wake(ino)
        files = [
            node for (ns, key), node in self._files.items() if ns == namespace and key.startswith(prefix)
        ]
        directories = [
            node
            for (ns, ref), node in self._directories.items()
            if ns == namespace and ref.prefix.startswith(prefix)
        ]
        return files, directories

    def of_namespace(self, namespace: NamespaceId) -> Iterator[File | Directory]:
        """Every known node of a namespace, those that lost their names included."""
        files, directories = self.below(namespace, "")
        yield from files
        yield from directories
        for node in list(self._nodes.values()):
            if isinstance(node, File) and node.detached and node.namespace == namespace:
                yield node

    def forget(self, ino: int, count: int) -> None:
        """The kernel dropped so many of its references."""
        node = self._nodes.get(ino)
        if node is None:
            self._resting.forget(ino, count)
            return
        node.lookups -= count
        self.drop_unused(node)

    def drop_unused(self, node: Node) -> None:
        """Let go of a node that neither the kernel nor a handle holds."""
        if node.lookups > 0 or node is self.root or isinstance(node, (ControlDirectory, ControlFile)):
            return
        if isinstance(node, Directory) and node.ref == DirRef.ROOT and not node.detached:
            return  # a namespace: few, and an open listing of the root names them by number
        if isinstance(node, File):
            if node.open is not None:
                return
            if self._files.get((node.namespace, node.key)) is node:
                del self._files[node.namespace, node.key]
        elif isinstance(node, Directory) and self._directories.get((node.namespace, node.ref)) is node:
            del self._directories[node.namespace, node.ref]
        self._nodes.pop(node.ino, None)

    def statistics(self) -> InodeStatistics:
        """Count the nodes that are held."""
        open_files = sum(1 for node in self._nodes.values() if isinstance(node, File) and node.open)
        return InodeStatistics(len(self._nodes) + len(self._resting), open_files)

    def check_invariants(self) -> None:
        """Raise AssertionError when a table disagrees with another."""
        for (namespace, key), node in self._files.items():
            assert (node.namespace, node.key) == (namespace, key)
            assert self._nodes.get(node.ino) is node
            assert not node.detached
        for (namespace, ref), directory in self._directories.items():
            assert (directory.namespace, directory.ref) == (namespace, ref)
            assert self._nodes.get(directory.ino) is directory
        for ino, known in self._nodes.items():
            assert known.ino == ino
            assert known.lookups >= 0
        self._resting.check_invariants()
        for ino, *place in self._resting:
            assert ino not in self._nodes
            assert tuple(place) not in self._files
