"""The parts of a request: the client with its token, paths that no key can leave, bodies in pieces."""

import ipaddress
import logging
import secrets
import unicodedata
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlencode

import httpcore
import httpx

from kvfs import __version__
from kvfs.core.errors import BodyTooLargeError, NamespaceNotFoundError, RejectedError, UserError
from kvfs.core.model import Entry, Key, NamespaceId
from kvfs.patches import HTTPCORE_READS
from kvfs.store import checks
from kvfs.store.wire import codec
from kvfs.store.wire.strings import Pause, go_on

JSON: Final = "application/json"

READ_BYTES: Final = 256 * 1024  # bytes of an answer taken from the socket at a time

_CONNECT: Final = 2.0  # seconds at least for a connection; a third of the time-out if that is more
_OCTETS: Final = "application/octet-stream"


def read_in_large_pieces() -> None:
    """Let every client of this process take more from a socket at a time. The daemon calls it when it starts."""
    HTTPCORE_READS.apply(httpcore.AsyncHTTP11Connection, READ_BYTES)


def open_client(
    base_url: str, *, timeout: float, http2: bool, transport: httpx.AsyncBaseTransport | None
) -> httpx.AsyncClient:
    """Return a client for `base_url` and nothing else; `build` gives each request its credentials.

    Raises `UserError` for a URL with user, query or fragment.
    """
    base = _checked_base(base_url)
    is_near = _is_loopback(base.host)
    if http2:
        logging.getLogger("hpack").setLevel(logging.INFO)  # its DEBUG lines hold headers, so the token
    return httpx.AsyncClient(
        base_url=base,
        headers={"accept-encoding": "gzip", "user-agent": f"kvfs/{__version__}"},
        timeout=httpx.Timeout(timeout, connect=max(timeout / 3, min(timeout, _CONNECT))),
        http2=http2,
        transport=transport,
        follow_redirects=False,  # a redirect would take the token along
        trust_env=not is_near,  # there is no proxy on the way to this machine
        verify=not is_near or base.scheme == "https",  # else there is no TLS: to load certificates takes long
        limits=httpx.Limits(max_connections=64, max_keepalive_connections=16, keepalive_expiry=30),
    )


def namespaces_path(account: str | None) -> str:
    """Return the path of an account's namespaces; with None that of wrangler's local explorer, which has no accounts.

    Raises `UserError` for what cannot be an account id.
    """
    if account is None:
        return "/storage/kv/namespaces"
    if not codec.acceptable_identifier(account):
        raise UserError(f"{account!r} cannot be an account id")
    return f"/accounts/{account}/storage/kv/namespaces"


def namespace_path(namespaces: str, namespace: NamespaceId) -> str:
    """Return the path of one namespace. A text that cannot be an id names none: `NamespaceNotFoundError`."""
    if not codec.acceptable_identifier(namespace):
        raise NamespaceNotFoundError(f"{namespace!r} cannot be a namespace id")
    return f"{namespaces}/{namespace}"


def is_odd(key: Key) -> bool:
    """True for keys that may not arrive in a URL: `wrangler kv key get` had 404 for such (workers-sdk #7997)."""
    return "..." in key or "^" in key or any(unicodedata.category(char) == "Cc" for char in key)


def key_segment(operation: str, key: Key) -> str:
    """Return the key as one path segment. Raises `RejectedError` for those that KV cannot hold.

    `.` and `..` would be taken for steps in the path and reach the namespace instead (and delete it).
    """
    return quote(checks.key_bytes(operation, key), safe="")


def build(
    client: httpx.AsyncClient,
    method: str,
    path: str,
    query: Mapping[str, object],
    headers: Mapping[str, str] | None = None,
) -> httpx.Request:
    """Build a request whose URL is exactly base, path and query: httpx would tidy up what looks like steps."""
    base = client.base_url
    search = urlencode(query, quote_via=quote)
    url = str(base).rstrip("/") + path + (f"?{search}" if search else "")
    request = client.build_request(method, url, headers=headers)
    meant = (base.raw_path.rstrip(b"/") + path.encode(), search.encode())
    if request.url.raw_path.partition(b"?")[::2] != meant:
        raise RejectedError("the request's path would not arrive as it was written")
    return request


def put_body(entry: Entry) -> tuple[str, list[bytes]]:
    """Return content type and body of a single put: raw bytes, or multipart when there is metadata."""
    if entry.metadata is None:
        return _OCTETS, [entry.value] if entry.value else []
    boundary = secrets.token_hex(16)
    pieces = [
        # without a filename, servers on WHATWG's formData() decode the value as UTF-8 text
        _part(boundary, "value", _OCTETS, "blob"),
        entry.value,
        b"\r\n" + _part(boundary, "metadata", JSON),
        entry.metadata,
        f"\r\n--{boundary}--\r\n".encode(),
    ]
    return f"multipart/form-data; boundary={boundary}", pieces


def bulk_put_body(
    entries: Mapping[Key, Entry], pause: Pause = go_on, *, disguised: bool = False
) -> list[bytes]:
    """Return the body of a bulk put, in pieces; fit for a thread. Raises `RejectedError`, `BodyTooLargeError`."""
    checks.check_entries("bulk put", entries)
    try:
        return codec.encode_pairs(entries, pause, disguised=disguised)
    except codec.TooLongError as exc:
        raise BodyTooLargeError(f"bulk put: {exc}") from exc


def _part(boundary: str, name: str, content_type: str, filename: str = "") -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"'
    disposition += f'; filename="{filename}"' if filename else ""
    return f"--{boundary}\r\n{disposition}\r\nContent-Type: {content_type}\r\n\r\n".encode()


def _checked_base(base_url: str) -> httpx.URL:
    """Raise `UserError` without quoting a URL that may hold a password."""
    try:
        url = httpx.URL(base_url.rstrip("/"))
    except (httpx.InvalidURL, TypeError) as exc:
        raise UserError("the API base URL is not a URL") from exc
    if url.scheme not in ("http", "https") or not url.host:
        raise UserError("the API base URL must begin with http:// or https:// and name a host")
    if url.userinfo or url.query or url.fragment:
        raise UserError("the API base URL must have no user, query or fragment")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
