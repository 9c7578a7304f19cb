"""One entry as JSON, as wrangler's bulk files have it, and back: shared by bulk JSON and NDJSON.

Metadata stays the JSON text that it is: a parser that made Python objects of it would change how numbers and
strings are written (1.0, 1e400, escapes), and lose fields that occur twice.
"""

import binascii
import re
from typing import Final

from msgspec import Raw, Struct

from kvfs.core.expiry import LATEST
from kvfs.core.limits import EXPIRATION_SECONDS
from kvfs.core.model import Entry, Key, Metadata
from kvfs.store.wire.codec import encode_pair
from kvfs.store.wire.json import NULL, MalformedError, compact, decode_leniently, is_marked, unmarked
from kvfs.store.wire.shapes import ABSENT
from kvfs.store.wire.strings import string_bytes

_BACKSLASH: Final = re.compile(rb"\\")


class JsonEntry(Struct, frozen=True, gc=False):
    """One record of a file: an entry, or the fault that makes it none.

    `where` names the line or the member. `fault` is "" for a good record; then `key` and `entry` are what it holds. A
    record with a fault has the key as far as it could be read.
    """

    where: str
    key: str
    entry: Entry = Entry(b"")
    modified: float | None = None
    fault: str = ""


class _Line(Struct, gc=False):
    """A pair as files hold it: strict about known fields, silent about unknown ones."""

    key: str
    value: Raw = ABSENT
    base64: bool | None = None
    expiration: int | float | None = None
    metadata: Raw = ABSENT
    expiration_ttl: int | float | None = None


class _KeyOnly(Struct, gc=False):
    key: str = ""


def encode(key: Key, entry: Entry, *, one_line: bool) -> list[bytes]:
    """Yield the entry as a JSON object, in pieces. Text goes as text, anything else as base64.

    With `one_line` metadata that was written over several lines is joined.
    """
    if one_line:
        entry = Entry(entry.value, joined(entry.metadata), entry.expiration)
    return encode_pair(key, entry)


def decode(text: bytes | bytearray, where: str, now: float | None = None) -> JsonEntry:
    """Return the record of a JSON object. It never raises: an error becomes the record's fault.

    An `expiration_ttl` counts from `now`; None: of a file that kvfs wrote, in which there is none.
    """
    try:
        line: _Line = decode_leniently(text, _Line)
    except MalformedError as exc:
        return JsonEntry(where, key_of(text), fault=str(exc))
    try:
        return JsonEntry(where, line.key, _entry(line, now))
    except MalformedError as exc:
        return JsonEntry(where, line.key, fault=str(exc))


def _entry(line: _Line, now: float | None) -> Entry:
    if is_marked(line.key):
        raise MalformedError("it holds half of a surrogate pair, which is no text")
    expiration = seconds(line.expiration)
    if line.expiration_ttl is not None and now is not None:  # the API lets it win over an expiration
        expiration = _after(line.expiration_ttl, now)
    return Entry(value_bytes(line.value, line.base64), metadata_of(line.metadata), expiration)


def _after(ttl: int | float, now: float) -> int:
    """Return the expiration that a ttl comes to. Raises `MalformedError` for one that KV refuses."""
    if not EXPIRATION_SECONDS <= ttl < LATEST:
        raise MalformedError(
            f"its expiration_ttl is {ttl}, and KV keeps nothing for less than {EXPIRATION_SECONDS} seconds "
            "or longer than a date can say"
        )
    return int(now + ttl)


def value_bytes(raw: Raw, is_base64: bool | None) -> bytes:
    """Return the value of a JSON string.

    Raises `MalformedError` when it is none, or not the base64 that it claims to be.
    """
    text = memoryview(raw)
    if bytes(text[:4]) in (b"", NULL):
        raise MalformedError("it has no value (a list of keys is no export)")
    if text[0] != 0x22:
        raise MalformedError("its value is no string")
    if not is_base64:
        return string_bytes(text)
    if _BACKSLASH.search(text):  # another program's escapes, of / most likely
        text = memoryview(b'"' + string_bytes(text) + b'"')
    inner = text[1:-1]
    if len(inner) % 4:  # the API takes it without its padding too
        inner = memoryview(bytes(inner) + b"=" * (-len(inner) % 4))
    try:
        return binascii.a2b_base64(inner, strict_mode=True)  # b64decode would copy a large text first
    except (binascii.Error, ValueError) as exc:
        raise MalformedError("its value is not valid base64") from exc


def metadata_of(raw: Raw) -> Metadata | None:
    """Return metadata as the text it is, without line breaks, which are the file's layout; None for JSON null."""
    text = bytes(raw)
    return None if text in (b"", NULL) else joined(unmarked(text))


def seconds(number: int | float | None) -> int | None:
    """Return an expiration in whole epoch seconds. Raises `MalformedError` for one that no date can be."""
    if number is None:
        return None
    if not 0 <= number <= LATEST:
        raise MalformedError(f"its expiration is {number}, not a number of seconds since 1970")
    return int(number)


def joined(metadata: Metadata | None) -> Metadata | None:
    """Return metadata without line breaks between its parts."""
    if metadata is None or not (b"\n" in metadata or b"\r" in metadata):
        return metadata
    return compact(metadata)


def key_of(text: bytes | bytearray) -> str:
    """Return the key that a damaged record names; "" when it cannot be told."""
    try:
        line: _KeyOnly = decode_leniently(text, _KeyOnly)
    except MalformedError:
        return ""
    return "" if is_marked(line.key) else line.key
