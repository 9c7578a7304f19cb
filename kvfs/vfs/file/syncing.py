"""fsync(2): wait until the store has what was changed, or say why it has not."""

from collections.abc import Iterable

import trio

from kvfs.core.callers import left_of_call
from kvfs.core.model import Change, ChangeState, Key, NamespaceId
from kvfs.journal.journal import Journal
from kvfs.vfs.answers import answered
from kvfs.vfs.file.handles import DirectoryHandle, FileHandle, HandleTable
from kvfs.vfs.file.outside import Uploader
from kvfs.vfs.file.record import Recorder
from kvfs.vfs.inode.nodes import Directory, Root
from kvfs.vfs.inode.table import InodeTable


class Syncing:
    """Has changes sent at once, and waits for their acknowledgement at most `timeout` seconds."""

    def __init__(
        self,
        journal: Journal,
        inodes: InodeTable,
        handles: HandleTable,
        recorder: Recorder,
        sender: Uploader,
        timeout: float,
    ) -> None:
        self._journal = journal
        self._inodes = inodes
        self._handles = handles
        self._recorder = recorder
        self._sender = sender
        self._timeout = timeout

    async def fsync(self, number: int) -> None:
        """Return when the store has what this file holds, or raise why it has not."""
        handle = self._handles.get(number)
        if not isinstance(handle, FileHandle):
            return
        handle.check()
        await answered(self._recorder.save(handle.node))
        handle.check()
        if not handle.node.detached:
            await self._sync_key(handle.node.namespace, handle.node.key)

    async def _sync_key(self, namespace: NamespaceId, key: Key) -> None:
        """Wait until one key's change has left for good; a local file only needs the disk."""
        change = self._journal.get(namespace, key)
        if change is None or change.state is ChangeState.SETTLING:
            return
        if change.state is ChangeState.LOCAL:
            await self._journal.make_durable(None if change.is_tombstone else change)
            return
        await self._sender.send_now([(namespace, key)], left_of_call(self._timeout, trio.current_time()))

    async def sync_directory(self, handle: DirectoryHandle) -> None:
        """Do fsync(2) of a directory: return when all changes below it are in the store."""
        journal, node = self._journal, self._inodes.get(handle.ino)
        changes: Iterable[Change] = ()
        if isinstance(node, Root):
            changes = (*journal.iter_pending(), *journal.rejected())
        elif isinstance(node, Directory):
            changes = journal.under(node.namespace, node.ref.prefix)
        keys: dict[str, list[tuple[NamespaceId, Key]]] = {"pending": [], "rejected": []}
        for change in changes:
            if change.state in keys:
                keys[change.state].append((change.namespace, change.key))
        for some in keys.values():  # an earlier refusal must not keep the rest from being sent
            if some:
                await self._sender.send_now(some, left_of_call(self._timeout, trio.current_time()))

    def state_of(self, change: Change) -> str:
        """Return the state of a change in the user's words."""
        return "in-flight" if self._sender.is_in_flight(change) else str(change.state)
