"""The error codes of the API by what they mean for the caller: the one table of the program.

Used by the client to choose an error, by the server and the embedded store to answer with one. The codes come
from public records of the real API and from wrangler's `kv_help` (see docs/compatibility.md). A code that is not
here proves nothing about the content of a write, because nobody knows what it says.
"""

from enum import Enum
from typing import Final


class Meaning(Enum):
    """The meaning of a code, and so who must act."""

    CONTENT = "content"  # one entry of the request can never be taken
    TOKEN = "token"  # the credentials are not accepted
    PERMISSION = "permission"  # the credentials are good and lack a permission
    ACCOUNT = "account"  # the account's plan or settings do not allow it
    NAMESPACE = "namespace"  # the namespace is gone, or of a kind that is
    QUOTA = "quota"  # the allowance of the day is used up
    THROTTLED = "throttled"  # too many requests at the moment
    NO_KEY = "no key"  # the key does not exist
    TITLE = "title"  # another namespace has the title
    UNKNOWN = "unknown"  # not in the table


INVALID_TOKEN: Final = 1000  # also "Internal Server Error": its text decides
THROTTLED: Final = 971
BAD_HEADERS: Final = 6003  # with HTTP 400: a mistyped token
BAD_AUTHORIZATION: Final = 6111  # in the `error_chain` of 6003
NO_ROUTE: Final = 7000
BAD_ACCOUNT: Final = 7003  # "Could not route to …": the account id leads nowhere
UNKNOWN_KEY: Final = 9103
NO_CREDENTIALS: Final = 9106  # with HTTP 400
UNAUTHENTICATED: Final = 10000  # with 401 or 403; also answered in passing to good tokens
CANNOT_AUTHENTICATE: Final = 10001  # as 10000; with other statuses it is no refusal of the token
KEY_NOT_FOUND: Final = 10009
BAD_NAMESPACE_ID: Final = 10011
INVALID: Final = 10012  # a malformed body
NAMESPACE_NOT_FOUND: Final = 10013
TITLE_EXISTS: Final = 10014
NO_TITLE: Final = 10019
BULK_GET: Final = 10029  # too many keys, none, or a value that is not text
BAD_EXPIRATION: Final = 10033
BAD_TTL: Final = 10034
NO_PERMISSION: Final = 10037
MULTIPART: Final = 10047
QUOTA: Final = 10048
BAD_METADATA: Final = 10147
METHOD: Final = 10405
LOCKED_OUT: Final = 10502  # too many refused requests from this address
OVERSIZE: Final = 10413  # `kvfs serve`'s own
INTERNAL: Final = 10500  # `kvfs serve`'s own

PASSING: Final = frozenset({UNAUTHENTICATED, CANNOT_AUTHENTICATE})
"""Refusals of the token that good tokens get now and then: to be asked again before they are believed."""

_BY_MEANING: Final = {
    Meaning.CONTENT: (
        *(INVALID, NO_TITLE, 10022, 10024, BULK_GET, 10030, BAD_EXPIRATION, BAD_TTL, MULTIPART),
        BAD_METADATA,
    ),
    Meaning.TOKEN: (
        BAD_HEADERS,
        BAD_AUTHORIZATION,
        UNKNOWN_KEY,
        NO_CREDENTIALS,
        9109,
        UNAUTHENTICATED,
        LOCKED_OUT,
    ),
    Meaning.PERMISSION: (NO_PERMISSION,),
    Meaning.ACCOUNT: (10017, 10026),
    Meaning.NAMESPACE: (10010, BAD_NAMESPACE_ID, NAMESPACE_NOT_FOUND, 10018, 10021, 10035, 10038),
    Meaning.QUOTA: (QUOTA,),
    Meaning.THROTTLED: (THROTTLED,),
    Meaning.NO_KEY: (KEY_NOT_FOUND,),
    Meaning.TITLE: (TITLE_EXISTS,),
}
MEANINGS: Final = {code: meaning for meaning, listed in _BY_MEANING.items() for code in listed}


def meaning(code: int, status: int = 0, text: str = "") -> Meaning:
    """Return the meaning of `code` in an answer with HTTP `status` and the message `text`.

    10000 and 10001 refuse the token only with 401 or 403, and 1000 only when its text names the token.
    """
    if code in PASSING:
        return Meaning.TOKEN if status in (401, 403) else Meaning.UNKNOWN
    if code == INVALID_TOKEN:
        return Meaning.TOKEN if "token" in text.lower() else Meaning.UNKNOWN
    if code == BAD_ACCOUNT:
        return Meaning.PERMISSION
    return MEANINGS.get(code, Meaning.UNKNOWN)
