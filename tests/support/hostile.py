"""A server that answers whatever a test tells it, byte by byte: raw TCP, no HTTP library in between."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio

Script = Callable[[trio.SocketStream], "object"]
"""An answer that takes its time: an async function of the stream."""


@dataclass
class Hostile:
    """The hostile server's address, and the heads (as text) and bodies of the requests it got."""

    port: int = 0
    heads: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/client/v4"

    @property
    def lines(self) -> list[str]:
        """Return the request lines."""
        return [head.splitlines()[0] for head in self.heads]


@asynccontextmanager
async def answering(*answers: bytes | Script) -> AsyncIterator[Hostile]:
    """Give each request the next answer, the last one for ever; each connection is closed after it."""
    hostile = Hostile()
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, host="127.0.0.1")
        listeners = await nursery.start(serve, partial(_answer, hostile, answers), 0)
        hostile.port = listeners[0].socket.getsockname()[1]
        yield hostile
        nursery.cancel_scope.cancel()


def http(
    body: bytes = b"", status: int = 200, *headers: str, content_type: str = "application/json"
) -> bytes:
    """Return an honest HTTP/1.1 answer, after which the connection ends."""
    lines = [
        f"HTTP/1.1 {status} X",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def failure(status: int, code: int, message: str = "no", *headers: str) -> bytes:
    """Return an honest error envelope."""
    body = b'{"success":false,"errors":[{"code":%d,"message":"%b"}],"messages":[],"result":null}'
    return http(body % (code, message.encode()), status, *headers)


async def _answer(hostile: Hostile, answers: tuple[bytes | Script, ...], stream: trio.SocketStream) -> None:
    try:
        head, body = await _request(stream)
        if not head:
            return
        answer = answers[min(len(hostile.heads), len(answers) - 1)]
        hostile.heads.append(head)
        hostile.bodies.append(body)
        if callable(answer):
            await answer(stream)
        else:
            await stream.send_all(answer)
        await stream.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


async def _request(stream: trio.SocketStream) -> tuple[str, bytes]:
    received = b""
    while b"\r\n\r\n" not in received:
        more = await stream.receive_some()
        if not more:
            return "", b""
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    while len(body) < (int(length[1]) if length else 0):
        body += await stream.receive_some()
    return head.decode("latin-1"), body
