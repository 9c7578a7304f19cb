"""The tree: lookup, create, unlink, mkdir, rmdir, and who is whose child.

Everything here is about names. What a rename does stands in `rename/`, what the root of an account does
(namespaces come and go at once, not through the journal) in `roots.py`, what remains of a name that goes in
`removals.py`, opendir and readdir in `readdir.py`.
"""

from collections.abc import Callable

from kvfs.core.errors import (
    ExistsError,
    InvalidError,
    IsADirectoryError_,
    NameTooLongError,
    NotADirectoryError_,
    NotFoundError,
    NotPermittedError,
)
from kvfs.core.limits import KEY_BYTES
from kvfs.core.model import Key, NamespaceId
from kvfs.core.names import CONTROL, NAME_BYTES, SELF, Child, DirRef
from kvfs.core.times import nanoseconds
from kvfs.vfs.absences import Absences
from kvfs.vfs.answers import Answer, answered, then
from kvfs.vfs.file.versions import Versions
from kvfs.vfs.hidden import HiddenDirectory
from kvfs.vfs.inode.nodes import ControlDirectory, Directory, File, Node, Root
from kvfs.vfs.inode.table import InodeTable
from kvfs.vfs.removals import Removals
from kvfs.vfs.roots import Roots
from kvfs.vfs.view.overlay import UNKNOWN, Overlay

Parent = Root | Directory | ControlDirectory
_PARENTS = (Root, Directory, ControlDirectory)  # a union would be made anew at every call

_MOMENT = 1.0  # seconds: the kernel itself believes longer that a name is absent

Resolved = tuple[Child, Key | DirRef | None]
"""The meaning of a name, and what is there."""


