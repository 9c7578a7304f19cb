"""Faults of a connection or a proxy: broken, late, empty and hostile answers."""

import zlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Final
from urllib.parse import parse_qsl, urlencode

import msgspec
import trio
from starlette.responses import Response

from kvfs.server.capture import capture, page, replay
from kvfs.server.disconnects import break_connection, until_disconnect
from kvfs.server.error_answers import JSON, Refusal
from kvfs.server.fault_rules import STALE_SECONDS, Armed
from kvfs.server.shell import App, AsgiSend, Receive, Scope
from kvfs.server.staleness import staleness
from kvfs.store import codes

Effect = Callable[[Armed, App, Scope, Receive, AsgiSend], Awaitable[None]]
"""Answers a request that a rule has picked, raises the `Refusal` to answer with, or passes it on."""

_ELSEWHERE: Final = "https://elsewhere.invalid/"
_ENDLESS: Final = "endless-"


async def _status(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    rule = armed.rule
    status = rule.status or 500
    headers = {} if rule.retry_after is None else {"retry-after": f"{rule.retry_after:g}"}
    code = rule.code or (codes.THROTTLED if status == 429 else codes.INTERNAL)
    raise Refusal(status, code, "fault", headers=headers)


async def _garbage(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    body = b'{"success":true,"result":' + armed.random.randbytes(40)
    await Response(body, armed.rule.status or 200, media_type=JSON)(scope, receive, send)


async def _html(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    await page("Bad gateway", armed.rule.status or 502)(scope, receive, send)


async def _truncate(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    answer = await capture(app, scope, receive)
    if not answer.body:
        await break_connection(scope)
        return
    await send(answer.start)
    await send(
        {"type": "http.response.body", "body": answer.body[: len(answer.body) // 2], "more_body": True}
    )
    # Returning without an end closes the connection.


async def _reset(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    await break_connection(scope)


async def _lost_ack(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    await capture(app, scope, receive)
    await break_connection(scope)


async def _stall(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    async with until_disconnect(receive):
        await trio.sleep(float("inf") if armed.rule.seconds is None else armed.rule.seconds)
    await break_connection(scope)


async def _latency(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    rule = armed.rule
    await trio.sleep(max(0.0, (rule.seconds or 0.0) + armed.random.uniform(-rule.jitter, rule.jitter)))
    await app(scope, receive, send)


async def _slow_drip(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    seconds = 1.0 if armed.rule.seconds is None else armed.rule.seconds
    answer = await capture(app, scope, receive)
    await send(answer.start)
    async with until_disconnect(receive):
        for byte in answer.body:
            await send({"type": "http.response.body", "body": bytes([byte]), "more_body": True})
            await trio.sleep(seconds)
        await send({"type": "http.response.body", "body": b""})


async def _gzip_bomb(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    headers = [(b"content-type", JSON.encode()), (b"content-encoding", b"gzip")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async with until_disconnect(receive):
        for block in _bomb(1024 if armed.rule.count is None else armed.rule.count):
            await send({"type": "http.response.body", "body": block, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _bomb(mebibytes: int) -> Iterable[bytes]:
    """Return compressed zeros. A full flush makes blocks that stand alone, so one serves again and again."""
    packer = zlib.compressobj(9, wbits=31)
    zeros = bytes(1024 * 1024)
    yield packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)
    for _ in range(mebibytes - 1):
        yield block


async def _redirect(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    headers = {"location": armed.rule.location or _ELSEWHERE}
    await Response(b"", armed.rule.status or 302, headers)(scope, receive, send)


async def _endless_cursor(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    kept = [(name, value) for name, value in query if not (name == "cursor" and value.startswith(_ENDLESS))]
    answer = await capture(app, {**scope, "query_string": urlencode(kept).encode()}, receive)
    body = answer.body
    if answer.start.get("status") == 200 and scope["path"].endswith("/keys"):
        envelope = msgspec.json.decode(body)
        number = armed.fired % armed.rule.count if armed.rule.count else armed.fired
        envelope["result_info"]["cursor"] = f"{_ENDLESS}{number}"
        body = msgspec.json.encode(envelope)
    await replay(answer, body, send)


async def _stale(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    oldest = STALE_SECONDS if armed.rule.seconds is None else armed.rule.seconds
    with staleness(armed.random.uniform(0, oldest)):
        await app(scope, receive, send)


BROKEN: Final[dict[str, Effect]] = {
    "status": _status,
    "garbage": _garbage,
    "html": _html,
    "truncate": _truncate,
    "reset": _reset,
    "stall": _stall,
    "latency": _latency,
    "slow_drip": _slow_drip,
    "lost_ack": _lost_ack,
    "gzip_bomb": _gzip_bomb,
    "redirect": _redirect,
    "endless_cursor": _endless_cursor,
    "stale": _stale,
}
