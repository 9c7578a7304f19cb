"""The tree: lookup, create, unlink, mkdir, rmdir, and who is whose child.

Everything here is about names. What a rename does stands in `rename/`, what the root of an account does
(namespaces come and go at once, not through the journal) in `roots.py`, opendir and readdir in `readdir.py`.
"""

from collections.abc import Callable

from kvfs.core.errors import (
    ExistsError,
    InvalidError,
    IsADirectoryError_,
    NameTooLongError,
    NotADirectoryError_,
    NotEmptyError,
    NotFoundError,
    NotPermittedError,
)
from kvfs.core.limits import KEY_BYTES
from kvfs.core.model import Key, NamespaceId
from kvfs.core.names import CONTROL, SELF, Child, DirRef
from kvfs.core.times import nanoseconds
from kvfs.journal.local_attributes import DirRow
from kvfs.vfs.file.files import Files
from kvfs.vfs.file.handles import HandleTable
from kvfs.vfs.inode.nodes import ControlDirectory, Directory, File, Node, Root
from kvfs.vfs.inode.table import InodeTable
from kvfs.vfs.readdir import Parent, Readdir
from kvfs.vfs.roots import Roots
from kvfs.vfs.view.overlay import UNKNOWN, Overlay, Unknown

_CONTROL = CONTROL.encode()
_MOMENT = 1.0  # seconds: the kernel itself believes longer that a name is absent


