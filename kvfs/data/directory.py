"""A directory as a place: a file for each value, and one manifest for the facts that a file cannot hold.

The paths are those of a mount, so any key has one. The manifest has a line of JSON for each key with metadata or an
expiration; of several lines of a key the last counts, and a line whose file is gone says nothing. A directory without
a manifest (out of a mount or an archive) is read by its extended attributes and times.
"""

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from msgspec import Raw, Struct

from kvfs.core import xattrs
from kvfs.core.errors import KvfsError, UserError
from kvfs.core.expiry import NOW_SLACK
from kvfs.core.model import Entry, Key, Metadata
from kvfs.core.names import SELF, Naming
from kvfs.data import jsonentry
from kvfs.data.archive import attributes_of, metadata_from
from kvfs.data.items import Item, Loaded, Problem, ProblemKind
from kvfs.data.place import Scanned, Taken
from kvfs.store.wire.json import MalformedError, decode_leniently
from kvfs.store.wire.shapes import ABSENT

MANIFEST: Final = ".kvfs-manifest.ndjson"
HEADER: Final = b'{"kvfs":"manifest","version":1}\n'
"""The manifest's first line: without it a file of that name is a value like any other."""
SCAN_FILES: Final = 1000
TAKE_BYTES: Final = 4 * 1024 * 1024
_BESIDE_MANIFEST: Final = Naming("/", frozenset({MANIFEST}))
_ALONE: Final = Naming("/")
_CREATE: Final = (
    os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
)


class _Line(Struct, omit_defaults=True, gc=False):
    """One line of the manifest: the facts about one key."""

    key: str
    expiration: int | float | None = None
    metadata: Raw = ABSENT


def manifest_line(key: Key, entry: Entry) -> bytes:
    """Return a line of the manifest."""
    metadata = jsonentry.joined(entry.metadata)
    return msgspec.json.encode(_Line(key, entry.expiration, Raw(metadata) if metadata else ABSENT)) + b"\n"


class Manifest:
    """The manifest of a directory, as a table on the disk, because it may have a million lines."""

    def __init__(self, directory: Path) -> None:
        self.problems: list[Problem] = []
        self._db = sqlite3.connect("", check_same_thread=False)  # a file that SQLite removes by itself
        self._db.execute(
            "CREATE TABLE lines (key BLOB PRIMARY KEY, metadata BLOB, expiration INT) WITHOUT ROWID"
        )
        with open(directory / MANIFEST, "rb") as file:
            file.readline()
            self._db.executemany("INSERT OR REPLACE INTO lines VALUES (?, ?, ?)", self._rows(file))

    def _rows(self, file: BinaryIO) -> Iterator[tuple[bytes, Metadata | None, int | None]]:
        for number, text in enumerate(file, 2):
            try:
                line: _Line = decode_leniently(text, _Line)
                key = line.key.encode()
                yield key, jsonentry.metadata_of(line.metadata), jsonentry.seconds(line.expiration)
            except (MalformedError, UnicodeEncodeError) as exc:
                where = f"{MANIFEST}, line {number}"
                self.problems.append(Problem(ProblemKind.MALFORMED, jsonentry.key_of(text), where, str(exc)))

    def get(self, key: Key) -> tuple[Metadata | None, int | None]:
        """Return metadata and expiration of a key."""
        row: tuple[Metadata | None, int | None] | None = self._db.execute(
            "SELECT metadata, expiration FROM lines WHERE key = ?", (key.encode(),)
        ).fetchone()
        return row or (None, None)

    def close(self) -> None:
        """Close the table and remove it."""
        self._db.close()


def has_manifest(directory: Path) -> bool:
    """Return whether a copy has written there, with a manifest."""
    try:
        with open(directory / MANIFEST, "rb") as file:
            return file.read(len(HEADER)) == HEADER
    except OSError:
        return False


def walk(directory: Path) -> Iterator[tuple[str, ...]]:
    """Yield the paths of all files below, in an order that does not depend on the disk."""
    yield from _walk(os.fspath(directory), ())


def _walk(place: str, above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    with os.scandir(place) as entries:
        found = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    for entry in found:
        path = (*above, entry.name)
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path, path)
        else:
            yield path


