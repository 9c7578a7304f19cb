"""The shapes of Cloudflare's JSON, as msgspec structs: what travels, field by field, and nothing about it.

Optional fields may be null as well as absent, unknown ones are ignored. `Raw` is JSON text left as it is.
"""

import base64
import binascii

from msgspec import Raw, Struct

from kvfs.store.wire.json import NULL, MalformedError

ABSENT = Raw()  # msgspec leaves a default out when it is this very object


class ApiError(Struct):
    """An item of `errors`."""

    code: int = 0
    message: str = ""


class ResultInfo(Struct, omit_defaults=True):
    """Paging facts of a list, by cursor (keys) or by page number (namespaces)."""

    count: int | None = None
    cursor: str | None = None
    page: int | None = None
    per_page: int | None = None
    total_count: int | None = None
    total_pages: int | None = None


class Envelope(Struct):
    """What every JSON answer is wrapped in; `result` is still JSON text."""

    success: bool
    result: Raw = Raw(NULL)
    errors: list[ApiError] | None = None
    result_info: ResultInfo | None = None

    @property
    def first_error(self) -> ApiError:
        """The error that explains a failure, or an empty one."""
        return self.errors[0] if self.errors else ApiError()


class NamespaceLine(Struct):
    id: str
    title: str
    mode: str | None = None


class KeyLine(Struct, omit_defaults=True, gc=False):
    name: str
    expiration: int | float | None = None
    metadata: Raw = ABSENT


class BulkResult(Struct):
    unsuccessful_keys: list[str] | None = None


class BulkEntry(Struct, gc=False):
    value: str
    metadata: Raw = Raw(NULL)
    expiration: int | float | None = None


class BulkValues(Struct):
    values: dict[str, BulkEntry | None]


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
        """The value itself; base64 may lack its padding. Raises `MalformedError` when it is no base64."""
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
