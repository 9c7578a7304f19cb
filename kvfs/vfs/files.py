"""Files: open, read, write, flush, fsync, truncate, release.

All handles of a file share one `OpenFile`. `flush` (close(2) reached us) moves a dirty content into the
journal, which is the promise of `close`; `fsync` waits until the store has it.
"""

from collections.abc import Callable, Collection
from typing import Protocol

from kvfs.cache.values import Clean
from kvfs.core import content
from kvfs.core.errors import FileTooBigError, NoSpaceError, NotFoundError, StaleError
from kvfs.core.limits import VALUE_BYTES
from kvfs.core.model import Change, ChangeState, Key, Metadata, NamespaceId
from kvfs.core.patterns import LocalNames
from kvfs.vfs.handles import FileHandle, HandleTable, OpenFile, TextHandle
from kvfs.vfs.inheritance import Inheritance
from kvfs.vfs.inodes import InodeTable
from kvfs.vfs.nodes import ControlFile, File
from kvfs.vfs.overlay import Overlay
from kvfs.writeback.attributes import LocalAttrs
from kvfs.writeback.journal import INLINE_BYTES, Body, digest

_CHANGED = -1
"""`File.shown` while the kernel's pages follow the changes made through it (a hash is never -1)."""

Edit = Callable[[Metadata | None, int | None], tuple[Metadata | None, int | None]]
"""Metadata and expiration as they are → as they shall be."""


class Sender(Protocol):
    """What fsync needs of the flusher."""

    async def send_now(self, keys: Collection[tuple[NamespaceId, Key]], timeout: float) -> None:
        """Return when the store has these keys, or raise why not."""
        ...

    def is_in_flight(self, change: Change) -> bool:
        """Whether a request that carries the change is on its way."""
        ...


class Invalidator(Protocol):
    """Makes the kernel forget; never waits for it."""

    def attributes(self, ino: int) -> None:
        """Forget size and times of an inode."""
        ...

    def entry(self, parent: int, name: bytes) -> None:
        """Forget what a name leads to, absence included."""
        ...


