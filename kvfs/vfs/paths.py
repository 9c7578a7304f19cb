"""The path of a key or node below the mount point, in words for people: logs, the status, attributes."""

from kvfs.cache.namespace_table import NamespaceTable
from kvfs.core.model import Key, NamespaceId
from kvfs.core.names import DirRef, Naming
from kvfs.vfs.inode.nodes import ControlDirectory, ControlFile, Directory, File, Node


class Paths:
    """Paths relative to the mount point, as far as names are known; nothing is asked for."""

    def __init__(self, naming: Naming, table: NamespaceTable, root: Node) -> None:
        self._naming = naming
        self._table = table
        self._prefix = root.ref.prefix if isinstance(root, Directory) else None

    def of_key(self, namespace: NamespaceId, key: Key) -> str:
        """Return the path of a key."""
        inside = Key(key.removeprefix(self._prefix or "") or key)
        return "/".join((*self._above(namespace), *self._naming.path_of(inside)))

    def of_directory(self, namespace: NamespaceId, ref: DirRef) -> str:
        """Return the path of a directory, "." for the mount point."""
        names: list[str] = []
        while ref.prefix and ref.prefix != self._prefix:
            names.append(self._naming.name_in_parent(ref))
            ref = self._naming.parent_of(ref)
        return "/".join((*self._above(namespace), *reversed(names))) or "."

    def of_node(self, node: Node) -> str:
        """Return the path of what the kernel knows by a number."""
        match node:
            case File():
                return self.of_key(node.namespace, node.key)
            case Directory():
                return self.of_directory(node.namespace, node.ref)
            case ControlFile():
                return f".kvfs/{node.name}"
            case ControlDirectory():
                return ".kvfs"
        return "."

    def _above(self, namespace: NamespaceId) -> tuple[str, ...]:
        """Return the directory of a namespace, where it is one."""
        return (self._table.name_of(namespace) or namespace,) if self._prefix is None else ()
