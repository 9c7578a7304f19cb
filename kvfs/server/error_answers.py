"""Refusals of the server: status, code and words of each, and the table from our errors to them.

Statuses and codes are the API's own where they are known. This server's own choices are marked so; they lie
outside the codes by which clients take an answer for KV's verdict on their data, except `INVALID`.
"""

from typing import Final

from starlette.responses import Response

from kvfs.core.errors import (
    BodyTooLargeError,
    NamespaceNotFoundError,
    NotTextError,
    RejectedError,
    StoreError,
    TitleExistsError,
)
from kvfs.store.codes import BAD_ACCOUNT as BAD_ACCOUNT
from kvfs.store.codes import BAD_AUTHORIZATION as BAD_AUTHORIZATION
from kvfs.store.codes import BAD_EXPIRATION as BAD_EXPIRATION
from kvfs.store.codes import BAD_HEADERS as BAD_HEADERS
from kvfs.store.codes import BAD_METADATA as BAD_METADATA
from kvfs.store.codes import BAD_NAMESPACE_ID as BAD_NAMESPACE_ID
from kvfs.store.codes import BAD_TTL as BAD_TTL
from kvfs.store.codes import BULK_GET as BULK_GET
from kvfs.store.codes import INTERNAL as INTERNAL
from kvfs.store.codes import INVALID as INVALID
from kvfs.store.codes import KEY_NOT_FOUND as KEY_NOT_FOUND
from kvfs.store.codes import METHOD as METHOD
from kvfs.store.codes import MULTIPART as MULTIPART
from kvfs.store.codes import NAMESPACE_NOT_FOUND as NAMESPACE_NOT_FOUND
from kvfs.store.codes import NO_CREDENTIALS as NO_CREDENTIALS
from kvfs.store.codes import NO_ROUTE as NO_ROUTE
from kvfs.store.codes import OVERSIZE as OVERSIZE
from kvfs.store.codes import TITLE_EXISTS as TITLE_EXISTS
from kvfs.store.codes import UNAUTHENTICATED as UNAUTHENTICATED
from kvfs.store.codes import UNKNOWN_KEY as UNKNOWN_KEY
from kvfs.store.wire import codec

JSON: Final = "application/json"


class Refusal(Exception):
    """A request that is answered with an error envelope. `cause`: code and text of its `error_chain`."""

    def __init__(
        self,
        status: int,
        code: int,
        message: str,
        *,
        headers: dict[str, str] | None = None,
        cause: tuple[int, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.cause = cause
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}

    def response(self) -> Response:
        """Return the answer."""
        body = codec.encode_failure(self.code, self.message, self.cause)
        return Response(body, self.status, self.headers, JSON)


def invalid(message: str) -> Refusal:
    """Return 400 for malformed input."""
    return Refusal(400, INVALID, message)


def malformed_credentials() -> Refusal:
    """Return 400 for an Authorization header that cannot hold a token."""
    cause = (BAD_AUTHORIZATION, "Invalid format for Authorization header")
    return Refusal(400, BAD_HEADERS, "Invalid request headers", cause=cause)


def oversize(what: str, limit: int) -> Refusal:
    """Return 413 for a body, or an answer, beyond a limit in bytes."""
    return Refusal(413, OVERSIZE, f"{what} exceeds limit of {limit}.")


def refusal_of(error: StoreError) -> Refusal:
    """Return the answer for an error of the store: the first line of the table that fits."""
    message = str(error)
    if isinstance(error, NamespaceNotFoundError):
        return Refusal(404, NAMESPACE_NOT_FOUND, message)
    if isinstance(error, TitleExistsError):
        return Refusal(400, TITLE_EXISTS, message)
    if isinstance(error, NotTextError):
        return Refusal(400, BULK_GET, message)
    if isinstance(error, RejectedError):
        return Refusal(400, error.code or INVALID, message)
    if isinstance(error, BodyTooLargeError):
        return Refusal(413, OVERSIZE, message)
    return Refusal(503, INTERNAL, message, headers={"retry-after": "1"})