class Files:
    """The contents of files, from open to release."""

    def __init__(
        self,
        overlay: Overlay,
        inodes: InodeTable,
        handles: HandleTable,
        inheritance: Inheritance,
        sender: Sender,
        invalidator: Invalidator,
        local_names: LocalNames,
        now: Callable[[], float],
        timeout: float,
        max_pending: int,
        durable: bool,
    ) -> None:
        self._overlay = overlay
        self._journal = overlay.journal
        self._inodes = inodes
        self._handles = handles
        self._inheritance = inheritance
        self._sender = sender
        self._invalidator = invalidator
        self._local_names = local_names
        self._now = now
        self._timeout = timeout
        self._max_pending = max_pending
        self._durable = durable

    # open and release

    async def open(
        self, node: File | ControlFile, *, write: bool, truncate: bool, append: bool
    ) -> tuple[int, bool]:
        """A handle, and whether the kernel may keep the pages it has. Raises `StaleError`, store errors."""
        if isinstance(node, ControlFile):
            return self._handles.add(TextHandle(node, node.produce())), False
        if node.open is None:
            opened = await (self._emptied(node) if truncate else self._load(node))
            if node.open is None:  # another open may have been quicker
                node.open = opened
        shared = node.open
        if truncate:
            self._truncate_open(shared, 0)
        shared.handles += 1
        keep = self._show(node, shared)
        return self._handles.add(FileHandle(node, append, write or truncate)), keep

    async def _load(self, node: File) -> OpenFile:
        while not node.detached:
            before = self._recorded(node)
            try:
                clean = await self._overlay.content(node.namespace, node.key)
            except NotFoundError as exc:
                if before == self._recorded(node):
                    raise StaleError(str(exc)) from exc
                continue
            if before == self._recorded(node):  # else somebody wrote and closed it, or renamed it, meanwhile
                return OpenFile(clean.value, clean.metadata, clean.expiration, digest(clean.value))
        raise StaleError("the file was deleted")

    def _recorded(self, node: File) -> tuple[Key, int | None]:
        """What the journal has of a file: another answer means that what was read before is out of date."""
        change = self._journal.get(node.namespace, node.key)
        return node.key, change.seq if change is not None else None

    async def _emptied(self, node: File) -> OpenFile:
        """Opened with O_TRUNC: nothing is read, only the attributes are kept."""
        view = await self._overlay.view(node.namespace, node.key)
        if view is None or node.detached:
            raise StaleError("the file was deleted")
        held = self._overlay.values.get((node.namespace, node.key), stale=True)
        base = digest(held.value) if held is not None else None
        return OpenFile(b"", view.metadata, view.expiration, base)

    def _show(self, node: File, shared: OpenFile) -> bool:
        """Note what the kernel is about to see; true when its pages are of this very content."""
        if shared.handles > 1:
            return True  # open already: the kernel has seen this very content change
        if isinstance(shared.buffer, bytearray):
            node.shown = _CHANGED
            return False
        shown = hash(shared.buffer)
        keep = node.shown == shown
        if node.shown is not None and not keep:
            self._invalidator.attributes(node.ino)
        node.shown = shown
        return keep

    def create(self, namespace: NamespaceId, key: Key, *, mode: int, append: bool) -> tuple[File, int]:
        """A file that is not there yet, open; the journal hears of it at the first flush."""
        node = self._inodes.file(namespace, key)
        if node.open is not None:  # of a key that expired or was deleted elsewhere: another file
            self._inodes.detach(node)
            node = self._inodes.file(namespace, key)
        legacy = self._inheritance.take(namespace, key)
        # Known absent, as far as the journal does not know better (it does after an own deletion).
        opened = OpenFile(bytearray(), base=b"", version=1, created=True)
        if legacy is not None:
            opened.metadata, opened.expiration = legacy.metadata, legacy.expiration
        opened.mode = mode
        opened.mtime = int(self._now())
        opened.handles = 1
        node.open = opened
        node.shown = _CHANGED
        self._overlay.created(namespace, key, opened)
        return node, self._handles.add(FileHandle(node, append, write=True))

    async def release(self, number: int) -> None:
        """The last reference of an open is gone: what mmap wrote after the last flush is recorded."""
        handle = self._handles.remove(number)
        if not isinstance(handle, FileHandle):
            return
        node, shared = handle.node, handle.node.open
        if shared is None:
            return
        try:
            if shared.dirty and (handle.write or shared.handles == 1):
                await self.save(node)
        finally:
            shared.handles -= 1
            if shared.handles == 0 and node.open is shared:
                node.open = None
                self._inodes.release(node)

    # content

    def read(self, number: int, offset: int, size: int) -> bytes | memoryview:
        """At most `size` bytes; fewer only at the end."""
        handle = self._handles.get(number)
        if isinstance(handle, TextHandle):
            return handle.text[offset : offset + size]
        shared = self._open_of(number)
        if isinstance(shared.buffer, bytes):
            return memoryview(shared.buffer)[offset : offset + size]
        return content.read_at(shared.buffer, offset, size)

    def _open_of(self, number: int) -> OpenFile:
        shared = self._handles.file(number).node.open
        assert shared is not None, "a handle holds its file open"
        return shared

    def write(self, number: int, offset: int, data: bytes) -> int:
        """Put bytes into the content. Raises `FileTooBigError`."""
        handle = self._handles.file(number)
        shared = self._open_of(number)
        if handle.append:
            offset = len(shared.buffer)
        if offset + len(data) > VALUE_BYTES:
            raise FileTooBigError(f"a value has at most {VALUE_BYTES:,} bytes")
        content.splice(shared.writable(), offset, data)
        shared.mtime = int(self._now())
        handle.node.shown = _CHANGED
        return len(data)

    async def truncate(self, node: File, size: int) -> None:
        """Set the size of an open or closed file; a closed one is recorded at once."""
        if size > VALUE_BYTES:
            raise FileTooBigError(f"a value has at most {VALUE_BYTES:,} bytes")
        if node.open is not None:
            self._truncate_open(node.open, size)
            node.shown = _CHANGED
            return
        await self._while_open(node, lambda opened: self._truncate_open(opened, size), empty=size == 0)
        node.shown = None

    def _truncate_open(self, shared: OpenFile, size: int) -> None:
        content.resize(shared.writable(), size)
        shared.mtime = int(self._now())

    # to the journal and to the store

    async def flush(self, number: int) -> None:
        """close(2): what a writer's file lacks in the journal is recorded.

        A reader's close records nothing: what somebody else is still writing is not whole yet.
        """
        handle = self._handles.get(number)
        if isinstance(handle, FileHandle) and handle.write:
            await self.save(handle.node)

    async def save(self, node: File) -> None:
        """Record a dirty content. Raises `NoSpaceError`; the content stays dirty then."""
        shared = node.open
        if shared is None or not shared.dirty or node.detached:
            return
        if self._journal.pending_bytes + len(shared.buffer) > self._max_pending:
            raise NoSpaceError(
                f"{self._journal.pending_bytes:,} bytes wait to be sent: --max-pending is reached"
            )
        version = shared.version
        value = bytes(shared.buffer)
        body = await self.body_of(value)
        if self._is_gone(node) or shared.saved >= version:
            return  # deleted, or another close recorded a newer content meanwhile
        # No checkpoint from here: key, attributes and version belong together.
        self._record(node, shared, body, value)
        shared.saved = version
        if node.shown == _CHANGED and shared.version == version:
            node.shown = hash(value)  # what the kernel has now, should nobody change it elsewhere
        if self._durable:
            await self._journal.make_durable()

    async def body_of(self, value: bytes) -> Body:
        """A content ready to be recorded; a large one is written beside the journal, in a thread."""
        return self._journal.stage(value) if len(value) <= INLINE_BYTES else await self._journal.spool(value)

    @staticmethod
    def _is_gone(node: File) -> bool:
        return node.detached

    def _record(self, node: File, shared: OpenFile, body: Body, value: bytes) -> None:
        namespace, key = node.namespace, node.key
        before = self._journal.attributes.file_attrs(namespace, key) or LocalAttrs()
        now = int(self._now())
        attrs = LocalAttrs(
            mode=shared.mode if shared.mode is not None else before.mode,
            mtime=shared.mtime if shared.mtime is not None else before.mtime,
            ctime=now,
            atime=before.atime,
        )
        self._journal.record_put(
            namespace,
            key,
            body,
            metadata=shared.metadata,
            expiration=shared.expiration,
            base=shared.base,
            local=self.is_local(namespace, key),
            attrs=attrs,
        )
        if shared.created:
            shared.created = False
            self._overlay.created(namespace, key, None)
        shared.base = body.digest  # what the store has once this is sent
        self._overlay.values.put((namespace, key), Clean(value, shared.metadata, shared.expiration, now))

    def is_local(self, namespace: NamespaceId, key: Key) -> bool:
        """Whether a file is kept on this machine: named so, and no key of the store."""
        if not self._local_names.matches(self._overlay.naming.name_of_key(key)):
            return False
        change = self._journal.get(namespace, key)
        if change is not None:
            return change.state is ChangeState.LOCAL
        span = self._overlay.listings.span_of(namespace, key, stale=True)
        return span is None or not span.has(key)

    def state_of(self, change: Change) -> str:
        """The state of a change in the user's words."""
        return "in-flight" if self._sender.is_in_flight(change) else str(change.state)

    async def fsync(self, number: int) -> None:
        """Return when the store has what this file holds, or raise why it has not."""
        handle = self._handles.get(number)
        if not isinstance(handle, FileHandle) or handle.node.detached:
            return
        await self.save(handle.node)
        await self.sync_key(handle.node.namespace, handle.node.key)

    async def sync_key(self, namespace: NamespaceId, key: Key) -> None:
        """Wait until one key's change has left for good; a local file only needs the disk."""
        change = self._journal.get(namespace, key)
        if change is None or change.state is ChangeState.SETTLING:
            return
        if change.state is ChangeState.LOCAL:
            await self._journal.make_durable()
            return
        await self._sender.send_now([(namespace, key)], self._timeout)

    async def amend(self, node: File, edit: Edit) -> None:
        """Change metadata or expiration of a file: KV has no call for that, so its value goes along."""
        shared = node.open
        if shared is not None:
            self._amend_open(shared, edit)
            if not shared.created:
                await self.save(node)
            return
        if node.detached:  # the name may be another file's by now
            raise StaleError("the file was deleted")
        change = self._journal.get(node.namespace, node.key)
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
        await self._while_open(node, lambda opened: self._amend_open(opened, edit))

    @staticmethod
    def _amend_open(shared: OpenFile, edit: Edit) -> None:
        metadata, expiration = edit(shared.metadata, shared.expiration)
        if (metadata, expiration) != (shared.metadata, shared.expiration):
            shared.metadata, shared.expiration = metadata, expiration
            shared.version += 1

    async def _while_open(self, node: File, act: Callable[[OpenFile], None], *, empty: bool = False) -> None:
        """Do something to a file nobody has open, and record it at once."""
        opened = await (self._emptied(node) if empty else self._load(node))
        if node.open is None:
            node.open = opened
        shared = node.open
        shared.handles += 1
        try:
            act(shared)
            await self.save(node)
        finally:
            shared.handles -= 1
            if shared.handles == 0 and node.open is shared:
                node.open = None