class Tree(Readdir):
    """Names → nodes, and the changes of names."""

    def __init__(
        self,
        overlay: Overlay,
        inodes: InodeTable,
        handles: HandleTable,
        files: Files,
        roots: Roots,
        now: Callable[[], float],
    ) -> None:
        super().__init__(overlay, inodes, handles, roots, now)
        self._journal = overlay.journal
        self._files = files
        # the name `find` missed last, where, what it stands for, and when: a create asks for it next
        self._missed: tuple[Directory, DirRef, bytes, Child, int, float] | None = None

    # lookup

    def directory(self, ino: int) -> Directory:
        """The node of a directory that holds keys. Raises `NotPermittedError` for the other ones."""
        node = self.parent(ino)
        if not isinstance(node, Directory):
            raise NotPermittedError("only namespaces are here: make a directory to make one")
        if node.detached:
            raise NotFoundError("the directory was removed")
        return node

    def find(self, parent_ino: int, name: bytes) -> Node | Unknown | None:
        """Look up a name if that needs no waiting; None: the name is free."""
        parent = self._inodes.get(parent_ino)
        if not isinstance(parent, Directory) or parent.detached or name == _CONTROL:
            return UNKNOWN
        try:
            child = self._overlay.naming.child(parent.ref, name)
        except (InvalidError, NameTooLongError):
            return UNKNOWN
        target = self._overlay.known.peek_child(parent.namespace, child)
        if target is None:
            self._missed = (parent, parent.ref, name, child, self._overlay.known.stamp, self._now())
            return None
        node = UNKNOWN if target is UNKNOWN else self.node_of(parent.namespace, target)
        return node if node is UNKNOWN or self._files.versions.is_current(node) else UNKNOWN

    async def lookup(self, parent_ino: int, name: bytes) -> Node:
        """The node of a name. Raises `NotFoundError`."""
        parent = self.parent(parent_ino)
        if isinstance(parent, ControlDirectory):
            return self._found(self.control_files.get(name.decode(errors="replace")), name)
        if parent is self._inodes.root and name == CONTROL.encode() and self.control_directory is not None:
            return self.control_directory
        if isinstance(parent, Root):
            return self._found(await self._roots.lookup(name), name)
        if parent.detached:
            raise NotFoundError("the directory was removed")
        try:
            _, target = await self._resolved(parent, name)
        except (InvalidError, NameTooLongError) as exc:
            if len(name) > 255:
                raise
            raise NotFoundError(str(exc)) from exc  # no key has that name: then it is not there
        node = self._found(self.node_of(parent.namespace, target) if target is not None else None, name)
        return await self._files.versions.renew(node)

    @staticmethod
    def _found(node: Node | None, name: bytes) -> Node:
        if node is None:
            raise NotFoundError(f"{name!r} is not there")
        return node

    def node_of(self, namespace: NamespaceId, target: Key | DirRef) -> File | Directory:
        """The node of what a name leads to."""
        if isinstance(target, DirRef):
            return self._inodes.directory(namespace, target)
        return self._inodes.file(namespace, target)

    async def child(self, parent: Directory, name: bytes) -> tuple[Child, Key | DirRef | None]:
        """Resolve a name: its meaning, and the key or directory that is there now."""
        found = self._child_at_once(parent, name)
        if found is not None:
            return found
        found = await self._resolved(parent, name)
        self._check_there(parent)
        return found

    async def _resolved(self, parent: Directory, name: bytes) -> tuple[Child, Key | DirRef | None]:
        while True:
            ref = parent.ref
            child = self._overlay.naming.child(ref, name)
            target = await self._overlay.child(parent.namespace, ref, child)
            if parent.ref is ref:  # else it was renamed meanwhile: what was found is where it was
                return child, target

    def _child_at_once(self, parent: Directory, name: bytes) -> tuple[Child, Key | DirRef | None] | None:
        """Like `child` if that needs no waiting; else None."""
        child = self._overlay.naming.child(parent.ref, name)
        target = self._overlay.known.peek_child(parent.namespace, child)
        if target is UNKNOWN:
            return None
        self._check_there(parent)
        return child, target

    def _check_there(self, parent: Directory) -> None:
        if parent.detached or self._roots.is_closing(parent.namespace):
            raise NotFoundError("the directory was removed")

    # create and remove

    async def create(self, parent_ino: int, name: bytes, *, mode: int, exclusive: bool) -> tuple[File, bool]:
        """The file of a name, and whether it is to be made; `Files` opens it either way."""
        parent = self.directory(parent_ino)
        return self._create(parent, name, *await self.child(parent, name), exclusive=exclusive)

    def create_missed(self, parent_ino: int, name: bytes) -> File | None:
        """`create` of the name that `find` just missed, which is what a create most often is; else None."""
        missed = self._missed
        if missed is None or missed[2] != name or missed[0].ino != parent_ino:
            return None
        parent, ref, _, child, stamp, at = missed
        now = self._now()
        if child.key is None or stamp != self._overlay.known.stamp or not 0 <= now - at < _MOMENT:
            return None
        if parent.ref is not ref:
            return None
        self._check_there(parent)
        parent.changed = nanoseconds(now)
        return self._inodes.file(parent.namespace, child.key)

    def create_at_once(self, parent_ino: int, name: bytes, *, exclusive: bool) -> tuple[File, bool] | None:
        """`create`, where that takes no waiting; None where it does."""
        parent = self.directory(parent_ino)
        found = self._child_at_once(parent, name)
        return None if found is None else self._create(parent, name, *found, exclusive=exclusive)

    def _create(
        self, parent: Directory, name: bytes, child: Child, target: Key | DirRef | None, *, exclusive: bool
    ) -> tuple[File, bool]:
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

    async def unlink(self, parent_ino: int, name: bytes) -> None:
        """Delete a key; whoever has it open keeps its content."""
        parent = self.directory(parent_ino)
        _, target = await self.child(parent, name)
        self._unlink(parent, name, target)

    def unlink_at_once(self, parent_ino: int, name: bytes) -> bool:
        """`unlink`, where that takes no waiting; false where it does."""
        parent = self.directory(parent_ino)
        found = self._child_at_once(parent, name)
        if found is None:
            return False
        self._unlink(parent, name, found[1])
        return True

    def _unlink(self, parent: Directory, name: bytes, target: Key | DirRef | None) -> None:
        if target is None:
            raise NotFoundError(f"{name!r} is not there")
        if isinstance(target, DirRef):
            raise IsADirectoryError_(f"{name!r} is a directory")
        self.delete_key(parent.namespace, target)
        self.keep_directory(parent)

    def delete_key(self, namespace: NamespaceId, key: Key) -> None:
        """Record the deletion and part the node from its name."""
        node = self._inodes.peek_file(namespace, key)
        is_new = node is not None and node.open is not None and node.open.created
        if is_new:
            self._overlay.unsaved.recorded(namespace, key)
        # Somebody else may have made the key in the meantime: then that goes too.
        if not is_new or self._overlay.known.peek(namespace, key, stale=True) is not None:
            self._journal.record_delete(namespace, key, base=self._overlay.last_seen.digest((namespace, key)))
        # Where no tombstone says so either, it must not seem to be there.
        self._overlay.values.drop((namespace, key))
        if node is not None:
            self._inodes.names.detach(node)

    def keep_directory(self, directory: Directory) -> None:
        """An entry left: a directory whose last it was stays until it is removed.

        One that only stands for a piece of a long name goes with it; the one around it stays.
        """
        directory.changed = nanoseconds(self._now())
        ref, namespace = directory.ref, directory.namespace
        while ref.is_chunk:
            ref = self._overlay.naming.parent_of(ref)
        root = self._inodes.root
        if not ref.prefix or (isinstance(root, Directory) and root.ref == ref):
            return
        if self._journal.attributes.has_dir(namespace, ref.prefix, ref.start):
            return
        if not self._overlay.known.live_below(namespace, ref, stale=True):
            self._add_dir(namespace, ref)

    def _add_dir(self, namespace: NamespaceId, ref: DirRef, mode: int | None = None) -> None:
        now = nanoseconds(self._now())
        self._journal.attributes.add_dir(namespace, DirRow(ref.prefix, ref.start, mode, now, now))

    async def mkdir(self, parent_ino: int, name: bytes, mode: int) -> Directory:
        """A directory kept on this machine, or at the root a namespace."""
        parent = self.parent(parent_ino)
        if self._is_control(parent, name):
            raise ExistsError(f"{CONTROL} is reserved")
        if isinstance(parent, Root):
            return await self._roots.create(name)
        parent = self.directory(parent_ino)
        child, target = await self.child(parent, name)
        if target is not None:
            raise ExistsError(f"{name!r} exists")
        ref = child.directory
        if ref is None and (not self._overlay.naming.separator or name == SELF.encode()):
            raise InvalidError(f"nothing can be below {name!r}: it is a value, or names are flat")
        if ref is None or len(ref.prefix.encode()) >= KEY_BYTES:
            raise NameTooLongError(f"no key fits below {name!r}: it has {KEY_BYTES} bytes or more itself")
        parent.changed = nanoseconds(self._now())
        self._add_dir(parent.namespace, ref, mode)
        return self._inodes.directory(parent.namespace, ref)

    async def rmdir(self, parent_ino: int, name: bytes) -> None:
        """Remove an empty directory, or at the root an empty namespace."""
        parent = self.parent(parent_ino)
        self.check_changeable(parent, name)
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
        self._journal.attributes.remove_dir(parent.namespace, target.prefix, target.start)
        node = self._inodes.peek_directory(parent.namespace, target)
        if node is not None:
            self._inodes.names.detach(node)
        self.keep_directory(parent)

    async def _empty_directory(self, parent: Directory, name: bytes) -> DirRef:
        """The directory of a name, which is known to be empty. Raises what rmdir(2) does."""
        child, target = await self.child(parent, name)
        if target is None and (ref := child.directory) is not None and ref.is_chunk:
            known = self._inodes.peek_directory(parent.namespace, ref)
            target = ref if known is not None else None  # it went with the long name: `rm -r` saw it before
        if target is None:
            raise NotFoundError(f"{name!r} is not there")
        if not isinstance(target, DirRef):
            raise NotADirectoryError_(f"{name!r} is a file")
        await self.check_empty(parent.namespace, target, name)
        return target

    async def check_empty(self, namespace: NamespaceId, ref: DirRef, name: bytes) -> None:
        """Raise `NotEmptyError` unless nothing lies in the directory."""
        own = self._overlay.naming.self_key(ref)
        has_own = own is not None and await self._overlay.view(namespace, own) is not None
        if has_own or not await self._overlay.is_empty(namespace, ref):
            raise NotEmptyError(f"{name!r} is not empty")

    def _is_control(self, parent: Parent, name: bytes) -> bool:
        return isinstance(parent, ControlDirectory) or (
            parent is self._inodes.root and name == CONTROL.encode()
        )

    def check_changeable(self, parent: Parent, name: bytes) -> None:
        """Raise `NotPermittedError` for what is, or would be, the control directory or in it."""
        if self._is_control(parent, name):
            raise NotPermittedError("the control directory is not to be changed")
