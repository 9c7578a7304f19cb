"""READDIRPLUS: entries with their attributes. What was told of a directory in which nothing changed is told again."""

import pyfuse3
from pyfuse3 import EntryAttributes, FileNameT, ReaddirToken

from kvfs.fuse import convert
from kvfs.vfs.attributes import Attr
from kvfs.vfs.dirstream import KEPT_ENTRIES, Face
from kvfs.vfs.filesystem import FileSystem
from kvfs.vfs.handles import DirectoryHandle
from kvfs.vfs.nodes import File, Node

_MOMENT = 0.01  # seconds between two looks at the clock


class Listing:
    """Answers of one mount. `.` and `..` are offsets 1 and 2, entry i of the stream is i + 3."""

    def __init__(self, fs: FileSystem, uid: int, gid: int) -> None:
        self._fs = fs
        self._inodes = fs.inodes
        self._now = fs.now
        self._ttl = fs.overlay.ttl
        self._uid = uid
        self._gid = gid

    def begin(self, handle: DirectoryHandle, start: int, token: ReaddirToken) -> int:
        """What takes no waiting because it was told before; the index to go on at, -1 when that is all."""
        if start == 0:
            self._fs.tree.rewind(handle)
        for dots, ino in ((1, handle.ino), (2, handle.parent)):
            if start < dots:
                attr = self._fs.attributes.peek(self._inodes.get(ino))
                entry = convert.attributes(attr, self._uid, self._gid)
                if not pyfuse3.readdir_reply(token, FileNameT(b"." * dots), entry, dots):
                    return -1
        return self._again(handle, max(start - 2, 0), token)

    def _again(self, handle: DirectoryHandle, index: int, token: ReaddirToken) -> int:
        stream, now = handle.stream, self._now()
        if stream is None or not stream.is_current(now):
            return index
        for face in stream.faces[index:]:
            if face is None:
                break
            name, entry, ino, until = face
            if until is not None:
                if until <= now:
                    break
                entry.entry_timeout = entry.attr_timeout = min(until - now, self._ttl)
            if not self._inodes.listed_again(ino):
                break
            index += 1
            if not pyfuse3.readdir_reply(token, name, entry, index + 2):
                self._inodes.forget(ino, 1)
                return -1
        return -1 if index and index == len(stream.entries) else index

    async def go_on(self, handle: DirectoryHandle, index: int, token: ReaddirToken, *, told: bool) -> None:
        """What has arrived is handed on before anything is waited for (`told`: something was already).

        An answer that fails carries no entries, whose lookup counts nobody would give back.
        """
        tree = self._fs.tree
        while not told or tree.has_arrived(handle, index):
            found = await tree.entry(handle, index)
            if found is None:
                return
            name, node = found
            index += 1
            if node is None:
                self._remember(handle, index - 1, None)
                continue
            attr = self._fs.attributes.peek(node)
            entry = convert.attributes(attr, self._uid, self._gid)
            encoded = FileNameT(name.encode())
            if not pyfuse3.readdir_reply(token, encoded, entry, index + 2):
                self._inodes.drop_unused(node)
                return
            self._remember(handle, index - 1, self._face(encoded, node, attr, entry))
            self._inodes.listed(node)
            told = True

    def _face(self, name: FileNameT, node: Node, attr: Attr, entry: EntryAttributes) -> Face | None:
        """What may be told again; not of directories (their times move), nor of files half known."""
        left = min(attr.attr_timeout, attr.entry_timeout)
        if not isinstance(node, File) or left <= 0:
            return None
        change = self._fs.overlay.journal.get(node.namespace, node.key)
        if change is not None and change.expiration is None and left > self._ttl - _MOMENT:
            return name, entry, attr.ino, None  # ours, and for ever: as good later as it is now
        return name, entry, attr.ino, self._now() + left

    @staticmethod
    def _remember(handle: DirectoryHandle, index: int, face: Face | None) -> None:
        faces = handle.stream.faces if handle.stream is not None else []
        if index < len(faces):
            faces[index] = face
        elif index == len(faces) and index < KEPT_ENTRIES:  # more are not kept beyond their first reader
            faces.append(face)
