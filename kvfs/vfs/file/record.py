"""The recording of open files: the way of a content from memory to the journal."""

from collections.abc import Callable
from typing import Final

import trio

from kvfs.cache.values import Clean
from kvfs.core.digest import INLINE_BYTES, digest
from kvfs.core.errors import NoSpaceError
from kvfs.core.model import ChangeState, Key, NamespaceId
from kvfs.core.patterns import LocalNames
from kvfs.core.times import nanoseconds
from kvfs.journal.reader import AT_ONCE_BYTES
from kvfs.kept.local import LocalAttrs
from kvfs.log.spool import Body
from kvfs.vfs.answers import Answer
from kvfs.vfs.file.identity import CHANGED
from kvfs.vfs.file.open_file import OpenFile
from kvfs.vfs.file.rope import Rope
from kvfs.vfs.file.versions import Versions
from kvfs.vfs.inode.nodes import File
from kvfs.vfs.options import Options
from kvfs.vfs.view.overlay import Overlay

_NO_ATTRS: Final = LocalAttrs()
_MODES: Final[dict[int, int]] = {}  # each mode once, because a hundred thousand changes may wait


class Recorder:
    """Records contents."""

    def __init__(
        self, overlay: Overlay, versions: Versions, now: Callable[[], float], options: Options
    ) -> None:
        self._overlay = overlay
        self._journal = overlay.journal
        self._totals = overlay.journal.totals
        self._versions = versions
        self._now = now
        self._local_names = LocalNames(options.local_names)
        self._max_pending = options.max_pending
        self._durable = options.durable

    def save(self, node: File) -> Answer[None]:
        """Record a dirty content. Raises `NoSpaceError`; the content stays dirty then."""
        shared = node.open
        if shared is None:
            return None
        if node.detached:
            return self._save(node, shared) if shared.superseded and shared.dirty else None
        if shared.version == shared.saved:
            return self._force(shared) if self._durable and shared.forced != shared.saved else None
        size = len(shared.buffer)
        if self._durable or size > INLINE_BYTES or self._is_base_far(shared):
            return self._save(node, shared)
        self._save_small(node, shared, size)
        return None

    def _save_small(self, node: File, shared: OpenFile, size: int) -> None:
        self._check_room(size)
        value = shared.buffer.value()
        self._save_as(node, shared, shared.version, value, self._journal.stage(value))

    def _check_room(self, size: int) -> None:
        if self._totals.pending_bytes + size > self._max_pending:
            raise NoSpaceError(
                f"{self._totals.pending_bytes:,} bytes wait to be sent: --max-pending is reached"
            )

    async def _save(self, node: File, shared: OpenFile) -> None:
        if shared.superseded and shared.dirty:
            self._versions.name_anew(node, shared)
        if node.detached:
            return
        if shared.dirty:
            await self._save_dirty(node, shared)
        if self._durable:
            await self._force(shared)

    async def _force(self, shared: OpenFile) -> None:
        """Put the recorded content on the disk, whichever of several handles recorded it."""
        saved = shared.saved
        if shared.forced < saved:
            await self._journal.make_durable()
            shared.forced = max(shared.forced, saved)

    async def _save_dirty(self, node: File, shared: OpenFile) -> None:
        await self._know_base(shared)
        if is_gone(node) or not shared.dirty:
            return
        version, size = shared.version, len(shared.buffer)
        if size <= INLINE_BYTES:
            self._save_small(node, shared, size)
            return
        self._check_room(size)
        value, body = await self._spooled(shared.buffer)
        if is_gone(node) or shared.saved >= version:
            return  # deleted, or another close recorded a newer content meanwhile
        self._save_as(node, shared, version, value, body)

    async def _spooled(self, rope: Rope) -> tuple[bytes | None, Body]:
        """Return a large content as it is now, and its body: written by threads, so that nobody else waits.

        None: it is in pieces still, and in the body's file. To join them would hold up everybody.
        """
        if (stream := rope.take_stream()) is not None:
            try:
                body = await stream.finish()
            except trio.Cancelled:  # the close took too long: another try begins anew
                stream.abandon()
                raise
            return None, body
        pieces = rope.pieces()
        value = pieces[0] if len(pieces) == 1 else await trio.to_thread.run_sync(b"".join, pieces)
        return value, await self._journal.spool(value)

    def _save_as(self, node: File, shared: OpenFile, version: int, value: bytes | None, body: Body) -> None:
        """Record a content. No checkpoint in here: key, attributes and version belong together."""
        self.record(node, shared, body, value, mtime_ns=shared.mtime_ns)
        shared.saved, shared.closed = version, value
        if value is None:
            self._read_back(node)
        if shared.version == version:
            if value is not None:
                shared.buffer.joined(value)
            if node.shown == CHANGED:  # the kernel has this content, unless another client changes it
                node.shown = body.digest

    def _read_back(self, node: File) -> None:
        """Keep a content that was recorded in pieces as a value too, once a thread has read it."""
        place = (node.namespace, node.key)
        change = self._journal.get(*place)
        assert change is not None
        found, now = self._journal.digest(change), int(self._now())

        def arrived(value: bytes) -> None:
            current = self._journal.get(*place)
            if current is not None and current.seq == change.seq:
                self._overlay.values.put(
                    place, Clean(value, current.metadata, current.expiration, now, found)
                )

        self._journal.read_soon(change, arrived)

    async def _know_base(self, shared: OpenFile) -> None:
        """See to it that `known_base` has nothing long to do."""
        closed = shared.closed
        if closed is not None and self._is_base_far(shared):
            found = await trio.to_thread.run_sync(digest, closed)
            if shared.closed is closed and shared.base is None:
                shared.base = found

    @staticmethod
    def _is_base_far(shared: OpenFile) -> bool:
        """Return whether `known_base` would make a digest of a large value."""
        if shared.base is not None or shared.closed is None or not shared.buffer.changed:
            return False
        return len(shared.closed) > INLINE_BYTES and shared.digest_at_hand() is None

    async def body_of(self, value: bytes) -> Body:
        """Return a content ready to be recorded; a large one is written beside the journal, in a thread."""
        return self._journal.stage(value) if len(value) <= INLINE_BYTES else await self._journal.spool(value)

    def record(
        self, node: File, shared: OpenFile, body: Body, value: bytes | None, *, mtime_ns: int | None
    ) -> None:
        """Record a content with the attributes that go with it. No await may come before what follows from it."""
        namespace, key = node.namespace, node.key
        before = None if shared.created else self._journal.attributes.file_attrs(namespace, key)
        before = before or _NO_ATTRS
        if shared.base is None and value is not None and value is shared.closed:
            shared.base = body.digest
        now = self._now()
        attrs = LocalAttrs(
            mode=_MODES.setdefault(shared.mode, shared.mode) if shared.mode is not None else before.mode,
            mtime_ns=mtime_ns if mtime_ns is not None else before.mtime_ns,
            ctime_ns=mtime_ns if _is_dated_by_write(shared, mtime_ns, before) else nanoseconds(now),
            atime_ns=before.atime_ns,
            shown=body.digest,
        )
        self._journal.record_put(
            namespace,
            key,
            body,
            metadata=shared.metadata,
            expiration=shared.expiration,
            base=shared.base if shared.created else self._base_of(node, shared),
            local=self.is_local(namespace, key, is_new=shared.created),
            attrs=attrs,
        )
        if shared.created:
            shared.created = False
            self._overlay.unsaved.recorded(namespace, key)
        shared.base, shared.seen = body.digest, True  # the store has it once this is sent
        shared.known_at = now
        self._overlay.values.drop((namespace, key))
        if value is not None and len(value) > AT_ONCE_BYTES:  # a smaller one is as near in the log
            clean = Clean(value, shared.metadata, shared.expiration, int(now), body.digest)
            self._overlay.values.put((namespace, key), clean)

    def _base_of(self, node: File, shared: OpenFile) -> bytes | None:
        """Return the content to compare the store's value with: the opened one, if a program has seen it.

        One that only writes has not. What it knows is what was read under the name before.
        """
        loaded = shared.known_base()
        if shared.seen or shared.closed is None:
            return loaded
        return self._overlay.last_seen.digest((node.namespace, node.key)) or loaded

    def is_local(self, namespace: NamespaceId, key: Key, *, is_new: bool) -> bool:
        """Return whether a file is kept on this machine: named so, and no key of the store.

        `is_new`: nothing was there before. What was, and is not the journal's, was the store's.
        """
        if not self._local_names.matches(self._overlay.naming.name_of_key(key)):
            return False
        change = self._journal.get(namespace, key)
        if change is not None:
            return change.state is ChangeState.LOCAL
        if not is_new:
            return False
        span = self._overlay.listings.span_of(namespace, key, stale=True)
        return span is None or not span.has(key)


def _is_dated_by_write(shared: OpenFile, mtime_ns: int | None, before: LocalAttrs) -> bool:
    """Return whether a write was the last change of a file: its mtime is the ctime then, in the same object."""
    return shared.written_last and mtime_ns is not None and mtime_ns >= (before.ctime_ns or mtime_ns)


def is_gone(node: File) -> bool:
    """Return whether the file has lost its name, which it may do during any await."""
    return node.detached
