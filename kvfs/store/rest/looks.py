"""A look at an account from outside, for `kvfs doctor --online`: nothing is written and nothing is billed but one list.

Each look is a few small requests, and an answer that is not understood is a finding too. To learn whether a token may
write, a value is put into a namespace that cannot exist: KV answers "namespace not found" to those who may write, and
refuses the others before it looks (kv-api: 10013, 10000).
"""

import statistics
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal

import httpx
import trio

from kvfs.store import codes
from kvfs.store.ratelimit import ratelimit_of
from kvfs.store.rest.reasons import unavailable

NOWHERE: Final = "0" * 32
"""The id of a namespace that nobody has: real ones are random."""

CLOCK_SECONDS: Final = 5.0
_ROUNDS: Final = 5
_USE: Final = """query($account: String!, $day: Date!) { viewer { accounts(filter: {accountTag: $account}) {
  kvOperationsAdaptiveGroups(limit: 100, filter: {date: $day}) { dimensions { actionType } sum { requests } } } } }"""


@dataclass(frozen=True, slots=True)
class Look:
    """One thing that was looked at; the levels are those of `kvfs doctor`."""

    level: Literal["ok", "note", "warn", "fail"]
    text: str


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer: status, headers with lower-case names, the document ({} when it is none), and seconds it took."""

    status: int
    headers: Mapping[str, str]
    document: Mapping[str, Any]
    seconds: float

    @property
    def code(self) -> int:
        """The API's error code, 0 when there is none."""
        errors = self.document.get("errors") or [{}]
        first = errors[0] if isinstance(errors, list) and isinstance(errors[0], dict) else {}
        code = first.get("code", 0)
        return int(code) if isinstance(code, int | float) else 0

    @property
    def reason(self) -> str:
        """The status and code, for a line to a user."""
        return f"HTTP {self.status}" + (f", code {self.code}" if self.code else "")


async def look(client: httpx.AsyncClient, account: str) -> AsyncIterator[Look]:
    """Do every look, one after the other. `client` carries the credentials; no error of the network is raised."""
    try:
        first = await _ask(client, "GET", f"/accounts/{account}/storage/kv/namespaces?per_page=5")
    except httpx.HTTPError as exc:
        yield Look("fail", f"the API does not answer: {unavailable('list namespaces', exc)}")
        return
    looks = (_token, _account, _writing, _latency, _use)
    yield _reading(first)
    yield _clock(first)
    yield _limit(first)
    for one in looks:
        try:
            yield await one(client, account)
        except httpx.HTTPError as exc:
            yield Look("warn", f"no answer: {unavailable(one.__name__.strip('_'), exc)}")


async def _ask(client: httpx.AsyncClient, method: str, path: str, **options: Any) -> Answered:
    began = trio.current_time()
    answer = await client.request(method, str(client.base_url).rstrip("/") + path, **options)
    seconds = trio.current_time() - began
    try:
        document = answer.json()
    except ValueError:
        document = {}
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return Answered(answer.status_code, headers, document if isinstance(document, dict) else {}, seconds)


def _reading(first: Answered) -> Look:
    if first.status == 200:
        return Look("ok", "the credentials may read Workers KV")
    return Look("fail", f"the credentials may not read Workers KV ({first.reason}): Workers KV Storage: Read")


def _clock(first: Answered) -> Look:
    try:
        theirs = parsedate_to_datetime(first.headers.get("date", "")).timestamp()
    except (TypeError, ValueError):
        return Look("note", "the API tells no time, so this machine's clock was not compared")
    off = time.time() - theirs
    if abs(off) <= CLOCK_SECONDS:
        return Look("ok", "this machine's clock is right")
    return Look(
        "warn",
        f"this machine's clock is {abs(off):.0f} s {'fast' if off > 0 else 'slow'}: expirations follow it",
    )


def _limit(first: Answered) -> Look:
    found = ratelimit_of(first.headers.get("ratelimit", ""))
    if found is None:
        return Look("note", "the API does not tell how many requests are left")
    left, seconds = found
    return Look(
        "ok" if left > 100 else "warn", f"{left:,} requests are left of the limit, for {seconds:.0f} s"
    )


async def _token(client: httpx.AsyncClient, account: str) -> Look:
    for path in ("/user/tokens/verify", f"/accounts/{account}/tokens/verify", "/user"):
        answer = await _ask(client, "GET", path)
        result = answer.document.get("result")
        if answer.status == 200 and isinstance(result, dict):
            state = str(result.get("status", "accepted"))
            ends = result.get("expires_on")
            until = f", until {ends}" if ends else ""
            level: Literal["ok", "fail"] = "ok" if state in ("active", "accepted") else "fail"
            return Look(level, f"the credentials are {state}{until}")
    return Look("warn", f"nobody says that the credentials are good ({answer.reason})")


async def _account(client: httpx.AsyncClient, account: str) -> Look:
    answer = await _ask(client, "GET", f"/accounts/{account}")
    result = answer.document.get("result")
    if answer.status == 200 and isinstance(result, dict):
        return Look("ok", f"the account is {result.get('name', account)!r}")
    return Look(
        "note", f"the credentials may not read the account's name ({answer.reason}); that is not needed"
    )


async def _writing(client: httpx.AsyncClient, account: str) -> Look:
    path = f"/accounts/{account}/storage/kv/namespaces/{NOWHERE}/values/kvfs-doctor"
    answer = await _ask(client, "PUT", path, content=b"")
    if answer.code == codes.NAMESPACE_NOT_FOUND:
        return Look("ok", "the credentials may write Workers KV")
    return Look("warn", f"the credentials may not write Workers KV ({answer.reason}): mount with --read-only")


async def _latency(client: httpx.AsyncClient, account: str) -> Look:
    path = f"/accounts/{account}/storage/kv/namespaces?per_page=1"
    times = [(await _ask(client, "GET", path)).seconds for _ in range(_ROUNDS)]
    return Look("ok", f"a request takes {statistics.median(times) * 1000:.0f} ms (median of {_ROUNDS})")


async def _use(client: httpx.AsyncClient, account: str) -> Look:
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    body = {"query": _USE, "variables": {"account": account, "day": today}}
    answer = await _ask(client, "POST", "/graphql", json=body)
    counts = _counts(answer.document)
    if counts is None:
        text = "today's use of the plan is not known: the token needs Account Analytics: Read"
        return Look("note", f"{text} ({answer.reason})")
    words = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items())) or "nothing"
    return Look("ok", f"used today, by everybody: {words}")


def _counts(document: Mapping[str, Any]) -> dict[str, int] | None:
    """Return the operations of today by kind; None for an answer that is not one."""
    try:
        groups = document["data"]["viewer"]["accounts"][0]["kvOperationsAdaptiveGroups"]
        return {str(one["dimensions"]["actionType"]): int(one["sum"]["requests"]) for one in groups}
    except (KeyError, IndexError, TypeError, ValueError):
        return None
