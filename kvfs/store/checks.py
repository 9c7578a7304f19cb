"""Checks against KV's limits before anything is stored or sent: keys, titles, values, metadata, batches.

Each function raises `RejectedError`. The floor of an expiration needs a clock and is the server's to check.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping, Sized

from kvfs.core.errors import RejectedError
from kvfs.core.expiry import LATEST
from kvfs.core.limits import (
    BULK_GET_KEYS,
    BULK_PAIRS,
    FORBIDDEN_KEYS,
    KEY_BYTES,
    LIST_KEYS,
    METADATA_BYTES,
    TITLE_CHARS,
    VALUE_BYTES,
)
from kvfs.core.model import Entry, Key, Metadata
from kvfs.store import codes
from kvfs.store.wire.json import NULL, is_json


def key_bytes(operation: str, key: Key) -> bytes:
    """Return the key as UTF-8. Rejects what /kv/api/write-key-value-pairs forbids and keys above 512 bytes."""
    encoded = text_bytes(operation, "key", key)
    if key in FORBIDDEN_KEYS:
        raise RejectedError(f"{operation}: '{key}' cannot be a key: empty, '.' and '..' are forbidden")
    if len(encoded) > KEY_BYTES:
        raise RejectedError(
            f"{operation}: 'UTF-8 encoded length of {len(encoded)} exceeds key length limit of {KEY_BYTES}.'"
        )
    return encoded


def encoded_keys(operation: str, keys: Iterable[Key]) -> dict[Key, bytes]:
    """Return the keys as UTF-8, each once, in their order."""
    return {key: key_bytes(operation, key) for key in keys}


def text_bytes(operation: str, what: str, text: str) -> bytes:
    """Return `text` as UTF-8; reject lone surrogates, which are no text."""
    try:
        return text.encode()
    except UnicodeEncodeError as exc:
        raise RejectedError(f"{operation}: the {what} is not valid Unicode", code=codes.INVALID) from exc


def cursor_after(last: Key) -> str:
    """Return the cursor that goes on after a key, for a listing that is cut into pages here."""
    return base64.urlsafe_b64encode(last.encode()).decode()


def key_before(operation: str, cursor: str) -> Key:
    """Return the key of which `cursor_after` made the cursor."""
    try:
        return Key(base64.b64decode(cursor, altchars=b"-_", validate=True).decode())
    except (binascii.Error, ValueError) as exc:
        raise RejectedError(f"{operation}: 'invalid cursor'", code=codes.INVALID) from exc


def check_entry(operation: str, entry: Entry) -> None:
    """Check that value, metadata and expiration are within KV's limits."""
    if len(entry.value) > VALUE_BYTES:
        raise RejectedError(
            f"{operation}: 'Value length of {len(entry.value)} exceeds limit of {VALUE_BYTES}.'"
        )
    if entry.expiration is not None and not 0 <= entry.expiration <= LATEST:
        raise RejectedError(
            f"{operation}: 'Invalid expiration of {entry.expiration}.'", code=codes.BAD_EXPIRATION
        )
    check_metadata(operation, entry.metadata)


def check_entries(operation: str, entries: Mapping[Key, Entry]) -> dict[Key, bytes]:
    """Check that keys and entries are within KV's limits; return the keys as UTF-8."""
    for entry in entries.values():
        check_entry(operation, entry)
    return encoded_keys(operation, entries)


def check_metadata(operation: str, metadata: Metadata | None) -> None:
    """Check for at most 1,024 bytes of JSON."""
    if metadata is None:
        return
    if len(metadata) > METADATA_BYTES:
        raise RejectedError(
            f"{operation}: 'Metadata length of {len(metadata)} exceeds limit of {METADATA_BYTES}.'"
        )
    if not is_json(metadata):
        raise RejectedError(f"{operation}: 'metadata must be valid json'", code=codes.BAD_METADATA)


def present_metadata(metadata: Metadata | None) -> Metadata | None:
    """Return `None` for JSON null, because to KV they are the same."""
    return None if metadata is None or metadata.strip() == NULL else metadata


def check_title(operation: str, title: str) -> None:
    """Check for 1 to 512 characters of Unicode text."""
    if not title:
        raise RejectedError(f"{operation}: 'request is missing a title definition'", code=codes.NO_TITLE)
    if len(title) > TITLE_CHARS:
        raise RejectedError(
            f"{operation}: the title has {len(title)} characters, at most {TITLE_CHARS} are allowed",
            code=codes.INVALID,
        )
    text_bytes(operation, "title", title)


def check_pairs(operation: str, pairs: Sized) -> None:
    """Check for at most 10,000 in one bulk write or delete."""
    if len(pairs) > BULK_PAIRS:
        raise RejectedError(
            f"{operation}: {len(pairs)} keys in one request, at most {BULK_PAIRS} are allowed",
            code=codes.INVALID,
        )


def check_bulk_get(operation: str, keys: Sized) -> None:
    """Check for 1 to 100 keys in one bulk get."""
    if not keys:
        raise RejectedError(f"{operation}: 'You must request a minimum of 1 key'", code=codes.BULK_GET)
    if len(keys) > BULK_GET_KEYS:
        raise RejectedError(
            f"{operation}: 'You can request a maximum of {BULK_GET_KEYS} keys'", code=codes.BULK_GET
        )


def check_list_limit(operation: str, limit: int) -> None:
    """Check for 1 to 1,000 keys a page; that the API wants at least 10 is its own affair."""
    if not 1 <= limit <= LIST_KEYS:
        raise RejectedError(f"{operation}: limit is {limit}, must be 1 to {LIST_KEYS}", code=codes.INVALID)
