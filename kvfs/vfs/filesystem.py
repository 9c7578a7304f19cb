"""One file system: the objects of this room, put together, and the few calls that need several of them."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import trio

from kvfs.cache.namespace_table import NamespaceTable
from kvfs.core.errors import KvfsError, NotPermittedError
from kvfs.core.model import Change, Key, NamespaceId
from kvfs.core.names import SELF, DirRef
from kvfs.core.patterns import LocalNames
from kvfs.vfs.attributes import Attributes
from kvfs.vfs.file.files import Files
from kvfs.vfs.file.handles import DirectoryHandle, FileHandle, HandleTable
from kvfs.vfs.file.outside import Invalidator, Uploader
from kvfs.vfs.inode.nodes import ControlFile, Directory, File, Node, Root
from kvfs.vfs.inode.table import InodeTable
from kvfs.vfs.paths import Paths
from kvfs.vfs.rename.inherit import Inheritance
from kvfs.vfs.rename.move import Moves
from kvfs.vfs.rename.rename import Renames
from kvfs.vfs.retold import Retold
from kvfs.vfs.roots import Roots
from kvfs.vfs.tree import Tree
from kvfs.vfs.view.overlay import Overlay
from kvfs.vfs.xattr_fields import ExtendedAttributes

log = logging.getLogger("kvfs.vfs")

_ABSENCES = 10_000  # names the kernel believes absent, of the last moments


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the file system. Seconds and bytes."""

    timeout: float = 30.0
    max_pending: int = 10 * 1024**3
    durable: bool = False
    read_only: bool = False
    umask: int = 0o022
    exact_sizes: bool = True
    local_names: tuple[str, ...] = ()
    expiration_is_mtime: bool = True


@dataclass(frozen=True, slots=True)
class Usage:
    """For df: keys and bytes, as far as known, pending ones included."""

    keys: int
    bytes: int


