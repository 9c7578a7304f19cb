"""Words to systemd, as sd_notify(3) writes them: a datagram to the socket that NOTIFY_SOCKET names.

Without that variable every call does nothing. Nothing here waits: a datagram that cannot be sent is dropped.
"""

import os
import socket
from collections.abc import Mapping
from typing import Final

_MICROSECONDS: Final = 1_000_000


class Notifier:
    """The service manager that started this process, if one did."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """`environ` is read once: NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID."""
        self._address = environ.get("NOTIFY_SOCKET", "")
        self.watchdog = _watchdog_seconds(environ) if self._address else None
        """The seconds within which it wants a sign of life; None if it wants none."""

    def ready(self, status: str) -> None:
        """Tell that the mount can be used."""
        self._send(READY=1, STATUS=status)

    def status(self, text: str) -> None:
        """Tell one line for `systemctl status`."""
        self._send(STATUS=text)

    def alive(self) -> None:
        """Give the watchdog a sign of life."""
        self._send(WATCHDOG=1)

    def stopping(self, status: str, seconds: float) -> None:
        """Tell that the mount is ending, and may need so many seconds more."""
        self._send(STOPPING=1, STATUS=status, EXTEND_TIMEOUT_USEC=int(seconds * _MICROSECONDS))

    def _send(self, **words: object) -> None:
        if not self._address:
            return
        text = "\n".join(f"{name}={str(value).replace(chr(10), ' ')}" for name, value in words.items())
        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]  # the abstract namespace of unix(7)
        try:
            with socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            ) as to:
                to.sendto(text.encode(errors="replace"), address)
        except OSError:
            pass  # systemd restarts, or its queue is full: the next word may arrive


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    pid = environ.get("WATCHDOG_PID", "")
    try:
        seconds = int(environ.get("WATCHDOG_USEC", "0")) / _MICROSECONDS
        if pid and int(pid) != os.getpid():
            return None
    except ValueError:
        return None
    return seconds or None
