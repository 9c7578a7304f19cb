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
from kvfs.store import codes
from kvfs.store.wire import codec

JSON: Final = "application/json"

_RECORDED: Final[dict[int, tuple[int, str]]] = {
    codes.THROTTLED: (429, "Please wait and consider throttling your request speed"),
    codes.INVALID_TOKEN: (401, "Invalid API Token"),
    codes.BAD_HEADERS: (400, "Invalid request headers"),
    codes.BAD_AUTHORIZATION: (400, "Invalid format for Authorization header"),
    codes.UNKNOWN_KEY: (403, "Unknown X-Auth-Key or X-Auth-Email"),
    codes.NO_CREDENTIALS: (400, "Authentication failed (status: 400)"),
    9109: (403, "Invalid access token"),
    codes.UNAUTHENTICATED: (401, "Authentication error"),
    codes.CANNOT_AUTHENTICATE: (403, "Unable to authenticate request"),
    codes.KEY_NOT_FOUND: (404, "get: 'key not found'"),
    codes.NAMESPACE_NOT_FOUND: (404, "namespace not found"),
    codes.QUOTA: (429, "your account has reached the free usage limit for this operation for today"),
    codes.LOCKED_OUT: (403, "Too many authentication failures. Please try again later."),
}
"""Status and message of the codes whose answers are on record."""
_CAUSES: Final = {codes.BAD_HEADERS: codes.BAD_AUTHORIZATION}


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
    return Refusal(400, codes.INVALID, message)


def recorded(code: int, status: int | None = None, *, headers: dict[str, str] | None = None) -> Refusal:
    """Return the API's own answer with a code, by default with the code's own status; 400 if none is on record."""
    usual, message = _RECORDED.get(code, (400, f"this request met the fault code={code}"))
    cause = _CAUSES.get(code)
    chain = None if cause is None else (cause, _RECORDED[cause][1])
    return Refusal(status or usual, code, message, headers=headers, cause=chain)


def oversize(what: str, limit: int) -> Refusal:
    """Return 413 for a body, or an answer, beyond a limit in bytes."""
    return Refusal(413, codes.OVERSIZE, f"{what} exceeds limit of {limit}.")


def refusal_of(error: StoreError) -> Refusal:
    """Return the answer for an error of the store: the first line of the table that fits."""
    message = str(error)
    if isinstance(error, NamespaceNotFoundError):
        return Refusal(404, codes.NAMESPACE_NOT_FOUND, message)
    if isinstance(error, TitleExistsError):
        return Refusal(400, codes.TITLE_EXISTS, message)
    if isinstance(error, NotTextError):
        return Refusal(400, codes.BULK_GET, message)
    if isinstance(error, RejectedError):
        return Refusal(400, error.code or codes.INVALID, message)
    if isinstance(error, BodyTooLargeError):
        return Refusal(413, codes.OVERSIZE, message)
    return Refusal(503, codes.INTERNAL, message, headers={"retry-after": "1"})
