"""The mount itself: mount, serve, unmount, and what the kernel is told to forget."""

import logging
import threading
from collections.abc import Awaitable, Callable, Collection
from functools import partial, wraps
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import pyfuse3
import trio

from kvfs.core.errors import UserError
from kvfs.fuse import busypoll
from kvfs.patches import PYFUSE3_LOOP

log = logging.getLogger("kvfs.fuse")

_MAX_TASKS = 1000  # handlers at once: each that waits for the store takes one, and the mount must go on
_MIN_TASKS = 4

_Loop = Callable[..., Awaitable[None]]
_LOOP: Final[_Loop | None] = getattr(pyfuse3, "_session_loop", None)  # `main` looks it up by this name


class KernelInvalidator:
    """Makes the kernel forget. All ways are safe from inside a handler; see `vfs/file/outside.py` for the wish.

    Names have a thread, *because* the kernel forgets one only when no request in its directory is under way.
    pyfuse3's own thread for that does not tell when it is done.
    """

    def __init__(self) -> None:
        self._names: SimpleQueue[Callable[[], object]] | None = None

    def attributes(self, ino: int) -> None:
        """Invalidate the attributes only: this takes no page lock, so it cannot wait for a reader of ours."""
        try:
            pyfuse3.invalidate_inode(pyfuse3.InodeT(ino), attr_only=True)
        except OSError as exc:  # it did not know the inode (any more)
            log.debug("invalidating inode %d: %s", ino, exc)

    async def contents(self, ino: int) -> None:
        """Invalidate contents in a thread: the kernel waits for locked pages, and their readers for answers of ours."""
        forget = partial(pyfuse3.invalidate_inode, pyfuse3.InodeT(ino), attr_only=False)
        try:
            await trio.to_thread.run_sync(forget, abandon_on_cancel=True)
        except OSError as exc:
            log.debug("invalidating inode %d: %s", ino, exc)

    def entry(self, parent: int, name: bytes) -> None:
        """Invalidate a dentry in the thread: inside a LOOKUP of the same directory it would wait for ever."""
        if self._names is None:
            self._names = SimpleQueue()
            threading.Thread(target=_run, args=(self._names,), name="names", daemon=True).start()
        self._names.put(partial(pyfuse3.invalidate_entry, pyfuse3.InodeT(parent), pyfuse3.FileNameT(name)))

    async def entries_forgotten(self) -> None:
        """Wait for the thread. The caller must not be a request of the kernel."""
        if self._names is not None:
            done, token = trio.Event(), trio.lowlevel.current_trio_token()
            self._names.put(partial(token.run_sync_soon, done.set))
            await done.wait()


def _run(calls: "SimpleQueue[Callable[[], object]]") -> None:
    """Make calls for ever."""
    while True:
        try:
            calls.get()()
        except (OSError, trio.RunFinishedError) as exc:  # the kernel did not know the name (any more)
            log.debug("invalidating a name: %s", exc)


class Session:
    """One mounted file system of this process; there can only be one at a time (libfuse keeps it global)."""

    def __init__(
        self,
        mountpoint: Path,
        operations: pyfuse3.Operations,
        *,
        source: str,
        allow_other: bool,
        flags: Collection[str] = (),
    ) -> None:
        """`flags` are words for the kernel, as in mount(8): `noexec`, `nosuid`, `nodev`."""
        options = set(pyfuse3.default_options)
        options |= {_Option(f"fsname={_option(source)}"), "subtype=kvfs", "noatime", *flags}
        if allow_other:
            options.add("allow_other")
        self.stopped = False
        try:
            pyfuse3.init(operations, str(mountpoint), options)
        except RuntimeError as exc:  # libfuse says why on stderr only
            raise UserError(
                f"cannot mount on {mountpoint}: {exc} (fusermount3's own words are in the log; "
                "--allow-other needs user_allow_other in /etc/fuse.conf)"
            ) from exc

    async def run(self) -> None:
        """Serve until unmounted, from either side."""
        if not busypoll.enable():
            log.info("this pyfuse3 is not made as expected: requests take the long way through its loop")
        if _LOOP is not None:
            PYFUSE3_LOOP.apply(pyfuse3, ends_well(_LOOP))
        try:
            await pyfuse3.main(min_tasks=_MIN_TASKS, max_tasks=_MAX_TASKS)
        finally:
            busypoll.disable()

    def stop(self) -> None:
        """Make `run` return; requests under way are answered first. Files may be open: `stopped` says so."""
        self.stopped = True
        pyfuse3.terminate()

    def close(self) -> None:
        """Unmount (lazily when busy) and give the session back."""
        pyfuse3.close(unmount=True)


def ends_well(loop: _Loop) -> _Loop:
    """Wrap pyfuse3's request loop, one task of several, so that an aborted read is an end, not an error.

    A connection that goes while a request is being read answers ECONNABORTED, not ENODEV (`fuse_dev_do_read`):
    so it happens when the last file of a lazy unmount is closed. pyfuse3 raises that, which cancels the handlers
    under way. The other tasks are told ENODEV and end in order.
    """

    @wraps(loop)
    async def patient(*args: object) -> None:
        try:
            await loop(*args)
        except ConnectionAbortedError:
            log.info("the kernel ended the connection while a request was on its way")

    return patient


class _Option(str):
    """A mount option in any script: pyfuse3 encodes its options as ASCII, the kernel takes any bytes."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "surrogateescape") -> bytes:
        """Encode as UTF-8 with surrogates, whatever was asked for, because names of files are so encoded."""
        return super().encode("utf-8", "surrogateescape")


def _option(text: str) -> str:
    """Return text as a mount option's value: commas would end it, backslashes escape."""
    return text.replace("\\", "\\\\").replace(",", "\\,")
