"""Helpers of the faults: read a request's body and let it be read again, hold an answer back and change it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from kvfs.core.limits import BULK_BYTES
from kvfs.server.bodies import read_body
from kvfs.server.error_answers import Refusal
from kvfs.server.shell import App, AsgiMessage, AsgiSend, Receive, Scope
from kvfs.store import codes

Items = list[msgspec.Raw]

_RAY: Final = "8f1a2b3c4d5e6f70-AMS"


@dataclass(slots=True)
class Captured:
    """A whole answer of the application. `start` is empty if it did not answer."""

    start: AsgiMessage
    body: bytes

    @property
    def is_json(self) -> bool:
        """True if the body is JSON as it stands."""
        headers = dict(self.start.get("headers", ()))
        return headers.get(b"content-type", b"").startswith(b"application/json") and (
            b"content-encoding" not in headers
        )


async def capture(app: App, scope: Scope, receive: Receive) -> Captured:
    """Run the application and keep its answer."""
    start: AsgiMessage = {}
    chunks: list[bytes] = []

    async def send(message: AsgiMessage) -> None:
        start.update(message if message["type"] == "http.response.start" else {})
        chunks.append(message.get("body", b""))

    await app(scope, receive, send)
    return Captured(start, b"".join(chunks))


async def replay(answer: Captured, body: bytes, send: AsgiSend) -> None:
    """Send a captured answer with another body."""
    if not answer.start:
        return  # another fault left it unanswered
    headers = [(name, value) for name, value in answer.start["headers"] if name != b"content-length"]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({**answer.start, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def take_body(scope: Scope, receive: Receive) -> tuple[bytes, Receive]:
    """Return the whole body, and a `receive` that hands it out once more. Raises `Refusal` (413)."""
    body = await read_body(Request(scope, receive), BULK_BYTES)
    return body, _receive_again(body, receive)


def _receive_again(body: bytes, receive: Receive) -> Receive:
    messages: list[AsgiMessage] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> AsgiMessage:
        return messages.pop() if messages else await receive()  # the end of the connection, when it comes

    return receive_again


def page(title: str, status: int) -> Response:
    """Return a web page, as Cloudflare's edge answers in place of the API."""
    text = f"<!DOCTYPE html><html><head><title>{title}</title></head><body>{title}</body></html>"
    headers = {"cf-ray": _RAY, "server": "cloudflare"}
    return Response(text, status, headers, "text/html; charset=UTF-8")


# Bulk writes


def is_bulk_write(scope: Scope) -> bool:
    """True for a bulk put and both forms of the bulk delete."""
    return bool(scope["path"].endswith(("/bulk", "/bulk/delete")))


def item_key(item: msgspec.Raw) -> str:
    """Return the key of an item of a bulk write: a pair, or the key alone."""
    found = json.loads(bytes(item))
    return str(found["key"] if isinstance(found, dict) else found)


async def leave_out(
    choose: Callable[[Items], set[int]],
    app: App,
    scope: Scope,
    receive: Receive,
    send: AsgiSend,
    *,
    reported: bool = True,
) -> None:
    """Answer a bulk write without the items at the places that `choose` returns.

    They are unsuccessful keys in the answer if `reported`, and not mentioned otherwise. Raises `Refusal`.
    """
    try:
        body, _ = await take_body(scope, receive)
        items = msgspec.json.decode(body, type=Items)
        left = choose(items)
        names = [item_key(items[place]) for place in sorted(left)]
    except (Refusal, ValueError, KeyError) as exc:
        raise Refusal(400, codes.INTERNAL, "fault: cannot tear this") from exc
    kept = msgspec.json.encode([item for place, item in enumerate(items) if place not in left])
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
    answer = await capture(app, {**scope, "headers": headers}, _receive_again(kept, receive))
    done = answer.start.get("status") == 200 and reported
    await replay(answer, _report(answer.body, names) if done else answer.body, send)


def _report(body: bytes, keys: list[str]) -> bytes:
    envelope = msgspec.json.decode(body)
    envelope["result"]["unsuccessful_keys"] += keys
    return msgspec.json.encode(envelope)
