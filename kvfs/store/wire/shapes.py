"""The shapes of Cloudflare's JSON, as msgspec structs: what travels, field by field, and nothing about it.

Optional fields may be null as well as absent, unknown ones are ignored. `Raw` is JSON text left as it is.
"""

import base64
import binascii
import math
from typing import Any

from msgspec import Raw, Struct

from kvfs.store.wire.json import NULL, MalformedError, decode_leniently

ABSENT = Raw()  # msgspec leaves a default out when it is this very object


class ApiError(Struct, frozen=True):
    """An item of `errors`; `reason` and `reason_code` are the first of its `error_chain`."""

    code: int = 0
    message: str = ""
    reason: str = ""
    reason_code: int = 0


class ResultInfo(Struct, omit_defaults=True):
    """Paging facts of a list, by cursor (keys) or by page number (namespaces), as the server writes them."""

    count: int | None = None
    cursor: str | None = None
    page: int | None = None
    per_page: int | None = None
    total_count: int | None = None
    total_pages: int | None = None


class Paging(Struct, frozen=True):
    """The members of `result_info` that the client needs; an odd one counts as absent."""

    cursor: str | None = None
    total_count: int | None = None


class Envelope(Struct):
    """The frame of every JSON answer. All but `success` is still JSON text, read when somebody needs it."""

    success: bool
    result: Raw = ABSENT
    errors: Raw = Raw(NULL)
    result_info: Raw = Raw(NULL)

    def all_errors(self) -> list[ApiError]:
        """Return every error it names, as far as it can be read."""
        items = decode_leniently(bytes(self.errors), Any)
        return [_api_error(item) for item in items] if isinstance(items, list) else []

    def paging(self) -> Paging:
        """Return the facts about further pages."""
        info = decode_leniently(bytes(self.result_info), Any)
        if not isinstance(info, dict):
            return Paging()
        cursor = info.get("cursor")
        return Paging(cursor if isinstance(cursor, str) else None, whole_number(info.get("total_count")))


def whole_number(found: object) -> int | None:
    """Return a number as the API may write it: an integer, a float or digits in a string; None for anything else."""
    if isinstance(found, str):
        try:
            found = float(found)
        except ValueError:
            return None
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return int(found)


def _api_error(item: object) -> ApiError:
    if not isinstance(item, dict):
        return ApiError(message=item if isinstance(item, str) else "")
    chain = item.get("error_chain")
    reason = _api_error(chain[0]) if isinstance(chain, list) and chain else ApiError()
    return ApiError(
        whole_number(item.get("code")) or 0,
        message if isinstance(message := item.get("message"), str) else "",
        reason.message,
        reason.code,
    )


class NamespaceLine(Struct):
    id: str
    title: str
    mode: str | None = None


class BareNamespaceLine(Struct):
    """A namespace whose other members are not as they should be."""

    id: str
    title: str


class KeyLine(Struct, omit_defaults=True, gc=False):
    name: str
    expiration: int | float | str | None = None
    metadata: Raw = ABSENT


class BareKeyLine(Struct, gc=False):
    """A key whose other members are not as they should be."""

    name: str


class BulkResult(Struct):
    unsuccessful_keys: list[str] | None = None
    successful_key_count: int | float | str | None = None


class BulkEntry(Struct, gc=False):
    value: str
    metadata: Raw = Raw(NULL)
    expiration: int | float | str | None = None


class LargeBulkEntry(Struct, gc=False):
    """Like `BulkEntry`, with its value left as JSON text."""

    value: Raw
    metadata: Raw = Raw(NULL)
    expiration: int | float | str | None = None


class BulkAnswer(Struct):
    """A bulk get as it mostly is: entries, bare texts, null for missing keys."""

    values: dict[str, BulkEntry | str | None]


class RawBulkValues(Struct):
    """A bulk answer with an odd entry in it: each entry is read by itself."""

    values: dict[str, Raw]


class Pair(Struct, omit_defaults=True, gc=False):
    key: str
    value: Raw
    base64: bool = False
    expiration: int | None = None
    metadata: Raw = ABSENT


class PairRequest(Struct):
    """One item of a bulk put, as received: not yet checked against any limit."""

    key: str
    value: str
    base64: bool | None = None
    expiration: int | float | None = None
    expiration_ttl: int | float | None = None
    metadata: Raw = Raw(NULL)

    @property
    def metadata_text(self) -> bytes:
        """The metadata as sent: JSON text, `null` for none."""
        return bytes(self.metadata)

    def value_bytes(self) -> bytes:
        """Return the value itself; base64 may lack its padding. Raises `MalformedError` when it is no base64."""
        if not self.base64:
            return self.value.encode()
        try:
            return base64.b64decode(self.value + "=" * (-len(self.value) % 4), validate=True)
        except (binascii.Error, ValueError) as exc:
            raise MalformedError(f"value of key {self.key!r} is not valid base64") from exc


class BulkGetRequest(Struct, rename="camel"):
    """The body of a bulk get."""

    keys: list[str]
    type: str = "text"
    with_metadata: bool = False


class NamespaceRequest(Struct):
    """The body that creates or renames a namespace; a rename has a title only."""

    title: str | None = None
    jurisdiction: str | None = None
    mode: str | None = None
