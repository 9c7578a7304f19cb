"""A file as a place of a move: read record by record, written in complete pieces under another name until done.

The pieces lie in FILE.partial (mode 0600), which gets its name at the end. Each piece ends where reading could stop: a
copy that was killed cuts off everything behind the last noted piece, and goes on there.
"""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final, NoReturn, Protocol

from kvfs.core.errors import KvfsError, UserError
from kvfs.core.model import Entry, Key
from kvfs.data import archive, compression, jsonfile, ndjson
from kvfs.data.items import Item, Loaded, Problem, ProblemKind
from kvfs.data.jsonentry import JsonEntry
from kvfs.data.place import Scanned, Taken

FORMATS: Final = {".json": "json", ".ndjson": "ndjson", ".jsonl": "ndjson", ".tar": "tar", ".tgz": "tar"}
PIECE_BYTES: Final = 4 * 1024 * 1024  # bytes of values that are read before they are handed on
SCAN_RECORDS: Final = 1000
SCAN_BYTES: Final = 8 * 1024 * 1024


class Encoder(Protocol):
    """Makes a format of entries. `start` and `end` are the bytes at the beginning and at the end of a file."""

    start: bytes
    end: bytes

    def encode(self, key: Key, entry: Entry, modified: float | None, *, is_first: bool) -> list[bytes]:
        """Yield one entry, in pieces."""


@dataclass(frozen=True, slots=True)
class Format:
    """The form of a file: `name` is json, ndjson or tar, `compression` is "", gzip or zstd."""

    name: str
    compression: str = ""

    def __str__(self) -> str:
        return f"{self.name}, {self.compression}" if self.compression else self.name


def format_of(name: str) -> Format | None:
    """Return the format that a file's name tells (`shop.ndjson.zst`), or a word of --format (`ndjson.zst`)."""
    lower = "." + name.lower().rpartition("/")[2].lstrip(".")
    packed = "gzip" if lower.endswith(".tgz") else ""
    for suffix, word in compression.SUFFIXES.items():
        if lower.endswith(suffix):
            lower, packed = lower.removesuffix(suffix), word
    for suffix, word in FORMATS.items():
        if lower.endswith(suffix):
            return Format(word, packed)
    return None


def read_records(file: BinaryIO, format_: Format, now: float) -> Iterator[JsonEntry]:
    """Yield the records of a file that is read at `now`. Raises `UserError` for a damaged one or another format."""
    try:
        plain = compression.reading(file, format_.compression)
        match format_.name:
            case "json":
                yield from jsonfile.read(plain, now)
            case "ndjson":
                yield from ndjson.read(plain, now)
            case _:
                yield from archive.read(plain, now)
    except compression.errors() as exc:
        raise UserError(f"it is damaged, or not compressed as its name says: {exc}") from exc


class RecordReader:
    """Reads the records of a file in order, for a scan and again for their values."""

    def __init__(self, path: Path, format_: Format, now: float, name: str) -> None:
        self._path = path
        self._format = format_
        self._now = now
        self._name = name
        self._rest: Iterator[JsonEntry] | None = None
        self._number = 0  # the number of the record that `take` read last
        self._began = ""  # the fingerprint that the first who asked was told

    def records(self) -> Iterator[JsonEntry]:
        """Yield all records in order: the first has number 1. The caller must use them up, or call `close`.

        Nothing here holds a record that was handed out, as `enumerate` would: its value may be large.
        """
        try:
            with open(self._path, "rb") as file:
                yield from read_records(file, self._format, self._now)
        except UserError as exc:
            raise UserError(f"{self._name}: {exc}") from exc

    def parts(self) -> Iterator[Scanned]:
        """Yield the records without their values, some at a time."""
        records, number = self.records(), 1
        while (part := self._part(records, number)) is not None:
            yield part
            number += len(part.items) + len(part.problems)

    def _part(self, records: Iterator[JsonEntry], first: int) -> Scanned | None:
        items: list[Item] = []
        problems: list[Problem] = []
        size = 0
        for record in islice(records, SCAN_RECORDS):
            if record.fault:
                problems.append(Problem(ProblemKind.MALFORMED, record.key, record.where, record.fault))
                continue
            key, entry, number = Key(record.key), record.entry, str(first + len(items) + len(problems))
            length = len(entry.value)
            items.append(Item(key, number, entry.metadata, entry.expiration, length, record.modified))
            size += length
            del record, entry  # a large value must not stay until the next is there
            if size > SCAN_BYTES:
                break
        return Scanned(items, problems) if items or problems else None

    def take(self, items: Sequence[Item]) -> Taken:
        """Return the first of `items` with their values, some megabytes of them.

        Items come in the order of the file, and other records are passed over. Raises `UserError` when the file
        changed since it was scanned: the records would have other numbers.
        """
        taken: list[Loaded] = []
        size = 0
        for index, item in enumerate(items):
            size += item.size or 0
            if index and size > PIECE_BYTES:
                return Taken(taken, items[index:])
            record = self._record(int(item.origin))
            if record is None or record.fault:
                self._refuse_change()
            else:
                taken.append(Loaded(item, record.entry))
            del record
        if self.fingerprint() != self._began:
            self._refuse_change()
        return Taken(taken, [])

    def _refuse_change(self) -> NoReturn:
        raise UserError(f"{self._name} changed while it was copied: say --restart to begin anew")

    def _record(self, number: int) -> JsonEntry | None:
        """Return the record of a number beyond those that were read; None when the file has fewer by now."""
        if self._rest is None:
            self._rest = self.records()
        while self._number < number - 1:
            self._number += 1
            next(self._rest, None)
        self._number += 1
        return next(self._rest, None)

    def close(self) -> None:
        """Close the file."""
        if isinstance(self._rest, Generator):
            self._rest.close()

    def fingerprint(self) -> str:
        """Return a text that changes when the file does."""
        status = self._path.stat()
        found = f"{status.st_size} {status.st_mtime_ns}"
        self._began = self._began or found
        return found


