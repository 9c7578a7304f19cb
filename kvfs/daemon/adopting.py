"""Writes of commands beside the mount: shown at once, as if the mount had made them and they had arrived.

Without this a key that was written here shortly before would go on showing what the mount wrote, until that has
settled: the store may answer with older values for so long, and the mount cannot tell them from newer ones.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from kvfs.core.digest import INLINE_BYTES
from kvfs.core.errors import InvalidError, KvfsError
from kvfs.core.times import nanoseconds
from kvfs.host.control import Send
from kvfs.host.replies import Counted
from kvfs.host.requests import ToldRequest
from kvfs.host.told import ToldWrite, read_told
from kvfs.journal.journal import Journal
from kvfs.kept.local import LocalAttrs
from kvfs.log.spool import Body
from kvfs.sender.chunks import chunks, turn
from kvfs.vfs.filesystem import FileSystem

SLICE: Final = 50  # writes between two checkpoints of the loop: a millisecond

log = logging.getLogger("kvfs.daemon")


class Adopting:
    """Handlers for the control socket. `window`: seconds for which the store may answer with older values."""

    def __init__(self, fs: FileSystem, journal: Journal, window: float, now: Callable[[], float]) -> None:
        self._fs = fs
        self._journal = journal
        self._window = window
        self._now = now

    async def told(self, request: ToldRequest, send: Send) -> Counted:
        """Show what a command of this machine has written: `file` names it. Counts what is shown now."""
        try:
            writes = await trio.to_thread.run_sync(read_told, Path(request.file))
        except OSError as exc:
            raise InvalidError(f"the list of writes cannot be read: {exc.strerror}") from exc
        count = 0
        failed: list[tuple[ToldWrite, KvfsError]] = []
        for number, some in enumerate(chunks(writes, SLICE)):
            await turn(number)
            for write in some:
                try:
                    count += await self._adopt(write)
                except KvfsError as exc:  # it shows when what was here has settled
                    failed.append((write, exc))
        if failed:  # on a full disk all of them
            others = f" and {len(failed) - 1} other keys" if len(failed) > 1 else ""
            log.warning(
                "what a command wrote to %r%s shows later: %s", failed[0][0].key, others, failed[0][1]
            )
        await self._fs.forgetting.reach_kernel()
        return Counted(count)

    async def _adopt(self, write: ToldWrite) -> bool:
        if self._now() - write.at >= self._window:
            return False  # a later change of ours may have settled, and the store answers for it by now
        body = await self._body(write.value) if write.value is not None else None
        before = self._journal.attributes.file_attrs(write.namespace, write.key) or LocalAttrs()
        now_ns = nanoseconds(self._now())
        attrs = None
        if body is not None:
            attrs = LocalAttrs(before.mode, now_ns, now_ns, before.atime_ns, body.digest)
        is_adopted = self._journal.writer.adopt(
            write.namespace,
            write.key,
            body,
            metadata=write.metadata,
            expiration=write.expiration,
            attrs=attrs,
            before=write.at,
        )
        if is_adopted:
            self._fs.files.versions.replaced(write.namespace, write.key)
            self._fs.forgetting.given_up(write.namespace, write.key)
        return is_adopted

    async def _body(self, value: bytes) -> Body:
        return self._journal.stage(value) if len(value) <= INLINE_BYTES else await self._journal.spool(value)
