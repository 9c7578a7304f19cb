"""JSON as text: decoding into shapes, one kind of error, and the halves of surrogate pairs.

JavaScript writes half a surrogate pair as an escape (`"\\ud800"`), which is JSON but no Unicode, and msgspec
refuses the whole document for it. Here such an escape is replaced by a mark that nobody outside can know, and
given back where the text is kept as it was.
"""

import contextlib
import re
import secrets
from typing import Any, Final, TypeVar

import msgspec

from kvfs.core.errors import KvfsError

NULL: Final = b"null"

_MARK: Final = f"lone-{secrets.token_hex(8)}-"
_MARK_BYTES: Final = _MARK.encode()
_ESCAPES: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair: one character
    rb"|\\u([dD][89a-fA-F][0-9a-fA-F]{2})"  # half of one
    rb"|\\.",
    re.DOTALL,
)
_MARKED: Final = re.compile(re.escape(_MARK_BYTES) + rb"([0-9a-fA-F]{4})")

T = TypeVar("T")


class MalformedError(KvfsError):
    """The bytes are not what the API says they are. The message quotes none of them."""


def decode(text: bytes, shape: type[T]) -> T:
    """Decode `text` as `shape`, strictly. Raises `MalformedError`."""
    try:
        return msgspec.json.decode(text, type=shape)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        raise MalformedError(str(exc)) from exc


def decode_leniently(text: bytes | bytearray | msgspec.Raw, shape: Any) -> Any:
    """Like `decode`, but halves of surrogate pairs become marks: see `is_marked` and `unmarked`."""
    try:
        return msgspec.json.decode(text, type=shape)
    except (msgspec.ValidationError, UnicodeError, RecursionError) as exc:
        raise MalformedError(str(exc)) from exc
    except msgspec.DecodeError as exc:
        marked = _ESCAPES.sub(_mark, text)
        if marked == text:
            raise MalformedError(str(exc)) from exc
    return decode_leniently(marked, shape)


def is_marked(text: str) -> bool:
    """Return whether `text` held half a surrogate pair: it is no Unicode text."""
    return _MARK in text


def unmarked(text: bytes) -> bytes:
    """Return JSON text as it was received."""
    return _MARKED.sub(rb"\\u\1", text) if _MARK_BYTES in text else text


def is_json(text: bytes) -> bool:
    """Return whether `text` is one JSON value."""
    try:
        decode_leniently(text, msgspec.Raw)
        text.decode()
    except (MalformedError, UnicodeDecodeError):
        return False
    return bool(text.strip())


def compact(text: bytes) -> bytes | None:
    """Return JSON without insignificant white space, `None` for null. Raises `MalformedError`."""
    text = text.strip()
    if text == NULL:  # most often: as the server reads what was put without
        return None
    if not is_json(text):
        raise MalformedError("not JSON")
    with contextlib.suppress(msgspec.MsgspecError):  # half a surrogate pair, which is JSON all the same
        text = msgspec.json.format(text, indent=-1)
    return None if text == NULL else text


def _mark(escape: re.Match[bytes]) -> bytes:
    lone = escape[1]
    return _MARK_BYTES + lone if lone else escape[0]
