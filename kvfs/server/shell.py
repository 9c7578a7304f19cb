"""The frame of every request: its raw path, the access log, the metrics, the unread rest of its body.

ASGI middleware, outermost first: `Observed` sees what the client sees; what it wraps may break connections.
"""

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import trio
from prometheus_client import CollectorRegistry, Counter

from kvfs.server.calls import TALLY, Tally

Scope = MutableMapping[str, Any]
AsgiMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiMessage]]
AsgiSend = Callable[[AsgiMessage], Awaitable[None]]
App = Callable[[Scope, Receive, AsgiSend], Awaitable[None]]

DRAIN_BYTES: Final = 128 * 1024 * 1024  # bytes read of an unwanted body, so that the client reads why
DRAIN_SECONDS: Final = 5

log = logging.getLogger("kvfs.access")


class Metrics:
    """Counters of one application, in a registry of its own. Status 0: the connection died without an answer."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "kvfs_requests", "Requests answered", ["operation", "status"], registry=self.registry
        )
        self.keys = Counter(
            "kvfs_keys",
            "Keys read, written or deleted, and listings, as they are billed",
            ["operation"],
            registry=self.registry,
        )


class Observed:
    """Logs and counts each request, and takes in what is left of its body before the answer ends."""

    def __init__(self, app: App, metrics: Metrics, operation_of: Callable[[Scope], str]) -> None:
        self._app = app
        self._operation_of = operation_of
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: AsgiSend) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close"})

    async def _http(self, scope: Scope, receive: Receive, send: AsgiSend) -> None:
        scope["path"] = scope["raw_path"].decode("latin-1")  # keys hold %2F: segments are decoded one by one
        scope[TALLY] = tally = Tally(self._operation_of(scope), self._metrics.keys)
        started = trio.current_time()

        def account(status: int, sent: int) -> None:
            milliseconds = (trio.current_time() - started) * 1000
            if not tally.direct:
                self._metrics.requests.labels(tally.operation, str(status)).inc()
            log.info("%s %s %s %d %.1f", scope["method"], scope["path"], status or "-", sent, milliseconds)

        exchange = _Exchange(receive, send, account, has_body=_has_body(scope))
        try:
            await self._app(scope, exchange.receive, exchange.send)
        finally:
            exchange.died()


class _Exchange:
    """One request and its answer. `account` is told once: status (0 without a whole answer), bytes sent.

    That is before the last byte leaves: who has the answer can rely on being counted.
    """

    def __init__(
        self, receive: Receive, send: AsgiSend, account: Callable[[int, int], None], *, has_body: bool
    ) -> None:
        self._receive = receive
        self._send = send
        self._account = account
        self._accounted = False
        self._status = 0
        self._sent = 0
        self._body_ended = not has_body
        self._gone = False

    def died(self) -> None:
        """Note that no more will be sent."""
        self._finish(0)

    def _finish(self, status: int) -> None:
        if not self._accounted:
            self._accounted = True
            self._account(status, self._sent)

    async def receive(self) -> AsgiMessage:
        message = await self._receive()
        self._gone = message["type"] == "http.disconnect"
        self._body_ended = self._gone or not message.get("more_body", False)
        return message

    async def send(self, message: AsgiMessage) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        self._sent += len(message.get("body", b""))
        if last:
            self._finish(self._status)
        if last and not self._body_ended:
            # Closing now would reset the connection under a client that still sends.
            await self._send({**message, "more_body": True})
            await self._drain()
            message = {"type": "http.response.body", "body": b""}
        if not self._gone:
            await self._send(message)

    async def _drain(self) -> None:
        drained = 0
        with trio.move_on_after(DRAIN_SECONDS):
            while not self._body_ended and drained < DRAIN_BYTES:
                message = await self.receive()
                drained += len(message.get("body", b""))


def _has_body(scope: Scope) -> bool:
    """Return whether the request announces a body."""
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


async def _lifespan(receive: Receive, send: AsgiSend) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
