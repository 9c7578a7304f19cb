"""The daemon's side of the control socket: reads requests, calls their handlers, and answers. See `host/control.py`."""

import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import trio

from kvfs.core.errors import KvfsError, UserError
from kvfs.host.control import PEER, ControlError, ControlHandler, Message, NoDaemonError, connect
from kvfs.host.state import private_directory

log = logging.getLogger(__name__)

IDLE_SECONDS: Final = 60.0  # an opened connection that asks nothing is closed
SEND_SECONDS: Final = 5.0  # a client that does not read is given up
ALIVE_SECONDS: Final = 5.0  # how often a daemon at work says so
CONNECTIONS: Final = 32  # that may be open without asking anything; one more, and the longest idle is closed
REQUEST_BYTES: Final = 256 * 1024


async def serve_control(
    path: Path,
    handlers: Mapping[str, ControlHandler],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests at `path` until cancelled; started once the socket listens.

    A handler gets the request and a `send` for events, which never fails; its result is the last answer. A `KvfsError`
    it raises is sent to the client, any other exception is logged, and neither ends the server. Raises `UserError`
    when another process listens there.
    """
    private_directory(path.parent)
    listener = _listen(path)
    inode = _inode(path)
    idle = _Idle()

    async def serve_one(stream: trio.SocketStream) -> None:
        async with stream:
            await _serve_connection(stream, handlers, idle)

    try:
        async with trio.open_nursery() as connections:
            await connections.start(trio.serve_listeners, serve_one, [listener])
            task_status.started()
    finally:
        if _inode(path) == inode:  # it is not a later daemon's
            os.unlink(path)


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except FileNotFoundError:
        return None


def _listen(path: Path) -> trio.SocketListener:
    with suppress(NoDaemonError), connect(path) as other:
        raise UserError(f"process {other.pid} still serves this mount point: wait until it has ended")
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(os.fspath(path))
        path.chmod(0o600)
        listening.listen(CONNECTIONS)
        return trio.SocketListener(trio.socket.from_stdlib_socket(listening))
    except BaseException:
        listening.close()
        raise


class _Idle:
    """Idle connections, which are closed when new ones need the room."""

    def __init__(self) -> None:
        self._scopes: dict[trio.CancelScope, None] = {}  # in the order in which they fell idle

    @contextmanager
    def waiting(self, scope: trio.CancelScope) -> Iterator[None]:
        """Count a connection as idle while it waits in `scope` for a request.

        `scope` is cancelled when newer ones need the room.
        """
        self._scopes[scope] = None
        if len(self._scopes) > CONNECTIONS:
            next(iter(self._scopes)).cancel()
        try:
            yield
        finally:
            del self._scopes[scope]


async def _serve_connection(
    stream: trio.SocketStream, handlers: Mapping[str, ControlHandler], idle: _Idle
) -> None:
    pid, uid, _ = PEER.unpack(stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid not in (0, os.geteuid()):
        log.info("refused a control connection of uid %d (pid %d)", uid, pid)
        return
    held = bytearray()
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while (line := await _next_line(stream, held, idle)) is not None:
            await _answer(_Sender(stream), line, handlers)
            if len(line) > REQUEST_BYTES:
                return


async def _next_line(stream: trio.SocketStream, held: bytearray, idle: _Idle) -> bytes | None:
    """Return the next line of a client, cut off if it is too long; None when there will be none."""
    with trio.move_on_after(IDLE_SECONDS) as scope, idle.waiting(scope):
        while (end := held.find(b"\n")) < 0:
            if len(held) > REQUEST_BYTES:
                return bytes(held)
            chunk = await stream.receive_some()
            if not chunk:
                return None
            held += chunk
        line = bytes(held[:end])
        del held[: end + 1]
        return line
    return None


async def _answer(sender: "_Sender", line: bytes, handlers: Mapping[str, ControlHandler]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.send_alive)
        last = await _last_answer(sender, line, handlers)
        with trio.CancelScope(shield=True):  # the daemon may be ending because of this very request
            await sender.send(last)
        nursery.cancel_scope.cancel()


async def _last_answer(sender: "_Sender", line: bytes, handlers: Mapping[str, ControlHandler]) -> Message:
    try:
        request = _parse_request(line)
        handler = handlers.get(request["request"])
        if handler is None:
            raise ControlError(f"unknown request {request['request']!r}", kind="unknown")
        return {"event": "done", **await handler(request, sender.send)}
    except KvfsError as exc:
        return {"event": "error", "message": str(exc), "kind": getattr(exc, "kind", "")}
    except Exception:
        log.exception("a control request failed")
        return {"event": "error", "message": "internal error in the daemon: see its log", "kind": "internal"}


def _parse_request(line: bytes) -> Message:
    if len(line) > REQUEST_BYTES:
        raise ControlError(f"a request is one line of at most {REQUEST_BYTES} bytes", kind="malformed")
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise ControlError("a request is one line of JSON", kind="malformed") from exc
    if not isinstance(request, dict) or not isinstance(request.get("request"), str):
        raise ControlError('a request is a JSON object with a "request"', kind="malformed")
    return request


class _Sender:
    """Sends lines to a client until it has gone or does not read."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._turn = trio.Lock()
        self._gone = False

    async def send(self, message: Message) -> None:
        async with self._turn:
            if self._gone:
                return
            self._gone = True  # until this line is through: half a line must not be followed by another
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                with trio.move_on_after(SEND_SECONDS) as patience:
                    await self._stream.send_all(json.dumps(message).encode() + b"\n")
                self._gone = patience.cancelled_caught

    async def send_alive(self) -> None:
        while True:
            await trio.sleep(ALIVE_SECONDS)
            await self.send({"event": "alive"})
