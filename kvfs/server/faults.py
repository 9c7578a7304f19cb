"""What each fault does to a request, as ASGI middleware. Which request it hits is in `fault_rules.py`."""

import json
import math
import zlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response

from kvfs.core.limits import BULK_BYTES, RATE_REQUESTS, RATE_SECONDS
from kvfs.server.bodies import SMALL_BODY, read_body
from kvfs.server.calls import json_answer
from kvfs.server.connections import break_connection, until_disconnect
from kvfs.server.fault_rules import STALE_SECONDS, Armed, Faults
from kvfs.server.refusals import INTERNAL, JSON, Refusal, invalid
from kvfs.server.shell import App, Message, Receive, Scope, Send
from kvfs.server.staleness import staleness
from kvfs.store.wire import codec

Effect = Callable[[Armed, App, Scope, Receive, Send], Awaitable[None]]

_QUOTA: Final = "your account has reached the free usage limit for this operation for today"
_THROTTLED: Final = "Please wait and consider throttling your request speed"
_ELSEWHERE: Final = "https://elsewhere.invalid/"
_WRITTEN: Final = 100_000  # keys of which is remembered when they were written, before old ones are dropped
_ENDLESS: Final = "endless-"
_PAGE: Final = b"<!DOCTYPE html><html><head><title>Bad gateway</title></head><body>Error</body></html>"


class Faulty:
    """Lets the rules of `faults` loose on every request, except those to the `spared` paths."""

    def __init__(self, app: App, faults: Faults, *, spared: Sequence[str]) -> None:
        self._app = app
        self._faults = faults
        self._spared = frozenset(spared)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["path"] not in self._spared:
            for armed in reversed(self._faults.fire(scope["method"], scope["path"])):
                app = partial(_EFFECTS[armed.rule.fault], armed, app)
        await app(scope, receive, send)


