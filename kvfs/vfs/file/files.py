"""Files: open, create, flush, release. The parts of the room that do the rest are put together here.

All handles of a file share one `OpenFile`. `flush` (close(2) reached us) moves a dirty content into the
journal, which is the promise of `close`; `fsync` waits until the store has it.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

import trio
from msgspec import Struct

from kvfs.core.errors import KvfsError, NotPermittedError
from kvfs.core.model import ChangeState
from kvfs.core.times import nanoseconds
from kvfs.vfs.answers import Answer, answered
from kvfs.vfs.file.amending import Amending
from kvfs.vfs.file.failures import Failures
from kvfs.vfs.file.handles import FileHandle, HandleTable, TextHandle
from kvfs.vfs.file.identity import CHANGED, Identities
from kvfs.vfs.file.open_contents import OpenContents
from kvfs.vfs.file.open_file import OpenFile
from kvfs.vfs.file.opening import Opener
from kvfs.vfs.file.outside import Invalidator, Uploader
from kvfs.vfs.file.record import Recorder
from kvfs.vfs.file.syncing import Syncing
from kvfs.vfs.file.versions import Versions
from kvfs.vfs.inode.nodes import ControlFile, File, Node
from kvfs.vfs.inode.table import InodeTable
from kvfs.vfs.options import Options
from kvfs.vfs.rename.inherit import Inheritance
from kvfs.vfs.view.overlay import Overlay

log: Final = logging.getLogger("kvfs.vfs")


class Opened(Struct, frozen=True, gc=False):
    """A new handle. `keeps_pages`: the kernel may keep those it has; `bypasses_pages`: it should have none."""

    number: int
    keeps_pages: bool = False
    bypasses_pages: bool = False


class Files:
    """Opens and closes files, and has a part for each other matter of theirs."""

    def __init__(
        self,
        overlay: Overlay,
        inodes: InodeTable,
        sender: Uploader,
        invalidator: Invalidator,
        now: Callable[[], float],
        options: Options,
    ) -> None:
        self._overlay = overlay
        self._journal = overlay.journal
        self._inodes = inodes
        self._invalidator = invalidator
        self._now = now
        self.handles = HandleTable()
        self.inheritance = Inheritance(now)
        self.versions = Versions(overlay, inodes, sender)
        self.identities = Identities(overlay, invalidator)
        self.recorder = Recorder(overlay, self.versions, now, options)
        self.opener = Opener(overlay, self.versions, self.identities, now)
        self._failures = Failures(overlay, self.handles, invalidator)
        self.contents = OpenContents(overlay, self.handles, self._failures, invalidator, now)
        self.amending = Amending(overlay, self.opener, self.recorder, self.contents, self._failures, now)
        self.syncing = Syncing(overlay.journal, inodes, self.handles, self.recorder, sender, options.timeout)

    def open(
        self, node: Node, *, write: bool, truncate: bool, append: bool, read: bool = True
    ) -> Answer[Opened]:
        """Open a file. Raises `NotPermittedError`, `StaleError`, store errors.

        `read`: the caller may read the content, or keeps it and appends; then it has seen it.
        Of a file that lost its name, for writing: the kernel is to look the name up anew first.
        """
        if isinstance(node, ControlFile):
            if write:
                raise NotPermittedError("control files are read")
            return Opened(self.handles.add(TextHandle(node, node.produce())), bypasses_pages=True)
        if not isinstance(node, File):
            raise NotPermittedError("not a file")
        if truncate or not self.opener.is_at_hand(node):
            return self._open(node, write=write, truncate=truncate, append=append, read=read)
        assert node.open is not None
        return self._add_handle(node, node.open, write=write, append=append, read=read)

    async def _open(self, node: File, *, write: bool, truncate: bool, append: bool, read: bool) -> Opened:
        if node.detached and (write or truncate):
            self.opener.look_again(node)
        if not truncate and not await self.opener.is_newest(node):
            self.opener.look_again(node)
        if node.open is None:
            opened = await (self.opener.emptied(node) if truncate else self.opener.load(node, write=write))
            if node.open is None:  # another open may have been quicker
                node.open = opened
        shared = node.open
        if truncate:
            self.contents.resize(shared, 0)
        found = self._add_handle(node, shared, write=write or truncate, append=append, read=read)
        if truncate:
            self.handles.file(found.number).wrote = shared.version
        return found

    def _add_handle(self, node: File, shared: OpenFile, *, write: bool, append: bool, read: bool) -> Opened:
        shared.handles += 1
        if read and shared.closed is not None:
            shared.seen = True
            if not node.detached and self._is_of_the_store(node):
                self._overlay.last_seen.read(
                    (node.namespace, node.key), shared.closed, shared.digest_at_hand()
                )
        keep = self.identities.show(node, shared)
        return Opened(self.handles.add(FileHandle(node, append, write)), keep)

    def _is_of_the_store(self, node: File) -> bool:
        """Return True if the store has what is read. What waits here to be sent may never come there."""
        change = self._journal.get(node.namespace, node.key)
        return change is None or change.state is ChangeState.SETTLING

    def create(self, node: File, *, mode: int, append: bool) -> tuple[File, Opened]:
        """Open the file of a name where nothing is; the journal hears of it at the first flush."""
        namespace, key, now = node.namespace, node.key, self._now()
        if node.open is not None:  # its key expired or was deleted elsewhere: it is another file
            self._inodes.names.detach(node)
            node = self._inodes.file(namespace, key)
        # The content that was read under the name counts, though it was removed since; else nothing was there.
        base = self._overlay.last_seen.digest((namespace, key)) or b""
        opened = OpenFile(
            self.opener.empty(), base=base, version=1, created=True, handles=1, shown=True,
            mtime_ns=nanoseconds(now), mode=mode, known_at=now, written_last=True,
        )  # fmt: skip
        opened.buffer.changed = True
        legacy = self.inheritance.take(namespace, key)
        if legacy is not None:
            opened.metadata, opened.expiration = legacy.metadata, legacy.expiration
        node.open, node.shown = opened, CHANGED
        self._overlay.unsaved.created(namespace, key, opened)
        return node, Opened(self.handles.add(FileHandle(node, append, True)))

    def release(self, number: int) -> Answer[None]:
        """Release an open with its last reference: changes by mmap after the last flush are recorded."""
        handle = self.handles.remove(number)
        if not isinstance(handle, FileHandle):
            return None
        shared = handle.left or handle.node.open
        if shared is None:
            return None
        if shared.version != shared.saved:
            return self._release(handle, shared)
        self._let_go(handle.node, shared)
        return None

    async def _release(self, handle: FileHandle, shared: OpenFile) -> None:
        node = handle.node
        try:
            if shared.dirty and (handle.write or shared.handles == 1):
                await answered(self._save_or_take_back(handle))
        except trio.Cancelled:
            log.error("%r: what was written after its last close is not kept: it took too long", node.key)
            raise
        except KvfsError:
            await self._invalidator.contents(node.ino)
            raise
        finally:
            self._let_go(node, shared)

    def _let_go(self, node: File, shared: OpenFile) -> None:
        shared.handles -= 1
        if shared.handles:
            return
        if node.open is shared:
            if shared.created and not node.detached:  # never recorded, and close said so: no such file
                self._overlay.unsaved.recorded(node.namespace, node.key)
            if shared.buffer.changed:
                self._overlay.unsaved.touched()
            if shared.buffer.stream is not None:
                shared.buffer.close()
            node.open = None
            self.identities.closed(node, shared)
        if node.lookups <= 0:
            self._inodes.drop_unused(node)

    def flush(self, number: int) -> Answer[None]:
        """Do close(2): record what a writer's file lacks in the journal, or else nobody reads it any more.

        A reader's close records nothing: what somebody else is still writing is not whole yet.
        """
        handle = self.handles.get(number)
        if not isinstance(handle, FileHandle) or not handle.write:
            return None
        handle.flushed = True
        try:
            handle.check()
            saving = self._save_or_take_back(handle)
        except KvfsError as exc:
            return self._not_flushed(handle.node, exc)
        return None if saving is None else self._flushed(handle, saving)

    async def _flushed(self, handle: FileHandle, saving: Awaitable[None]) -> None:
        try:
            await saving
            handle.check()  # a write may have failed meanwhile
        except KvfsError as exc:
            await self._not_flushed(handle.node, exc)

    async def _not_flushed(self, node: File, error: KvfsError) -> NoReturn:
        # The kernel compares size and mtime before it reads its pages: both may be as before.
        await self._invalidator.contents(node.ino)
        raise error

    def _save_or_take_back(self, handle: FileHandle) -> Answer[None]:
        """Record a content; where that fails, the file is again what it was, also for who has it open."""
        try:
            saving = self.recorder.save(handle.node)
        except KvfsError as exc:
            self._take_back(handle, exc)
            raise
        return None if saving is None else self._saved(handle, saving)

    async def _saved(self, handle: FileHandle, saving: Awaitable[None]) -> None:
        try:
            await saving
        except KvfsError as exc:
            self._take_back(handle, exc)
            raise

    def _take_back(self, handle: FileHandle, error: KvfsError) -> None:
        shared = handle.left or handle.node.open
        if shared is not None and shared.dirty:
            self._failures.fail(handle, shared, error)
