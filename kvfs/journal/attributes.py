"""What this machine keeps beside the changes: mode bits and times of keys, directories that mkdir made.

Same file and same transactions as the changes, so that a rename or a deletion takes them along.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace
from sortedcontainers import SortedDict

from kvfs.core.model import Key, NamespaceId
from kvfs.journal.tables import Tables, Unapplied, Write

CACHED_FILES: Final = 65_536
SHOWN_BYTES: Final = 8
_NAMESPACE_BYTES: Final = 4
_KEY_BYTES: Final = 8
_MISSING: Final = object()


class LocalAttrs(Struct, frozen=True, gc=False):
    """Permission bits and times (epoch nanoseconds) of a key; None: not set on this machine.

    `shown` is the fingerprint of the content that the mtime was last shown with; empty: never known.
    """

    mode: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    atime_ns: int | None = None
    shown: bytes = b""

    @property
    def is_short(self) -> bool:
        """Whether it says no more of the key than when which content was found: that has a short row."""
        return (
            bool(self.shown)
            and self.mode is None
            and self.atime_ns is None
            and self.mtime_ns == self.ctime_ns
        )


class DirRow(Struct, frozen=True, gc=False):
    """A directory that exists because mkdir made it; `prefix` and `start` as in core.names.

    Times are epoch nanoseconds.
    """

    prefix: str
    start: int
    mode: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None


def fingerprint(digest: bytes) -> bytes:
    """As much of a content's digest as is kept of it when it is shown."""
    return digest[:SHOWN_BYTES]


def _assign(table: MutableMapping[Any, Any], place: Any, value: Any) -> None:
    if value is _MISSING:
        table.pop(place, None)
    else:
        table[place] = value


def file_columns(namespace: NamespaceId, key: Key, attrs: LocalAttrs) -> tuple[object, ...]:
    """Attributes of a key as the table has them."""
    return (namespace, key, attrs.mode, attrs.mtime_ns, attrs.ctime_ns, attrs.atime_ns, attrs.shown)


def short_place(namespace: NamespaceId, key: Key) -> bytes:
    """How the table `shown` names a key: 12 bytes, those of one namespace beside each other."""
    return _hash(namespace, _NAMESPACE_BYTES) + _hash(key, _KEY_BYTES)


def _hash(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=size).digest()


_UNSET: Final = LocalAttrs()


