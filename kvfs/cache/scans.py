"""Directories whose entries were read lately, because the first read of a file in one of them foretells a walk.

A program that goes through a tree (`ls -lR`, `grep -r`, `tar`, `cp -r`, a shell's `*`) reads a directory's entries,
then its files from the first one on, all within moments; who opens one file he knows reads no entries. So the first
file of a directory just read begins a walk through it. When the directory above was read just before, and this is its
first or the next one in it, the walk goes through the tree below the topmost of them; not when directories are visited
here and there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from kvfs.core.freshness import is_fresh
from kvfs.core.latest import Latest
from kvfs.core.model import Key, KeyRef, NamespaceId
from kvfs.core.names import DirRef

RECENT: Final = 3.0  # seconds between reading entries and the first file, or the directory below
_LOOKED = 256  # entries of a directory that are looked at
_SCANS = 64  # directories remembered


@dataclass(frozen=True, slots=True)
class Walk:
    """The keys that are likely to be read next, seen from the first file of a directory.

    They are every key that starts with `root`, when `is_recursive`; else `siblings`, the files that follow in the
    directory.
    """

    root: str
    siblings: Sequence[Key]
    is_recursive: bool


@dataclass(frozen=True, slots=True)
class _Scan:
    """The first entries of a directory.

    `visited` is the index of the directory below that was read last. -1 means none yet; their number means one that is
    not among them.
    """

    root: str
    entries: Sequence[object]
    at: float
    visited: int = -1

    def visit(self, directory: str) -> tuple[int, bool]:
        """Return a directory's index, and whether a reader that goes through them in order reads it now (still)."""
        count = len(self.entries)
        if self.visited >= count > 0:
            return count, False
        after = range(self.visited + 1, count)
        following = next((index for index in after if self._directory(index) is not None), -1)
        for index in (self.visited, following):
            if 0 <= index < count and self._directory(index) == directory:
                return index, True
        return next((index for index in range(count) if self._directory(index) == directory), count), False

    def _directory(self, index: int) -> str | None:
        entry = self.entries[index]
        ref = entry[1] if isinstance(entry, tuple) else None
        return ref.prefix if isinstance(ref, DirRef) else None


class Scans:
    """Remembers a few directories. `is_wanted` is true for keys that are neither held nor under way."""

    def __init__(self, now: Callable[[], float], is_wanted: Callable[[KeyRef], bool]) -> None:
        # dependencies
        self._now = now
        self._is_wanted = is_wanted
        self._scans = Latest[tuple[NamespaceId, str], _Scan](_SCANS)  # most recently read last

    def note(
        self,
        namespace: NamespaceId,
        directory: str,
        parent: str | None,
        entries: Sequence[object],
        *,
        is_first: bool = True,
    ) -> None:
        """Note that a program reads a directory with these first entries: of files the keys, else (name, DirRef).

        `directory` and `parent` (None for the root) are prefixes; `is_first` is true when the program opened it just
        now.
        """
        now, known, root = self._now(), self._recent(namespace, directory), directory
        above = self._recent(namespace, parent) if parent is not None else None
        if above is not None and parent is not None:
            visited, is_next = above.visit(directory)
            root = above.root if is_next else directory
            self._scans.keep((namespace, parent), replace(above, at=now, visited=visited))
        elif known is not None:
            root = known.root
        visited = known.visited if known is not None and not is_first else -1
        self._scans.keep((namespace, directory), _Scan(root, entries[:_LOOKED], now, visited))

    def walk(self, namespace: NamespaceId, directory: str, key: Key) -> Walk | None:
        """Return the walk that a miss of `key`, in this directory, seems to begin; None when it does not."""
        scan = self._recent(namespace, directory)
        if scan is None:
            return None
        files = [Key(entry) for entry in scan.entries if isinstance(entry, str)]
        first = next((index for index, file in enumerate(files) if self._is_wanted((namespace, file))), None)
        if first is None or files[first] != key:
            return None
        return Walk(scan.root, files[first + 1 :], scan.root != directory)

    def _recent(self, namespace: NamespaceId, directory: str) -> _Scan | None:
        scan = self._scans.get((namespace, directory))
        return scan if scan is not None and is_fresh(scan.at, RECENT, self._now()) else None
