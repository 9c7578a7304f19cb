"""The mount itself: mount, serve, unmount, and what the kernel is told to forget."""

import logging
from pathlib import Path

import pyfuse3

from kvfs.core.errors import UserError
from kvfs.fuse import polling
from kvfs.fuse.operations import Operations

log = logging.getLogger("kvfs.fuse")

_MAX_TASKS = 1000  # handlers at once: each that waits for the store takes one, and the mount must go on
_MIN_TASKS = 4


class KernelInvalidator:
    """Makes the kernel forget. Both ways are safe from inside a handler; see `vfs/files.py` for the wish."""

    def attributes(self, ino: int) -> None:
        """Only the attributes: this takes no page lock, so it cannot wait for a reader of ours."""
        try:
            pyfuse3.invalidate_inode(pyfuse3.InodeT(ino), attr_only=True)
        except OSError as exc:  # it did not know the inode (any more)
            log.debug("invalidating inode %d: %s", ino, exc)

    def entry(self, parent: int, name: bytes) -> None:
        """In pyfuse3's own thread: inside a LOOKUP of the same directory it would wait for ever."""
        pyfuse3.invalidate_entry_async(pyfuse3.InodeT(parent), pyfuse3.FileNameT(name), ignore_enoent=True)


class Session:
    """One mounted file system of this process; there can only be one at a time (libfuse keeps it global)."""

    def __init__(self, mountpoint: Path, operations: Operations, *, source: str, allow_other: bool) -> None:
        options = set(pyfuse3.default_options)
        options |= {f"fsname={_option(source)}", "subtype=kvfs", "noatime"}
        if allow_other:
            options.add("allow_other")
        self._mountpoint = mountpoint
        try:
            pyfuse3.init(operations, str(mountpoint), options)
        except RuntimeError as exc:  # libfuse says why on stderr only
            raise UserError(
                f"cannot mount on {mountpoint}: {exc} (fusermount3's own words are in the log; "
                "--allow-other needs user_allow_other in /etc/fuse.conf)"
            ) from exc

    async def run(self) -> None:
        """Serve until unmounted, from either side."""
        if not polling.enable():
            log.info("this pyfuse3 is not made as expected: requests take the long way through its loop")
        await pyfuse3.main(min_tasks=_MIN_TASKS, max_tasks=_MAX_TASKS)

    def stop(self) -> None:
        """Make `run` return; requests under way are answered first."""
        pyfuse3.terminate()

    def close(self) -> None:
        """Unmount (lazily when busy) and give the session back."""
        pyfuse3.close(unmount=True)


def _option(text: str) -> str:
    """Text as a mount option's value: commas would end it, backslashes escape."""
    return text.replace("\\", "\\\\").replace(",", "\\,")
