"""The hidden directory at the root of a mount: its nodes, and what its names mean."""

from collections.abc import Callable

from kvfs.core.errors import NotPermittedError
from kvfs.core.names import CONTROL
from kvfs.vfs.inode.nodes import ControlDirectory, ControlFile, Node
from kvfs.vfs.inode.table import InodeTable

_NAME = CONTROL.encode()


class HiddenDirectory:
    """`directory` is None until there is one; `files` are those in it."""

    def __init__(self, inodes: InodeTable) -> None:
        self._inodes = inodes
        self.directory: ControlDirectory | None = None
        self.files: dict[str, ControlFile] = {}

    def add(self, files: dict[str, Callable[[], bytes]]) -> None:
        """Put it at the root, with these files."""
        self.directory, self.files = self._inodes.control(files)

    def is_meant(self, parent: Node, name: bytes) -> bool:
        """Return whether a name is, or would be, the directory or in it."""
        return isinstance(parent, ControlDirectory) or (parent is self._inodes.root and name == _NAME)

    def find(self, parent: Node, name: bytes) -> Node | None:
        """Return the node of a name that `is_meant`."""
        if isinstance(parent, ControlDirectory):
            return self.files.get(name.decode(errors="replace"))
        return self.directory

    def check_changeable(self, parent: Node, name: bytes) -> None:
        """Raise `NotPermittedError` for a name that `is_meant`."""
        if self.is_meant(parent, name):
            raise NotPermittedError("the control directory is not to be changed")
