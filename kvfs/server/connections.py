"""Breaking off: ending a client's connection without an answer, and noticing that the client ended it.

ASGI knows no way to close a connection, so the one of a request is looked up among this process's own
descriptors by its two addresses (Linux). And hypercorn's own end of a connection, made to survive that.
"""

import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import hypercorn.trio.run
import trio
from hypercorn.trio.tcp_server import TCPServer

from kvfs.server.shell import Receive, Scope

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Connection(TCPServer):
    """One connection. hypercorn lets two of its tasks close it at once, and what trio says to that end the server."""

    async def run(self) -> None:
        """Serve it until it ends."""
        try:
            await super().run()
        except* (trio.BusyResourceError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client has gone, in the middle of something


hypercorn.trio.run.TCPServer = Connection  # type: ignore[attr-defined]  # it offers no other way


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
