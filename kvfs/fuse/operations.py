"""The kernel's calls: unpack, one call into the vfs, pack. The kernel wrote the list of methods."""

import os
import stat
from collections.abc import Callable, Sequence

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
from kvfs.fuse import convert
from kvfs.fuse.guard import guarded, unbounded, unseen
from kvfs.fuse.system_calls import SystemCalls
from kvfs.vfs.answers import Answer, then
from kvfs.vfs.file.files import Opened
from kvfs.vfs.filesystem import FileSystem
from kvfs.vfs.inode.nodes import File, Node
from kvfs.vfs.view.types import Attr, Changes

_Created = tuple[FileInfo, EntryAttributes]

_PERMISSIONS = 0o7777
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC


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
        self._absent = convert.absent(fs.tree.absences.seconds)
        self.system_calls = SystemCalls(fs.options.timeout)
        self.hindrance: Callable[[], str] = lambda: ""

    def _entry(self, node: Node) -> EntryAttributes:
        """Return attributes as known, and count one lookup more: the last thing before the return."""
        entry = convert.attributes(self._fs.attributes.peek(node), self._uid, self._gid)
        node.lookups += 1
        return entry

    def _check_writable(self) -> None:
        if self._read_only:
            raise FUSEError(convert.READ_ONLY)

    # names

    @guarded
    def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> Answer[EntryAttributes]:
        """Look up a name's inode; absence is an answer that the kernel may keep for a moment."""
        return then(self._fs.tree.lookup(parent_inode, name), self._found)

    def _found(self, node: Node | None) -> EntryAttributes:
        return self._absent if node is None else self._entry(node)

    @unseen
    def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """Drop references, as the kernel did."""
        for inode, count in inode_list:
            self._inodes.forget(inode, count)

    @guarded
    def getattr(self, inode: InodeT, ctx: RequestContext) -> Answer[EntryAttributes]:
        """Do stat(2), with the exact size."""
        return then(self._fs.getattr(inode), self._told)

    def _told(self, attr: Attr) -> EntryAttributes:
        """Return attributes of an `Attr` that may be told again."""
        return convert.retold(attr, self._uid, self._gid, is_changed=False)

    @guarded
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        """Do chmod, truncate, utimens; chown is accepted and not kept."""
        self._check_writable()
        changes = Changes(
            size=attr.st_size if fields.update_size else None,
            mode=attr.st_mode & _PERMISSIONS if fields.update_mode else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
        )
        changed = await self._fs.attributes.setattr(self._inodes.get(inode), changes, fh)
        return convert.attributes(changed, self._uid, self._gid)

    @guarded
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        """Make a directory, or a namespace at the root."""
        self._check_writable()
        return self._entry(await self._fs.tree.mkdir(parent_inode, name, mode & _PERMISSIONS))

    @guarded
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        """Remove an empty directory or namespace."""
        self._check_writable()
        await self._fs.tree.rmdir(parent_inode, name)

    @guarded
    def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> Answer[None]:
        """Delete a key."""
        self._check_writable()
        return self._fs.tree.unlink(parent_inode, name)

    @unbounded  # a directory may be of any size (see `Renames`)
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        """Do rename(2); of the flags only RENAME_NOREPLACE."""
        self._check_writable()
        if flags & ~pyfuse3.RENAME_NOREPLACE:
            raise FUSEError(convert.INVALID)
        await self._fs.renames.rename(
            parent_inode_old, name_old, parent_inode_new, name_new, no_replace=bool(flags)
        )

    @guarded
    def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> Answer[EntryAttributes]:
        """Refuse, because KV has no links."""
        raise FUSEError(convert.NOT_PERMITTED)

    @guarded
    def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> Answer[EntryAttributes]:
        """Refuse, because KV has no links."""
        raise FUSEError(convert.NOT_PERMITTED)

    @guarded
    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        """Make an empty file (tar --xattrs makes them so); KV has no devices, pipes or sockets."""
        self._check_writable()
        if not stat.S_ISREG(mode):
            raise FUSEError(convert.NOT_PERMITTED)
        made = await self._fs.make(parent_inode, name, mode & _PERMISSIONS)
        return convert.attributes(made, self._uid, self._gid)

    # directories

    @guarded
    def opendir(self, inode: InodeT, ctx: RequestContext) -> Answer[FileHandleT]:
        """Open a handle on the entries."""
        return then(self._fs.directories.opendir(inode), self._held)

    def _held(self, number: int) -> FileHandleT:
        """Note who opened a new handle, because calls that name only the handle count for that process."""
        self.callers.held[number] = door.caller or current() or self.callers.own
        return number

    @guarded
    def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> Answer[None]:
        """Reply with entries from an offset on."""
        reply, uid, gid = pyfuse3.readdir_reply, self._uid, self._gid

        def tell(name: bytes, attr: Attr, offset: int, is_changed: bool) -> bool:
            entry = attr.told
            if is_changed or entry is None:
                entry = convert.retold(attr, uid, gid, is_changed=is_changed)
            return reply(token, name, entry, offset)  # type: ignore[arg-type]  # FileNameT would be a call

        return self._fs.readdir.read(self._fs.handles.directory(fh), start_id, tell)

    @guarded
    def releasedir(self, fh: FileHandleT) -> None:
        """Do closedir."""
        self.callers.held.pop(fh, None)
        self._fs.handles.remove(fh)

    @guarded
    def fsyncdir(self, fh: FileHandleT, datasync: bool) -> Answer[None]:
        """Wait until all changes below the directory are in the store."""
        return self._fs.files.syncing.sync_directory(self._fs.handles.directory(fh))

    # files

    @guarded
    def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> Answer[FileInfo]:
        """Open a file; the whole value is there when this returns, so reads wait for nothing."""
        writing = bool(flags & _WRITING)
        if writing:
            self._check_writable()
        opening = self._fs.files.open(
            self._inodes.get(inode),
            write=writing,
            truncate=bool(flags & os.O_TRUNC),
            append=bool(flags & os.O_APPEND),
            read=_reads(flags),
        )
        return then(opening, self._opened)

    def _opened(self, opened: Opened) -> FileInfo:
        return FileInfo(
            fh=self._held(opened.number), keep_cache=opened.keeps_pages, direct_io=opened.bypasses_pages
        )

    @guarded
    def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> Answer[_Created]:
        """Do O_CREAT of a name the kernel does not know; the key may exist all the same."""
        self._check_writable()
        made = self._fs.create(
            parent_inode,
            name,
            mode=mode & _PERMISSIONS,
            exclusive=bool(flags & os.O_EXCL),
            truncate=bool(flags & os.O_TRUNC),
            append=bool(flags & os.O_APPEND),
            read=_reads(flags),
        )
        return then(made, self._created)

    def _created(self, made: tuple[File, Opened]) -> _Created:
        node, opened = made
        return self._opened(opened), self._entry(node)

    @guarded
    def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        """Read at most `size` bytes; fewer only at the end."""
        return self._fs.files.contents.read(fh, off, size)  # type: ignore[return-value]  # any buffer will do

    @guarded
    def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        """Write into the content in memory."""
        return self._fs.files.contents.write(fh, off, buf)

    @guarded
    def flush(self, fh: FileHandleT) -> Answer[None]:
        """Do close(2): record in the journal."""
        return self._fs.files.flush(fh)

    @guarded
    def fsync(self, fh: FileHandleT, datasync: bool) -> Answer[None]:
        """Return when the content is on the server, or raise why not."""
        return self._fs.files.syncing.fsync(fh)

    @guarded
    def release(self, fh: FileHandleT) -> Answer[None]:
        """Release an open, because its last reference is gone."""
        self.callers.held.pop(fh, None)
        return self._fs.files.release(fh)

    # extended attributes

    @guarded
    def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> Answer[bytes]:
        """Return one attribute; all but `user.` at once, because the kernel asks for one before every write."""
        if not name.startswith(b"user."):
            raise FUSEError(convert.NOT_SUPPORTED)  # a new one: an error grows a traceback with each raise
        return self._fs.xattrs.get(self._inodes.get(inode), _text(name))

    @guarded
    async def setxattr(self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext) -> None:
        """Change one field of the metadata."""
        self._check_writable()
        await self._fs.xattrs.set(self._inodes.get(inode), _text(name), value)

    @guarded
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        """Return the fields of the metadata."""
        names = await self._fs.xattrs.list(self._inodes.get(inode))
        return [XAttrNameT(name.encode(errors="surrogateescape")) for name in names]

    @guarded
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        """Remove one field of the metadata."""
        self._check_writable()
        await self._fs.xattrs.remove(self._inodes.get(inode), _text(name))

    # the whole

    @guarded
    def statfs(self, ctx: RequestContext) -> StatvfsData:
        """Answer df: keys and bytes as far as known, without a request."""
        return convert.usage(self._fs.usage())

    @guarded
    def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        """Do nothing, because the kernel checks permissions itself (default_permissions)."""
        return True


def _reads(flags: int) -> bool:
    """Return True for an open(2) that may read what is there, or that keeps it and appends."""
    return flags & os.O_ACCMODE != os.O_WRONLY or bool(flags & os.O_APPEND)


def _text(name: bytes) -> str:
    return name.decode(errors="surrogateescape")
