"""The table from the status and error code of an answer to our errors.

Nothing here talks to the network. Only an envelope with a code that is known to be about content may reject a
user's data; a page of some proxy, however final its status, means "try again later". Codes are in
`store/codes.py`.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar

from kvfs.core.errors import (
    AccountError,
    BlockedError,
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
    UnknownRefusalError,
)
from kvfs.core.model import ValueRead
from kvfs.store import codes
from kvfs.store.codes import Meaning
from kvfs.store.wire import codec

_LONGEST_WAIT: Final = 86_400.0  # seconds: more than a day is nobody's honest Retry-After
_MESSAGE_CHARS: Final = 200
_BLOCK_PAGE: Final = b"you have been blocked"

_VALUE_TYPES: Final = ("", "application/octet-stream")  # media types of an answer that is a value

T = TypeVar("T")

Scrub = Callable[[str], str]


def as_it_is(text: str) -> str:
    """Return the text as it is, for a caller that knows no secret."""
    return text


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `headers` have lower-case names; `body` is decoded from its content encoding."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        """True if the status claims success."""
        return 200 <= self.status < 300

    def envelope(self) -> codec.Envelope | None:
        """Return the envelope, or None when the body is none."""
        try:
            return codec.decode_envelope(self.body)
        except codec.MalformedError:
            return None


def successful(what: str, answer: Answer, *, now: float, scrub: Scrub = as_it_is) -> codec.Envelope:
    """Return the envelope of a successful answer. Raises the `StoreError` that an unsuccessful one means."""
    envelope = answer.envelope()
    if answer.ok and envelope is not None and envelope.success:
        return envelope
    raise error_of(what, answer, envelope, now=now, scrub=scrub)


def shaped(what: str, decode: Callable[[bytes], T], result: bytes) -> T:
    """Return `result` decoded. Raises `UnavailableError` when it has another shape: it may be a proxy's."""
    try:
        return decode(result)
    except codec.MalformedError as exc:
        raise UnavailableError(f"{what}: the answer is not the API's: {exc}") from exc


def value_of(answer: Answer) -> ValueRead:
    """Return the value that a successful single get brought. Raises `UnavailableError` for a page in its place."""
    declared = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if declared == "text/html":
        raise UnavailableError("get: a web page came instead of the value", status=answer.status)
    doubtful = "" if declared in _VALUE_TYPES else declared
    return ValueRead(answer.body, expiration_of(answer), declared_as=doubtful)


def expiration_of(answer: Answer) -> int | None:
    """Return the header of a value that expires, epoch seconds."""
    text = answer.headers.get("expiration")
    if text is None:
        return None
    try:
        return codec.whole_seconds(float(text))
    except (ValueError, OverflowError):  # its text quotes the header, which may hold a token
        raise UnavailableError("get: the expiration in the answer is not a number") from None


def key_is_missing(answer: Answer) -> bool:
    """True if it says that the key does not exist."""
    if answer.ok:
        return False
    envelope = answer.envelope()
    return envelope is not None and _error_in(envelope, answer.status).code == codes.KEY_NOT_FOUND


def error_of(
    what: str, answer: Answer, envelope: codec.Envelope | None, *, now: float, scrub: Scrub = as_it_is
) -> StoreError:
    """Return the error that an unsuccessful answer means; `what` names the operation, `now` is epoch seconds.

    `scrub` takes tokens out of what the server says before it becomes part of a message.
    """
    if envelope is None and _is_page_of_a_filter(answer):
        return _blocked(what, answer, scrub)
    error = _error_in(envelope, answer.status) if envelope else codec.ApiError()
    status, code = answer.status, error.code
    message = f"{what}: {_explanation(answer, envelope, error, scrub)}"
    permanent = _permanent(status, error) if envelope else None
    if permanent is not None:
        return permanent(message, code=code, status=status)
    wait = _retry_after(answer.headers, now)
    return _transient(status, code, known=envelope is not None)(
        message, code=code, status=status, retry_after=wait
    )


def _error_in(envelope: codec.Envelope, status: int) -> codec.ApiError:
    """Return the first error with a code that means something, else the first."""
    errors = envelope.all_errors()
    telling = (error for error in errors if _meaning(error, status) is not Meaning.UNKNOWN)
    return next(telling, errors[0] if errors else codec.ApiError())


