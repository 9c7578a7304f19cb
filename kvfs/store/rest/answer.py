"""What an answer of the API means: the table from status and error code to our errors.

Nothing here talks to the network. The rule of the table: only an envelope with a code of KV itself may reject
a user's data; a page of some proxy, however final its status, means "try again later".
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

from kvfs.core.errors import (
    BodyTooLargeError,
    DeniedError,
    NamespaceNotFoundError,
    NotTextError,
    QuotaError,
    RateLimitedError,
    RejectedError,
    StoreError,
    TitleExistsError,
    UnavailableError,
)
from kvfs.store.wire import codec

AUTHENTICATION: Final = frozenset({10000, 10001, 7003})  # 7003: the account id leads nowhere
KEY_NOT_FOUND: Final = 10009
BAD_NAMESPACE_ID: Final = 10011
NAMESPACE_NOT_FOUND: Final = 10013
TITLE_EXISTS: Final = 10014
BULK_GET_REFUSED: Final = 10029
QUOTA: Final = 10048
THROTTLED: Final = 971

_KV_CODES: Final = range(10002, 10200)
_LONGEST_WAIT: Final = 86_400.0  # seconds: more than a day is nobody's honest Retry-After
_MESSAGE_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `headers` have lower-case names; `body` is decoded from its content encoding."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the status claims success."""
        return 200 <= self.status < 300

    def envelope(self) -> codec.Envelope | None:
        """The envelope, or None when the body is none."""
        try:
            return codec.decode_envelope(self.body)
        except codec.MalformedError:
            return None


def successful(what: str, answer: Answer, *, now: float) -> codec.Envelope:
    """The envelope of a successful answer. Raises the `StoreError` that an unsuccessful one means."""
    envelope = answer.envelope()
    if answer.ok and envelope is not None and envelope.success:
        return envelope
    raise error_of(what, answer, envelope, now=now)


def key_is_missing(answer: Answer) -> bool:
    """Whether it says that the key does not exist."""
    if answer.ok:
        return False
    envelope = answer.envelope()
    return envelope is not None and envelope.first_error.code == KEY_NOT_FOUND


def error_of(what: str, answer: Answer, envelope: codec.Envelope | None, *, now: float) -> StoreError:
    """The error that an unsuccessful answer means; `what` names the operation, `now` is epoch seconds."""
    status = answer.status
    code = envelope.first_error.code if envelope else 0
    message = f"{what}: {_explanation(answer, envelope)}"
    permanent = _permanent(status, code, message)
    if permanent is not None:
        return permanent(message, code=code, status=status)
    transient = UnavailableError
    if status == 429 or code == THROTTLED:
        transient = RateLimitedError
    elif status in (413, 524):
        transient = BodyTooLargeError
    return transient(message, code=code, status=status, retry_after=_retry_after(answer.headers, now))


def _permanent(status: int, code: int, message: str) -> type[StoreError] | None:
    """The error of an answer that waiting does not cure, or None. The first line that fits decides."""
    if code == QUOTA:
        return QuotaError
    if status == 429 or code == THROTTLED:
        return None
    if status in (401, 403) or code in AUTHENTICATION:
        return DeniedError
    if code in (NAMESPACE_NOT_FOUND, BAD_NAMESPACE_ID):
        return NamespaceNotFoundError
    if code == TITLE_EXISTS:
        return TitleExistsError
    if status not in range(200, 300) and status not in range(400, 500):
        return None
    if status in (408, 413, 425) or code == KEY_NOT_FOUND:
        return None
    if code == BULK_GET_REFUSED and "non-text" in message.lower():
        return NotTextError
    if code in _KV_CODES:
        return RejectedError
    # Not KV's own words: refused for good only when it is an envelope and the status leaves no doubt.
    return RejectedError if code and status > 400 and status not in (404, 405) else None


def _explanation(answer: Answer, envelope: codec.Envelope | None) -> str:
    """What the server says, made fit for a terminal."""
    if envelope is None:
        return f"HTTP {answer.status} with an answer that is not the API's"
    error = envelope.first_error
    text = re.sub(r"\s+", " ", "".join(char if char.isprintable() else " " for char in error.message))
    return f"{text[:_MESSAGE_CHARS].strip() or 'no reason given'} (HTTP {answer.status}, code {error.code})"


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds of a Retry-After header, which may be seconds or a date; None without a usable one."""
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(seconds, 0.0), _LONGEST_WAIT) if math.isfinite(seconds) else None
