"""Faults that are limits of the account: its request rate, its allowance of the day, keys that are left alone."""

import math
from functools import partial
from typing import Final
from urllib.parse import unquote

import msgspec
import trio

from kvfs.core.limits import BULK_GET_KEYS, RATE_REQUESTS, RATE_SECONDS
from kvfs.server.capture import Items, is_bulk_write, item_key, leave_out, take_body
from kvfs.server.effects import Effect
from kvfs.server.error_answers import recorded
from kvfs.server.fault_rules import Armed
from kvfs.server.shell import App, AsgiMessage, AsgiSend, Receive, Scope
from kvfs.store import codes

_WRITTEN: Final = 100_000  # keys of which is remembered when they were written, before old ones are dropped
_FREE_KEYS: Final = (
    1000  # keys that the free plan writes, deletes and lists in a day; it reads 100 times that
)


# Requests in a window


async def _rate_budget(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    left, headers = _budget(armed)
    if left < 0:
        headers["retry-after"] = str(int(armed.budget["ends"] - trio.current_time()) + 1)
        raise recorded(codes.THROTTLED, headers=headers)
    await app(scope, receive, _with_headers(headers, send))


async def _ratelimit(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    _, headers = _budget(armed)
    await app(scope, receive, _with_headers(headers, send))


def _budget(armed: Armed) -> tuple[int, dict[str, str]]:
    """Count one request; how many are left (below 0: refused), and the headers that say so."""
    rule, now = armed.rule, trio.current_time()
    quota = RATE_REQUESTS if rule.count is None else rule.count
    window = rule.seconds or float(RATE_SECONDS)
    left, ends = spend(armed.budget, quota, window, now)
    return left, {
        "ratelimit": f'"default";r={max(left, 0)};t={ends - now:.0f}',
        "ratelimit-policy": f'"default";q={quota};w={window:.0f}',
    }


def spend(budget: dict[str, float], quota: int, window: float, now: float) -> tuple[int, float]:
    """Take one request; what is left (below 0: blocked) and when that changes."""
    if now >= budget.get("ends", 0.0):
        budget.update(ends=now + window, used=0.0, blocked=0.0)
    budget["used"] += 1
    if budget["used"] > quota and not budget["blocked"]:
        budget.update(ends=now + window, blocked=1.0)  # everything is refused for a whole window
    return -1 if budget["blocked"] else int(quota - budget["used"]), budget["ends"]


def _with_headers(headers: dict[str, str], send: AsgiSend) -> AsgiSend:
    """Return a `send` that replaces these headers of the answer."""
    added = [(name.encode(), value.encode()) for name, value in headers.items()]
    names = {name for name, _ in added}

    async def send_with_headers(message: AsgiMessage) -> None:
        if message["type"] == "http.response.start":
            kept = [header for header in message["headers"] if header[0] not in names]
            message = {**message, "headers": [*kept, *added]}
        await send(message)

    return send_with_headers


async def _no_retry_after(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    async def send_without(message: AsgiMessage) -> None:
        if message["type"] == "http.response.start":
            kept = [header for header in message["headers"] if header[0].lower() != b"retry-after"]
            message = {**message, "headers": kept}
        await send(message)

    await app(scope, receive, send_without)


# Keys in a day


async def _quota(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    raise recorded(codes.QUOTA, armed.rule.status)


async def _free_plan(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    allowed = _FREE_KEYS if armed.rule.count is None else armed.rule.count
    body = b""
    if is_bulk_write(scope) or scope["path"].endswith("/bulk/get"):
        body, receive = await take_body(scope, receive)
    operation, keys = operation_of(scope["method"], scope["path"], body)
    allowed *= BULK_GET_KEYS if operation == "read" else 1
    used = armed.budget.get(operation, 0.0) + keys
    if keys and used > allowed:
        raise recorded(codes.QUOTA)
    armed.budget[operation] = used
    await app(scope, receive, send)


def operation_of(method: str, path: str, body: bytes) -> tuple[str, int]:
    """Return the operation that a request is billed as, and how many keys it is billed for (0: not at all)."""
    if "/values/" in path or "/metadata/" in path:
        return {"PUT": "written", "DELETE": "deleted"}.get(method, "read"), 1
    if path.endswith("/keys"):
        return "listed", 1
    try:
        found = msgspec.json.decode(body) if body else []
    except msgspec.MsgspecError:
        return "read", 0
    if path.endswith("/bulk/get"):
        keys = found.get("keys", []) if isinstance(found, dict) else []
        return "read", len(keys) if isinstance(keys, list) else 0
    return "written" if path.endswith("/bulk") and method == "PUT" else "deleted", len(found)


# Keys that are left alone


async def _key_rate(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    seconds = 1.0 if armed.rule.seconds is None else armed.rule.seconds
    namespace, _, name = scope["path"].rpartition("/values/")
    if scope["method"] == "PUT" and namespace and name:
        if _is_too_soon(armed.budget, f"{namespace}/{unquote(name)}", seconds):
            raise recorded(codes.THROTTLED, headers={"retry-after": str(math.ceil(seconds))})
    elif scope["method"] == "PUT" and is_bulk_write(scope):
        namespace = scope["path"].removesuffix("/bulk")

        def choose(items: Items) -> set[int]:
            keys = (f"{namespace}/{item_key(item)}" for item in items)
            return {place for place, key in enumerate(keys) if _is_too_soon(armed.budget, key, seconds)}

        await leave_out(choose, app, scope, receive, send)
        return
    await app(scope, receive, send)


def _is_too_soon(written: dict[str, float], key: str, seconds: float) -> bool:
    """True if the key was written less than `seconds` ago; if not, it counts as written now."""
    now = trio.current_time()
    if now - written.get(key, float("-inf")) < seconds:
        return True
    if len(written) >= _WRITTEN:
        for old in [known for known, at in written.items() if now - at >= seconds]:
            del written[old]
    written[key] = now
    return False


async def _torn_bulk(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    if is_bulk_write(scope):
        reported = armed.rule.fault == "torn_bulk"
        await leave_out(partial(_torn, armed), app, scope, receive, send, reported=reported)
    else:
        await app(scope, receive, send)


def _torn(armed: Armed, items: Items) -> set[int]:
    torn = min((len(items) + 1) // 2 if armed.rule.count is None else armed.rule.count, len(items))
    return set(armed.random.sample(range(len(items)), torn))


LIMITS: Final[dict[str, Effect]] = {
    "rate_budget": _rate_budget,
    "ratelimit": _ratelimit,
    "no_retry_after": _no_retry_after,
    "quota": _quota,
    "free_plan": _free_plan,
    "key_rate": _key_rate,
    "torn_bulk": _torn_bulk,
    "short_bulk": _torn_bulk,
}
