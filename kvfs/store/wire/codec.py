"""Cloudflare's JSON, both ways: the one codec, used by the client (`store/rest/`) and by the server.

Pure functions from bytes to our nouns and back, without a clock or a network; large ones may run in a thread.
Unknown fields are ignored. Metadata stays the JSON text it was. What is not what it should be raises
`MalformedError`, and nothing else does.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from math import inf
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw
from msgspec.structs import asdict

from kvfs.core.expiry import LATEST
from kvfs.core.limits import BULK_VALUE_CHARS, FORBIDDEN_KEYS, KEY_BYTES
from kvfs.core.model import Entry, Key, KeyInfo, KeyPage, Metadata, Namespace, NamespaceId
from kvfs.store.wire.json import NULL, decode, decode_leniently, is_json, is_marked, unmarked
from kvfs.store.wire.json import MalformedError as MalformedError
from kvfs.store.wire.shapes import (
    ABSENT,
    BareKeyLine,
    BareNamespaceLine,
    BulkResult,
    KeyLine,
    NamespaceLine,
    Pair,
    whole_number,
)
from kvfs.store.wire.shapes import ApiError as ApiError
from kvfs.store.wire.shapes import BulkGetRequest as BulkGetRequest
from kvfs.store.wire.shapes import Envelope as Envelope
from kvfs.store.wire.shapes import (
    NamespaceRequest as NamespaceRequest,
)
from kvfs.store.wire.shapes import PairRequest as PairRequest
from kvfs.store.wire.shapes import ResultInfo as ResultInfo
from kvfs.store.wire.strings import BITE, Pause, as_base64, as_string, go_on

_PAIR_OVERHEAD: Final = 120  # bytes: field names, flags, expiration and punctuation of one bulk pair


T = TypeVar("T")

_IDENTIFIER: Final = re.compile(r"[0-9A-Za-z_-]{1,64}")


class TooLongError(MalformedError):
    """A bulk value that, as it must be sent, is longer than the API takes: it goes by a single put."""


def acceptable_key(text: str) -> bool:
    """Return whether KV can hold a key of that name: 1 to 512 bytes of UTF-8, not `.` or `..`."""
    try:
        return text not in FORBIDDEN_KEYS and len(text.encode()) <= KEY_BYTES and not is_marked(text)
    except UnicodeEncodeError:
        return False


def acceptable_identifier(text: str) -> bool:
    """Return whether `text` can be an account or namespace id: nothing that could alter a URL."""
    return _IDENTIFIER.fullmatch(text) is not None


# Read by the client.


def decode_envelope(body: bytes) -> Envelope:
    """Decode the envelope of any JSON answer."""
    envelope: Envelope = decode_leniently(body, Envelope)
    return envelope


def decode_namespace(result: bytes) -> Namespace:
    """Decode `result` of creating or getting a namespace."""
    row = _row(result, NamespaceLine, BareNamespaceLine)
    found = _namespaces([row]) if row is not None else []
    if not found:
        raise MalformedError("a namespace without a usable id")
    return found[0]


def decode_namespaces(result: bytes) -> tuple[int, list[Namespace]]:
    """Decode `result` of a page of namespaces: how many it has, and those whose id a request can name."""
    lines = _rows(result, NamespaceLine, BareNamespaceLine)
    return len(lines), _namespaces(line for line in lines if line is not None)


def decode_keys(result: bytes) -> tuple[list[KeyInfo], bool]:
    """Decode `result` of a page of keys, as received, without keys that KV cannot hold; False if a row is no key."""
    rows = _rows(result, KeyLine, BareKeyLine)
    found = [_key_info(row) for row in rows if row is not None and acceptable_key(row.name)]
    return found, None not in rows


def decode_bulk_result(result: bytes) -> tuple[int | None, list[str]]:
    """Return the count of a bulk write or delete (None: not said), and the keys that it names as not done."""
    found = decode_leniently(result or NULL, BulkResult | None) or BulkResult()
    return whole_number(found.successful_key_count), found.unsuccessful_keys or []


def _key_info(line: KeyLine) -> KeyInfo:
    try:
        return KeyInfo(Key(line.name), decode_metadata(line.metadata), whole_seconds(line.expiration))
    except MalformedError:
        return KeyInfo(Key(line.name))


def _rows(result: bytes, shape: type[T], bare: Any) -> list[T | None]:
    """Return a list of rows, read at once or, when one of them is odd, singly: None stands for what is no row.

    `null` is an empty list.
    """
    try:
        return decode_leniently(result, list[shape] | None) or []  # type: ignore[valid-type]
    except MalformedError:
        return [_row(bytes(row), shape, bare) for row in decode_leniently(result, list[msgspec.Raw])]


def _row(text: bytes, shape: type[T], bare: Any) -> T | None:
    """Return a row; with the members of `bare` alone, if others are not as they should be."""
    with suppress(MalformedError):
        return decode_leniently(text, shape)  # type: ignore[no-any-return]
    with suppress(MalformedError):
        return shape(**asdict(decode_leniently(text, bare)))
    return None


# Written by the client.


def encode_pairs(
    entries: Mapping[Key, Entry], pause: Pause = go_on, *, disguised: bool = False
) -> list[bytes]:
    """Return the body of a bulk put in pieces: joined they are the JSON array.

    Text goes as text, what is not UTF-8 or shorter that way as base64; with `disguised` all goes as base64.
    `pause` is called every now and then. Raises `TooLongError` for a value that cannot be part of one.
    """
    pieces: list[bytes] = []
    since = 0
    for key, entry in entries.items():
        pieces.append(b"," if pieces else b"[")
        pieces += encode_pair(key, entry, pause, disguised=disguised, most=BULK_VALUE_CHARS)
        since += len(entry.value) + _PAIR_OVERHEAD
        if since >= BITE // 4:  # small ones cost more a byte
            since = 0
            pause()
    return [*pieces, b"]"] if pieces else [b"[]"]


def encode_pair(
    key: Key, entry: Entry, pause: Pause = go_on, *, disguised: bool = False, most: float = inf
) -> list[bytes]:
    """Return an entry as a JSON object, in pieces: text as text, anything else, or all if `disguised`, as base64.

    Raises `TooLongError` for a value that takes more than `most` characters.
    """
    text, is_base64 = _value_text(entry.value, pause, disguised, most)
    pair = Pair(key, Raw(text[0]), is_base64, entry.expiration, _raw(entry.metadata))
    if len(text) == 1:
        return [msgspec.json.encode(pair)]
    pair.value = Raw(b"0")  # stands for the pieces, which go between what is before and behind it
    whole, before = msgspec.json.encode(pair), msgspec.json.encode(key)
    at = len(b'{"key":') + len(before) + len(b',"value":')
    return [whole[:at], *text, whole[at + 1 :]]


def encode_keys(keys: Sequence[Key]) -> bytes:
    """Encode the body of a bulk delete."""
    return msgspec.json.encode(keys)


def encode_bulk_get(keys: Sequence[Key]) -> bytes:
    """Encode the body of a bulk get of text with metadata."""
    return msgspec.json.encode(BulkGetRequest(list(keys), "text", True))


def encode_title(title: str) -> bytes:
    """Encode the body that creates or renames a namespace."""
    return msgspec.json.encode({"title": title})


# Read by the server.


def decode_pairs(body: bytes) -> list[PairRequest]:
    """Decode the body of a bulk put."""
    return decode(body, list[PairRequest])


def decode_key_list(body: bytes) -> list[str]:
    """Decode the body of a bulk delete."""
    return decode(body, list[str])


def decode_bulk_get(body: bytes) -> BulkGetRequest:
    """Decode the body of a bulk get."""
    return decode(body, BulkGetRequest)


def decode_namespace_request(body: bytes) -> NamespaceRequest:
    """Decode a body that creates or renames a namespace."""
    return decode(body, NamespaceRequest)


# Written by the server.


def encode_success(result: object = b"{}", info: ResultInfo | None = None) -> bytes:
    """Encode a successful answer around `result`, which is JSON text as bytes, or any other plain value."""
    text = Raw(result) if isinstance(result, bytes) else result
    envelope: dict[str, Any] = {"result": text, "success": True, "errors": [], "messages": []}
    if info is not None:
        envelope["result_info"] = info
    return msgspec.json.encode(envelope)


def encode_failure(code: int, message: str, cause: tuple[int, str] | None = None) -> bytes:
    """Encode a failed answer with one error, and the code and text of its cause."""
    error: dict[str, Any] = {"code": code, "message": message}
    if cause is not None:
        error["error_chain"] = [{"code": cause[0], "message": cause[1]}]
    return msgspec.json.encode({"result": None, "success": False, "errors": [error], "messages": []})


def encode_namespace(namespace: Namespace, jurisdiction: str = "") -> bytes:
    """Encode one namespace as a `result`."""
    fields: dict[str, Any] = {
        "id": namespace.id,
        "title": namespace.title,
        "supports_url_encoding": True,
    }
    if namespace.mode:
        fields["mode"] = namespace.mode
    if jurisdiction:
        fields["jurisdiction"] = jurisdiction
    return msgspec.json.encode(fields)


def encode_array(items: Iterable[bytes]) -> bytes:
    """Encode a JSON array of items that are JSON text already."""
    return b"[" + b",".join(items) + b"]"


def encode_page(page: KeyPage) -> bytes:
    """Encode a whole answer with a page of keys."""
    lines = [KeyLine(key.key, key.expiration, _raw(key.metadata)) for key in page.keys]
    return encode_success(lines, ResultInfo(count=len(lines), cursor=page.cursor or ""))


def encode_bulk_result(successful: int, unsuccessful: Iterable[Key]) -> bytes:
    """Encode `result` of a bulk write or delete."""
    return msgspec.json.encode(
        {"successful_key_count": successful, "unsuccessful_keys": sorted(unsuccessful)}
    )


def encode_values(
    entries: Mapping[Key, Entry | None], *, as_json: bool = False, with_metadata: bool = False
) -> bytes:
    """Encode `result` of a bulk get. Raises `MalformedError` for a value that is not text (or not JSON)."""
    values = {
        key: None if entry is None else _bulk_value(entry, as_json, with_metadata)
        for key, entry in entries.items()
    }
    return msgspec.json.encode({"values": values})


def _value_text(value: bytes, pause: Pause, disguised: bool, most: float) -> tuple[list[bytes], bool]:
    """Return the value as a JSON string, a large one in pieces, and whether that is base64. Raises `TooLongError`."""
    size = 4 * ((len(value) + 2) // 3)
    text = None if disguised else as_string(value, size, pause)
    is_base64 = text is None
    if text is None:
        if size > most:
            raise TooLongError(
                f"a value of {len(value)} bytes takes {size} characters, too many for a bulk put"
            )
        text = as_base64(value, pause)
    return text if len(value) > BITE else [b"".join(text)], is_base64


def _bulk_value(entry: Entry, as_json: bool, with_metadata: bool) -> object:
    try:
        text = entry.value.decode()
    except UnicodeDecodeError as exc:
        raise MalformedError("not text") from exc
    if as_json and not is_json(entry.value):
        raise MalformedError("not JSON")
    value = Raw(entry.value) if as_json else text
    if not with_metadata:
        return value
    whole: dict[str, object] = {"value": value, "metadata": Raw(entry.metadata or NULL)}
    if entry.expiration is not None:
        whole["expiration"] = entry.expiration
    return whole


def _namespaces(found: Iterable[NamespaceLine]) -> list[Namespace]:
    return [
        Namespace(NamespaceId(one.id), one.title, one.mode or "")
        for one in found
        if acceptable_identifier(one.id) and not is_marked(one.title)
    ]


def decode_metadata(raw: bytes) -> Metadata | None:
    """Return metadata as the server wrote it; None for null. Raises `MalformedError`."""
    text = bytes(raw)  # a copy: Raw would keep the whole answer in memory
    if text in (b"", NULL):
        return None
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError as exc:
            raise MalformedError("metadata is not UTF-8") from exc
    return unmarked(text)


def _raw(metadata: Metadata | None) -> Raw:
    return Raw(metadata) if metadata else ABSENT


def whole_seconds(seconds: int | float | str | None) -> int | None:
    """Return an expiration as the API may write it (a number, or digits in a string) as we keep it."""
    if seconds is None:
        return None
    number = whole_number(seconds)
    if number is None:
        raise MalformedError("an expiration that is no number")
    return min(max(number, 0), LATEST)  # for a hostile answer