class DirectoryFiles:
    """The files of a directory, as a `BlockingReader` (`data/threaded.py`)."""

    def __init__(self, directory: Path, now: float) -> None:
        self._directory = directory
        self._now = now

    def parts(self) -> Iterator[Scanned]:
        """Yield every item, in order, some at a time."""
        if not self._directory.is_dir():
            raise UserError(f"{self._directory} is no directory")
        found = self._items()
        while part := list(islice(found, SCAN_FILES)):
            items = [one for one in part if isinstance(one, Item)]
            yield Scanned(items, [one for one in part if isinstance(one, Problem)])

    def _items(self) -> Iterator[Item | Problem]:
        manifest = Manifest(self._directory) if has_manifest(self._directory) else None
        try:
            yield from manifest.problems if manifest is not None else ()
            for path in walk(self._directory):
                if manifest is None or path != (MANIFEST,):
                    yield self._item(path, manifest)
        finally:
            if manifest is not None:
                manifest.close()

    def _item(self, path: tuple[str, ...], manifest: Manifest | None) -> Item | Problem:
        where, key = "/".join(path), ""
        place = self._directory.joinpath(*path)
        try:
            key = (_ALONE if manifest is None else _BESIDE_MANIFEST).key_of(path)
            status = os.lstat(place)
            if not stat.S_ISREG(status.st_mode):
                return Problem(
                    ProblemKind.UNREADABLE, key, where, "it is no regular file: KV has a place for files only"
                )
            if manifest is not None:
                metadata, expiration = manifest.get(Key(key))
            else:
                metadata = _attributes(place)
                ahead = status.st_mtime > self._now + NOW_SLACK
                expiration = int(status.st_mtime) if ahead else None
            return Item(Key(key), where, metadata, expiration, status.st_size, status.st_mtime)
        except OSError as exc:
            return Problem(ProblemKind.UNREADABLE, key, where, exc.strerror or str(exc))
        except KvfsError as exc:
            return Problem(ProblemKind.KEY, key, where, str(exc))

    def take(self, items: Sequence[Item]) -> Taken:
        """Return the values of the first of `items`, some megabytes of them."""
        loaded: list[Loaded] = []
        problems: list[Problem] = []
        size = 0
        for index, item in enumerate(items):
            size += item.size or 0
            if index and size > TAKE_BYTES:
                return Taken(loaded, items[index:], problems)
            found = self._load(item)
            if isinstance(found, Problem):
                problems.append(found)
            else:
                loaded.append(found)
        return Taken(loaded, [], problems)

    def fingerprint(self) -> str:
        """Return nothing, because a directory changes all the time; what was found is copied as it is when read."""
        return ""

    def close(self) -> None:
        """Do nothing, because nothing stays open."""

    def _load(self, item: Item) -> Loaded | Problem:
        try:
            value = (self._directory / item.origin).read_bytes()
        except FileNotFoundError:
            return Problem(ProblemKind.GONE, item.key, item.origin, "the file was removed while the copy ran")
        except OSError as exc:
            return Problem(ProblemKind.UNREADABLE, item.key, item.origin, exc.strerror or str(exc))
        return Loaded(item, Entry(value, item.metadata, item.expiration))


def _attributes(path: Path) -> Metadata | None:
    """Return the metadata that a file's extended attributes stand for, where the system has them."""
    listing = getattr(os, "listxattr", None)
    if listing is None:
        return None
    try:
        names = [name for name in listing(path, follow_symlinks=False) if name.startswith(xattrs.USER)]
        return metadata_from([(name, os.getxattr(path, name, follow_symlinks=False)) for name in names])
    except OSError:
        return None  # a file system without them


