"""Faults that are moods of Cloudflare's edge and API: a firewall, slow bulk writes, refusals, an unreadable key."""

import re
from dataclasses import dataclass
from math import inf
from typing import Final
from urllib.parse import unquote, unquote_to_bytes

import msgspec
import trio

from kvfs.server.capture import is_bulk_write, page, take_body
from kvfs.server.effects import Effect
from kvfs.server.error_answers import recorded
from kvfs.server.fault_rules import FIREWALL_TEXT, Armed
from kvfs.server.pacing import pacing
from kvfs.server.shell import App, AsgiMessage, AsgiSend, Receive, Scope
from kvfs.store import codes

_PAIR_SECONDS: Final = 0.02
_LIMIT_SECONDS: Final = 100.0
_PASSING: Final = (codes.UNAUTHENTICATED, codes.CANNOT_AUTHENTICATE)

_ODD_KEY: Final = re.compile(r"[\x00-\x1f\x7f^]|\.\.\.")


async def _firewall(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    text = (armed.rule.text or FIREWALL_TEXT).encode()
    query = unquote_to_bytes(scope["query_string"].replace(b"+", b" "))
    body, receive_again = await take_body(scope, receive)
    if text in body or text in unquote_to_bytes(scope["path"]) or text in query:
        blocked = page("Attention Required! | Cloudflare - Sorry, you have been blocked", 403)
        await blocked(scope, receive, send)
        return
    await app(scope, receive_again, send)


async def _pair_cost(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    if not is_bulk_write(scope):
        await app(scope, receive, send)
        return
    rule = armed.rule
    cost = _PAIR_SECONDS if rule.seconds is None else rule.seconds
    late = _Late(scope, receive, send)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(late.give_up_after, _LIMIT_SECONDS if rule.limit is None else rule.limit)
        with pacing(cost):
            await app(scope, receive, late.send)
        nursery.cancel_scope.cancel()


@dataclass(slots=True)
class _Late:
    """Sends the answer of the application, or 524 in its place when the limit has passed."""

    scope: Scope
    receive: Receive
    pass_on: AsgiSend
    begun: bool = False
    given_up: bool = False

    async def send(self, message: AsgiMessage) -> None:
        self.begun = True
        if not self.given_up:
            await self.pass_on(message)

    async def give_up_after(self, seconds: float) -> None:
        """Answer with 524, unless an answer has begun before."""
        await trio.sleep(seconds)
        if not self.begun:
            self.given_up = True
            with trio.CancelScope(shield=True):  # the writing may end while the page is on its way
                await page("A timeout occurred", 524)(self.scope, self.receive, self.pass_on)


async def _denied(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    passing = recorded(armed.random.choice(_PASSING))
    raise recorded(armed.rule.code or passing.code, armed.rule.status or passing.status)


async def _code(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    raise recorded(armed.rule.code or 0, armed.rule.status)


async def _bad_key(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    names, receive = await _read_keys(scope, receive)
    if armed.rule.key in names:
        await page("Internal server error", armed.rule.status or 500)(scope, receive, send)
        return
    await app(scope, receive, send)


async def _stuck_key(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    names, receive = await _read_keys(scope, receive)
    if armed.rule.key in names:
        await trio.sleep(inf if armed.rule.seconds is None else armed.rule.seconds)
    await app(scope, receive, send)


async def _url_keys(armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend) -> None:
    collection, _, key = scope["path"].rpartition("/")
    if collection.endswith(("/values", "/metadata")) and _ODD_KEY.search(unquote(key)):
        raise recorded(codes.KEY_NOT_FOUND)
    await app(scope, receive, send)


async def _read_keys(scope: Scope, receive: Receive) -> tuple[list[str], Receive]:
    """Return the keys that a request reads; none for other requests."""
    path = scope["path"]
    if scope["method"] == "GET" and ("/values/" in path or "/metadata/" in path):
        return [unquote(path.rpartition("/")[2])], receive
    if not path.endswith("/bulk/get"):
        return [], receive
    body, receive = await take_body(scope, receive)
    try:
        found = msgspec.json.decode(body)
        return [str(key) for key in found["keys"]], receive
    except (msgspec.MsgspecError, TypeError, KeyError):
        return [], receive


MOODS: Final[dict[str, Effect]] = {
    "firewall": _firewall,
    "pair_cost": _pair_cost,
    "denied": _denied,
    "code": _code,
    "bad_key": _bad_key,
    "stuck_key": _stuck_key,
    "url_keys": _url_keys,
}
