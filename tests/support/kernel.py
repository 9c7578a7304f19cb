"""The file system below the mount, driven as the kernel drives it, without /dev/fuse.

`FakeKernel` walks paths by lookups, counts and forgets them, makes the checks the VFS makes before it asks,
and can cache entries, attributes and pages as long as it was told it may.
"""

import os

from support.kernel_cache import Directory, File, KernelCache, Walk
from support.whole_files import WholeFiles

from kvfs.core.errors import (
    ExistsError,
    InvalidError,
    IsADirectoryError_,
    NotADirectoryError_,
    NotEmptyError,
    NotFoundError,
)
from kvfs.core.times import SECOND
from kvfs.vfs.answers import answered
from kvfs.vfs.view.types import Attr, Changes


class FakeKernel(KernelCache, WholeFiles):
    """System calls by path."""

    async def stat(self, path: str) -> Attr:
        """stat(2)."""

        async def act(walk: Walk) -> Attr:
            return await self.getattr(_there(walk))

        return await self._on(act, path)

    async def fstat(self, file: File | Directory) -> Attr:
        """fstat(2)."""
        return await self.getattr(file.ino)

    async def exists(self, path: str) -> bool:
        """Return True if stat finds something."""
        try:
            await self.stat(path)
        except NotFoundError:
            return False
        return True

    async def setattr(self, path: str, **changes) -> Attr:
        """Do SETATTR of a path: `size`, `mode`, `mtime_ns`, `atime_ns`."""

        async def act(walk: Walk) -> Attr:
            ino = _there(walk)
            if "size" in changes and self.is_directory[ino]:
                raise IsADirectoryError_(path)
            return await self._setattr(ino, changes)

        return await self._on(act, path)

    async def _setattr(self, ino: int, changes, handle: int | None = None) -> Attr:
        attr = await self.fs.attributes.setattr(self.fs.inodes.get(ino), Changes(**changes), handle)
        if "size" in changes:
            self.pages.pop(ino, None)
        return self._believe(attr)

    async def ftruncate(self, file: File, size: int) -> Attr:
        """ftruncate(2)."""
        return await self._setattr(file.ino, {"size": size}, file.number)

    async def utimens(self, path: str, mtime: int) -> Attr:
        """utimensat(2) with whole seconds."""
        return await self.setattr(path, mtime_ns=mtime * SECOND, atime_ns=mtime * SECOND)

    async def truncate(self, path: str, size: int) -> Attr:
        """truncate(2)."""
        return await self.setattr(path, size=size)

    # extended attributes

    async def getxattr(self, path: str, name: str) -> bytes:
        """getxattr(2)."""

        async def act(walk: Walk) -> bytes:
            return await self.fs.xattrs.get(self.fs.inodes.get(_there(walk)), name)

        return await self._on(act, path)

    async def setxattr(self, path: str, name: str, value: bytes) -> None:
        """setxattr(2)."""

        async def act(walk: Walk) -> None:
            ino = _there(walk)
            await self.fs.xattrs.set(self.fs.inodes.get(ino), name, value)
            self.attrs.pop(ino, None)

        await self._on(act, path)

    async def listxattr(self, path: str) -> list[str]:
        """listxattr(2)."""

        async def act(walk: Walk) -> list[str]:
            return await self.fs.xattrs.list(self.fs.inodes.get(_there(walk)))

        return await self._on(act, path)

    async def removexattr(self, path: str, name: str) -> None:
        """removexattr(2)."""

        async def act(walk: Walk) -> None:
            ino = _there(walk)
            await self.fs.xattrs.remove(self.fs.inodes.get(ino), name)
            self.attrs.pop(ino, None)

        await self._on(act, path)

    async def xattrs(self, path: str) -> dict[str, bytes]:
        """Return what `getfattr -d` shows."""
        return {name: await self.getxattr(path, name) for name in await self.listxattr(path)}

    # names that change

    async def unlink(self, path: str) -> None:
        """unlink(2)."""

        async def act(walk: Walk) -> None:
            ino = _there(walk)
            if self.is_directory[ino]:
                raise IsADirectoryError_(path)
            await answered(self.fs.tree.unlink(walk.parent, walk.name))
            self._gone(walk)

        await self._on(act, path)

    async def mkdir(self, path: str, mode: int = 0o755) -> None:
        """mkdir(2)."""

        async def act(walk: Walk) -> None:
            if walk.ino is not None:
                raise ExistsError(path)
            node = await self.fs.tree.mkdir(walk.parent, walk.name, mode)
            self.attrs.pop(walk.parent, None)
            self._entry(walk.parent, walk.name, node)

        await self._on(act, path)

    async def rmdir(self, path: str) -> None:
        """rmdir(2)."""

        async def act(walk: Walk) -> None:
            if not self.is_directory[_there(walk)]:
                raise NotADirectoryError_(path)
            await self.fs.tree.rmdir(walk.parent, walk.name)
            self._gone(walk)

        await self._on(act, path)

    def _gone(self, walk: Walk) -> None:
        self.entries.pop((walk.parent, walk.name), None)
        for ino in (walk.parent, walk.ino):
            self.attrs.pop(ino, None)

    async def rename(self, old: str, new: str, *, no_replace: bool = False) -> None:
        """rename(2), with the checks of vfs_rename and its helpers in front of it."""

        async def act(source: Walk, goal: Walk) -> None:
            ino = _there(source)
            if goal.ino is not None and no_replace:
                raise ExistsError(new)
            if goal.parent == ino or ino in goal.path[:-1]:
                raise InvalidError("a directory cannot become its own descendant")
            if goal.ino is not None and goal.ino in source.path[:-1]:
                raise NotEmptyError(new)
            if goal.ino == ino:
                return
            if goal.ino is not None and self.is_directory[ino] != self.is_directory[goal.ino]:
                raise (IsADirectoryError_ if self.is_directory[goal.ino] else NotADirectoryError_)(new)
            await self.fs.renames.rename(
                source.parent, source.name, goal.parent, goal.name, no_replace=no_replace
            )
            moved = self.entries.get((source.parent, source.name))
            self._gone(source)
            self._gone(goal)
            if moved is not None:
                self.entries[goal.parent, goal.name] = moved

        await self._on(act, old, new)

    # files

    async def open(self, path: str, flags: int = os.O_RDONLY, mode: int = 0o644) -> File:
        """open(2)."""

        async def act(walk: Walk) -> File:
            writing = bool(flags & (os.O_WRONLY | os.O_RDWR))
            append = bool(flags & os.O_APPEND)
            reads = flags & os.O_ACCMODE != os.O_WRONLY or append
            if walk.ino is None:
                if not flags & os.O_CREAT:
                    raise NotFoundError(path)
                making = self.fs.create(
                    walk.parent, walk.name, mode=mode, exclusive=bool(flags & os.O_EXCL),
                    truncate=bool(flags & os.O_TRUNC), append=append, read=reads,
                )  # fmt: skip
                node, opened = await answered(making)
                walk.ino = self._entry(walk.parent, walk.name, node)
                walk.path = (*walk.path, walk.ino)
                self.attrs.pop(walk.parent, None)
            else:
                if flags & os.O_CREAT and flags & os.O_EXCL:
                    raise ExistsError(path)
                if self.is_directory[walk.ino]:
                    raise IsADirectoryError_(path)
                opening = self.fs.files.open(
                    self.fs.inodes.get(walk.ino),
                    write=writing,
                    truncate=bool(flags & os.O_TRUNC),
                    append=append,
                    read=reads,
                )
                opened = await answered(opening)
                if flags & os.O_TRUNC:
                    self.attrs.pop(walk.ino, None)
            if not opened.keeps_pages or flags & os.O_TRUNC:
                self.pages.pop(walk.ino, None)
            self._hold(walk.path, 1)
            return File(opened.number, walk.ino, walk.path, append)

        return await self._on(act, path)

    async def pread(self, file: File, offset: int, size: int) -> bytes:
        """pread(2) through the page cache: bounded by the size as known, zeros where a page came short."""
        attr = await self.getattr(file.ino)
        pages = self.pages.get(file.ino)
        if pages is None or not self.caching:
            content = bytes(self.fs.files.contents.read(file.number, 0, max(attr.size, 1) + 4096))
            pages = (content[: attr.size].ljust(attr.size, b"\0"), attr.mtime)
            if self.caching:
                self.pages[file.ino] = pages
        return pages[0][offset : offset + size]

    async def pwrite(self, file: File, offset: int, data: bytes) -> int:
        """pwrite(2); with O_APPEND at the end as the kernel knows it."""
        if file.append:
            offset = (await self.getattr(file.ino)).size
        try:
            return self.fs.files.contents.write(file.number, offset, data)
        finally:
            self.attrs.pop(file.ino, None)
            self.pages.pop(file.ino, None)

    async def fsync(self, file: File) -> None:
        """fsync(2)."""
        await answered(self.fs.files.syncing.fsync(file.number))

    async def flush(self, file: File) -> None:
        """Do what close(2) of one of several descriptors does."""
        await answered(self.fs.files.flush(file.number))

    async def close(self, file: File) -> None:
        """close(2) of the last descriptor: FLUSH, whose answer counts, and RELEASE."""
        try:
            await answered(self.fs.files.flush(file.number))
        finally:
            await answered(self.fs.files.release(file.number))
            self._hold(file.path, -1)
            if self.eager:
                self.forget()

    # directories

    async def opendir(self, path: str) -> Directory:
        """opendir(3)."""

        async def act(walk: Walk) -> Directory:
            ino = _there(walk)
            if not self.is_directory[ino]:
                raise NotADirectoryError_(path)
            number = await answered(self.fs.directories.opendir(ino))
            self._hold(walk.path, 1)
            return Directory(number, ino, walk.path)

        return await self._on(act, path)

    async def getdents(self, directory: Directory, count: int = 1 << 30) -> list[tuple[str, int]]:
        """Return at most so many entries from the handle's offset on, with the offset behind each: READDIRPLUS."""
        handle = self.fs.handles.directory(directory.number)
        found: list[tuple[str, int]] = []

        def tell(name: bytes, attr: Attr, offset: int, is_changed: bool) -> bool:
            if len(found) >= count:
                return False
            if name not in (b".", b".."):
                self._listed(directory.ino, name, attr)
            found.append((name.decode(), offset))
            directory.offset = offset
            return True

        before = -1
        while before < len(found) < count:
            before = len(found)
            await answered(self.fs.readdir.read(handle, directory.offset, tell))
        return found

    async def closedir(self, directory: Directory) -> None:
        """closedir(3)."""
        self.fs.handles.remove(directory.number)
        self._hold(directory.path, -1)
        if self.eager:
            self.forget()

    async def listdir(self, path: str) -> list[str]:
        """Return the names in a directory, without the dots, in the order they come."""
        directory = await self.opendir(path)
        try:
            return [name for name, _ in await self.getdents(directory) if name not in (".", "..")]
        finally:
            await self.closedir(directory)


def _there(walk: Walk) -> int:
    if walk.ino is None:
        raise NotFoundError(f"{walk.name!r} is not there")
    return walk.ino
