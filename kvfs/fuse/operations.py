"""The kernel's calls: unpack, one call into the vfs, pack. The kernel wrote the list of methods."""

import os
import stat
from collections.abc import Sequence

import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
    XAttrNameT,
)

from kvfs.core.callers import Callers, current, door
from kvfs.core.errors import NotFoundError
from kvfs.fuse import convert
from kvfs.fuse.guard import Answer, bounded, guarded, in_time, prompt, unseen
from kvfs.fuse.listing import Listing
from kvfs.vfs.file.handles import DirectoryHandle
from kvfs.vfs.filesystem import FileSystem
from kvfs.vfs.inode.nodes import File, Node
from kvfs.vfs.view.overlay import UNKNOWN
from kvfs.vfs.view.types import Attr, Changes

_Created = tuple[FileInfo, EntryAttributes]

_NEGATIVE_SECONDS = 2.0  # how long the kernel may remember that a name is not there
_PERMISSIONS = 0o7777


class Operations(pyfuse3.Operations):
    """Handlers of one mount; `uid` and `gid` are who owns everything in it."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, fs: FileSystem, *, uid: int, gid: int, callers: Callers | None = None) -> None:
        super().__init__()
        self.callers = callers or Callers()
        self._fs = fs
        self._inodes = fs.inodes
        self._uid = uid
        self._gid = gid
        self._read_only = fs.options.read_only
        self._negative_seconds = min(_NEGATIVE_SECONDS, fs.overlay.ttl)
        self._listing = Listing(fs, uid, gid)
        self._retold = fs.retold
        self._absent = convert.absent(self._negative_seconds)
        self.bound = fs.options.timeout
        self.afterwards = fs.overlay.journal.afterwards

    def _entry(self, node: Node) -> EntryAttributes:
        """Attributes as known, and one lookup more: the last thing before the return."""
        entry = convert.attributes(self._fs.attributes.peek(node), self._uid, self._gid)
        node.lookups += 1
        return entry

    def _check_writable(self) -> None:
        if self._read_only:
            raise FUSEError(convert.READ_ONLY)

    # names

    @prompt
    def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> Answer[EntryAttributes]:
        """A name's inode; absence is an answer that the kernel may keep for a moment."""
        node = self._fs.tree.find(parent_inode, name)
        return self._lookup(parent_inode, name) if node is UNKNOWN else self._named(parent_inode, name, node)

    @in_time
    async def _lookup(self, parent: int, name: bytes) -> EntryAttributes:
        try:
            node = await self._fs.tree.lookup(parent, name)
        except NotFoundError:
            return self._named(parent, name, None)
        return self._named(parent, name, node)

    def _named(self, parent: int, name: bytes, node: Node | None) -> EntryAttributes:
        if node is None:
            self._fs.absent(parent, name, self._negative_seconds)
            return self._absent
        return self._entry(node)

    @unseen
    def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """The kernel dropped references."""
        for inode, count in inode_list:
            self._inodes.forget(inode, count)

    @prompt
    def getattr(self, inode: InodeT, ctx: RequestContext) -> Answer[EntryAttributes]:
        """stat(2), with the exact size."""
        node = self._inodes.get(inode)
        attr = self._fs.attributes.peek(node)
        return self._getattr(node) if attr.attr_timeout <= 0 else self._told(node, attr)

    @in_time
    async def _getattr(self, node: Node) -> EntryAttributes:
        return self._told(node, await self._fs.attributes.getattr(node))

    def _told(self, node: Node, attr: Attr) -> EntryAttributes:
        if self._retold.unsized:
            self._retold.sized(node, attr)
            return convert.retold(attr, self._uid, self._gid, is_changed=False)
        return convert.attributes(attr, self._uid, self._gid)

    @bounded
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        """chmod, truncate, utimens; chown is accepted and not kept."""
        self._check_writable()
        changes = Changes(
            size=attr.st_size if fields.update_size else None,
            mode=attr.st_mode & _PERMISSIONS if fields.update_mode else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
        )
        changed = await self._fs.attributes.setattr(self._inodes.get(inode), changes, fh)
        return convert.attributes(changed, self._uid, self._gid)

    @bounded
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        """A directory, or a namespace at the root."""
        self._check_writable()
        return self._entry(await self._fs.tree.mkdir(parent_inode, name, mode & _PERMISSIONS))

    @bounded
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        """Remove an empty directory or namespace."""
        self._check_writable()
        await self._fs.tree.rmdir(parent_inode, name)

    @prompt
    def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> Answer[None]:
        """Delete a key."""
        self._check_writable()
        at_once = self._fs.tree.unlink_at_once(parent_inode, name)
        return None if at_once else self._unlink(parent_inode, name)

    @in_time
    async def _unlink(self, parent: int, name: bytes) -> None:
        await self._fs.tree.unlink(parent, name)

    @guarded  # as long as it gets on: a directory may be of any size (see `Renames`)
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        """rename(2); of the flags only RENAME_NOREPLACE."""
        self._check_writable()
        if flags & ~pyfuse3.RENAME_NOREPLACE:
            raise FUSEError(convert.INVALID)
        await self._fs.renames.rename(
            parent_inode_old, name_old, parent_inode_new, name_new, no_replace=bool(flags)
        )

    @guarded
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """KV has no links."""
        raise FUSEError(convert.NOT_PERMITTED)

    @guarded
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """KV has no links."""
        raise FUSEError(convert.NOT_PERMITTED)

    @bounded
    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        """An empty file (tar --xattrs makes them so); KV has no devices, pipes or sockets."""
        self._check_writable()
        if not stat.S_ISREG(mode):
            raise FUSEError(convert.NOT_PERMITTED)
        node, number, _ = await self._fs.create(
            parent_inode, name, mode=mode & _PERMISSIONS, exclusive=True, truncate=False, append=False
        )
        try:
            await self._fs.files.flush(number)
            return self._entry(node)
        finally:
            await self._fs.files.release(number)

    # directories

    @prompt
    def opendir(self, inode: InodeT, ctx: RequestContext) -> Answer[FileHandleT]:
        """A handle on the entries."""
        number = self._fs.tree.opendir_at_once(inode)
        return self._opendir(inode) if number is None else self._held(number)

    @in_time
    async def _opendir(self, inode: int) -> FileHandleT:
        return self._held(await self._fs.tree.opendir(inode))

    def _held(self, number: int) -> FileHandleT:
        """A new handle: what comes with it is the doing of who opened it."""
        self.callers.held[number] = door.caller or current() or self.callers.own
        return number

    @prompt
    def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> Answer[None]:
        """Entries from an offset on."""
        handle = self._fs.handles.directory(fh)
        index = self._listing.begin(handle, start_id, token)
        return self._readdir(handle, index, token) if index >= 0 else None

    @in_time
    async def _readdir(self, handle: DirectoryHandle, index: int, token: ReaddirToken) -> None:
        await self._listing.go_on(handle, index, token)

    @prompt
    def releasedir(self, fh: FileHandleT) -> None:
        """closedir."""
        self.callers.held.pop(fh, None)
        self._fs.handles.remove(fh)

    @bounded
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        """Wait until all changes below the directory are in the store."""
        await self._fs.sync_directory(self._fs.handles.directory(fh))

    # files

    @prompt
    def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> Answer[FileInfo]:
        """The whole value is there when this returns; reads wait for nothing."""
        writing = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC))
        if writing:
            self._check_writable()
        node = self._inodes.get(inode)
        if isinstance(node, File) and not flags & os.O_TRUNC:
            found = self._fs.files.open_at_once(
                node, write=writing, append=bool(flags & os.O_APPEND), read=_reads(flags)
            )
            if found is not None:
                return FileInfo(fh=self._held(found[0]), keep_cache=found[1])
        return self._open(node, flags, writing=writing)

    @in_time
    async def _open(self, node: Node, flags: int, *, writing: bool) -> FileInfo:
        number, keep, direct = await self._fs.open(
            node,
            write=writing,
            truncate=bool(flags & os.O_TRUNC),
            append=bool(flags & os.O_APPEND),
            read=_reads(flags),
        )
        return FileInfo(fh=self._held(number), keep_cache=keep, direct_io=direct)

    @prompt
    def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> Answer[_Created]:
        """O_CREAT of a name the kernel does not know; the key may be there all the same."""
        self._check_writable()
        found = self._fs.create_at_once(
            parent_inode, name, mode=mode & _PERMISSIONS, append=bool(flags & os.O_APPEND)
        )
        return (
            self._created(*found) if found else self._create(parent_inode, name, mode & _PERMISSIONS, flags)
        )

    def _created(self, node: File, number: int, keep: bool) -> _Created:
        return FileInfo(fh=self._held(number), keep_cache=keep), self._entry(node)

    @in_time
    async def _create(self, parent: int, name: bytes, mode: int, flags: int) -> _Created:
        made = await self._fs.create(
            parent,
            name,
            mode=mode,
            exclusive=bool(flags & os.O_EXCL),
            truncate=bool(flags & os.O_TRUNC),
            append=bool(flags & os.O_APPEND),
            read=_reads(flags),
        )
        return self._created(*made)

    @prompt
    def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        """At most `size` bytes."""
        return self._fs.files.read(fh, off, size)  # type: ignore[return-value]  # any buffer will do

    @prompt
    def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        """Into the content in memory."""
        return self._fs.files.write(fh, off, buf)

    @prompt
    def flush(self, fh: FileHandleT) -> Answer[None]:
        """close(2): into the journal. What nobody sees before the next call may follow the answer."""
        afterwards = self.afterwards
        afterwards.is_open = afterwards.is_served
        try:
            at_once = self._fs.files.flush_at_once(fh)
        finally:
            afterwards.is_open = False
        return None if at_once else self._flush(fh)

    @in_time
    async def _flush(self, fh: int) -> None:
        await self._fs.files.flush(fh)

    @bounded
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        """On the server before it returns, or why not."""
        await self._fs.files.fsync(fh)

    @prompt
    def release(self, fh: FileHandleT) -> Answer[None]:
        """The last reference is gone."""
        self.callers.held.pop(fh, None)
        return None if self._fs.files.release_at_once(fh) else self._release(fh)

    @in_time
    async def _release(self, fh: int) -> None:
        await self._fs.files.release(fh)

    # extended attributes

    @prompt
    def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> Answer[bytes]:
        """One attribute; all but `user.` answered at once: the kernel asks for one before every write."""
        if not name.startswith(b"user."):
            raise FUSEError(convert.NOT_SUPPORTED)  # a new one: an error grows a traceback with each raise
        return self._getxattr(inode, name)

    @in_time
    async def _getxattr(self, inode: InodeT, name: bytes) -> bytes:
        return await self._fs.xattrs.get(self._inodes.get(inode), _text(name))

    @bounded
    async def setxattr(self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext) -> None:
        """Change one field of the metadata."""
        self._check_writable()
        await self._fs.xattrs.set(self._inodes.get(inode), _text(name), value)

    @bounded
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        """The fields of the metadata."""
        names = await self._fs.xattrs.list(self._inodes.get(inode))
        return [XAttrNameT(name.encode(errors="surrogateescape")) for name in names]

    @bounded
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        """Remove one field of the metadata."""
        self._check_writable()
        await self._fs.xattrs.remove(self._inodes.get(inode), _text(name))

    # the whole

    @guarded
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        """df: keys and bytes as far as known, without a request."""
        return convert.usage(self._fs.usage())

    @guarded
    async def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        """The kernel checks permissions itself (default_permissions)."""
        return True


def _reads(flags: int) -> bool:
    """Return True for an open(2) that may read what is there, or that keeps it and appends."""
    return flags & os.O_ACCMODE != os.O_WRONLY or bool(flags & os.O_APPEND)


def _text(name: bytes) -> str:
    return name.decode(errors="surrogateescape")
