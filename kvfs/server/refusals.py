"""How the server says no: status, code and words of every refusal, and the table from our errors to them.

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
from kvfs.store.wire import codec

BAD_HEADERS: Final = 6003
BAD_AUTHORIZATION: Final = 6111  # in the chain of the one before
BAD_ACCOUNT: Final = 7003
NO_ROUTE: Final = 7000
UNKNOWN_KEY: Final = 9103
NO_CREDENTIALS: Final = 9106
UNAUTHENTICATED: Final = 10000
KEY_NOT_FOUND: Final = 10009
BAD_NAMESPACE_ID: Final = 10011
INVALID: Final = 10012  # the API's for malformed bodies; our choice for keys, values, metadata, parameters
NAMESPACE_NOT_FOUND: Final = 10013
TITLE_EXISTS: Final = 10014
BULK_GET: Final = 10029
BAD_EXPIRATION: Final = 10033
BAD_TTL: Final = 10034
MULTIPART: Final = 10047
BAD_METADATA: Final = 10147
METHOD: Final = 10405
OVERSIZE: Final = 10413  # our choice
INTERNAL: Final = 10500  # our choice

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
        """The answer."""
        body = codec.encode_failure(self.code, self.message, self.cause)
        return Response(body, self.status, self.headers, JSON)


def invalid(message: str) -> Refusal:
    """400 for what is malformed."""
    return Refusal(400, INVALID, message)


def malformed_credentials() -> Refusal:
    """400 for an Authorization header that cannot hold a token."""
    cause = (BAD_AUTHORIZATION, "Invalid format for Authorization header")
    return Refusal(400, BAD_HEADERS, "Invalid request headers", cause=cause)


def oversize(what: str, limit: int) -> Refusal:
    """413 for a body, or an answer, beyond a limit in bytes."""
    return Refusal(413, OVERSIZE, f"{what} exceeds limit of {limit}.")


def refusal_of(error: StoreError) -> Refusal:
    """What the client is told about an error of the store; the first line that fits."""
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
