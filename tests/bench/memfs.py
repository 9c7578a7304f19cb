"""The floor: a file system in memory that does nothing else, tuned for the kernel exactly as kvfs is.

It is mounted by kvfs' own `Session` (mount options, event loop, task limits), looks for cycles as seldom, answers
with the same timeouts and block sizes, and is asked the same things: flush is a call that does nothing and
attributes are refused, because kvfs needs both calls. `--bare` turns both off (ENOSYS: the kernel stops asking),
which no file system that has to journal at close and keeps attributes can do. Run it as
`python -m bench.memfs DIR --ready-fd N`.
"""

import argparse
import errno
import os
import signal
import stat
import time
from pathlib import Path

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError

from kvfs.daemon.memory import look_less_for_cycles
from kvfs.fuse.convert import DIRECTORY_BLOCK, FILE_BLOCK
from kvfs.fuse.session import Session

TTL = 60.0  # the default --cache-ttl, kvfs' timeout for what it knows
NEGATIVE = 2.0

_NOT_SUPPORTED = FUSEError(errno.ENOTSUP)
_NOT_IMPLEMENTED = FUSEError(errno.ENOSYS)


class Node:
    """A file or a directory: its attributes are made once and changed in place."""

    __slots__ = ("attr", "children", "data", "lookups", "parent")

    def __init__(self, ino: int, mode: int, parent: "Node | None") -> None:
        self.parent = parent or self
        self.lookups = 0
        directory = stat.S_ISDIR(mode)
        self.children: dict[bytes, Node] | None = {} if directory else None
        self.data = bytearray()
        self.attr = _attributes(ino, mode, DIRECTORY_BLOCK if directory else FILE_BLOCK)

    def resized(self) -> None:
        """Make the size that of the data, and set the times to now."""
        attr = self.attr
        attr.st_size = len(self.data)
        attr.st_blocks = (len(self.data) + 511) // 512
        attr.st_mtime_ns = attr.st_ctime_ns = time.time_ns()

    @property
    def names(self) -> "dict[bytes, Node]":
        """Return the entries of a directory."""
        if self.children is None:
            raise FUSEError(errno.ENOTDIR)
        return self.children


def _attributes(ino: int, mode: int, block: int) -> EntryAttributes:
    attr = EntryAttributes()
    attr.st_ino = pyfuse3.InodeT(ino)
    attr.st_mode = pyfuse3.ModeT(mode)
    attr.st_nlink = 1
    attr.st_uid, attr.st_gid = os.getuid(), os.getgid()
    attr.st_blksize = block
    attr.entry_timeout = attr.attr_timeout = TTL
    attr.st_atime_ns = attr.st_mtime_ns = attr.st_ctime_ns = time.time_ns()
    return attr


