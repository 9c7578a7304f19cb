"""fsync(2): wait until the store has what was changed, or say why it has not."""

from collections.abc import Awaitable, Iterable

import trio

from kvfs.core.callers import left_of_call
from kvfs.core.model import Change, ChangeState, Key, KeyRef, NamespaceId
from kvfs.journal.journal import Journal
from kvfs.vfs.answers import Answer, answered
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

    def fsync(self, number: int) -> Answer[None]:
        """Return when the store has what this file holds, or raise why it has not."""
        handle = self._handles.get(number)
        if not isinstance(handle, FileHandle):
            return None
        handle.check()
        saving = self._recorder.save(handle.node)
        return self._sync(handle) if saving is None else self._saved(handle, saving)

    async def _saved(self, handle: FileHandle, saving: Awaitable[None]) -> None:
        await saving
        await answered(self._sync(handle))

    def _sync(self, handle: FileHandle) -> Answer[None]:
        """Wait until the file's change has left for good; a local file only needs the disk."""
        handle.check()
        node = handle.node
        if node.detached:
            return None
        change = self._journal.get(node.namespace, node.key)
        if change is None or change.state is ChangeState.SETTLING:
            return None
        if change.state is ChangeState.LOCAL:
            return self._journal.make_durable(None if change.is_tombstone else change)
        place = (node.namespace, node.key)
        sent = self._sender.send_at_once(place)
        return None if sent is True else self._send(place, sent)

    async def _send(self, place: KeyRef, sent: Answer[bool]) -> None:
        if not await answered(sent):
            await self._sender.send_now([place], left_of_call(self._timeout, trio.current_time()))

    def sync_directory(self, handle: DirectoryHandle) -> Answer[None]:
        """Do fsync(2) of a directory: return when all changes below it are in the store."""
        if not self._journal.pending_count and not self._journal.rejected(1):
            return None
        return self._sync_directory(handle)

    async def _sync_directory(self, handle: DirectoryHandle) -> None:
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
