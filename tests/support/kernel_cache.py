"""The memory of the kernel about the file system: dentries, attributes, pages, and the lookups it owes.

The calls themselves are in `kernel.py`.
"""

from collections import Counter
from copy import copy
from dataclasses import dataclass, field

from kvfs.core.errors import (
    NotADirectoryError_,
    NotFoundError,
    StaleError,
)
from kvfs.vfs.answers import answered
from kvfs.vfs.filesystem import FileSystem
from kvfs.vfs.view.types import Attr


@dataclass(slots=True)
class File:
    """An open file: the daemon's number, its inode, and the inodes on the path, which stay referenced."""

    number: int
    ino: int
    path: tuple[int, ...]
    append: bool = False
    position: int = 0


@dataclass(slots=True)
class Directory:
    """An open directory and the offset at which getdents goes on."""

    number: int
    ino: int
    path: tuple[int, ...]
    offset: int = 0


@dataclass(slots=True)
class Walk:
    """The result of a path's walk; `ino` is None if it leads nowhere."""

    parent: int
    name: bytes
    ino: int | None
    path: tuple[int, ...] = field(default=())


class KernelCache:
    """The memory of a kernel. With `caching` it believes time-outs; without, it asks every time.

    `eager` forgets every inode as soon as nothing refers to it; otherwise `forget` does.
    """

    fs: FileSystem

    def __init__(self, now, *, caching: bool = False, eager: bool = True) -> None:
        self._now = now
        self.caching = caching
        self.eager = eager
        self.counts: Counter[int] = Counter()
        self.entries: dict[tuple[int, bytes], tuple[int | None, float]] = {}
        self.attrs: dict[int, tuple[Attr, float]] = {}
        self.pages: dict[int, tuple[bytes, int]] = {}  # content, and the mtime it belongs to
        self.held: Counter[int] = Counter()
        self.is_directory: dict[int, bool] = {1: True}

    # the Invalidator's side

    def attributes(self, ino: int) -> None:
        """notify_inval_inode, attributes only."""
        self.attrs.pop(ino, None)

    async def contents(self, ino: int) -> None:
        """notify_inval_inode."""
        self.attrs.pop(ino, None)
        self.pages.pop(ino, None)

    def entry(self, parent: int, name: bytes) -> None:
        """notify_inval_entry."""
        self.entries.pop((parent, name), None)

    async def entries_forgotten(self) -> None:
        """Nothing: an entry is forgotten at once."""

    # names

    def _believe(self, attr: Attr) -> Attr:
        self.is_directory[attr.ino] = attr.is_directory
        if self.caching and attr.attr_timeout > 0:
            self.attrs[attr.ino] = (attr, self._now() + attr.attr_timeout)
        else:
            self.attrs.pop(attr.ino, None)
        return attr

    def _entry(self, parent: int, name: bytes, node) -> int:
        attr = self.fs.attributes.peek(node)
        assert attr.ino == node.ino
        node.lookups += 1
        return self._listed(parent, name, attr)

    def _listed(self, parent: int, name: bytes, attr: Attr) -> int:
        """A name was told with its attributes, which may be others when the next is told."""
        attr = self._believe(copy(attr))
        self.counts[attr.ino] += 1
        if self.caching:
            self.entries[parent, name] = (attr.ino, self._now() + attr.entry_timeout)
        return attr.ino

    async def lookup(self, parent: int, name: bytes) -> int | None:
        """Do LOOKUP, or use what is remembered of one."""
        known = self.entries.get((parent, name))
        if known is not None and self._now() < known[1]:
            return known[0]
        node = await answered(self.fs.tree.lookup(parent, name))
        if node is None:
            if self.caching:
                self.entries[parent, name] = (None, self._now() + self.fs.tree.absences.seconds)
            return None
        return self._entry(parent, name, node)

    async def _walk(self, path: str) -> Walk:
        ino, path_inos = 1, [1]
        names = [name.encode(errors="surrogateescape") for name in path.split("/") if name]
        walk = Walk(1, b"", 1, (1,))
        for index, name in enumerate(names):
            found = await self.lookup(ino, name)
            walk = Walk(ino, name, found, tuple(path_inos))
            if index + 1 < len(names):
                if found is None:
                    raise NotFoundError(f"{path!r}: {name!r} is not there")
                if not self.is_directory[found]:
                    raise NotADirectoryError_(f"{path!r}: {name!r} is a file")
            if found is not None:
                path_inos.append(found)
                ino = found
        walk.path = tuple(path_inos)
        return walk

    async def _on(self, act, *paths: str):
        """Walk the paths and act on them; do it once more, asking for every name anew, when an inode was stale."""
        try:
            try:
                return await act(*[await self._walk(path) for path in paths])
            except StaleError:
                self.entries.clear()
                self.attrs.clear()
                return await act(*[await self._walk(path) for path in paths])
        finally:
            if self.eager:
                self.forget()

    def forget(self) -> None:
        """Forget every inode that nothing refers to, as when memory is short."""
        for ino in [ino for ino in self.counts if not self.held[ino]]:
            self.fs.inodes.forget(ino, self.counts.pop(ino))
            self.attrs.pop(ino, None)
            self.pages.pop(ino, None)
            for place in [p for p, (known, _) in self.entries.items() if ino in (p[0], known)]:
                del self.entries[place]

    def _hold(self, inos, by: int) -> None:
        for ino in inos:
            self.held[ino] += by

    # attributes

    async def getattr(self, ino: int) -> Attr:
        """Do GETATTR, or use what is remembered of one; changed pages go, as AUTO_INVAL_DATA asks."""
        known = self.attrs.get(ino)
        if known is not None and self._now() < known[1]:
            return known[0]
        attr = self._believe(await answered(self.fs.getattr(ino)))
        pages = self.pages.get(ino)
        if pages is not None and (len(pages[0]) != attr.size or pages[1] != attr.mtime_ns):
            del self.pages[ino]
        return attr