class FaultControl:
    """The rules over HTTP: GET shows them with their counts, PUT replaces them, DELETE ends them."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    async def handle(self, request: Request) -> Response:
        """Answer one of the three."""
        if request.method == "DELETE":
            self._faults.replace([])
        elif request.method == "PUT":
            try:
                self._faults.replace(Faults.decode(await read_body(request, SMALL_BODY)))
            except ValueError as exc:
                raise invalid(f"faults: {exc}") from exc
        shown = [
            {"rule": armed.rule, "seen": armed.seen, "fired": armed.fired} for armed in self._faults.armed
        ]
        return json_answer(codec.encode_success(codec.encode_json(shown)))


@dataclass(slots=True)
class _Captured:
    """A whole answer of the application."""

    start: Message
    body: bytes


async def _capture(app: App, scope: Scope, receive: Receive) -> _Captured:
    start: Message = {}
    chunks: list[bytes] = []

    async def send(message: Message) -> None:
        start.update(message if message["type"] == "http.response.start" else {})
        chunks.append(message.get("body", b""))

    await app(scope, receive, send)
    return _Captured(start, b"".join(chunks))


async def _replay(answer: _Captured, body: bytes, send: Send) -> None:
    """The answer with another body."""
    if not answer.start:
        return  # another fault left it unanswered
    headers = [(name, value) for name, value in answer.start["headers"] if name != b"content-length"]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({**answer.start, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _status(armed: Armed, app: App, scope: Scope, receive: Receive, send: Send) -> None:
    rule = armed.rule
    status = rule.status or 500
    headers = {} if rule.retry_after is None else {"retry-after": f"{rule.retry_after:g}"}
    refusal = Refusal(status, rule.code or (971 if status == 429 else INTERNAL), "fault", headers=headers)
    await refusal.response()(scope, receive, send)


async def _garbage(armed: Armed, app: App, scope: Scope, receive: Receive, send: Send) -> None:
    body = b'{"success":true,"result":' + armed.random.randbytes(40)
    await Response(body, armed.rule.status or 200, media_type=JSON)(scope, receive, send)


async def _html(armed: Armed, app: App, scope: Scope, receive: Receive, send: Send) -> None:
    await Response(_PAGE, armed.rule.status or 502, media_type="text/html")(scope, receive, send)


async def _truncate(armed: Armed, app: App, scope: Scope, receive: Receive, send: Send) -> None:
    answer = await _capture(app, scope, receive)
    if not answer.body:
        await break_connection(scope)
        return
    await send(answer.start)
    await send(
        {"type": "http.response.body", "body": answer.body[: len(answer.body) // 2], "more_body": True}
    )
    # Returning without an end closes the connection.


async def _reset(armed: Armed, app: App, scope: Scope, receive: Receive, send: Send) -> None:
    await break_connection(scope)


async def _lost_ack(armed: Armed, app: App, scope: Scope, receive: Receive, send: Send) -> None:
    await _capture(app, scope, receive)
    await break_connection(scope)


async def _stall(armed: Armed, app: App, scope: Scope, receive: Receive, send: Send) -> None:
    async with until_disconnect(receive):
        await trio.sleep(float("inf") if armed.rule.seconds is None else armed.rule.seconds)
    await break_connection(scope)


async def _latency(armed: Armed, app: App, scope: Scope, receive: Receive, send: Send) -> None:
    rule = armed.rule
    await trio.sleep(max(0.0, (rule.seconds or 0.0) + armed.random.uniform(-rule.jitter, rule.jitter)))
    await app(scope, receive, send)


async def _slow_drip(armed: Armed, app: App, scope: Scope, receive: Receive, send: Send) -> None:
    seconds = 1.0 if armed.rule.seconds is None else armed.rule.seconds
    answer = await _capture(app, scope, receive)
    await send(answer.start)
    async with until_disconnect(receive):
        for byte in answer.body:
            await send({"type": "http.response.body", "body": bytes([byte]), "more_body": True})
            await trio.sleep(seconds)
        await send({"type": "http.response.body", "body": b""})


async def _quota(armed: Armed, app: App, scope: Scope, receive: Receive, send: Send) -> None:
    await Refusal(armed.rule.status or 429, 10048, _QUOTA).response()(scope, receive, send)


async def _rate_budget(armed: Armed, app: App, scope: Scope, receive: Receive, send: Send) -> None:
    rule, now = armed.rule, trio.current_time()
    quota, window = rule.count or RATE_REQUESTS, rule.seconds or float(RATE_SECONDS)
    left, ends = spend(armed.budget, quota, window, now)
    headers = {
        "ratelimit": f'"default";r={max(left, 0)};t={ends - now:.0f}',
        "ratelimit-policy": f'"default";q={quota};w={window:.0f}',
    }
    if left < 0:
        headers["retry-after"] = str(int(ends - now) + 1)
        await Refusal(429, 971, _THROTTLED, headers=headers).response()(scope, receive, send)
        return

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            added = [(name.encode(), value.encode()) for name, value in headers.items()]
            message = {**message, "headers": [*message["headers"], *added]}
        await send(message)

    await app(scope, receive, send_with_headers)


def spend(budget: dict[str, float], quota: int, window: float, now: float) -> tuple[int, float]:
    """Take one request; what is left (below 0: blocked) and when that changes."""
    if now >= budget.get("ends", 0.0):
        budget.update(ends=now + window, used=0.0, blocked=0.0)
    budget["used"] += 1
    if budget["used"] > quota and not budget["blocked"]:
        budget.update(ends=now + window, blocked=1.0)  # everything is refused for a whole window
    return -1 if budget["blocked"] else int(quota - budget["used"]), budget["ends"]


async def _gzip_bomb(armed: Armed, app: App, scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-type", JSON.encode()), (b"content-encoding", b"gzip")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async with until_disconnect(receive):
        for block in _bomb(1024 if armed.rule.count is None else armed.rule.count):
            await send({"type": "http.response.body", "body": block, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _bomb(mebibytes: int) -> Iterable[bytes]:
    """Compressed zeros. A full flush makes blocks that stand alone, so one serves again and again."""
    packer = zlib.compressobj(9, wbits=31)
    zeros = bytes(1024 * 1024)
    yield packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)
    for _ in range(mebibytes - 1):
        yield block


async def _redirect(armed: Armed, app: App, scope: Scope, receive: Receive, send: Send) -> None:
    headers = {"location": armed.rule.location or _ELSEWHERE}
    await Response(b"", armed.rule.status or 302, headers)(scope, receive, send)


async def _endless_cursor(armed: Armed, app: App, scope: Scope, receive: Receive, send: Send) -> None:
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    kept = [(name, value) for name, value in query if not (name == "cursor" and value.startswith(_ENDLESS))]
    answer = await _capture(app, {**scope, "query_string": urlencode(kept).encode()}, receive)
    body = answer.body
    if answer.start.get("status") == 200 and scope["path"].endswith("/keys"):
        envelope = msgspec.json.decode(body)
        number = armed.fired % armed.rule.count if armed.rule.count else armed.fired
        envelope["result_info"]["cursor"] = f"{_ENDLESS}{number}"
        body = msgspec.json.encode(envelope)
    await _replay(answer, body, send)


async def _stale(armed: Armed, app: App, scope: Scope, receive: Receive, send: Send) -> None:
    oldest = STALE_SECONDS if armed.rule.seconds is None else armed.rule.seconds
    with staleness(armed.random.uniform(0, oldest)):
        await app(scope, receive, send)


async def _torn_bulk(armed: Armed, app: App, scope: Scope, receive: Receive, send: Send) -> None:
    def choose(items: list[msgspec.Raw]) -> set[int]:
        torn = min((len(items) + 1) // 2 if armed.rule.count is None else armed.rule.count, len(items))
        return set(armed.random.sample(range(len(items)), torn))

    if _is_bulk_write(scope):
        await _leave_out(choose, app, scope, receive, send)
    else:
        await app(scope, receive, send)


def _is_bulk_write(scope: Scope) -> bool:
    return bool(scope["path"].endswith(("/bulk", "/bulk/delete")))


async def _leave_out(
    choose: Callable[[list[msgspec.Raw]], set[int]], app: App, scope: Scope, receive: Receive, send: Send
) -> None:
    """A bulk write without the items that `choose` names by their places: they are reported unsuccessful."""
    try:
        body = await read_body(Request(scope, receive), BULK_BYTES)
        items = msgspec.json.decode(body, type=list[msgspec.Raw])
        left = choose(items)
    except (Refusal, ValueError, KeyError):
        await Refusal(400, INTERNAL, "fault: cannot tear this").response()(scope, receive, send)
        return
    answer = await _capture_body(
        app, scope, receive, [item for place, item in enumerate(items) if place not in left]
    )
    body = answer.body
    if answer.start.get("status") == 200:
        body = _reported(body, [_key(items[place]) for place in sorted(left)])
    await _replay(answer, body, send)


async def _key_rate(armed: Armed, app: App, scope: Scope, receive: Receive, send: Send) -> None:
    seconds = 1.0 if armed.rule.seconds is None else armed.rule.seconds
    namespace, _, name = scope["path"].rpartition("/values/")
    if scope["method"] == "PUT" and namespace and name:
        if _is_too_soon(armed.budget, f"{namespace}/{unquote(name)}", seconds):
            headers = {"retry-after": str(math.ceil(seconds))}
            await Refusal(429, 971, _THROTTLED, headers=headers).response()(scope, receive, send)
            return
    elif scope["method"] == "PUT" and _is_bulk_write(scope):
        namespace = scope["path"].removesuffix("/bulk")

        def choose(items: list[msgspec.Raw]) -> set[int]:
            keys = (f"{namespace}/{_key(item)}" for item in items)
            return {place for place, key in enumerate(keys) if _is_too_soon(armed.budget, key, seconds)}

        await _leave_out(choose, app, scope, receive, send)
        return
    await app(scope, receive, send)


def _is_too_soon(written: dict[str, float], key: str, seconds: float) -> bool:
    """Whether a key was written less than `seconds` ago; else it is now."""
    now = trio.current_time()
    if now - written.get(key, float("-inf")) < seconds:
        return True
    if len(written) >= _WRITTEN:
        for old in [known for known, at in written.items() if now - at >= seconds]:
            del written[old]
    written[key] = now
    return False


async def _capture_body(app: App, scope: Scope, receive: Receive, items: list[msgspec.Raw]) -> _Captured:
    """The answer to the same request with these items."""
    body = msgspec.json.encode(items)
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()  # the end of the connection, when it comes

    return await _capture(app, {**scope, "headers": headers}, receive_again)


def _key(item: msgspec.Raw) -> str:
    found = json.loads(bytes(item))
    return str(found["key"] if isinstance(found, dict) else found)


def _reported(body: bytes, keys: list[str]) -> bytes:
    envelope = msgspec.json.decode(body)
    envelope["result"]["unsuccessful_keys"] += keys
    return msgspec.json.encode(envelope)


_EFFECTS: Final[dict[str, Effect]] = {
    "status": _status,
    "garbage": _garbage,
    "html": _html,
    "truncate": _truncate,
    "reset": _reset,
    "stall": _stall,
    "latency": _latency,
    "slow_drip": _slow_drip,
    "lost_ack": _lost_ack,
    "torn_bulk": _torn_bulk,
    "quota": _quota,
    "key_rate": _key_rate,
    "rate_budget": _rate_budget,
    "gzip_bomb": _gzip_bomb,
    "redirect": _redirect,
    "endless_cursor": _endless_cursor,
    "stale": _stale,
}
