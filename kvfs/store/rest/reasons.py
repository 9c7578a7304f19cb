"""Why there was no answer, in words: the libraries in between often leave their errors empty."""

import ssl
from typing import Final

import httpx

from kvfs.core.errors import NotSentError, UnavailableError, UnreachableError, UntrustedError, causes

_NEVER_LEFT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)
"""The request did not get as far as the server."""


def unavailable(operation: str, error: httpx.HTTPError) -> UnavailableError:
    """Return the error of a request without an answer."""
    failed = next((each for each in causes(error) if isinstance(each, ssl.SSLError)), None)
    if failed is not None and isinstance(error, httpx.ConnectError):
        return UntrustedError(f"{operation}: {_tls_reason(failed)}")
    return _kind(error)(f"{operation}: {type(error).__name__} {_words(error)}".rstrip())


def _kind(error: httpx.HTTPError) -> type[UnavailableError]:
    """Return the kind of a failure: a malformed answer may be about this one request, and no answer is about all."""
    if isinstance(error, _NEVER_LEFT):
        return NotSentError
    is_answer = isinstance(error, httpx.DecodingError | httpx.RemoteProtocolError)
    return UnavailableError if is_answer and "disconnected" not in str(error) else UnreachableError


def _words(error: BaseException) -> str:
    """Return the first text in the chain of causes that says anything."""
    for each in causes(error):
        text = each.strerror if isinstance(each, OSError) and each.strerror else str(each)
        if text:
            return text
    return ""


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: the certificate of the server is not accepted: {error.verify_message}"
    reason = (error.reason or str(error) or type(error).__name__).replace("_", " ").lower()
    hint = " (does the server speak https there?)" if "wrong version" in reason or "record" in reason else ""
    return f"TLS: no secure connection: {reason}{hint}"
