"""The answer to a bulk get: whole entries, whatever some of them are like, and within little memory."""

from contextlib import suppress
from typing import Final

from msgspec import Raw

from kvfs.core.model import BareEntry, Entry
from kvfs.store.wire.codec import decode_metadata, whole_seconds
from kvfs.store.wire.json import NULL, MalformedError, decode_leniently, is_marked
from kvfs.store.wire.shapes import BulkAnswer, BulkEntry, LargeBulkEntry, RawBulkValues
from kvfs.store.wire.strings import string_bytes

LARGE: Final = 1024 * 1024  # bytes of an answer whose values are not made a `str` of


def decode_values(result: bytes) -> dict[str, Entry | None]:
    """Decode `result` of a bulk get of text with metadata, without malformed entries."""
    if len(memoryview(result)) > LARGE:
        return _large_values(result)
    try:
        values = decode_leniently(result, BulkAnswer).values
        return {key: _entry(value) for key, value in values.items()}
    except MalformedError:
        rows = decode_leniently(result, RawBulkValues).values
    found = {}
    for key, row in rows.items():
        with suppress(MalformedError):
            found[key] = _entry(decode_leniently(bytes(row), BulkEntry | str | None))
    return found


def _large_values(result: bytes) -> dict[str, Entry | None]:
    """Decode entry by entry, each value in bites, because one emoji makes a `str` four times as large."""
    found: dict[str, Entry | None] = {}
    for key, row in decode_leniently(result, RawBulkValues).values.items():
        with suppress(MalformedError):
            found[key] = _large_entry(row)
    return found


def _large_entry(row: Raw) -> Entry | None:
    text = memoryview(row)
    if bytes(text[:4]) == NULL:
        return None
    if text[0] == 0x22:
        return BareEntry(string_bytes(text))
    shape: LargeBulkEntry = decode_leniently(row, LargeBulkEntry)
    value = string_bytes(memoryview(shape.value))
    return Entry(value, decode_metadata(shape.metadata), whole_seconds(shape.expiration))


def _entry(found: BulkEntry | str | None) -> Entry | None:
    if found is None:
        return None
    value = found if isinstance(found, str) else found.value
    if is_marked(value):
        raise MalformedError("a value that is not Unicode text")
    if isinstance(found, str):
        return BareEntry(value.encode())
    return Entry(value.encode(), decode_metadata(found.metadata), whole_seconds(found.expiration))
