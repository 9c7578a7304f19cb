"""READDIRPLUS: packs entries with their attributes. What may be told of them, and again, `kvfs/vfs` decides."""

import pyfuse3
from pyfuse3 import FileNameT, ReaddirToken

from kvfs.fuse import convert
from kvfs.vfs.file.handles import DirectoryHandle
from kvfs.vfs.filesystem import FileSystem


class Listing:
    """Answers of one mount. `.` and `..` are offsets 1 and 2, entry i of the stream is i + 3."""

    def __init__(self, fs: FileSystem, uid: int, gid: int) -> None:
        self._fs = fs
        self._tree = fs.tree
        self._inodes = fs.inodes
        self._uid = uid
        self._gid = gid

    def begin(self, handle: DirectoryHandle, start: int, token: ReaddirToken) -> int:
        """Reply with what takes no waiting; the index to go on at when that was nothing at all, else -1.

        An answer that fails carries no entries, whose lookup counts nobody would give back.
        """
        if start == 0:
            self._tree.rewind(handle)
        for dots, ino in ((1, handle.ino), (2, handle.parent)):
            if start < dots:
                attr = self._fs.attributes.peek(self._inodes.get(ino))
                entry = convert.attributes(attr, self._uid, self._gid)
                if not pyfuse3.readdir_reply(token, FileNameT(b"." * dots), entry, dots):
                    return -1
        index, told = max(start - 2, 0), False
        while True:
            index, has_told, is_full = self._again(handle, index, token)
            told = told or has_told
            if is_full:
                return -1
            is_current = handle.stream is not None and handle.stream.is_current(self._fs.now())
            index, has_told, is_full = self._arrived(handle, index, token, most=1 if is_current else None)
            told = told or has_told
            if is_full or not (is_current and has_told):
                break
        return -1 if told or self._tree.has_arrived(handle, index) else index

    async def go_on(self, handle: DirectoryHandle, index: int, token: ReaddirToken) -> None:
        """Entries from `index` on, which has not arrived yet: waiting for the first of them, not for more."""
        told = False
        while not told:
            if await self._tree.entry(handle, index) is None:
                return
            index, told, _ = self._arrived(handle, index, token)

    def _again(self, handle: DirectoryHandle, index: int, token: ReaddirToken) -> tuple[int, bool, bool]:
        """Entries that may be told again: the index after, whether any was told, whether the answer is full."""
        if handle.stream is None:
            return index, False, False
        told = False
        for name, attr, is_changed in self._fs.retold.entries(handle.stream, index):
            entry = convert.retold(attr, self._uid, self._gid, is_changed=is_changed)
            index += 1
            if not pyfuse3.readdir_reply(token, FileNameT(name), entry, index + 2):
                self._inodes.forget(attr.ino, 1)
                return index - 1, True, True
            told = True
        return index, told, False

    def _arrived(
        self, handle: DirectoryHandle, index: int, token: ReaddirToken, *, most: int | None = None
    ) -> tuple[int, bool, bool]:
        """Up to `most` entries, as far as they have arrived; answers as `_again` does."""
        tree, told = self._tree, 0
        while told != most and tree.has_arrived(handle, index):
            found = tree.arrived_entry(handle, index)
            if found is None:
                break
            name, node, seen = found
            index += 1
            if node is None:
                continue
            attr = self._fs.attributes.peek(node, seen)
            entry = convert.retold(attr, self._uid, self._gid, is_changed=False)  # it may be remembered
            encoded = name.encode()
            if not pyfuse3.readdir_reply(token, FileNameT(encoded), entry, index + 2):
                self._inodes.drop_unused(node)
                return index - 1, True, True
            if handle.stream is not None:
                self._fs.retold.remember(handle.stream, index - 1, encoded, node, attr, seen)
            self._inodes.listed.show(node)
            told += 1
        return index, bool(told), False
