"""READDIRPLUS: entries with their attributes. What was told of a directory in which nothing changed is told again."""

import pyfuse3
from pyfuse3 import EntryAttributes, FileNameT, ReaddirToken

from kvfs.core.model import Key, NamespaceId
from kvfs.fuse import convert
from kvfs.vfs.dirstream import KEPT_ENTRIES, DirStream, Face
from kvfs.vfs.file.handles import DirectoryHandle
from kvfs.vfs.filesystem import FileSystem
from kvfs.vfs.inode.nodes import File, Node
from kvfs.vfs.view.types import Attr, Seen, View, told_size

_MOMENT = 0.01  # seconds between two looks at the clock


class Listing:
    """Answers of one mount. `.` and `..` are offsets 1 and 2, entry i of the stream is i + 3."""

    def __init__(self, fs: FileSystem, uid: int, gid: int) -> None:
        self._fs = fs
        self._inodes = fs.inodes
        self._now = fs.now
        self._overlay = fs.overlay
        self._values = fs.overlay.values
        self._ttl = fs.overlay.ttl
        self._uid = uid
        self._gid = gid
        self.unsized: dict[int, Face] = {}  # by inode number: told without a size, so the kernel asks for it

    def begin(self, handle: DirectoryHandle, start: int, token: ReaddirToken) -> int:
        """What takes no waiting; the index to go on at when that was nothing at all, else -1.

        An answer that fails carries no entries, whose lookup counts nobody would give back.
        """
        if start == 0:
            self._fs.tree.rewind(handle)
        for dots, ino in ((1, handle.ino), (2, handle.parent)):
            if start < dots:
                attr = self._fs.attributes.peek(self._inodes.get(ino))
                entry = convert.attributes(attr, self._uid, self._gid)
                if not pyfuse3.readdir_reply(token, FileNameT(b"." * dots), entry, dots):
                    return -1
        first = max(start - 2, 0)
        index = self._again(handle, first, token)
        if index < 0:
            return -1
        told, after = self._arrived(handle, index, token)
        return -1 if told or index > first or self._fs.tree.has_arrived(handle, after) else after

    async def go_on(self, handle: DirectoryHandle, index: int, token: ReaddirToken) -> None:
        """Entries from `index` on, which has not arrived yet: waiting for the first of them, not for more."""
        told = False
        while not told:
            if await self._fs.tree.entry(handle, index) is None:
                return
            told, index = self._arrived(handle, index, token)

    def _again(self, handle: DirectoryHandle, index: int, token: ReaddirToken) -> int:
        """Entries as they were told before; the index to go on at, -1 when the answer is full or complete."""
        stream, now = handle.stream, self._now()
        if stream is None or not stream.is_current(now):
            return index
        faces = stream.faces
        while index < len(faces):
            face = faces[index]
            if face is None or not (face.until is None or self._still_holds(stream, index, face, now)):
                break
            if not self._inodes.listed_again(face.ino):
                break
            index += 1
            if not pyfuse3.readdir_reply(token, face.name, face.attributes, index + 2):
                self._inodes.forget(face.ino, 1)
                return -1
        return -1 if index and index == len(stream.entries) else index

    def _still_holds(self, stream: DirStream, index: int, face: Face, now: float) -> bool:
        """Whether what was told of a file can be told again: its size and time-outs are as of now, then."""
        entry, key = face.attributes, stream.entries[index]
        if isinstance(key, tuple):  # `%self`, or one that came here beside the listing
            return False
        place = (stream.namespace, key)
        if face.until is not None and self._is_size_the_same(face, place):
            entry.entry_timeout = left = min(face.until - now, self._ttl)
            if entry.attr_timeout:  # none: the size is not known
                entry.attr_timeout = left
            return left > 0
        seen = self._overlay.peek(*place, stale=True)
        if not isinstance(seen, View) or self._inodes.is_open(face.ino):
            return False
        size, entry.attr_timeout, left = told_size(seen, now, self._ttl)
        entry.entry_timeout = left
        convert.resize(entry, size)
        face.until, face.sizes, face.size = now + left, self._values.changes, self._values.known(place)
        return left > 0

    def _is_size_the_same(self, face: Face, place: tuple[NamespaceId, Key]) -> bool:
        """Whether nothing became of the size, by a number if no size changed at all, else by asking for this one."""
        changes = self._values.changes
        if face.sizes != changes:
            if face.size is None or face.size is not self._values.known(place):
                return False
            face.sizes = changes
        return True

    def _arrived(self, handle: DirectoryHandle, index: int, token: ReaddirToken) -> tuple[bool, int]:
        """Entries from `index` on, as far as they have arrived: whether any was told, and the index after."""
        tree, told = self._fs.tree, False
        while tree.has_arrived(handle, index):
            found = tree.arrived_entry(handle, index)
            if found is None:
                break
            name, node, seen = found
            index += 1
            if node is None:
                continue
            attr = self._fs.attributes.peek(node, seen)
            entry = convert.attributes(attr, self._uid, self._gid)
            encoded = FileNameT(name.encode())
            if not pyfuse3.readdir_reply(token, encoded, entry, index + 2):
                self._inodes.drop_unused(node)
                return True, index
            if handle.stream is not None:
                handle.stream.remember(index - 1, self._face(encoded, node, attr, entry, seen))
            self._inodes.listed(node)
            told = True
        return told, index

    def _face(
        self, name: FileNameT, node: Node, attr: Attr, entry: EntryAttributes, seen: Seen
    ) -> Face | None:
        """What may be told again; not of directories, whose times move, nor of files that are open."""
        left = min(attr.attr_timeout or attr.entry_timeout, attr.entry_timeout)
        if not isinstance(node, File) or node.open is not None or left <= 0:
            return None
        change = seen.change if isinstance(seen, View) else None
        is_ours = change is not None and change.expiration is None and left > self._ttl - _MOMENT
        until = None if is_ours else self._now() + left  # ours, and for ever: as good later as it is now
        size = self._values.known((node.namespace, node.key))
        face = Face(name, entry, attr.ino, until, self._values.changes, size)
        if not attr.attr_timeout:
            if len(self.unsized) >= KEPT_ENTRIES:
                self.unsized.clear()
            self.unsized[attr.ino] = face
        return face

    def sized(self, node: Node, attr: Attr, entry: EntryAttributes) -> None:
        """The kernel was told the size that a listing could not tell: the next listing can."""
        face = self.unsized.pop(node.ino, None)
        if face is None or face.until is None or not isinstance(node, File) or node.open is not None:
            return
        left = min(attr.attr_timeout, attr.entry_timeout)
        face.size = self._values.known((node.namespace, node.key))
        if left > 0 and face.size is not None and not node.detached:
            face.attributes, face.until, face.sizes = entry, self._now() + left, self._values.changes