class DirectoryOutput:
    """Writes values as files, and lines to the manifest from a position on, as a `BlockingWriter`.

    `has_children` tells whether keys lie below a key.
    """

    pairs = 500

    def __init__(
        self, directory: Path, now: float, has_children: Callable[[Key], bool], *, as_attributes: bool = False
    ) -> None:
        self._directory = directory
        self._has_children = has_children
        self._now = now
        self._as_attributes = as_attributes
        self._manifest = -1
        self._says_all = False  # every key needs a line, because an older one may have another

    def open(self, position: str) -> None:
        """Make the directory if need be; cut the manifest at `position`, or go on behind what is there."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _tells_case(self._directory):
            raise UserError(
                f"{self._directory}: its file system does not tell capital letters from small ones, but KV does:"
                " copy to a .tar or .ndjson file"
            )
        if self._as_attributes:
            return
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        self._manifest = os.open(self._directory / MANIFEST, flags, 0o600)
        end = os.lseek(self._manifest, 0, os.SEEK_END)
        at, _, begun = position.partition(" ")
        if position and int(at) <= end:
            os.ftruncate(self._manifest, int(at))
            end = os.lseek(self._manifest, int(at), os.SEEK_SET)
        self._says_all = begun == "all" if position else end > len(HEADER)
        if not end:
            os.write(self._manifest, HEADER)

    @property
    def position(self) -> str:
        """Return the end of the manifest."""
        if self._manifest < 0:
            return ""
        return f"{os.lseek(self._manifest, 0, os.SEEK_CUR)} {'all' if self._says_all else 'some'}"

    def write(self, batch: Sequence[Loaded]) -> None:
        """Write entries, and then their lines of the manifest. Raises `OSError`."""
        for loaded in batch:
            self._write_entry(loaded)
        self._describe(batch)

    def _write_entry(self, loaded: Loaded) -> None:
        item, entry = loaded.item, loaded.entry
        path = self._path(item.key)
        _write_file(path, entry.value)
        if self._as_attributes:
            for name, value in attributes_of(entry.metadata):
                os.setxattr(path, name, value)
        if self._as_attributes and entry.expiration is not None:
            os.utime(path, (self._now, entry.expiration))
        elif item.modified is not None:
            os.utime(path, (item.modified, min(item.modified, self._now)))

    def _describe(self, batch: Sequence[Loaded]) -> None:
        if self._manifest < 0:
            return
        lines = b"".join(
            manifest_line(loaded.item.key, loaded.entry)
            for loaded in batch
            if self._says_all or loaded.entry.metadata is not None or loaded.entry.expiration is not None
        )
        while lines:
            lines = lines[os.write(self._manifest, lines) :]

    def _path(self, key: Key) -> Path:
        names = (_ALONE if self._as_attributes else _BESIDE_MANIFEST).path_of(key)
        path = self._directory.joinpath(*names)
        if self._has_children(key) or path.is_dir():
            path = path / SELF
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            self._make_room(names)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    def _make_room(self, names: tuple[str, ...]) -> None:
        """Move a file that is where a directory must be into that directory, as the value of that key."""
        place = self._directory
        for name in names[:-1]:
            place = place / name
            if place.is_file() and not place.is_symlink():
                aside = place.with_name(f"{place.name[:200]}.kvfs-{os.getpid()}")
                place.rename(aside)
                place.mkdir(mode=0o700)
                aside.rename(place / SELF)

    def delete(self, keys: Sequence[tuple[Key, str]]) -> Sequence[Problem]:
        """Remove entries, and the directories that they leave empty."""
        problems: list[Problem] = []
        for key, origin in keys:
            try:
                self._remove(origin)
            except OSError as exc:
                problems.append(Problem(ProblemKind.UNREADABLE, key, origin, exc.strerror or str(exc)))
        return problems

    def _remove(self, origin: str) -> None:
        path = self._directory / origin
        path.unlink(missing_ok=True)
        for parent in path.parents:
            if parent == self._directory:
                break
            with suppress(OSError):
                parent.rmdir()

    def finish(self) -> None:
        """Give the manifest back."""
        if self._manifest >= 0:
            os.close(self._manifest)
            self._manifest = -1

    close = finish


def _write_file(path: Path, value: bytes) -> None:
    descriptor = os.open(path, _CREATE, 0o600)
    try:
        view = memoryview(value)
        while view:
            view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)


def _tells_case(directory: Path) -> bool:
    probe = directory / f".kvfs-Case-{os.getpid()}"
    probe.touch(0o600)
    try:
        return not probe.with_name(probe.name.lower()).exists()
    finally:
        probe.unlink()
