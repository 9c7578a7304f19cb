"""Changes of metadata and expiration: KV has no call for them, so a file's value goes along."""

from collections.abc import Callable

from kvfs.core.errors import KvfsError, StaleError
from kvfs.core.expiry import is_expired
from kvfs.core.model import Metadata
from kvfs.vfs.file.open_file import OpenFile
from kvfs.vfs.file.opening import Opening
from kvfs.vfs.inode.nodes import File

Edit = Callable[[Metadata | None, int | None], tuple[Metadata | None, int | None]]
"""Metadata and expiration as they are → as they shall be."""


class Amending(Opening):
    """Records them. `Files` is made of it."""

    async def amend(self, node: File, edit: Edit) -> None:
        """Change metadata or expiration of a file: KV has no call for that, so its value goes along.

        Of an open file that lost its name to another client it is a change like any other: kept beside.
        """
        shared = node.open
        if shared is not None:
            before = shared.metadata, shared.expiration, shared.version
            try:
                await self._amend_shared(node, shared, edit)
            except KvfsError:
                self._take_back_attributes(shared, *before)
                raise
            return
        if node.detached:  # the name may be another file's by now
            self.look_again(node)
            return
        change = self._journal.get(node.namespace, node.key)
        if change is not None and is_expired(change.expiration, self._now()):
            raise StaleError("the file has expired")
        if change is not None and not change.is_tombstone:
            metadata, expiration = edit(change.metadata, change.expiration)
            if (metadata, expiration) != (change.metadata, change.expiration):
                self._journal.amend(node.namespace, node.key, metadata=metadata, expiration=expiration)
            return
        view = await self._overlay.view(node.namespace, node.key)
        if view is None:
            raise StaleError("the file is gone")
        if edit(view.metadata, view.expiration) == (view.metadata, view.expiration):
            return
        await self._while_open(node, lambda opened: self._amend_open(opened, edit), seen=True)

    async def _amend_shared(self, node: File, shared: OpenFile, edit: Edit) -> None:
        written = shared.written
        self._overlay.unsaved.touched()
        if self._amend_open(shared, edit) and written:
            await self._amend_written(node, shared)
        elif not written and not shared.created:
            await self.save(node)

    def _take_back_attributes(
        self, shared: OpenFile, metadata: Metadata | None, expiration: int | None, version: int
    ) -> None:
        """They could not be recorded: no later close shall do it, because the caller was told that nothing changed."""
        if not shared.dirty:  # they were, and only the disk did not force them out
            return
        shared.metadata, shared.expiration = metadata, expiration
        if shared.version == version + 1:  # else somebody has written meanwhile
            shared.version = version
        self._overlay.unsaved.touched()

    async def _amend_written(self, node: File, shared: OpenFile) -> None:
        """Amend a file that a program is writing: the new attributes go with the content closed last.

        Where that is not known (a file being made, or emptied by its open), they go with the close.
        """
        if shared.created or node.detached:
            return
        if shared.closed is None:
            self._amend_recorded(node, shared)
            return
        value = shared.closed
        body = await self.body_of(value)
        if not self._is_gone(node) and shared.closed is value:  # else a close recorded them meanwhile
            self._record(node, shared, body, value, mtime_ns=None)

    def _amend_recorded(self, node: File, shared: OpenFile) -> None:
        change = self._journal.get(node.namespace, node.key)
        if change is None or change.is_tombstone or is_expired(change.expiration, self._now()):
            return
        self._journal.amend(node.namespace, node.key, metadata=shared.metadata, expiration=shared.expiration)

    @staticmethod
    def _amend_open(shared: OpenFile, edit: Edit) -> bool:
        metadata, expiration = edit(shared.metadata, shared.expiration)
        if (metadata, expiration) == (shared.metadata, shared.expiration):
            return False
        shared.metadata, shared.expiration = metadata, expiration
        shared.version += 1
        return True
