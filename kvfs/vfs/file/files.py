"""Files: open, read, write, flush, fsync, truncate, release.

All handles of a file share one `OpenFile`. `flush` (close(2) reached us) moves a dirty content into the
journal, which is the promise of `close`; `fsync` waits until the store has it.
"""

import logging
from collections.abc import Callable
from typing import Final

import trio

from kvfs.core.errors import BadHandleError, FileTooBigError, KvfsError
from kvfs.core.limits import VALUE_BYTES
from kvfs.core.model import Change, ChangeState, Key, NamespaceId
from kvfs.core.patterns import LocalNames
from kvfs.core.times import nanoseconds
from kvfs.journal.journal import INLINE_BYTES
from kvfs.vfs.file.amending import Amending
from kvfs.vfs.file.failures import Failures
from kvfs.vfs.file.handles import DirectoryHandle, FileHandle, Handle, HandleTable, TextHandle
from kvfs.vfs.file.open_file import OpenFile
from kvfs.vfs.file.outside import Invalidator, Uploader
from kvfs.vfs.file.record import CHANGED
from kvfs.vfs.file.versions import Versions
from kvfs.vfs.inode.nodes import ControlFile, Directory, File
from kvfs.vfs.inode.table import InodeTable
from kvfs.vfs.rename.inherit import Inheritance
from kvfs.vfs.view.overlay import Overlay

log: Final = logging.getLogger("kvfs.vfs")