class RecordWriter:
    """Writes entries to FILE.partial, from a position on; `finish` gives the file its name."""

    pairs = 1000

    def __init__(self, path: Path, encoder: Encoder, compression_: str) -> None:
        self._path = path
        self._encoder = encoder
        self._compression = compression_
        self._file: BinaryIO | None = None
        self._count = 0

    @property
    def partial(self) -> Path:
        """Return the path of the file until it is complete."""
        return self._path.with_name(self._path.name + ".partial")

    def open(self, position: str) -> None:
        """Begin anew ("" as the position), or go on behind the piece that was written last."""
        offset, count = (int(word) for word in position.split()) if position else (0, 0)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        if not position:
            with suppress(FileNotFoundError):
                self.partial.unlink()
            flags |= os.O_EXCL
        self._file = os.fdopen(os.open(self.partial, flags, 0o600), "r+b")
        if self._file.seek(0, os.SEEK_END) < offset:
            raise UserError(f"{self.partial} was cut off since: say --restart to begin anew")
        self._file.truncate(offset)
        self._file.seek(offset)
        self._count = count
        if not position:
            self._piece([self._encoder.start])

    @property
    def position(self) -> str:
        """Return the end of the file, and the number of its entries."""
        assert self._file is not None
        return f"{self._file.tell()} {self._count}"

    def write(self, batch: Iterable[Loaded]) -> None:
        """Write one more piece; it is in the file at return."""
        self._piece(self._encoded(batch))

    def _encoded(self, batch: Iterable[Loaded]) -> Iterator[bytes]:
        for loaded in batch:
            item = loaded.item
            yield from self._encoder.encode(item.key, loaded.entry, item.modified, is_first=not self._count)
            self._count += 1

    def _piece(self, pieces: Iterable[bytes]) -> None:
        assert self._file is not None
        member = compression.member(self._compression)
        is_empty = True
        for piece in pieces:
            if piece:
                self._file.write(member.compress(piece))
                is_empty = False
        if not is_empty:  # an empty member is one for nothing
            self._file.write(member.flush())
        self._file.flush()

    def delete(self, keys: Sequence[tuple[Key, str]]) -> Sequence[Problem]:
        """Do nothing, because a file is written anew and nothing else is in it."""
        return ()

    def finish(self) -> None:
        """Complete the file and give it its name."""
        assert self._file is not None
        self._piece([self._encoder.end])
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self.partial, self._path)

    def close(self) -> None:
        """Close the file; the written part stays."""
        if self._file is not None:
            self._file.close()


class StreamWriter(RecordWriter):
    """Writes entries to a stream that cannot go back: standard output."""

    def __init__(self, stream: BinaryIO, encoder: Encoder, compression_: str) -> None:
        super().__init__(Path("-"), encoder, compression_)
        self._file = stream

    def open(self, position: str) -> None:
        """Begin, always anew, because a stream cannot go on."""
        self._piece([self._encoder.start])

    @property
    def position(self) -> str:
        """Return no position, because a stream cannot go back."""
        return ""

    def finish(self) -> None:
        """Complete the stream."""
        self._piece([self._encoder.end])

    def close(self) -> None:
        """Do nothing, because the stream is the caller's."""


def encoder_of(name: str, has_children: Callable[[Key], bool], now: float) -> Encoder:
    """Return the encoder of a format."""
    if name == "json":
        return jsonfile.JsonEncoder()
    if name == "ndjson":
        return ndjson.NdjsonEncoder()
    if name == "tar":
        return archive.TarEncoder(has_children, now)
    raise KvfsError(f"there is no format {name!r}")