class Tree:
    """Names → nodes, and the changes of names."""

    def __init__(
        self,
        overlay: Overlay,
        inodes: InodeTable,
        versions: Versions,
        roots: Roots,
        now: Callable[[], float],
    ) -> None:
        self._overlay = overlay
        self._known = overlay.known
        self._naming = overlay.naming
        self._journal = overlay.journal
        self._inodes = inodes
        self._versions = versions
        self._roots = roots
        self._now = now
        self.hidden = HiddenDirectory(inodes)
        self.removals = Removals(overlay, inodes, now)
        self.absences = Absences(now, overlay.ttl)
        # the name a lookup missed last, where, what it stands for, and when
        self._missed: tuple[Directory, DirRef, bytes, Child, int, float] | None = None

    # lookup

    def parent(self, ino: int) -> Parent:
        """Return the node of a directory. Raises `NotADirectoryError_`, `StaleError`."""
        node = self._inodes.get(ino)
        if not isinstance(node, _PARENTS):
            raise NotADirectoryError_("not a directory")
        return node

    def directory(self, ino: int) -> Directory:
        """Return the node of a directory that holds keys. Raises `NotPermittedError` for the other ones."""
        node = self.parent(ino)
        if not isinstance(node, Directory):
            raise NotPermittedError("only namespaces are here: make a directory to make one")
        if node.detached:
            raise NotFoundError("the directory was removed")
        return node

    def lookup(self, parent_ino: int, name: bytes) -> Answer[Node | None]:
        """Return the node of a name, None when nothing is there: the kernel may remember that for a moment."""
        parent = self.parent(parent_ino)
        if self.hidden.directory is not None and self.hidden.is_meant(parent, name):
            return self.hidden.find(parent, name)
        if not isinstance(parent, Directory) or parent.detached:
            return self._namespace(parent, name) if isinstance(parent, Root) else self._absent(parent, name)
        try:
            child = self._naming.child(parent.ref, name)
        except (InvalidError, NameTooLongError):
            if len(name) > NAME_BYTES:
                raise
            return self._absent(parent, name)  # no key has that name: then it is not there
        target = self._known.peek_child(parent.namespace, child)
        if target is UNKNOWN:
            return self._look_up(parent, name)
        if target is None:
            self._missed = (parent, parent.ref, name, child, self._known.stamp, self._now())
            return self._absent(parent, name)
        return self._node(parent, target)

    async def _look_up(self, parent: Directory, name: bytes) -> Node | None:
        try:
            _, target = await self._resolved(parent, name)
        except (InvalidError, NameTooLongError, NotFoundError):
            target = None
        return self._absent(parent, name) if target is None else await answered(self._node(parent, target))

    async def _namespace(self, parent: Root, name: bytes) -> Node | None:
        return await self._roots.lookup(name) or self._absent(parent, name)

    def _node(self, parent: Directory, target: Key | DirRef) -> Answer[Node | None]:
        node = self.node_of(parent.namespace, target)
        return node if self._versions.is_current(node) else self._versions.renew(node)

    def _absent(self, parent: Parent, name: bytes) -> Node | None:
        self.absences.note(parent.ino, name)
        return None

    def node_of(self, namespace: NamespaceId, target: Key | DirRef) -> File | Directory:
        """Return the node that a name leads to."""
        if isinstance(target, DirRef):
            return self._inodes.directory(namespace, target)
        return self._inodes.file(namespace, target)

    def child(self, parent: Directory, name: bytes) -> Answer[Resolved]:
        """Resolve a name: its meaning, and the key or directory that is there now.

        A create asks for the name that a lookup missed just before: nothing is looked up for it again.
        """
        self._check_there(parent)
        missed = self._missed
        if missed is not None and missed[2] == name and missed[0] is parent and missed[1] is parent.ref:
            _, _, _, child, stamp, at = missed
            if stamp == self._known.stamp and 0 <= self._now() - at < _MOMENT:
                return child, None
        child = self._naming.child(parent.ref, name)
        target = self._known.peek_child(parent.namespace, child)
        return self._asked(parent, name) if target is UNKNOWN else (child, target)

    async def _asked(self, parent: Directory, name: bytes) -> Resolved:
        found = await self._resolved(parent, name)
        self._check_there(parent)
        return found

    async def _resolved(self, parent: Directory, name: bytes) -> Resolved:
        while True:
            ref = parent.ref
            child = self._naming.child(ref, name)
            target = await self._overlay.child(parent.namespace, ref, child)
            if parent.ref is ref:  # else it was renamed meanwhile: what was found is where it was
                return child, target

    def _check_there(self, parent: Directory) -> None:
        if parent.detached or self._roots.is_closing(parent.namespace):
            raise NotFoundError("the directory was removed")

    # create and remove

    def create(self, parent_ino: int, name: bytes, *, exclusive: bool) -> Answer[tuple[File, bool]]:
        """Return the file of a name, and whether it is to be made; `Files` opens it either way."""
        parent = self.directory(parent_ino)
        return then(self.child(parent, name), self._create, parent, name, exclusive)

    def _create(self, found: Resolved, parent: Directory, name: bytes, exclusive: bool) -> tuple[File, bool]:
        child, target = found
        if isinstance(target, DirRef):
            raise IsADirectoryError_(f"{name!r} is a directory")
        if target is not None:
            if exclusive:
                raise ExistsError(f"{name!r} exists")
            return self._inodes.file(parent.namespace, target), False
        if child.key is None:
            raise InvalidError(f"{name!r} can only be a directory: a key of that name is forbidden")
        parent.changed = nanoseconds(self._now())
        return self._inodes.file(parent.namespace, child.key), True

    def unlink(self, parent_ino: int, name: bytes) -> Answer[None]:
        """Delete a key; whoever has it open keeps its content."""
        parent = self.directory(parent_ino)
        return then(self.child(parent, name), self._unlink, parent, name)

    def _unlink(self, found: Resolved, parent: Directory, name: bytes) -> None:
        _, target = found
        if target is None:
            raise NotFoundError(f"{name!r} is not there")
        if isinstance(target, DirRef):
            raise IsADirectoryError_(f"{name!r} is a directory")
        self.removals.delete_key(parent.namespace, target, parent)

    async def mkdir(self, parent_ino: int, name: bytes, mode: int) -> Directory:
        """Make a directory kept on this machine, or at the root a namespace."""
        parent = self.parent(parent_ino)
        if self.hidden.is_meant(parent, name):
            raise ExistsError(f"{CONTROL} is reserved")
        if isinstance(parent, Root):
            return await self._roots.create(name)
        parent = self.directory(parent_ino)
        child, target = await answered(self.child(parent, name))
        if target is not None:
            raise ExistsError(f"{name!r} exists")
        ref = child.directory
        if ref is None and (not self._naming.separator or name == SELF.encode()):
            raise InvalidError(f"nothing can be below {name!r}: it is a value, or names are flat")
        if ref is None or len(ref.prefix.encode()) >= KEY_BYTES:
            raise NameTooLongError(f"no key fits below {name!r}: it has {KEY_BYTES} bytes or more itself")
        self.removals.keep(parent.namespace, self.removals.row(ref, mode))
        parent.changed = nanoseconds(self._now())
        return self._inodes.directory(parent.namespace, ref)

    async def rmdir(self, parent_ino: int, name: bytes) -> None:
        """Remove an empty directory, or at the root an empty namespace."""
        parent = self.parent(parent_ino)
        self.hidden.check_changeable(parent, name)
        if isinstance(parent, Root):
            await self._roots.remove(name)
            return
        parent = self.directory(parent_ino)
        while True:
            ref = parent.ref
            target = await self._empty_directory(parent, name)
            self._check_there(parent)
            if parent.ref is ref:  # else it was renamed meanwhile: what was found is where it was
                break
        keeps = self.removals.kept(parent, target.prefix.__eq__)
        with self._journal.transaction():
            self._journal.attributes.remove_dir(parent.namespace, target.prefix, target.start)
            self.removals.keep(parent.namespace, keeps)
        node = self._inodes.peek_directory(parent.namespace, target)
        if node is not None:
            self._inodes.names.detach(node)
        parent.changed = nanoseconds(self._now())

    async def _empty_directory(self, parent: Directory, name: bytes) -> DirRef:
        """Return the directory of a name, which is known to be empty. Raises what rmdir(2) does."""
        child, target = await answered(self.child(parent, name))
        if target is None and (ref := child.directory) is not None and ref.is_chunk:
            known = self._inodes.peek_directory(parent.namespace, ref)
            target = ref if known is not None else None  # it went with the long name: `rm -r` saw it before
        if target is None:
            raise NotFoundError(f"{name!r} is not there")
        if not isinstance(target, DirRef):
            raise NotADirectoryError_(f"{name!r} is a file")
        await self.removals.check_empty(parent.namespace, target, name)
        return target