class Files(Amending):
    """The contents of files, from open to release."""

    def __init__(
        self,
        overlay: Overlay,
        inodes: InodeTable,
        handles: HandleTable,
        inheritance: Inheritance,
        sender: Uploader,
        invalidator: Invalidator,
        local_names: LocalNames,
        now: Callable[[], float],
        timeout: float,
        max_pending: int,
        durable: bool,
    ) -> None:
        super().__init__(overlay, local_names, now, max_pending, durable)
        self._inodes = inodes
        self._handles = handles
        self._inheritance = inheritance
        self._sender = sender
        self._invalidator = invalidator
        self._timeout = timeout
        self._failures = Failures(overlay, handles, invalidator)
        self.versions = Versions(overlay, inodes, sender)

    # open and release

    async def open(
        self, node: File | ControlFile, *, write: bool, truncate: bool, append: bool, read: bool = True
    ) -> tuple[int, bool]:
        """A handle, and whether the kernel may keep the pages it has. Raises `StaleError`, store errors.

        `read`: the caller may read the content, or keeps it and appends; then it has seen it.
        Of a file that lost its name, for writing: the kernel is to look the name up anew first.
        """
        if isinstance(node, ControlFile):
            return self._handles.add(TextHandle(node, node.produce())), False
        if node.detached and (write or truncate):
            self.look_again(node)
        if not truncate and not await self.is_newest(node):
            self.look_again(node)
        if node.open is None:
            opened = await (self._emptied(node) if truncate else self._load(node, write=write))
            if node.open is None:  # another open may have been quicker
                node.open = opened
        shared = node.open
        if truncate:
            self._truncate_open(shared, 0)
        number, keep = self._add_handle(node, shared, write=write or truncate, append=append, read=read)
        if truncate:
            self._handles.file(number).wrote = shared.version
        return number, keep

    def open_at_once(
        self, node: File, *, write: bool, append: bool, read: bool = True
    ) -> tuple[int, bool] | None:
        """Open without O_TRUNC if that needs no waiting; return None if it does."""
        if node.open is not None and (node.open.superseded or not self.versions.is_current(node)):
            return None
        if node.open is None:
            clean = None if node.detached else self._overlay.reads.at_hand(node.namespace, node.key)
            if clean is None or (len(clean.value) > INLINE_BYTES and not clean.digest):
                return None
            node.open = self._opened(clean, self._identity_of(clean.value, clean.digest))
        return self._add_handle(node, node.open, write=write, append=append, read=read)

    def _add_handle(
        self, node: File, shared: OpenFile, *, write: bool, append: bool, read: bool
    ) -> tuple[int, bool]:
        shared.handles += 1
        if read and shared.closed is not None:
            shared.seen = True
            if not node.detached and self._is_of_the_store(node):
                self._overlay.last_seen.read((node.namespace, node.key), shared.closed)
        keep = self._show(node, shared)
        return self._handles.add(FileHandle(node, append, write)), keep

    def _is_of_the_store(self, node: File) -> bool:
        """Return True if the store has what is read. What waits here to be sent may never come there."""
        change = self._journal.get(node.namespace, node.key)
        return change is None or change.state is ChangeState.SETTLING

    def _show(self, node: File, shared: OpenFile) -> bool:
        """Note what the kernel is about to see; true when its pages are of this very content."""
        if shared.shown:
            return True  # open already: the kernel has seen this very content change
        shared.shown = True
        if shared.buffer.changed or shared.identity is None:
            node.shown = CHANGED
            return False
        shown = shared.identity
        keep = node.shown == shown
        if node.shown is not None and not keep:
            self._invalidator.attributes(node.ino)
        node.shown = shown
        return keep

    def create(self, namespace: NamespaceId, key: Key, *, mode: int, append: bool) -> tuple[File, int]:
        """A file that is not there yet, open; the journal hears of it at the first flush."""
        node = self._inodes.file(namespace, key)
        if node.open is not None:  # of a key that expired or was deleted elsewhere: another file
            self._inodes.names.detach(node)
            node = self._inodes.file(namespace, key)
        legacy = self._inheritance.take(namespace, key)
        # What was read under the name counts, though it was removed since; else nothing was there.
        base = self._overlay.last_seen.digest((namespace, key)) or b""
        opened = OpenFile(self._empty(), base=base, version=1, created=True)
        opened.buffer.changed = True
        if legacy is not None:
            opened.metadata, opened.expiration = legacy.metadata, legacy.expiration
        opened.mode = mode
        opened.known_at = self._now()
        opened.mtime_ns = nanoseconds(opened.known_at)
        opened.handles, opened.shown = 1, True
        node.open = opened
        node.shown = CHANGED
        self._overlay.unsaved.created(namespace, key, opened)
        return node, self._handles.add(FileHandle(node, append, write=True))

    def release_at_once(self, number: int) -> bool:
        """`release` where nothing is left to record, so that it takes no waiting; else false."""
        handle = self._handles.get(number)
        if not isinstance(handle, FileHandle):
            return False
        shared = handle.left or handle.node.open
        if shared is None or shared.version != shared.saved:
            return False
        self._handles.remove(number)
        self._let_go(handle.node, shared)
        return True

    async def release(self, number: int) -> None:
        """The last reference of an open is gone: what mmap wrote after the last flush is recorded."""
        handle = self._handles.remove(number)
        if not isinstance(handle, FileHandle):
            return
        node, shared = handle.node, handle.left or handle.node.open
        if shared is None:
            return
        try:
            if shared.dirty and (handle.write or shared.handles == 1):
                await self._save_or_take_back(handle)
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
        if shared.handles == 0 and node.open is not shared and node.lookups <= 0:
            self._inodes.drop_unused(node)
        if shared.handles == 0 and node.open is shared:
            if shared.created and not node.detached:  # never recorded, and close said so: no such file
                self._overlay.unsaved.recorded(node.namespace, node.key)
            if shared.buffer.changed:
                self._overlay.unsaved.touched()
            if shared.buffer.stream is not None:
                shared.buffer.close()
            node.open = None
            if shared.closed is not None and len(shared.closed) > INLINE_BYTES:
                self._digest_later(node, shared)
            if node.lookups <= 0:
                self._inodes.drop_unused(node)

    def is_being_listed(self, node: Directory) -> bool:
        """Return True if somebody has the directory open; it looks at all handles."""
        handles = (handle for _, handle in self._handles.items())
        return any(isinstance(handle, DirectoryHandle) and handle.ino == node.ino for handle in handles)

    # content

    def read(self, number: int, offset: int, size: int) -> bytes | memoryview:
        """At most `size` bytes; fewer only at the end."""
        handle = self._handles.get(number)
        if isinstance(handle, TextHandle):
            return handle.text[offset : offset + size]
        return self._open_of(handle).buffer.read(offset, size)

    @staticmethod
    def _open_of(handle: Handle) -> OpenFile:
        if not isinstance(handle, FileHandle):
            raise BadHandleError("no open file")
        shared = handle.left or handle.node.open
        assert shared is not None, "a handle holds its file open"
        return shared

    def write(self, number: int, offset: int, data: bytes) -> int:
        """Put bytes into the content. Raises `FileTooBigError`, and from then on whenever the handle is used."""
        handle = self._handles.file(number)
        handle.check()
        shared = self._open_of(handle)
        if handle.append:
            offset = self._append_offset(handle.node, shared, offset, len(data))
        else:
            handle.node.end = max(handle.node.end or 0, offset + len(data))
        try:
            shared.buffer.write(offset, data)
        except KvfsError as exc:
            self._failures.fail(handle, shared, exc)
            raise
        shared.version += 1
        handle.wrote = shared.version
        self._overlay.unsaved.touched()
        shared.mtime_ns = nanoseconds(self._now())
        handle.node.shown = CHANGED
        return len(data)

    def _append_offset(self, node: File, shared: OpenFile, offset: int, size: int) -> int:
        """Return the offset of a write through a handle with O_APPEND.

        Where the kernel says, because a mapping is written in place, and so is a file whose O_APPEND was taken
        away since. But an append comes at the end as the kernel knows it: that is not the end where it was told
        a size that was a guess, or is out of date.
        """
        end, believed = len(shared.buffer), node.end
        node.end = max(believed or 0, offset + size)
        if offset != end and (offset == believed or offset >= VALUE_BYTES):
            self._invalidator.attributes(node.ino)  # so that the next one comes at the end
            return end
        return offset

    async def truncate(self, node: File, size: int, number: int | None = None) -> None:
        """Set the size of an open or closed file, through a handle or by name; a closed one is recorded at once."""
        handle = self._handles.file(number) if number is not None else None
        if handle is not None:
            handle.check()
        if size > VALUE_BYTES:
            error = FileTooBigError(f"a value has at most {VALUE_BYTES:,} bytes")
            if handle is not None:
                self._failures.fail(handle, self._open_of(handle), error)
            raise error
        if node.detached and node.open is None:
            self.look_again(node)
            return
        if node.open is not None:
            self._truncate_open(node.open, size)
            node.shown = CHANGED
            if handle is not None:
                handle.wrote = node.open.version
            return
        await self._while_open(node, lambda opened: self._truncate_open(opened, size), empty=size == 0)
        node.shown = None

    def _truncate_open(self, shared: OpenFile, size: int) -> None:
        shared.buffer.resize(size)
        shared.version += 1
        self._overlay.unsaved.touched()
        shared.mtime_ns = nanoseconds(self._now())

    # to the journal and to the store

    async def flush(self, number: int) -> None:
        """close(2): what a writer's file lacks in the journal is recorded, or else nobody reads it any more.

        A reader's close records nothing: what somebody else is still writing is not whole yet.
        """
        handle = self._handles.get(number)
        if isinstance(handle, FileHandle) and handle.write:
            handle.flushed = True
            try:
                handle.check()
                await self._save_or_take_back(handle)
                handle.check()  # a write may have failed meanwhile
            except (
                KvfsError
            ):  # the kernel compares size and mtime before it reads its pages: both may be as before
                await self._invalidator.contents(handle.node.ino)
                raise

    def flush_at_once(self, number: int) -> bool:
        """`flush`, where that takes no waiting; false where it does, as where nothing can be recorded."""
        handle = self._handles.get(number)
        if not isinstance(handle, FileHandle) or not handle.write:
            return True
        handle.flushed = True
        try:
            handle.check()
            return self.save_at_once(handle.node)
        except KvfsError:
            return False

    async def _save_or_take_back(self, handle: FileHandle) -> None:
        """Record a content; where that fails, the file is again what it was, also for who has it open."""
        try:
            await self.save(handle.node)
        except KvfsError as exc:
            shared = handle.left or handle.node.open
            if shared is not None and shared.dirty:
                self._failures.fail(handle, shared, exc)
            raise

    def state_of(self, change: Change) -> str:
        """The state of a change in the user's words."""
        return "in-flight" if self._sender.is_in_flight(change) else str(change.state)

    async def fsync(self, number: int) -> None:
        """Return when the store has what this file holds, or raise why it has not."""
        handle = self._handles.get(number)
        if not isinstance(handle, FileHandle):
            return
        handle.check()
        await self.save(handle.node)
        handle.check()
        if not handle.node.detached:
            await self.sync_key(handle.node.namespace, handle.node.key)

    async def sync_key(self, namespace: NamespaceId, key: Key) -> None:
        """Wait until one key's change has left for good; a local file only needs the disk."""
        change = self._journal.get(namespace, key)
        if change is None or change.state is ChangeState.SETTLING:
            return
        if change.state is ChangeState.LOCAL:
            await self._journal.make_durable(None if change.is_tombstone else change)
            return
        await self._sender.send_now([(namespace, key)], self._timeout)