def _meaning(error: codec.ApiError, status: int) -> Meaning:
    meaning = codes.meaning(error.code, status, error.message)
    return meaning if meaning is not Meaning.UNKNOWN else codes.meaning(error.reason_code, status)


_ALWAYS: Final = {
    Meaning.ACCOUNT: AccountError,
    Meaning.TOKEN: DeniedError,
    Meaning.PERMISSION: DeniedError,
}


def _permanent(status: int, error: codec.ApiError) -> type[StoreError] | None:
    """Return the error of an envelope that waiting does not cure, or None. The first line that fits decides."""
    meaning = _meaning(error, status)
    if meaning is Meaning.QUOTA:
        return QuotaError
    if status == 429 or meaning is Meaning.THROTTLED:
        return None
    if meaning in _ALWAYS:
        return _ALWAYS[meaning]
    if status in (401, 403):
        return DeniedError
    if meaning is Meaning.NAMESPACE:
        return NamespaceNotFoundError
    if meaning is Meaning.TITLE:
        return TitleExistsError
    is_understood = 200 <= status < 300 or 400 <= status < 500
    if meaning is not Meaning.CONTENT or status in (408, 413, 425) or not is_understood:
        return None
    is_binary = error.code == codes.BULK_GET and "non-text" in error.message.lower()
    return NotTextError if is_binary else RejectedError


def _transient(status: int, code: int, *, known: bool) -> type[UnavailableError]:
    """Return the error of an answer that may be another one later; `known`: it is an envelope of the API."""
    if status == 429 or code == codes.THROTTLED:
        return RateLimitedError
    if status in (413, 524):
        return BodyTooLargeError
    refused = 400 <= status < 500 and status not in (408, 425)
    return UnknownRefusalError if known and refused and code != codes.KEY_NOT_FOUND else UnavailableError


def _is_page_of_a_filter(answer: Answer) -> bool:
    """True for 401 and 403 without an envelope, and for whatever Cloudflare says it stopped."""
    return answer.status in (401, 403) or (not answer.ok and "cf-mitigated" in answer.headers)


def _blocked(what: str, answer: Answer, scrub: Scrub) -> BlockedError:
    ray = re.sub(r"[^0-9A-Za-z-]", "", scrub(answer.headers.get("cf-ray", "")))[:40]
    is_firewall = bool(ray) or "cf-mitigated" in answer.headers or _BLOCK_PAGE in answer.body.lower()
    by = "Cloudflare's firewall refused the request" if is_firewall else "a page that is not the API's"
    text = f"{what}: {by} (HTTP {answer.status}{f', ray {ray}' if ray else ''})"
    return BlockedError(text, status=answer.status, ray=ray, is_firewall=is_firewall)


def _explanation(answer: Answer, envelope: codec.Envelope | None, error: codec.ApiError, scrub: Scrub) -> str:
    """Return the server's reason, made fit for a terminal."""
    if envelope is None:
        return f"HTTP {answer.status} with an answer that is not the API's"
    said = [_printable(scrub(text)) for text in (error.message, error.reason)]
    text = ": ".join(dict.fromkeys(filter(None, said))) or "no reason given"
    code = f"code {error.code}" + (f"/{error.reason_code}" if error.reason_code else "")
    return f"{text} (HTTP {answer.status}, {code}){_advice(error)}"


def _printable(text: str) -> str:
    clean = "".join(char if char.isprintable() else " " for char in text)
    return re.sub(r"\s+", " ", clean)[:_MESSAGE_CHARS].strip()


def _advice(error: codec.ApiError) -> str:
    """Return advice about a refusal whose own words do not give it."""
    words = f"{error.message} {error.reason}".lower()
    if "from location" in words:
        return "; the token may be used from certain addresses only: allow this one (Client IP Address Filtering)"
    if error.code == codes.LOCKED_OUT or "max auth failures" in words:
        return "; Cloudflare locks this address out for a while after many refused requests"
    return ""


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return seconds of a Retry-After header, which may be seconds or a date; None without a usable one."""
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(seconds, 0.0), _LONGEST_WAIT) if math.isfinite(seconds) else None
