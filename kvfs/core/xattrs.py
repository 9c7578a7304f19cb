r"""Metadata as extended attributes: JSON text in, attribute values out, and back.

Metadata that is a JSON object is one attribute `user.<field>` a field. A string shows bare, unless it would
itself parse as JSON; that, and anything else, shows as compact JSON. Setting parses what parses and stores
the rest as a string, so that writing back what was read changes nothing.

`user.kvfs.metadata` is the whole document. It is listed when the fields alone would not make the document
again: it is no object, is empty, or has a field no attribute can be named after (empty, NUL, more than
255 bytes with `user.`, halves of surrogate pairs, `kvfs.` in front).

The JSON is worked on as text, so numbers stay as they are written (1.0, 1e400, 30 digits). Of a field that
occurs twice the last counts. NaN and Infinity are not JSON and become strings. Nothing here recurses, except
the parser that says what is JSON, and what is nested too deeply for it is refused.
"""

import json
import re
from collections.abc import Iterator
from typing import Final, NoReturn

from kvfs.core.errors import (
    InvalidError,
    NoAttributeError,
    NoSpaceError,
    NotPermittedError,
    NotSupportedError,
)
from kvfs.core.limits import METADATA_BYTES
from kvfs.core.model import Metadata

NAME_BYTES: Final = 255  # XATTR_NAME_MAX of Linux
USER: Final = "user."
WHOLE: Final = "user.kvfs.metadata"
COMPUTED: Final = (
    "user.kvfs.key",
    "user.kvfs.namespace_id",
    "user.kvfs.expiration",
    "user.kvfs.ttl",
    "user.kvfs.state",
    "user.kvfs.error",
    "user.kvfs.age",
    "user.kvfs.conflict",
)
"""Readable by name, never listed; the vfs answers them (and setting `.ttl`) before it asks here."""

_OURS = "kvfs."
_STRING_OR_SPACE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[ \t\n\r]+')


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_int=str, parse_constant=_no_constant)


def list_names(metadata: Metadata | None) -> list[str]:
    """Return the names of a file's attributes, in the order of the fields."""
    if metadata is None:
        return []
    fields = _fields(metadata)
    if not fields:
        return [WHOLE]
    names = [USER + field for field in fields if _is_field(field)]
    return names if len(names) == len(fields) else [*names, WHOLE]


def get(metadata: Metadata | None, name: str) -> bytes:
    """Return an attribute's value. Raises `NoAttributeError`, and `NotSupportedError` outside `user.`."""
    field = _field_of(name)
    if name == WHOLE and metadata is not None:
        return metadata
    fields = _fields(metadata) or {}
    if field not in fields or not _is_field(field):
        raise NoAttributeError(f"no attribute {name!r}")
    return _shown(fields[field])


def set(metadata: Metadata | None, name: str, value: bytes) -> Metadata | None:
    """Return the metadata with one attribute set, as compact JSON; None when that leaves nothing (`null`).

    Raises `InvalidError` (no UTF-8, no JSON for the whole document, a field of what is no object),
    `NoSpaceError` above 1,024 bytes, `NotPermittedError` for other `user.kvfs.` names and `NotSupportedError`
    outside `user.`.
    """
    field = _own_field(name)
    text = _text(value)
    if name == WHOLE:
        if not _is_json(text):
            raise InvalidError(f"{WHOLE} takes JSON")
        return _within_budget(_compact(text))
    fields = _object(metadata, name)
    fields[field] = _compact(text) if _is_json(text) else _quoted(text)
    return _within_budget(_joined(fields))


def remove(metadata: Metadata | None, name: str) -> Metadata | None:
    """Return the metadata without one attribute; None when it was the last. Raises `NoAttributeError` too."""
    field = _own_field(name)
    get(metadata, name)  # or there is none
    if name == WHOLE:
        return None
    fields = _object(metadata, name)
    del fields[field]
    return _joined(fields).encode() if fields else None


# names


def _field_of(name: str) -> str:
    if not name.startswith(USER):
        raise NotSupportedError(f"KV keeps user attributes only, not {name!r}")
    return name[len(USER) :]


def _own_field(name: str) -> str:
    """Return the field a name may change."""
    field = _field_of(name)
    if field.startswith(_OURS) and name != WHOLE:
        raise NotPermittedError(f"{name!r}: attributes user.kvfs. are computed")
    if not _is_field(field) and name != WHOLE:
        raise InvalidError(f"{name!r} cannot name a field; {WHOLE} holds the whole document")
    return field


def _is_field(field: str) -> bool:
    """Return whether an attribute can be named after the field."""
    if not field or "\0" in field or field.startswith(_OURS):
        return False
    try:
        return len((USER + field).encode()) <= NAME_BYTES
    except UnicodeEncodeError:
        return False


# JSON as text


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as exc:
        raise InvalidError("an attribute is kept in JSON, which is UTF-8 text; this value is not") from exc


def _is_json(text: str) -> bool:
    """Return whether the text is JSON. Raises `InvalidError` if it is nested too deeply to tell."""
    try:
        _DECODER.decode(text)
    except ValueError:
        return False
    except RecursionError:
        raise InvalidError("JSON nested too deeply") from None
    return True


def _compact(text: str) -> str:
    """Return JSON without space between its parts, and strings as they are written here; numbers untouched."""
    return _STRING_OR_SPACE.sub(lambda part: _quoted(json.loads(part[0])) if part[0][0] == '"' else "", text)


def _quoted(text: str) -> str:
    """Return a string as JSON; only halves of surrogate pairs need the escapes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(text)
    return json.dumps(text, ensure_ascii=False)


def _shown(value: str) -> bytes:
    """Return a field's compact JSON as an attribute's value."""
    if not value.startswith('"'):
        return value.encode()
    text: str = json.loads(value)
    try:
        return value.encode() if _is_json(text) else text.encode()
    except (InvalidError, UnicodeEncodeError):
        return value.encode()


def _fields(metadata: Metadata | None) -> dict[str, str] | None:
    """Return the fields of an object, each as compact JSON; None for another value, or no JSON at all."""
    try:
        text = (metadata or b"").decode()
        if not _is_json(text):
            return None
    except (UnicodeDecodeError, InvalidError):
        return None
    text = _compact(text)
    return dict(_split(text)) if text.startswith("{") else None


def _split(text: str) -> Iterator[tuple[str, str]]:
    """Yield name and value of each field of a compact object."""
    at = 1
    while text[at] != "}":
        name, colon = _DECODER.raw_decode(text, at)
        end = _DECODER.raw_decode(text, colon + 1)[1]
        yield name, text[colon + 1 : end]
        at = end + 1 if text[end] == "," else end


def _object(metadata: Metadata | None, name: str) -> dict[str, str]:
    """Return the fields to change; none yet without metadata."""
    if metadata is None:
        return {}
    fields = _fields(metadata)
    if fields is None:
        raise InvalidError(f"the metadata is not a JSON object, so it has no field {name!r}; see {WHOLE}")
    return fields


def _joined(fields: dict[str, str]) -> str:
    return "{" + ",".join(f"{_quoted(field)}:{value}" for field, value in fields.items()) + "}"


def _within_budget(text: str) -> Metadata | None:
    """Return compact JSON as metadata within the limit: `null` is none."""
    encoded = text.encode()
    if len(encoded) > METADATA_BYTES:
        raise NoSpaceError(
            f"metadata has at most {METADATA_BYTES} bytes as JSON, this would have {len(encoded)}"
        )
    return None if text == "null" else encoded
