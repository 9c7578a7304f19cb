"""One file system: the objects of this room, put together, and the few calls that need several of them."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from kvfs.cache.namespace_table import NamespaceTable
from kvfs.core.errors import KvfsError
from kvfs.core.model import Key, NamespaceId
from kvfs.vfs.answers import Answer, answered, then
from kvfs.vfs.attributes import Attributes
from kvfs.vfs.file.files import Files, Opened
from kvfs.vfs.file.handles import FileHandle
from kvfs.vfs.file.outside import Invalidator, Uploader
from kvfs.vfs.forgetting import Forgetting
from kvfs.vfs.inode.nodes import Directory, File, Node, Root
from kvfs.vfs.inode.table import InodeTable
from kvfs.vfs.options import Options
from kvfs.vfs.paths import Paths
from kvfs.vfs.readdir import Directories, Readdir
from kvfs.vfs.rename.move import Moves
from kvfs.vfs.rename.rename import Renames
from kvfs.vfs.retold import Retold
from kvfs.vfs.roots import Roots
from kvfs.vfs.tree import Tree
from kvfs.vfs.view.overlay import Overlay
from kvfs.vfs.view.types import Attr
from kvfs.vfs.xattr_fields import ExtendedAttributes

log = logging.getLogger("kvfs.vfs")


@dataclass(frozen=True, slots=True)
class Usage:
    """For df: keys and bytes, as far as known, pending ones included."""

    keys: int
    bytes: int


class FileSystem:
    """The parts of a mount, and the calls of the kernel that take several of them."""

    def __init__(
        self,
        overlay: Overlay,
        table: NamespaceTable,
        sender: Uploader,
        invalidator: Invalidator,
        now: Callable[[], float],
        options: Options,
    ) -> None:
        self.overlay = overlay
        self.table = table
        self.options = options
        root = Root(1) if options.root is None else Directory(1, 0, *options.root)
        self.inodes = InodeTable(root)
        self.paths = Paths(overlay.naming, table, root)
        self.files = Files(overlay, self.inodes, sender, invalidator, now, options)
        self.handles = self.files.handles
        self.roots = Roots(table, overlay, self.inodes, sender, now, options.timeout)
        self.tree = Tree(overlay, self.inodes, self.files.versions, self.roots, now)
        moves = Moves(overlay, self.inodes, self.files, now)
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
        self.forgetting = Forgetting(overlay, table, self.inodes, self.tree, invalidator, options.timeout)
        self.attributes.on_vanished = self.forgetting.directory_vanished
        self.retold = Retold(overlay, self.inodes, self.attributes, now)
        self.directories = Directories(overlay, self.inodes, self.handles, self.tree, self.roots, now)
        self.readdir = Readdir(overlay, self.inodes, self.directories, self.attributes, self.retold, now)
        self.now = now

    def _contents_arrived(self, namespace: NamespaceId, contents: Sequence[tuple[Key, bytes]]) -> None:
        """Take in values of the store: times follow, and names of open files lead to the present contents."""
        self.attributes.contents_arrived(namespace, contents)
        for key, _ in contents:
            node = self.inodes.open_file(namespace, key)
            if node is not None and not self.files.versions.is_current(node):
                self.forgetting.forget_kernel_name(namespace, key)

    def create(
        self,
        parent: int,
        name: bytes,
        *,
        mode: int,
        exclusive: bool,
        truncate: bool,
        append: bool,
        read: bool = True,
    ) -> Answer[tuple[File, Opened]]:
        """Do O_CREAT: return the file, and a handle on it."""
        found = self.tree.create(parent, name, exclusive=exclusive)
        return then(found, self._open_found, mode, truncate, append, read)

    def _open_found(
        self, found: tuple[File, bool], mode: int, truncate: bool, append: bool, read: bool
    ) -> Answer[tuple[File, Opened]]:
        node, is_new = found
        if is_new:
            return self.files.create(node, mode=mode, append=append)
        return self._open_existing(node, truncate=truncate, append=append, read=read)

    async def _open_existing(
        self, node: File, *, truncate: bool, append: bool, read: bool
    ) -> tuple[File, Opened]:
        node = await self.files.versions.renew(node)
        opening = self.files.open(node, write=True, truncate=truncate, append=append, read=read)
        return node, await answered(opening)

    async def make(self, parent: int, name: bytes, mode: int) -> Attr:
        """Make an empty file and close it. Its attributes count as a lookup."""
        node, opened = await answered(
            self.create(parent, name, mode=mode, exclusive=True, truncate=False, append=False)
        )
        try:
            await answered(self.files.flush(opened.number))
            attr = self.attributes.peek(node)
            node.lookups += 1
            return attr
        finally:
            await answered(self.files.release(opened.number))

    def getattr(self, ino: int) -> Answer[Attr]:
        """Do stat(2), with the exact size, which the next listing can tell."""
        node = self.inodes.get(ino)
        found = self.attributes.getattr(node)
        return then(found, self._sized, node) if self.retold.unsized else found

    def _sized(self, attr: Attr, node: Node) -> Attr:
        self.retold.sized(node, attr)
        return attr

    def usage(self) -> Usage:
        """Return keys and bytes known."""
        keys, held = self.attributes.usage()
        return Usage(keys + self.overlay.journal.pending_count, held + self.overlay.journal.pending_bytes)

    async def release_left(self) -> None:
        """Make up for the RELEASEs that the kernel had no time to send when the connection went.

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
                    await answered(self.files.release(number))
            except KvfsError as exc:
                log.warning("a file that was closed at the unmount could not be recorded: %s", exc)
            except Exception:  # everything that was recorded is to be sent all the same
                log.exception("a file that was closed at the unmount was not recorded: a bug of kvfs")

    def check_invariants(self) -> None:
        """Raise AssertionError when a table disagrees with another."""
        self.inodes.check_invariants()
        self.overlay.values.check_invariants()
        self.overlay.last_seen.check_invariants()