class Operations(pyfuse3.Operations):
    """Dictionary work only."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, *, bare: bool, content: Path | None) -> None:
        super().__init__()
        self._bare = bare
        self._refusal = _NOT_IMPLEMENTED if bare else _NOT_SUPPORTED
        self._last = pyfuse3.ROOT_INODE
        self._nodes = {int(self._last): Node(self._last, stat.S_IFDIR | 0o755, None)}
        self._handles: dict[int, tuple[Node, list[tuple[bytes, Node]]]] = {}
        self._absent = EntryAttributes()
        self._absent.st_ino = pyfuse3.InodeT(0)
        self._absent.entry_timeout = self._absent.attr_timeout = NEGATIVE
        if content is not None:
            self._fill(self._nodes[pyfuse3.ROOT_INODE], content)

    def _fill(self, node: Node, content: Path) -> None:
        for path in sorted(content.iterdir()):
            kind = stat.S_IFDIR | 0o755 if path.is_dir() else stat.S_IFREG | 0o644
            made = self._add(node, os.fsencode(path.name), kind)
            if path.is_dir():
                self._fill(made, path)
            else:
                made.data += path.read_bytes()
                made.resized()

    def _add(self, parent: Node, name: bytes, mode: int) -> Node:
        self._last += 1
        node = parent.names[name] = self._nodes[self._last] = Node(self._last, mode, parent)
        return node

    def _drop(self, node: Node) -> None:
        node.attr.st_nlink = 0
        if node.lookups <= 0:
            self._nodes.pop(node.attr.st_ino, None)

    @staticmethod
    def _found(node: Node) -> EntryAttributes:
        node.lookups += 1
        return node.attr

    async def lookup(self, parent_inode, name, ctx):
        node = self._nodes[parent_inode].names.get(name)
        return self._absent if node is None else self._found(node)

    async def forget(self, inode_list):
        for inode, count in inode_list:
            node = self._nodes.get(inode)
            if node is not None:
                node.lookups -= count
                if node.attr.st_nlink == 0:
                    self._drop(node)

    async def getattr(self, inode, ctx):
        return self._nodes[inode].attr

    async def setattr(self, inode, attr, fields, fh, ctx):
        node = self._nodes[inode]
        if fields.update_size:
            size = attr.st_size
            if size < len(node.data):
                del node.data[size:]
            node.data.extend(bytes(size - len(node.data)))
            node.resized()
        if fields.update_mode:
            node.attr.st_mode = attr.st_mode
        if fields.update_mtime:
            node.attr.st_mtime_ns = attr.st_mtime_ns
        if fields.update_atime:
            node.attr.st_atime_ns = attr.st_atime_ns
        return node.attr

    async def mkdir(self, parent_inode, name, mode, ctx):
        return self._found(self._add(self._nodes[parent_inode], name, stat.S_IFDIR | mode & 0o7777))

    async def rmdir(self, parent_inode, name, ctx):
        names = self._nodes[parent_inode].names
        if name not in names:
            raise FUSEError(errno.ENOENT)
        if names[name].names:
            raise FUSEError(errno.ENOTEMPTY)
        self._drop(names.pop(name))

    async def unlink(self, parent_inode, name, ctx):
        node = self._nodes[parent_inode].names.pop(name, None)
        if node is None:
            raise FUSEError(errno.ENOENT)
        self._drop(node)

    async def rename(self, parent_inode_old, name_old, parent_inode_new, name_new, flags, ctx):
        old, new = self._nodes[parent_inode_old].names, self._nodes[parent_inode_new]
        if name_old not in old:
            raise FUSEError(errno.ENOENT)
        over = new.names.pop(name_new, None)
        if over is not None:
            self._drop(over)
        node = new.names[name_new] = old.pop(name_old)
        node.parent = new

    async def opendir(self, inode, ctx):
        node = self._nodes[inode]
        self._handles[fh := self._handle()] = (node, list(node.names.items()))
        return pyfuse3.FileHandleT(fh)

    def _handle(self) -> int:
        self._last += 1  # numbers are cheap
        return self._last

    async def readdir(self, fh, start_id, token):
        node, entries = self._handles[fh]
        for dots, found in ((1, node), (2, node.parent)):
            if start_id < dots and not pyfuse3.readdir_reply(token, b"." * dots, found.attr, dots):
                return
        for index in range(max(start_id - 2, 0), len(entries)):
            name, node = entries[index]
            if not pyfuse3.readdir_reply(token, name, node.attr, index + 3):
                return
            node.lookups += 1

    async def releasedir(self, fh):
        self._handles.pop(fh, None)

    async def fsyncdir(self, fh, datasync):
        pass

    async def open(self, inode, flags, ctx):
        if flags & os.O_TRUNC:
            node = self._nodes[inode]
            node.data.clear()
            node.resized()
        return FileInfo(fh=inode, keep_cache=True)

    async def create(self, parent_inode, name, mode, flags, ctx):
        parent = self._nodes[parent_inode]
        node = parent.names.get(name) or self._add(parent, name, stat.S_IFREG | mode & 0o7777)
        return FileInfo(fh=pyfuse3.FileHandleT(node.attr.st_ino), keep_cache=True), self._found(node)

    async def read(self, fh, off, size):
        return memoryview(self._nodes[fh].data)[off : off + size]

    async def write(self, fh, off, buf):
        node = self._nodes[fh]
        if off > len(node.data):
            node.data.extend(bytes(off - len(node.data)))
        node.data[off : off + len(buf)] = buf
        node.resized()
        return len(buf)

    async def flush(self, fh):
        if self._bare:
            raise _NOT_IMPLEMENTED

    async def fsync(self, fh, datasync):
        pass

    async def release(self, fh):
        pass

    async def getxattr(self, inode, name, ctx):
        raise self._refusal

    async def listxattr(self, inode, ctx):
        return ()

    async def statfs(self, ctx):
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_blocks = data.f_bfree = data.f_bavail = 1 << 30
        data.f_files = data.f_ffree = data.f_favail = 1 << 30
        data.f_namemax = 255
        return data


async def _serve(mountpoint: Path, ready: int, operations: Operations) -> None:
    session = Session(mountpoint, operations, source="memory", allow_other=False)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(_end_on_signal, session)
            os.write(ready, b"ready\n")
            os.close(ready)
            await session.run()
            nursery.cancel_scope.cancel()
    finally:
        session.close()


async def _end_on_signal(session: Session, *, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            session.stop()


def main() -> None:
    """Mount until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--ready-fd", type=int, required=True)
    parser.add_argument("--bare", action="store_true", help="never be asked for flush and attributes")
    parser.add_argument("--content", type=Path, help="begin with the files of this directory")
    words = parser.parse_args()
    look_less_for_cycles()
    trio.run(_serve, words.directory, words.ready_fd, Operations(bare=words.bare, content=words.content))


if __name__ == "__main__":
    main()
