"""Names of nodes that go and change: what a removal, a rename or another client did to a key happens to its node."""

from collections.abc import Iterator

from kvfs.core.model import Key, NamespaceId
from kvfs.core.names import DirRef
from kvfs.vfs.inode.nodes import Directory, File
from kvfs.vfs.inode.registry import Registry


class NodeNames:
    """Takes names away from nodes, and gives them others."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._nodes = registry.nodes
        self._files = registry.files
        self._directories = registry.directories

    def detach(self, node: File | Directory) -> None:
        """Take the name of a node away; the kernel may go on using the number."""
        node.detached = True
        if isinstance(node, File):
            if node.open is not None:
                node.open.superseded = False  # `Versions` says so afterwards, where it is
            self._registry.unname(node)
        elif self._directories.get((node.namespace, node.ref)) is node:
            del self._directories[node.namespace, node.ref]
        self._registry.drop_unused(node)

    def move_file(self, node: File, key: Key) -> None:
        """Make the file another key of its namespace, also one that lost its name; the node that had it is detached."""
        target = self._registry.known_file(node.namespace, key)
        if target is not None and target is not node:
            self.detach(target)
        if not node.detached:  # else its old name may be another's
            self._files[node.namespace].pop(node.key, None)
        node.detached, node.key = False, key
        self._files[node.namespace][key] = node

    def move_directory(self, node: Directory, ref: DirRef) -> None:
        """Make the directory another one of its namespace; the caller must move its inhabitants."""
        target = self._directories.get((node.namespace, ref))
        if target is not None and target is not node:
            self.detach(target)
        self._directories.pop((node.namespace, node.ref), None)
        node.ref = ref
        self._directories[node.namespace, ref] = node

    def below(self, namespace: NamespaceId, prefix: str) -> tuple[list[File], list[Directory]]:
        """Return every known node below a prefix, the directory of the prefix itself included."""
        for ino in self._registry.resting.below(namespace, prefix):
            self._registry.wake(ino)
        files = [node for key, node in self._files[namespace].items() if key.startswith(prefix)]
        directories = [
            node
            for (ns, ref), node in self._directories.items()
            if ns == namespace and ref.prefix.startswith(prefix)
        ]
        return files, directories

    def of_namespace(self, namespace: NamespaceId) -> Iterator[File | Directory]:
        """Yield every known node of a namespace, those that lost their names included."""
        files, directories = self.below(namespace, "")
        yield from files
        yield from directories
        for node in list(self._nodes.values()):
            if isinstance(node, File) and node.detached and node.namespace == namespace:
                yield node
