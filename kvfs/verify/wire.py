"""Raw requests of the checks: what was answered, whatever it is; what passes by itself is asked again."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec
import trio

from kvfs.core.errors import UnavailableError
from kvfs.store import codes

AT_ONCE: Final = 3  # more than four requests at a time meet the API's burst limiter
TRIES: Final = 5
PAUSES: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0, 15.0)
"""Seconds between two looks at something that is not there yet: a read may be a minute old."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `seconds`: how long it took."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float = 0.0

    @property
    def envelope(self) -> dict[str, Any]:
        """Return the JSON object of the answer; empty if it is none."""
        try:
            found = msgspec.json.decode(self.body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def result(self) -> Any:
        """Return `result` of the envelope."""
        return self.envelope.get("result")

    @property
    def succeeded(self) -> bool:
        """True for 200 with `success`."""
        return self.status == 200 and self.envelope.get("success") is True

    @property
    def code(self) -> int:
        """Return the first error code; 0 without one."""
        for error in self.envelope.get("errors") or []:
            if isinstance(error, dict) and isinstance(error.get("code"), int | float):
                return int(error["code"])
        return 0

    def __str__(self) -> str:
        if self.status == 200:
            return "HTTP 200" if self.succeeded else f"HTTP 200 {self.body[:60]!r}"
        return f"HTTP {self.status}, code {self.code}" if self.code else f"HTTP {self.status} without a code"


class Endpoint:
    """An API at the base URL of `client`; `namespaces` is the path of the account's namespaces."""

    def __init__(self, client: httpx.AsyncClient, namespaces: str) -> None:
        self.namespaces = namespaces
        self.requests = 0
        self._client = client
        self._slots = trio.Semaphore(AT_ONCE)

    async def send(self, method: str, path: str, **options: Any) -> Reply:
        """Return the answer to a request; limits and passing refusals are waited out. Raises `UnavailableError`.

        `options` are httpx's: `params`, `content`, `json`, `files`.
        """
        reply: Reply | None = None
        for attempt in range(TRIES):
            if reply is not None:
                await trio.sleep(_pause(reply, attempt))
            reply = await self.once(method, path, **options)
            if not _passes(reply):
                return reply
        assert reply is not None
        return reply

    async def once(self, method: str, path: str, **options: Any) -> Reply:
        """Return the first answer to a request, whatever it is. Raises `UnavailableError`."""
        async with self._slots:
            self.requests += 1
            began = trio.current_time()
            try:
                answer = await self._client.request(method, path, **options)
            except httpx.HTTPError as exc:
                raise UnavailableError(f"{method}: {type(exc).__name__}: {exc or 'no answer'}") from exc
        return Reply(answer.status_code, dict(answer.headers), answer.content, trio.current_time() - began)


def _passes(reply: Reply) -> bool:
    """True for an answer that says nothing about the request itself."""
    if reply.status in (401, 403):
        return reply.code in codes.PASSING
    return reply.status in (429, 500, 502, 503, 504) and reply.code != codes.QUOTA


def _pause(reply: Reply, attempt: int) -> float:
    """Return seconds until the next try."""
    after = reply.headers.get("retry-after", "")
    if after.isdecimal():
        return float(min(int(after), 300))
    return 5.0 * 2 ** (attempt - 1) if reply.status == 429 else float(attempt)


@dataclass(frozen=True, slots=True)
class Lab:
    """The scratch namespace of a run, and the prefix of all keys that it makes there.

    `patience` is how many seconds a read may show what was before.
    """

    endpoint: Endpoint
    namespace: str
    prefix: str
    patience: float
    pairs: list[dict[str, Any]] = field(default_factory=list)
    """The pairs that were written in bulk for several checks."""
    done: dict[str, Reply] = field(default_factory=dict)
    """Answers to what was put for several checks, by name: see `setting.py`."""
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The keys of the run, as they were listed last."""
    seen: dict[str, Any] = field(default_factory=dict)
    """Observations made on the way, by the name of the check that needs them."""
    seen_headers: dict[str, str] = field(default_factory=dict)

    def key(self, name: str) -> str:
        """Return a key of this run."""
        return self.prefix + name

    def path(self, *segments: str) -> str:
        """Return a path below the namespace; each segment is escaped whole."""
        inner = "".join("/" + quote(segment, safe="") for segment in segments)
        return f"{self.endpoint.namespaces}/{self.namespace}{inner}"

    async def put(self, key: str, value: bytes, **options: Any) -> Reply:
        """Send a raw put."""
        return await self.endpoint.send("PUT", self.path("values", key), content=value, **options)

    async def get(self, key: str) -> Reply:
        """Return a value."""
        return await self.endpoint.send("GET", self.path("values", key))

    async def delete(self, key: str) -> Reply:
        """Delete a key."""
        return await self.endpoint.send("DELETE", self.path("values", key))

    async def metadata(self, key: str) -> Reply:
        """Return metadata of a key."""
        return await self.endpoint.send("GET", self.path("metadata", key))

    async def bulk_put(self, pairs: list[dict[str, Any]]) -> Reply:
        """Write many."""
        return await self.endpoint.send("PUT", self.path("bulk"), json=pairs)

    async def bulk_get(self, keys: list[str]) -> Reply:
        """Read many, with metadata."""
        body = {"keys": keys, "type": "text", "withMetadata": True}
        return await self.endpoint.send("POST", self.path("bulk", "get"), json=body)

    async def list(self, prefix: str, **params: str | int) -> Reply:
        """Return a page of the keys that start with `prefix`."""
        return await self.endpoint.send("GET", self.path("keys"), params={"prefix": prefix, **params})

    async def until(self, ask: Callable[[], Awaitable[Reply]], good: Callable[[Reply], bool]) -> Reply:
        """Ask until the answer is good, or until it cannot be a stale one any more."""
        began = trio.current_time()
        reply = await ask()
        for pause in PAUSES:
            if good(reply) or trio.current_time() - began > self.patience:
                break
            await trio.sleep(pause)
            reply = await ask()
        return reply


def rows_of(reply: Reply) -> dict[str, dict[str, Any]]:
    """Return the rows of a listing by name; empty if it is none."""
    rows = reply.result
    return {row["name"]: row for row in rows if isinstance(row, dict)} if isinstance(rows, list) else {}


def values_of(reply: Reply) -> dict[str, Any]:
    """Return the entries of a bulk get by key; empty if it is none."""
    found = reply.result.get("values") if isinstance(reply.result, dict) else None
    return found if isinstance(found, dict) else {}
