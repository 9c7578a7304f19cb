"""Bulk JSON, both ways: the array that `wrangler kv bulk put` takes, and what `wrangler kv bulk get` prints.

The file is cut into the elements of its outermost array without parsing them, one element in memory at a time.
Not with ijson, because it hands out Python objects and says nothing of where they stood: `1e400` in metadata would come
back as `1E+400`, `\\u00fc` as `ü`, half a surrogate pair as `?`; and a value of 25 MiB with an emoji in it takes
100 MiB as one `str` (see `records`).
"""

import re
from collections.abc import Iterator
from typing import BinaryIO, Final

import msgspec
from msgspec import Raw

from kvfs.core.errors import UserError
from kvfs.core.model import Entry, Key
from kvfs.data import jsonentry
from kvfs.data.jsonentry import JsonEntry
from kvfs.store.wire.json import MalformedError, decode_leniently, is_marked

CHUNK: Final = 256 * 1024
LONGEST: Final = 192 * 1024 * 1024  # bytes of one element: 25 MiB of control characters, each as \\u0001
MOST_BULK_GET: Final = 64 * 1024 * 1024  # bytes of what a bulk get may answer, escaped

_STRUCTURE: Final = re.compile(rb'[\[\]{},"\n]')
_QUOTE: Final = re.compile(rb'[\\"\n]')


class JsonEncoder:
    """Encodes entries as the elements of one array."""

    start = b"["
    end = b"\n]\n"

    def encode(self, key: Key, entry: Entry, modified: float | None, *, is_first: bool) -> list[bytes]:
        """Yield one entry, in pieces."""
        return [b"\n" if is_first else b",\n", *jsonentry.encode(key, entry, one_line=False)]


class _Object(msgspec.Struct, gc=False):
    """An entry as `wrangler kv bulk get` prints it."""

    value: Raw = Raw(b"null")
    metadata: Raw = Raw(b"null")
    expiration: int | float | None = None


def read(file: BinaryIO, now: float) -> Iterator[JsonEntry]:
    """Yield the records of a bulk JSON file, in order. Raises `UserError` for what is no array and no object."""
    start = file.read(CHUNK)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"["):
        yield from _array(file, start, now)
    elif text.startswith(b"{"):
        yield from _bulk_get(text + file.read(MOST_BULK_GET))
    else:
        raise UserError("it is no JSON array of pairs: line 1 begins with neither [ nor {")


def _array(file: BinaryIO, start: bytes, now: float) -> Iterator[JsonEntry]:
    splitter = _Splitter(file, start)
    yield from iter(lambda: splitter.next_record(now), None)  # nothing here holds a large record meanwhile


class _Splitter:
    """Cuts the elements out of an array and decodes each."""

    def __init__(self, file: BinaryIO, start: bytes) -> None:
        self._file = file
        self._held = bytearray(start)
        self._line = 1 + start[: start.index(b"[")].count(b"\n")
        self._at = start.index(b"[") + 1
        self._ended = False
        self._count = 0

    def next_record(self, now: float) -> JsonEntry | None:
        """Return the next element as a record; None behind the last."""
        if self._ended:
            return None
        where = f"line {self._skip_space()}"
        found = self._element()
        if found is None:
            self._ended = True
            return JsonEntry(where, "", fault="the file ends inside of the array: it is cut off or malformed")
        element, self._ended = found
        self._count += 1
        if element and not element.isspace():
            return jsonentry.decode(element, where, now)
        if self._ended and self._count == 1:
            return None
        return JsonEntry(where, "", fault="an element is missing between two commas")

    def _skip_space(self) -> int:
        """Return the line on which the next element begins."""
        while True:
            while self._at < len(self._held) and self._held[self._at] in b" \t\r\n":
                self._line += self._held[self._at] == 0x0A
                self._at += 1
            if self._at < len(self._held) or not self._more():
                return self._line

    def _element(self) -> tuple[bytes | bytearray, bool] | None:
        """Return the text up to a comma or the closing bracket, and whether it was the last."""
        start, depth = self._at, 0
        while True:
            found = _STRUCTURE.search(self._held, self._at)
            if found is None:
                self._at = len(self._held)
                if self._at - start > LONGEST or not (moved := self._more_from(start)):
                    return None
                start -= moved - 1
                continue
            self._at, sign = found.end(), found[0]
            del found  # the buffer cannot grow while a match points into it
            if sign == b"\n":
                self._line += 1
            elif sign == b'"':
                moved = self._string(start)
                if not moved:
                    return None
                start -= moved - 1
            elif depth == 0 and sign in (b",", b"]"):
                return self._cut(start), sign == b"]"
            elif sign != b",":
                depth += 1 if sign in (b"[", b"{") else -1

    def _cut(self, start: int) -> bytes | bytearray:
        """Return the element that ends here; a large one takes the buffer with it, and is not copied."""
        if self._at - start <= CHUNK:
            with memoryview(self._held) as view:
                return bytes(view[start : self._at - 1])
        element, self._held = self._held, self._held[self._at :]
        del element[self._at - 1 :]
        del element[:start]
        self._at = 0
        return element

    def _string(self, start: int) -> int:
        """Go to the end of a string; return 0 when it has none, else 1 + the bytes dropped before `start`."""
        dropped = 0
        while True:
            found = _QUOTE.search(self._held, self._at)
            if found is None or (found[0] == b"\\" and found.end() >= len(self._held)):
                self._at = len(self._held) if found is None else found.start()
                del found
                if self._at - start > LONGEST or not (moved := self._more_from(start - dropped)):
                    return 0
                dropped += moved - 1
                continue
            self._at, sign = found.end(), found[0]
            del found
            if sign == b'"':
                return dropped + 1
            self._at += sign == b"\\"
            self._line += sign == b"\n"

    def _more_from(self, start: int) -> int:
        """Read on and drop the bytes before `start`; return 0 at the end of the file, else 1 + the dropped bytes."""
        if start > CHUNK:
            del self._held[:start]
            self._at -= start
            return start + 1 if self._more() else 0
        return 1 if self._more() else 0

    def _more(self) -> bool:
        more = self._file.read(CHUNK)
        self._held += more
        return bool(more)


def _bulk_get(text: bytes) -> Iterator[JsonEntry]:
    """Parse the output of `wrangler kv bulk get`: one object of keys, in some versions with a word after it."""
    end = text.rfind(b"}") + 1
    try:
        found = decode_leniently(text[:end], dict[str, Raw])
        if set(found) == {"values"}:
            found = decode_leniently(bytes(found["values"]), dict[str, Raw])
    except MalformedError as exc:
        raise UserError(f"it is neither an array of pairs nor what a bulk get prints: {exc}") from exc
    for key, raw in found.items():
        yield _bulk_get_record(key, bytes(raw))


def _bulk_get_record(key: str, text: bytes) -> JsonEntry:
    where = "the object"
    try:
        if is_marked(key):
            raise MalformedError("its key holds half of a surrogate pair")
        if text == b"null":
            raise MalformedError("it has no value: there was no such key")
        shape = decode_leniently(text, _Object) if text.startswith(b"{") else _Object(Raw(text))
        value = decode_leniently(bytes(shape.value), str)
        if is_marked(value):
            raise MalformedError("its value is no Unicode text")
        entry = Entry(
            value.encode(), jsonentry.metadata_of(shape.metadata), jsonentry.seconds(shape.expiration)
        )
        return JsonEntry(where, key, entry)
    except MalformedError as exc:
        return JsonEntry(where, key, fault=str(exc))