class FileSystem:
    """`mount` says where the root is: None for the list of namespaces, else a place inside one."""

    def __init__(
        self,
        overlay: Overlay,
        table: NamespaceTable,
        sender: Uploader,
        invalidator: Invalidator,
        now: Callable[[], float],
        options: Options,
        mount: tuple[NamespaceId, DirRef] | None = None,
    ) -> None:
        self.overlay = overlay
        self.table = table
        self.options = options
        root = Root(1) if mount is None else Directory(1, 0, *mount)
        self.inodes = InodeTable(root)
        self.handles = HandleTable()
        self.paths = Paths(overlay.naming, table, root)
        self.inheritance = Inheritance(now)
        self.files = Files(
            overlay,
            self.inodes,
            self.handles,
            self.inheritance,
            sender,
            invalidator,
            LocalNames(options.local_names),
            now,
            options.timeout,
            options.max_pending,
            options.durable,
        )
        self.roots = Roots(table, overlay, self.inodes, sender, now, options.timeout)
        self.tree = Tree(overlay, self.inodes, self.handles, self.files, self.roots, now)
        moves = Moves(overlay, self.inodes, self.files, self.inheritance, now)
        self.renames = Renames(overlay, self.tree, self.roots, moves, now, options.timeout)
        self.attributes = Attributes(
            overlay,
            self.files,
            now,
            umask=options.umask,
            exact_sizes=options.exact_sizes,
            expiration_is_mtime=options.expiration_is_mtime,
        )
        self.xattrs = ExtendedAttributes(
            overlay, self.files, now, lists_expiration=not options.expiration_is_mtime
        )
        overlay.loader.on_contents = self._contents_arrived
        self.attributes.on_vanished = self._directory_vanished
        self.retold = Retold(overlay, self.inodes, self.attributes, now)
        self._sender = sender
        self._invalidator = invalidator
        self.now = now
        self._absences: deque[tuple[float, int, bytes]] = deque(maxlen=_ABSENCES)

    def _contents_arrived(self, namespace: NamespaceId, contents: Sequence[tuple[Key, bytes]]) -> None:
        """The store answered these values: times follow, and names of open files lead to what is there now."""
        self.attributes.contents_arrived(namespace, contents)
        for key, _ in contents:
            node = self.inodes.open_file(namespace, key)
            if node is not None and not self.files.versions.is_current(node):
                self.forget_kernel_name(namespace, key)

    async def create(
        self,
        parent: int,
        name: bytes,
        *,
        mode: int,
        exclusive: bool,
        truncate: bool,
        append: bool,
        read: bool = True,
    ) -> tuple[File, int, bool]:
        """O_CREAT: the file, a handle on it, and whether the kernel may keep its pages."""
        node, is_new = await self.tree.create(parent, name, mode=mode, exclusive=exclusive)
        if is_new:
            return *self.files.create(node.namespace, node.key, mode=mode, append=append), False
        node = await self.files.versions.renew(node)
        number, keep = await self.files.open(node, write=True, truncate=truncate, append=append, read=read)
        return node, number, keep

    def create_at_once(
        self, parent: int, name: bytes, *, mode: int, append: bool
    ) -> tuple[File, int, bool] | None:
        """`create` of a file that is not there, where that takes no waiting; else None."""
        node = self.tree.create_missed(parent, name)
        if node is None:
            found = self.tree.create_at_once(parent, name, exclusive=False)
            if found is None or not found[1]:
                return None
            node = found[0]
        made, number = self.files.create(node.namespace, node.key, mode=mode, append=append)
        return made, number, False

    async def open(
        self, node: Node, *, write: bool, truncate: bool, append: bool, read: bool = True
    ) -> tuple[int, bool, bool]:
        """A handle, whether the kernel may keep its pages, and whether it should bypass them."""
        if isinstance(node, ControlFile):
            if write:
                raise NotPermittedError("control files are read")
            number, _ = await self.files.open(node, write=False, truncate=False, append=False)
            return number, False, True
        if not isinstance(node, File):
            raise NotPermittedError("not a file")
        number, keep = await self.files.open(node, write=write, truncate=truncate, append=append, read=read)
        return number, keep, False

    async def sync_directory(self, handle: DirectoryHandle) -> None:
        """fsync(2) of a directory: what was changed below it is in the store."""
        journal, node = self.overlay.journal, self.inodes.get(handle.ino)
        changes: Iterable[Change] = ()
        if isinstance(node, Root):
            changes = (*journal.iter_pending(), *journal.rejected())
        elif isinstance(node, Directory):
            changes = journal.under(node.namespace, node.ref.prefix)
        keys: dict[str, list[tuple[NamespaceId, Key]]] = {"pending": [], "rejected": []}
        for change in changes:
            if change.state in keys:
                keys[change.state].append((change.namespace, change.key))
        for some in keys.values():  # what was refused before must not keep the rest from going
            if some:
                await self._sender.send_now(some, self.options.timeout)

    def usage(self) -> Usage:
        """Keys and bytes known."""
        keys, held = self.attributes.usage()
        return Usage(keys + self.overlay.journal.pending_count, held + self.overlay.journal.pending_bytes)

    def absent(self, parent: int, name: bytes, seconds: float) -> None:
        """The kernel was told that a name is not there, and believes it for so long."""
        self._absences.append((self.now() + seconds, parent, name))

    async def refresh(self, names: Sequence[str]) -> None:
        """Forget what was read at and below a path, given by its names. Raises `NotFoundError`."""
        node: Node = self.inodes.root
        walked = []
        try:
            for name in names:
                node = await self.tree.lookup(node.ino, name.encode(errors="surrogateescape"))
                walked.append(node)
            if isinstance(node, Directory):
                own = self.overlay.naming.self_key(node.ref)
                self.forget_knowledge(node.namespace, node.ref.prefix if own is None else own)
            elif isinstance(node, File):
                self.forget_knowledge(node.namespace, node.key)
            else:
                self.forget_knowledge()
            self.forget_kernel(node)
            self._forget_absences()
        finally:
            for node in reversed(walked):
                self.inodes.drop_unused(node)

    def given_up(self, namespace: NamespaceId, key: Key) -> None:
        """This mount's change of a key is gone, and what it was before: the store is to be asked again."""
        self.overlay.values.drop((namespace, key))
        self.overlay.listings.forget(namespace, key)
        node = self.inodes.peek_file(namespace, key)
        if node is not None:
            self._invalidator.attributes(node.ino)
        self.forget_kernel_name(namespace, key)
        self._forget_absences()

    def _forget_absences(self) -> None:
        now = self.now()
        while self._absences:
            until, parent, name = self._absences.popleft()
            if until > now:
                self._invalidator.entry(parent, name)

    def forget_knowledge(self, namespace: NamespaceId | None = None, prefix: str = "") -> None:
        """`kvfs refresh`: what is cached of a place is asked for anew."""
        if namespace is None:
            self.table.forget()
            for known in list(self.table.ids()):
                self.overlay.known.forget(known)
            return
        self.overlay.known.forget(namespace, prefix)

    def forget_kernel(self, node: Node) -> None:
        """Make the kernel ask anew about a node and everything known below it."""
        if isinstance(node, Directory):
            own = self.overlay.naming.self_key(node.ref)
            files, directories = self.inodes.names.below(node.namespace, node.ref.prefix)
            if own is not None and (file := self.inodes.peek_file(node.namespace, own)) is not None:
                files.append(file)
            for directory in directories:
                directory.doubted = True
                self._invalidator.attributes(directory.ino)
            for file in files:
                self.forget_kernel(file)
        elif isinstance(node, File):
            self._invalidator.attributes(node.ino)
            self.forget_kernel_name(node.namespace, node.key)
        else:
            for namespace in self.table.ids():
                top = self.inodes.peek_directory(namespace, DirRef.ROOT)
                if top is not None:
                    self.forget_kernel(top)

    def forget_kernel_name(self, namespace: NamespaceId, key: Key) -> None:
        """Make the kernel look the name of a key up anew."""
        naming = self.overlay.naming
        parent = self.inodes.peek_directory(namespace, naming.parent_of_key(key))
        if parent is not None and self._is_held(parent):
            self._invalidator.entry(parent.ino, naming.name_of_key(key).encode())
        prefix = key + naming.separator
        inside = self.inodes.peek_directory(namespace, DirRef(prefix, len(prefix)))
        if inside is not None and naming.separator and self._is_held(inside):
            self._invalidator.entry(inside.ino, SELF.encode())

    def _directory_vanished(self, directory: Directory) -> None:
        """Make the kernel look the name up anew of a directory that somebody still has open."""
        naming = self.overlay.naming
        parent = self.inodes.peek_directory(directory.namespace, naming.parent_of(directory.ref))
        if parent is not None and self._is_held(parent):
            self._invalidator.entry(parent.ino, naming.name_in_parent(directory.ref).encode())

    def _is_held(self, directory: Directory) -> bool:
        """Return True if the kernel may remember names in a directory; the root it never looks up."""
        return directory.lookups > 0 or directory is self.inodes.root

    async def release_left(self) -> None:
        """The connection is gone: the RELEASEs that the kernel had no time to send are made up.

        It drops what waits in its queue when the connection ends (`fuse_abort_conn`), and a mapping's last
        changes are recorded at RELEASE. A file that somebody was writing when the connection was cut off, and
        never closed, is left as it was: half of it is nobody's wish.
        """
        left = self.handles.items()
        files = [handle for _, handle in left if isinstance(handle, FileHandle)]
        half = {handle.node.ino for handle in files if handle.write and not handle.flushed}
        for number, handle in left:
            if isinstance(handle, FileHandle) and handle.node.ino in half:
                continue
            try:
                with trio.move_on_after(self.options.timeout):
                    await self.files.release(number)
            except KvfsError as exc:
                log.warning("a file that was closed at the unmount could not be recorded: %s", exc)
            except Exception:  # what was recorded is to be sent all the same
                log.exception("a file that was closed at the unmount was not recorded: a bug of kvfs")

    def check_invariants(self) -> None:
        """Raise AssertionError when a table disagrees with another."""
        self.inodes.check_invariants()
        self.overlay.values.check_invariants()
        self.overlay.last_seen.check_invariants()
