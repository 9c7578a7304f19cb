"""Breaking off: ending a client's connection without an answer, and noticing that the client ended it.

ASGI knows no way to close a connection, so the one of a request is looked up among this process's own
descriptors by its two addresses (Linux). And the end of a connection that its client has closed.
"""

import logging
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

import hypercorn.trio.run
import trio
from hypercorn.events import Event, Updated
from hypercorn.trio.tcp_server import TCPServer

from kvfs.patches import HYPERCORN_CONNECTION, HYPERCORN_END
from kvfs.server.shell import Receive, Scope

log = logging.getLogger("kvfs.server")

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Connection(TCPServer):
    """One connection that ends when its client has closed it and every answer is out.

    hypercorn would keep it for the keep-alive time, in which no request can come any more. And it lets two of its
    tasks close a connection at once; what trio says to that would end the server.
    """

    _is_read = False

    async def run(self) -> None:
        """Serve it until it ends."""
        try:
            await super().run()
        except* (trio.BusyResourceError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client has gone, in the middle of something

    async def _read_data(self) -> None:
        await super()._read_data()
        self._is_read = True
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        """Send an answer, or begin to wait for the next request if one can come."""
        if not (self._is_read and isinstance(event, Updated)):
            await super().protocol_send(event)


def use_connections() -> None:
    """Let hypercorn serve each connection by a `Connection`. Does nothing if this hypercorn is made otherwise."""
    if not HYPERCORN_END.fits(TCPServer) or not HYPERCORN_CONNECTION.apply(hypercorn.trio.run, Connection):
        log.warning("this hypercorn is not made as expected: connections may stay open after their clients")


class NoDescriptors(logging.Filter):
    """Says once that no file descriptor is left for another client, where trio logs a traceback each time.

    trio waits a tenth of a second and tries again, so the clients that wait are served when others have ended.
    """

    AGAIN: Final = 60.0  # seconds without the fault, after which it is news again

    def __init__(self) -> None:
        super().__init__()
        self._last = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop the record, after a word of our own if it is news."""
        if record.created - self._last > self.AGAIN:
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            log.warning("all %d file descriptors are in use: new clients wait until others have ended", most)
        self._last = record.created
        return False


@contextmanager
def patient_listeners() -> Iterator[None]:
    """Let trio's listeners in here wait for a file descriptor without a traceback for each try."""
    patience = NoDescriptors()
    listeners = logging.getLogger("trio.serve_listeners")
    listeners.addFilter(patience)
    try:
        yield
    finally:
        listeners.removeFilter(patience)


async def break_connection(scope: Scope) -> None:
    """End the connection of this request: the client sees a reset, or an end without an answer."""
    with suppress(OSError):
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            _break_if(descriptor, tuple(scope["client"] or ()), tuple(scope["server"] or ()))
    await trio.lowlevel.checkpoint()


@asynccontextmanager
async def until_disconnect(receive: Receive) -> AsyncIterator[None]:
    """Cancel the body when the client goes away."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, receive, nursery.cancel_scope)
        yield
        nursery.cancel_scope.cancel()


async def _watch(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _break_if(descriptor: int, client: tuple[object, ...], server: tuple[object, ...]) -> None:
    """Shut the descriptor's socket down if it is the connection between the two addresses."""
    with suppress(OSError):
        if not os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:"):
            return
        with socket.socket(fileno=os.dup(descriptor)) as found:
            if (found.getpeername()[:2], found.getsockname()[:2]) != (client[:2], server[:2]):
                return
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            found.shutdown(socket.SHUT_RDWR)
