"""Changes of files that may be closed: their size, and metadata and expiration, for which KV has no call.

The value goes along with each of them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import trio

from kvfs.core.errors import FileTooBigError, KvfsError, StaleError, TimedOutError
from kvfs.core.expiry import is_expired
from kvfs.core.limits import VALUE_BYTES
from kvfs.core.model import Metadata
from kvfs.vfs.answers import answered
from kvfs.vfs.file.failures import Failures
from kvfs.vfs.file.handles import FileHandle
from kvfs.vfs.file.identity import CHANGED
from kvfs.vfs.file.open_contents import OpenContents, open_of
from kvfs.vfs.file.open_file import OpenFile
from kvfs.vfs.file.opening import Opener
from kvfs.vfs.file.record import Recorder, is_gone
from kvfs.vfs.inode.nodes import File
from kvfs.vfs.view.overlay import Overlay

Edit = Callable[[Metadata | None, int | None], tuple[Metadata | None, int | None]]
"""Metadata and expiration as they are → as they shall be."""


@dataclass(slots=True, eq=False)
class _Attempt:
    """An edit of an open file that is being recorded: the attributes before and after it, and the versions."""

    shared: OpenFile
    edit: Edit
    before: tuple[Metadata | None, int | None]
    wanted: tuple[Metadata | None, int | None]
    version: int
    made: int


class Amending:
    """Makes and records them. Whoever has a file open sees them, too."""

    def __init__(
        self,
        overlay: Overlay,
        opener: Opener,
        recorder: Recorder,
        contents: OpenContents,
        failures: Failures,
        now: Callable[[], float],
    ) -> None:
        self._overlay = overlay
        self._journal = overlay.journal
        self._opener = opener
        self._recorder = recorder
        self._contents = contents
        self._failures = failures
        self._now = now
        self._attempts: list[_Attempt] = []  # in the order in which they were made

    async def truncate(self, node: File, size: int, number: int | None = None) -> None:
        """Set the size of an open or closed file, through a handle or by name; a closed one is recorded at once."""
        handle = self._contents.usable(number) if number is not None else None
        if size > VALUE_BYTES:
            error = FileTooBigError(f"a value has at most {VALUE_BYTES:,} bytes")
            if handle is not None:
                self._failures.fail(handle, open_of(handle), error)
            raise error
        if node.detached and node.open is None:
            self._opener.look_again(node)
            return
        opened = node.open
        if opened is None:
            opened = await (self._opener.emptied(node) if size == 0 else self._opener.load(node))
            if node.open is None:
                await self._truncate_closed(node, opened, size)
                return
            opened = node.open  # another program was quicker
        self._contents.resize(opened, size)
        node.shown = CHANGED
        if handle is not None:
            handle.wrote = opened.version

    async def _truncate_closed(self, node: File, opened: OpenFile, size: int) -> None:
        with self._held(node, opened):
            self._contents.resize(opened, size)
            try:
                await answered(self._recorder.save(node))
            except (KvfsError, trio.Cancelled) as exc:
                # other programs may have opened it meanwhile: they get the old content again
                error = exc if isinstance(exc, KvfsError) else TimedOutError("a truncate took too long")
                self._failures.fail(FileHandle(node, write=True), opened, error)
                raise
        node.shown = None

    async def amend(self, node: File, edit: Edit) -> None:
        """Change metadata or expiration of a file: KV has no call for that, so its value goes along.

        Of an open file that lost its name to another client it is a change like any other: kept beside.
        """
        shared = node.open
        if shared is not None:
            await self._amend_shared(node, shared, edit)
            return
        if node.detached:  # the name may be another file's by now
            self._opener.look_again(node)
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
        opened = await self._opener.load(node)
        if node.open is not None:  # another program was quicker
            await self._amend_shared(node, node.open, edit)
            return
        with self._held(node, opened):
            opened.seen = True  # the content is kept
            await self._amend_shared(node, opened, edit)

    async def _amend_shared(self, node: File, shared: OpenFile, edit: Edit) -> None:
        """Amend an open file. Where that cannot be recorded, the attributes are again what they were."""
        before, version = (shared.metadata, shared.expiration), shared.version
        wanted = edit(*before)
        attempt = _Attempt(shared, edit, before, wanted, version, version + (wanted != before))
        self._attempts.append(attempt)
        try:
            await self._amend_and_record(node, shared, edit)
        except (KvfsError, trio.Cancelled):
            self._take_back(attempt)
            raise
        finally:
            self._attempts.remove(attempt)

    async def _amend_and_record(self, node: File, shared: OpenFile, edit: Edit) -> None:
        written = shared.written
        self._overlay.unsaved.touched()
        if self._amend_open(shared, edit) and written:
            await self._amend_written(node, shared)
        elif not written and not shared.created:
            await answered(self._recorder.save(node))

    def _take_back(self, failed: _Attempt) -> None:
        """Take attributes back that could not be recorded, because the caller was told that nothing changed.

        Edits that are being recorded beside stay, and count from now on as made without this one.
        """
        shared, attributes, version = failed.shared, failed.before, failed.version
        others = [attempt for attempt in self._attempts if attempt.shared is shared]
        later = others[others.index(failed) + 1 :]
        if not shared.dirty:  # they were recorded, and only the disk did not force them out
            return
        if attributes == failed.wanted or others[-1].wanted != (shared.metadata, shared.expiration):
            return  # this changed nothing, or something else has changed them since: then they are not ours
        if shared.version == failed.made:  # else somebody has written meanwhile
            shared.version = version
        for attempt in later:
            if attempt.version == failed.made:
                attempt.version = version
            attempt.before = attributes
            with suppress(KvfsError):  # it suits these attributes no more
                attributes = attempt.edit(*attributes)
            attempt.wanted = attributes
        shared.metadata, shared.expiration = attributes
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
        body = await self._recorder.body_of(value)
        if not is_gone(node) and shared.closed is value:  # else a close recorded them meanwhile
            self._recorder.record(node, shared, body, value, mtime_ns=None)

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
        shared.written_last = False
        return True

    @staticmethod
    @contextmanager
    def _held(node: File, opened: OpenFile) -> Iterator[None]:
        """Have a file open that nobody else has. Other programs may open it meanwhile, and share it then."""
        node.open = opened
        opened.handles += 1
        try:
            yield
        finally:
            opened.handles -= 1
            if opened.handles == 0 and node.open is opened:
                node.open = None
