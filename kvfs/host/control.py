"""The control socket and its client: commands like `kvfs status`, `sync`, `umount` talk to the daemon of a mount by it.

A 0600 Unix socket in a 0700 directory, for this user and root only. A request is one line of JSON, `{"request": NAME,
…}`; the answers are lines of JSON: any number of events, `{"event": "progress", …}` say, then one last line whose
event is `"done"`, or `"error"` with a `message` (and a `kind` to branch on). While a request takes long, `{"event":
"alive"}` tells the client that the daemon has not died. Requests come one after the other on a connection. Knows
nothing of what the requests mean. The daemon's side is in `host/control_server.py`.
"""

import json
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from kvfs.core.errors import KvfsError

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]
ControlHandler = Callable[[Message, Send], Awaitable[Message]]

ANSWER_BYTES: Final = 64 * 1024 * 1024
SILENCE_SECONDS: Final = 20.0  # a daemon that says nothing for so long hangs
CONNECT_SECONDS: Final = 5.0
PEER: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid


class ControlError(KvfsError):
    """The daemon answered with an error, or not at all. `kind` is a word for the reason, or ""."""

    def __init__(self, message: str, *, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class NoDaemonError(ControlError):
    """No process listens at the socket."""


class DaemonEndedError(ControlError):
    """The connection ended before the last answer."""


class Client:
    """One connection to a daemon. `pid` is the process at the other end, `path` its socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.path: str = connection.getpeername()
        self._reader = connection.makefile("rb")
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size)
        self.pid = PEER.unpack(peer)[0]

    def ask(
        self, request: Message, *, silence: float = SILENCE_SECONDS, within: float = float("inf")
    ) -> Iterator[Message]:
        """Send a request and yield its events and then its last answer, whose event is "done".

        `silence` bounds the wait for each answer, in seconds, `within` the wait for the last one.
        Raises `ControlError` for the daemon's refusal or its silence, `DaemonEndedError` when it ended first.
        """
        deadline = time.monotonic() + within
        self._connection.settimeout(silence)
        try:
            self._connection.sendall(json.dumps(request).encode() + b"\n")
            while True:
                self._connection.settimeout(max(0.01, min(silence, deadline - time.monotonic())))
                message = self._read()
                if message.get("event") == "error":
                    raise ControlError(str(message.get("message")), kind=str(message.get("kind", "")))
                if message.get("event") != "alive":
                    yield message
                if message.get("event") == "done":
                    return
        except TimeoutError as exc:
            raise ControlError(f"process {self.pid} does not answer", kind="silent") from exc
        except ConnectionError as exc:
            raise DaemonEndedError(f"process {self.pid} ended before it answered") from exc

    def _read(self) -> Message:
        line = self._reader.readline(ANSWER_BYTES)
        if not line.endswith(b"\n"):
            raise DaemonEndedError(f"process {self.pid} ended before it answered")
        with suppress(ValueError):
            message = json.loads(line)
            if isinstance(message, dict):
                return message
        raise ControlError(f"process {self.pid} does not speak this protocol", kind="malformed")

    def close(self) -> None:
        self._reader.close()
        self._connection.close()


@contextmanager
def connect(path: Path) -> Iterator[Client]:
    """Return a connection to the daemon listening at `path`; `NoDaemonError` when none does."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(CONNECT_SECONDS)
    try:
        connection.connect(os.fspath(path))
        client = Client(connection)
    except OSError as exc:
        connection.close()
        raise NoDaemonError(f"no daemon answers at {path}") from exc
    try:
        yield client
    finally:
        client.close()
