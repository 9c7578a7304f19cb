"""How a mount ends: taken from the tree, served until the last file is closed, drained, said what is left."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import trio

from kvfs.host.control import Send
from kvfs.host.mounts import unmount
from kvfs.sender.sender import Sender

log = logging.getLogger("kvfs.daemon")

_LINGER = 10.0  # seconds an answer that says what is left may take to leave


class Ending:
    """Shared by the signals, the control socket and the daemon's own end."""

    def __init__(self, mountpoint: Path, sender: Sender, drain_timeout: float) -> None:
        self._mountpoint = mountpoint
        self._sender = sender
        self.drain_timeout = drain_timeout
        self.wanted = drain_timeout
        self._asked = False
        self._served = trio.Event()
        self._announced = 0
        self._quiet = trio.Event()

    @contextmanager
    def announced(self) -> Iterator[None]:
        """While somebody waits to be told how it ended, the daemon does not end."""
        self._announced += 1
        try:
            yield
        finally:
            self._announced -= 1
            if not self._announced:
                self._quiet.set()
                self._quiet = trio.Event()

    async def unmount(self, *, lazy: bool) -> None:
        """Take the mount from the tree. Raises `BusyError`, which names who holds it."""
        await trio.to_thread.run_sync(partial(unmount, self._mountpoint, lazy=lazy))

    def served(self) -> None:
        """The kernel let go: no new change can come."""
        self._served.set()

    @property
    def has_let_go(self) -> bool:
        """Whether the kernel let go."""
        return self._served.is_set()

    async def let_go(self) -> None:
        """Wait until the kernel let go."""
        await self._served.wait()

    async def finished(self, timeout: float, send: Send) -> None:
        """Wait until the kernel let go, then drain with progress."""
        self.wanted = max(self.wanted, timeout) if self._asked else timeout  # of several, the most patient
        self._asked = True
        await self.let_go()
        await self.drain(timeout, send)

    async def drain(self, timeout: float, send: Send | None = None) -> None:
        """Send what is pending, for at most so many seconds."""
        latest: tuple[int, int] | None = None
        ended = False
        news = trio.Event()

        def note(done: int, total: int) -> None:
            nonlocal latest
            latest = (done, total)
            news.set()

        async def tell() -> None:
            nonlocal latest, news
            while send is not None and not (ended and latest is None):
                await news.wait()
                news = trio.Event()
                if latest is not None:
                    (done, total), latest = latest, None
                    await send({"event": "progress", "done": done, "total": total})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell)
            with trio.move_on_after(timeout):
                await self._sender.drain(note)
            ended = True  # not cancelled: half a line sent would spoil the answer that follows it
            news.set()

    async def said(self) -> None:
        """Wait until everybody who waits was told, within reason."""
        with trio.move_on_after(self.wanted + _LINGER):
            while self._announced:
                await self._quiet.wait()
