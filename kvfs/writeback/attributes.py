"""What this machine keeps beside the changes: mode bits and times of keys, directories that mkdir made.

Same file and same transactions as the changes, so that a rename or a deletion takes them along.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Final

from sortedcontainers import SortedDict

from kvfs.core.model import Key, NamespaceId

CACHED_FILES: Final = 65_536


@dataclass(frozen=True, slots=True)
class LocalAttrs:
    """Permission bits and times (epoch seconds) of a key; None: not set on this machine."""

    mode: int | None = None
    mtime: int | None = None
    ctime: int | None = None
    atime: int | None = None


@dataclass(frozen=True, slots=True)
class DirRow:
    """A directory that exists because mkdir made it; `prefix` and `start` as in core.names."""

    prefix: str
    start: int
    mode: int | None = None
    mtime: int | None = None
    ctime: int | None = None


class Attributes:
    """The tables local_files, local_dirs and namespaces.

    Directories are all in memory; attributes of files are read when asked for and remembered in bounds.
    Every method that writes joins the transaction around it, or is one; JournalError when it fails.
    """

    def __init__(
        self, connection: sqlite3.Connection, transaction: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._db = connection
        self._transaction = transaction
        self._files: dict[tuple[NamespaceId, Key], LocalAttrs | None] = {}
        self._dirs: dict[NamespaceId, SortedDict[tuple[str, int], DirRow]] = {}
        self._seen: dict[NamespaceId, int] = {}
        self.changes = 0  # grows with everything that is written here
        self._any_files = True  # whether local_files may hold a row: mostly it does not

    def load(self) -> None:
        """Fill from the tables: at open, and after a transaction that failed."""
        self.changes += 1
        self._files.clear()
        self._dirs.clear()
        self._any_files = self._db.execute("SELECT 1 FROM local_files LIMIT 1").fetchone() is not None
        for namespace, *columns in self._db.execute(
            "SELECT namespace, prefix, start, mode, mtime, ctime FROM local_dirs"
        ):
            self._dir_map(namespace)[columns[0], columns[1]] = DirRow(*columns)
        self._seen = dict(self._db.execute("SELECT id, first_seen FROM namespaces"))

    def file_attrs(self, namespace: NamespaceId, key: Key) -> LocalAttrs | None:
        """What is kept of a key, None when nothing is."""
        if not self._any_files:
            return None
        place = (namespace, key)
        if place in self._files:
            return self._files[place]
        row = self._db.execute(
            "SELECT mode, mtime, ctime, atime FROM local_files WHERE namespace = ? AND key = ?", place
        ).fetchone()
        return self._remember(place, LocalAttrs(*row) if row else None)

    def _remember(self, place: tuple[NamespaceId, Key], attrs: LocalAttrs | None) -> LocalAttrs | None:
        if len(self._files) >= CACHED_FILES and place not in self._files:
            del self._files[next(iter(self._files))]
        self._files[place] = attrs
        return attrs

    def set_file_attrs(self, namespace: NamespaceId, key: Key, attrs: LocalAttrs) -> None:
        """Keep these, in place of all that was kept."""
        self.changes += 1
        with self._transaction():
            self._any_files = True
            self._db.execute(
                "INSERT OR REPLACE INTO local_files (namespace, key, mode, mtime, ctime, atime)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (namespace, key, attrs.mode, attrs.mtime, attrs.ctime, attrs.atime),
            )
            self._remember((namespace, key), attrs)

    def drop_file_attrs(self, namespace: NamespaceId, key: Key) -> None:
        """Keep nothing of the key any more."""
        self.changes += 1
        with self._transaction():
            self._db.execute("DELETE FROM local_files WHERE namespace = ? AND key = ?", (namespace, key))
            self._remember((namespace, key), None)

    def dirs_under(self, namespace: NamespaceId, prefix: str) -> Iterator[DirRow]:
        """Made directories whose prefix starts with `prefix`, itself included, in order, as they are now."""
        rows = self._dirs.get(namespace)
        found: list[DirRow] = []
        if rows is None:
            return iter(found)
        for place in rows.irange((prefix, 0)):
            if not place[0].startswith(prefix):
                break
            found.append(rows[place])
        return iter(found)

    def dir(self, namespace: NamespaceId, prefix: str, start: int) -> DirRow | None:
        """One made directory."""
        rows = self._dirs.get(namespace)
        return rows.get((prefix, start)) if rows else None

    def has_dir(self, namespace: NamespaceId, prefix: str, start: int) -> bool:
        """Whether mkdir made this directory here."""
        return self.dir(namespace, prefix, start) is not None

    def add_dir(self, namespace: NamespaceId, row: DirRow) -> None:
        """Make a directory, or change its attributes."""
        self.changes += 1
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO local_dirs (namespace, prefix, start, mode, mtime, ctime)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (namespace, row.prefix, row.start, row.mode, row.mtime, row.ctime),
            )
            self._dir_map(namespace)[row.prefix, row.start] = row

    def remove_dir(self, namespace: NamespaceId, prefix: str, start: int) -> None:
        """Forget a made directory; nothing happens when it was not."""
        self.changes += 1
        with self._transaction():
            self._db.execute(
                "DELETE FROM local_dirs WHERE namespace = ? AND prefix = ? AND start = ?",
                (namespace, prefix, start),
            )
            self._dir_map(namespace).pop((prefix, start), None)

    def move_dirs(self, namespace: NamespaceId, old_prefix: str, new_prefix: str) -> None:
        """Rename all made directories whose prefix starts with `old_prefix`."""
        shift = len(new_prefix) - len(old_prefix)
        rows = list(self.dirs_under(namespace, old_prefix))
        with self._transaction():
            for row in rows:
                self.remove_dir(namespace, row.prefix, row.start)
            for row in rows:
                prefix, start = new_prefix + row.prefix[len(old_prefix) :], max(0, row.start + shift)
                self.add_dir(namespace, replace(row, prefix=prefix, start=start))

    def namespace_first_seen(self, namespace: NamespaceId, now: float) -> int:
        """When this machine saw the namespace first, epoch seconds: `now` if it never did."""
        if namespace not in self._seen:
            with self._transaction():
                self._db.execute(
                    "INSERT INTO namespaces (id, first_seen) VALUES (?, ?)", (namespace, int(now))
                )
                self._seen[namespace] = int(now)
        return self._seen[namespace]

    def drop_namespace(self, namespace: NamespaceId) -> None:
        """Forget all of a namespace."""
        with self._transaction():
            for table, column in (
                ("local_files", "namespace"),
                ("local_dirs", "namespace"),
                ("namespaces", "id"),
            ):
                self._db.execute(f"DELETE FROM {table} WHERE {column} = ?", (namespace,))
            self.load()

    def _dir_map(self, namespace: NamespaceId) -> "SortedDict[tuple[str, int], DirRow]":
        return self._dirs.setdefault(namespace, SortedDict())
