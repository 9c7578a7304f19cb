"""The meaning of inode numbers: a node knows its identity, and never the path by which it is reached."""

from collections.abc import Callable

from msgspec import Struct

from kvfs.core.model import Key, NamespaceId
from kvfs.core.names import DirRef
from kvfs.core.times import FIRST
from kvfs.kept.local import DirRow
from kvfs.vfs.file.open_file import OpenFile
from kvfs.vfs.view.types import Attr

ROOT_INO = 1
UNCHANGED = FIRST  # the time of a directory in which no entry came or went
_NOWHERE = NamespaceId("")
_NO_KEY = Key("")


class Node(Struct, eq=False):
    """`lookups` is the kernel's lookup count: the node lives at least until it is forgotten as often."""

    ino: int
    lookups: int = 0


class Root(Node, eq=False):
    """The list of namespaces."""


class Directory(Node, eq=False):
    """A namespace (its `ref` is where the mount begins in it) or a directory of keys.

    `detached` when it was removed and the kernel still holds it. `changed`: when (epoch nanoseconds) an entry came
    or went through this mount. `doubted`: the kernel was told to ask for it anew, and comes by its path, or not.
    """

    namespace: NamespaceId = _NOWHERE
    ref: DirRef = DirRef.ROOT
    detached: bool = False
    changed: int = UNCHANGED
    doubted: bool = False
    known: tuple[DirRow | None, int, Attr] | None = None  # the last answer to stat, and its facts


class File(Node, eq=False, gc=False):
    """A key, or what is left of one that was deleted while open (`detached`).

    `open` is set while handles are open. `shown` identifies the content whose pages the kernel may hold. `end` is
    the size that the kernel was told last, or made by its writes: where it appends. None: not told lately.
    """

    namespace: NamespaceId = _NOWHERE
    key: Key = _NO_KEY
    detached: bool = False
    open: OpenFile | None = None
    shown: bytes | int | None = None
    end: int | None = None


class ControlDirectory(Node, eq=False):
    """The hidden `.kvfs` at the root."""


class ControlFile(Node, eq=False):
    """A text that is produced when it is opened."""

    name: str = ""
    produce: Callable[[], bytes] = bytes