class Attributes:
    """The tables local_files, shown, local_dirs and namespaces.

    Directories are all in memory; attributes of files are read when asked for and remembered in bounds.
    Every method that writes joins the transaction around it, or is one; JournalError when it fails.

    Invariant: what the table may not have yet is in `_written`, or the namespace in `_dropped`; `_undo` has what was
    in memory before the transaction under way.
    """

    def __init__(self, tables: Tables, transaction: Callable[[], AbstractContextManager[None]]) -> None:
        self._tables = tables
        self._transaction = transaction
        self._files: dict[tuple[NamespaceId, Key], LocalAttrs | None] = {}
        self._dirs: dict[NamespaceId, SortedDict[tuple[str, int], DirRow]] = {}
        self._seen: dict[NamespaceId, int] = {}
        self.changes = 0  # grows with everything that is written here and that stat(2) shows
        # What the tables may lack, with the numbers of the records that have it.
        self._written: Unapplied[tuple[NamespaceId, Key], LocalAttrs | None] = Unapplied()
        self._dropped: dict[NamespaceId, int] = {}  # in no order, after a rollback
        self._undo: list[tuple[MutableMapping[Any, Any], Any, Any]] = []
        self._any_files = True  # whether local_files may hold a row: mostly it does not
        self._any_shown = True

    def load(self) -> None:
        """Fill from the tables, at open."""
        query = self._tables.look
        self._any_files = query("SELECT 1 FROM local_files LIMIT 1").fetchone() is not None
        self._any_shown = query("SELECT 1 FROM shown LIMIT 1").fetchone() is not None
        for namespace, *columns in query(
            "SELECT namespace, prefix, start, mode, mtime, ctime FROM local_dirs"
        ):
            self._dir_map(namespace)[columns[0], columns[1]] = DirRow(*columns)
        self._seen = dict(query("SELECT id, first_seen FROM namespaces").fetchall())

    # transactions

    def _set(
        self, table: MutableMapping[Any, Any], place: Any, value: Any, *, is_visible: bool = True
    ) -> None:
        """Change memory, for as long as the transaction stands; `_MISSING` removes."""
        self.changes += is_visible
        self._undo.append((table, place, table.pop(place, _MISSING)))  # so that the newest comes last
        _assign(table, place, value)

    def rolled_back(self) -> None:
        """The transaction failed: memory is as it was."""
        for table, place, old in reversed(self._undo):
            _assign(table, place, old)
        self._undo.clear()
        self.changes += 1

    def committed(self) -> None:
        """The transaction stands."""
        self._undo.clear()
        self._trim()

    def applied(self, number: int) -> None:
        """The tables have what is in the records up to that number."""
        self._written.applied(number)
        for namespace in [namespace for namespace, at in self._dropped.items() if at <= number]:
            del self._dropped[namespace]

    def _trim(self) -> None:
        """Many at once: a dict that loses its first place looks at all that it lost before."""
        excess = len(self._files) - CACHED_FILES
        if excess > CACHED_FILES // 16:
            for place in list(islice(self._files, excess)):
                del self._files[place]

    # files

    def file_attrs(self, namespace: NamespaceId, key: Key) -> LocalAttrs | None:
        """What is kept of a key, None when nothing is."""
        if not (self._any_files or self._any_shown):
            return None
        place = (namespace, key)
        if place in self._files:
            return self._files[place]
        found = self._files[place] = self._written[place][1] if place in self._written else self._look(place)
        self._trim()
        return found

    def _look(self, place: tuple[NamespaceId, Key]) -> LocalAttrs | None:
        if place[0] in self._dropped:
            return None
        if self._any_files:
            row = self._tables.look(
                "SELECT mode, mtime, ctime, atime, shown FROM local_files WHERE namespace = ? AND key = ?",
                place,
            ).fetchone()
            if row:
                return LocalAttrs(*row)
        return self._look_short(place) if self._any_shown else None

    def _look_short(self, place: tuple[NamespaceId, Key]) -> LocalAttrs | None:
        row = self._tables.look(
            "SELECT digest, changed FROM shown WHERE place = ?", (short_place(*place),)
        ).fetchone()
        return LocalAttrs(None, row[1], row[1], None, row[0]) if row else None

    def write_file(
        self, namespace: NamespaceId, key: Key, attrs: LocalAttrs | None, *, is_visible: bool = True
    ) -> None:
        """Keep these, in place of all that was kept; None: nothing any more. Inside the caller's transaction.

        Not `is_visible`: stat(2) shows the same as before.
        """
        place = (namespace, key)
        if attrs is not None and attrs.is_short:
            self._write_short(namespace, key, attrs)
        elif attrs is not None:  # it goes before a short row, which may stay
            self._any_files = True
            self._tables.add(Write.PUT_FILE, file_columns(namespace, key, attrs))
        else:
            self._tables.add(Write.DROP_FILE, place)
            if self._any_shown:
                self._tables.add(Write.DROP_SHOWN, (short_place(namespace, key),))
        self._set(self._written, place, (self._tables.last + 1, attrs), is_visible=is_visible)
        self._set(self._files, place, attrs, is_visible=is_visible)

    def _write_short(self, namespace: NamespaceId, key: Key, attrs: LocalAttrs) -> None:
        if self._any_files:  # a longer row would count instead
            self._tables.add(Write.DROP_FILE, (namespace, key))
        self._any_shown = True
        self._tables.add(Write.PUT_SHOWN, (short_place(namespace, key), attrs.shown, attrs.mtime_ns))

    def inserted(self, namespace: NamespaceId, key: Key, attrs: LocalAttrs) -> None:
        """What `write_file` would keep is in the log already."""
        self._any_files = True
        self.changes += 1
        place = (namespace, key)
        self._written.pop(place, None)
        self._written[place] = (self._tables.last, attrs)
        self._files[place] = attrs
        self._trim()

    def set_file_attrs(self, namespace: NamespaceId, key: Key, attrs: LocalAttrs) -> None:
        """`write_file`, as a transaction or a part of one."""
        with self._transaction():
            self.write_file(namespace, key, attrs)

    def found(self, namespace: NamespaceId, contents: Iterable[tuple[Key, bytes]], now_ns: int) -> None:
        """The store has contents of these digests: one that a key was not shown with is dated `now_ns`.

        One transaction, and none where every content is as it was.
        """
        news: list[tuple[Key, LocalAttrs, bool]] = []
        for key, digest in contents:
            local, shown = self.file_attrs(namespace, key) or _UNSET, fingerprint(digest)
            if not local.shown:
                news.append((key, replace(local, shown=shown), False))
            elif local.shown != shown:
                news.append((key, replace(local, mtime_ns=now_ns, ctime_ns=now_ns, shown=shown), True))
        if news:
            with self._transaction():
                for key, attrs, is_visible in news:
                    self.write_file(namespace, key, attrs, is_visible=is_visible)

    def drop_file_attrs(self, namespace: NamespaceId, key: Key) -> None:
        """Keep nothing of the key any more."""
        with self._transaction():
            is_kept = self._any_files or self._any_shown
            if is_kept and self._files.get((namespace, key), _MISSING) is not None:
                self.write_file(namespace, key, None)

    # directories

    def dirs_under(self, namespace: NamespaceId, prefix: str) -> Iterator[DirRow]:
        """Made directories whose prefix starts with `prefix`, itself included, in order, as they are now."""
        rows = self._dirs.get(namespace)
        found: list[DirRow] = []
        if not rows or rows.peekitem(-1)[0][0] < prefix:  # so it is below most names that are being made
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
        with self._transaction():
            columns = (namespace, row.prefix, row.start, row.mode, row.mtime_ns, row.ctime_ns)
            self._tables.add(Write.PUT_DIRECTORY, columns)
            self._set(self._dir_map(namespace), (row.prefix, row.start), row)

    def remove_dir(self, namespace: NamespaceId, prefix: str, start: int) -> None:
        """Forget a made directory; nothing happens when it was not."""
        with self._transaction():
            self._tables.add(Write.DROP_DIRECTORY, (namespace, prefix, start))
            self._set(self._dir_map(namespace), (prefix, start), _MISSING)

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
                self._tables.add(Write.PUT_NAMESPACE, (namespace, int(now)))
                self._set(self._seen, namespace, int(now))
        return self._seen[namespace]

    def drop_namespace(self, namespace: NamespaceId) -> None:
        """Forget all of a namespace."""
        with self._transaction():
            for write in (Write.DROP_FILES, Write.DROP_DIRECTORIES, Write.DROP_NAMESPACE):
                self._tables.add(write, (namespace,))
            first = _hash(namespace, _NAMESPACE_BYTES)
            self._tables.add(Write.DROP_ALL_SHOWN, (first, first + b"\xff" * (_KEY_BYTES + 1)))
            for memory in (self._files, self._written):
                for place in [place for place in memory if place[0] == namespace]:
                    self._set(memory, place, _MISSING)
            self._set(self._dropped, namespace, self._tables.last + 1)
            self._set(self._dirs, namespace, _MISSING)
            self._set(self._seen, namespace, _MISSING)

    def _dir_map(self, namespace: NamespaceId) -> "SortedDict[tuple[str, int], DirRow]":
        return self._dirs.setdefault(namespace, SortedDict())
