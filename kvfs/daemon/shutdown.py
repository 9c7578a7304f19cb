"""The end of a mount: unmount, serve until the last file is closed, drain, report what is left."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import trio

from kvfs.daemon.outlook import Outlook, tell_often
from kvfs.host.control import Message, Send
from kvfs.host.mounts import unmount
from kvfs.sender.sender import Sender

log = logging.getLogger("kvfs.daemon")

_LINGER = 10.0  # seconds an answer that says what is left may take to leave


class Ending:
    """The state of an ending, shared by the signals, the control socket and the daemon's own end."""

    def __init__(
        self, mountpoint: Path, sender: Sender, drain_timeout: float, outlook: Outlook | None = None
    ) -> None:
        self.outlook = outlook or Outlook(sender.statistics, None)
        self._mountpoint = mountpoint
        self._sender = sender
        self.drain_timeout = drain_timeout
        self.wanted = drain_timeout
        self._asked = False
        self._ends_at = float("-inf")
        self.let_go = trio.Event()  # set when the kernel let go: no new change can come
        self._announced = 0
        self._quiet = trio.Event()

    @contextmanager
    def announced(self) -> Iterator[None]:
        """Keep the daemon from ending while a caller waits to be told how it ended."""
        self._announced += 1
        try:
            yield
        finally:
            self._announced -= 1
            if not self._announced:
                self._quiet.set()
                self._quiet = trio.Event()

    async def unmount(self, *, lazy: bool) -> None:
        """Unmount. Raises `UserError`, which names the processes that hold the mount."""
        if self.let_go.is_set():
            return  # taken away before: what is pending is still being sent
        await trio.to_thread.run_sync(partial(unmount, self._mountpoint, lazy=lazy))

    async def finished(self, timeout: float, send: Send) -> None:
        """Wait until the kernel let go, then drain with progress."""
        self.wanted = max(self.wanted, timeout) if self._asked else timeout  # of several, the most patient
        self._asked = True
        async with trio.open_nursery() as nursery:
            if not self.let_go.is_set():
                closing = self.outlook.event(0, 0, 0, "waiting until the last open file is closed")
                nursery.start_soon(tell_often, lambda: closing, send)
            await self.let_go.wait()
            nursery.cancel_scope.cancel()
        self._ends_at = max(self._ends_at, trio.current_time() + timeout)
        await self.drain(timeout, send)

    @property
    def left(self) -> float:
        """Return the seconds that the daemon may still send by itself: as it was told, or the unused rest of that."""
        return max(0.0, self._ends_at - trio.current_time()) if self._asked else self.drain_timeout

    async def drain(self, timeout: float, send: Send | None = None) -> None:
        """Send pending changes, for at most so many seconds; `send` gets the progress, from the start on."""
        done, total = 0, self._sender.pending_count()
        say = send if total else None

        def note(now_done: int, now_total: int) -> None:
            nonlocal done, total
            done, total = now_done, now_total

        def latest() -> Message:
            return self.outlook.event(done, total, self._sender.pending_bytes())

        async with trio.open_nursery() as nursery:
            if say is not None:
                nursery.start_soon(tell_often, latest, say)
            with trio.move_on_after(timeout):
                await self._sender.drain(note)
            nursery.cancel_scope.cancel()
        if say is not None:
            await say(latest())

    async def said(self) -> None:
        """Wait until all waiting callers were told, within reason."""
        with trio.move_on_after(self.wanted + _LINGER):
            while self._announced:
                await self._quiet.wait()
