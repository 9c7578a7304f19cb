"""Attributes: stat, times and modes, extended attributes.

Invariants:
- An unknown size is shown as 0 with a time-out of 0, *because* the kernel then asks GETATTR, which loads the value.
- The time-out of a name ends with the freshness of what is known, and any time-out at the expiration of the key.
- An mtime is the expiration (`core/expiry.py`), unless an attribute is (`vfs/xattr_fields.py`). Else it moves only when
  another content is found, *because* editors warn of a file whose mtime moves by itself.
- This machine keeps what KV has no place for (mode bits, times of keys that do not expire) in the journal's file.
  `chown` is accepted and not kept.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from msgspec.structs import replace

from kvfs.core.digest import digest
from kvfs.core.errors import (
    DeniedError,
    IsADirectoryError_,
    JournalError,
    JournalFullError,
    NotFoundError,
    StaleError,
    StoreError,
    UnavailableError,
)
from kvfs.core.expiry import LAST_DATE, expiration_for_mtime, milliseconds_hint, mtime_of
from kvfs.core.freshness import fresh_until, seconds_left
from kvfs.core.limits import VALUE_BYTES
from kvfs.core.model import Key, NamespaceId
from kvfs.core.times import SECOND, nanoseconds, within_range
from kvfs.kept.local import DirRow, LocalAttrs
from kvfs.vfs.answers import Answer, answered
from kvfs.vfs.file.files import Files
from kvfs.vfs.file.open_file import OpenFile
from kvfs.vfs.inode.nodes import ROOT_INO, UNCHANGED, ControlDirectory, ControlFile, Directory, File, Node
from kvfs.vfs.view.overlay import UNKNOWN, Overlay, View
from kvfs.vfs.view.types import Attr, Changes, SeenView, told_size

log = logging.getLogger("kvfs.vfs")


class Attributes:
    """Reads and changes of attributes; contents are `Files`' matter."""

    def __init__(
        self,
        overlay: Overlay,
        files: Files,
        now: Callable[[], float],
        *,
        umask: int = 0o022,
        exact_sizes: bool = True,
        expiration_is_mtime: bool = True,
    ) -> None:
        self._exact_sizes = exact_sizes
        self._expiration_is_mtime = expiration_is_mtime
        self.on_vanished: Callable[[Directory], None] = lambda directory: None  # its name leads nowhere
        self.expirations = 0  # keys that came to expire because their mtime was set to a time to come
        self._overlay = overlay
        self._local = overlay.journal.attributes
        self._files = files
        self._now = now
        self._ttl = overlay.ttl
        self._file_mode = 0o666 & ~umask
        self._directory_mode = 0o777 & ~umask
        self._started = nanoseconds(now())

    # stat

    def peek(self, node: Node, seen: SeenView = UNKNOWN) -> Attr:
        """Return the attributes without waiting: an unknown size shows as 0 with a time-out of 0.

        `seen`: what `Known.peek` just said of a file, if somebody asked.
        """
        if isinstance(node, File):
            return self._file(node, seen)
        if isinstance(node, Directory):
            return self._directory(node)
        if isinstance(node, ControlFile):
            now = nanoseconds(self._now())
            return Attr(node.ino, False, 0o400, 1, len(node.produce()), now, now, now, self._ttl, 0)
        mode = 0o500 if isinstance(node, ControlDirectory) else self._directory_mode
        since = self._started
        return Attr(node.ino, True, mode, 2, 0, since, since, since, self._ttl, self._ttl)

    def getattr(self, node: Node) -> Answer[Attr]:
        """Return the truth, exact size included, asking the store if need be. Raises `StaleError`."""
        attr = self.peek(node)
        return attr if attr.attr_timeout > 0 else self._getattr(node)

    async def _getattr(self, node: Node) -> Attr:
        if isinstance(node, Directory):
            return await self._getattr_directory(node)
        if not isinstance(node, File):
            return self.peek(node)
        attr = self._file(node)
        if attr.attr_timeout > 0 or node.open is not None or node.detached:
            if self._exact_sizes and not node.detached:
                self._overlay.reads.touch(node.namespace, node.key)
            return attr
        try:
            if self._exact_sizes:
                size = await self._overlay.reads.size(node.namespace, node.key)
            elif await self._overlay.view(node.namespace, node.key) is None:
                raise NotFoundError(f"{node.key!r} is gone")
            else:  # this user did not want a read for it: the kernel asks again after an open, which knows
                return self._file(node)
        except NotFoundError as exc:
            raise StaleError(str(exc)) from exc
        except (UnavailableError, DeniedError):
            # The kernel asks before it opens a file to overwrite it, too, and that needs no store. At most this
            # large; not 0, by which `find -empty -delete` and tar would go.
            attr.size = node.end = VALUE_BYTES
            return attr
        attr = self._file(node)
        if attr.attr_timeout <= 0:
            attr.size = node.end = size
            attr.attr_timeout = 0.001  # known now, whatever clock and caches say meanwhile
        return attr

    def _file(self, node: File, seen: SeenView = UNKNOWN) -> Attr:
        namespace, key, shared = node.namespace, node.key, node.open
        if shared is not None and shared.created and shared.expiration is None and not node.detached:
            return self._created(node, shared)
        is_new = shared is not None and shared.created  # nothing is kept of it yet
        local = None if node.detached or is_new else self._local.file_attrs(namespace, key)
        mode = local.mode if local is not None and local.mode is not None else self._file_mode
        changed = self._changed(namespace, local)
        size, expiration, timeout = (node.end or 0) if node.detached else 0, None, 0.0
        view: SeenView = None
        now = self._now()
        if not node.detached:
            view = seen if seen is not UNKNOWN else self._overlay.known.peek(namespace, key, stale=True)
        if shared is not None:
            size, expiration = len(shared.buffer), shared.expiration
            timeout = seconds_left(fresh_until(now, self._ttl), self._ttl, now, expiration)
            changed = shared.mtime_ns if shared.mtime_ns is not None else changed
            mode = shared.mode if shared.mode is not None else mode
        elif isinstance(view, View):
            expiration = view.expiration
            size, timeout, _ = told_size(view, now, self._ttl)
        node.end = size
        shown = mtime_of(expiration, changed) if self._expiration_is_mtime else changed
        ctime = local.ctime_ns if local is not None and local.ctime_ns is not None else changed
        ctime = max(ctime, shared.mtime_ns) if shared is not None and shared.mtime_ns is not None else ctime
        atime = local.atime_ns if local is not None and local.atime_ns is not None else changed
        entry_timeout = 0.0  # the next lookup of the name finds the present file
        if (shared is None or self._files.versions.is_current(node)) and isinstance(view, View):
            entry_timeout = seconds_left(view.fresh_until, self._ttl, now, expiration)
        return Attr(
            node.ino,
            False,
            mode,
            0 if node.detached else 1,
            size,
            shown,
            ctime,
            atime,
            entry_timeout,
            timeout,
        )

    def _created(self, node: File, shared: OpenFile) -> Attr:
        """Return what `_file` comes to for a file that this open made, at a third of the cost.

        Nothing is kept or known of it yet, so that nothing is looked up.
        """
        mode = shared.mode if shared.mode is not None else self._file_mode
        changed = shared.mtime_ns if shared.mtime_ns is not None else self._changed(node.namespace, None)
        size, ttl = len(shared.buffer), self._ttl
        node.end = size
        return Attr(node.ino, False, mode, 1, size, changed, changed, changed, ttl, ttl)

    def _changed(self, namespace: NamespaceId, local: LocalAttrs | None) -> int:
        if local is not None and local.mtime_ns is not None:
            return local.mtime_ns
        return self._first_seen(namespace)

    def _first_seen(self, namespace: NamespaceId) -> int:
        return self._local.namespace_first_seen(namespace, self._now()) * SECOND

    def _directory(self, node: Directory) -> Attr:
        row = self._local.dir(node.namespace, node.ref.prefix, node.ref.start)
        known = node.known
        if known is not None and known[0] is row and known[1] == node.changed and not node.detached:
            return known[2]
        mode = row.mode if row is not None and row.mode is not None else self._directory_mode
        mtime = row.mtime_ns if row is not None and row.mtime_ns is not None else None
        mtime = self._first_seen(node.namespace) if mtime is None else mtime
        ctime = row.ctime_ns if row is not None and row.ctime_ns is not None else mtime
        mtime, ctime = max(mtime, node.changed), max(ctime, node.changed)
        links = 0 if node.detached else 2
        timeout = self._ttl
        is_passing = row is None and self._is_implied(node)
        if is_passing:
            timeout = self._overlay.known.fresh_for(node.namespace, node.ref)
        attr = Attr(node.ino, True, mode, links, 0, mtime, ctime, mtime, timeout, timeout)
        lasts = not is_passing and not node.detached and timeout > 0
        node.known = (row, node.changed, attr) if lasts else None
        return attr

    @staticmethod
    def _is_implied(node: Directory) -> bool:
        """Return whether keys below it make a directory: not a namespace, nor the root of the mount."""
        return bool(node.ref.prefix) and node.ino != ROOT_INO and not node.detached

    async def _getattr_directory(self, node: Directory) -> Attr:
        attr = self._directory(node)
        if attr.attr_timeout <= 0:
            if self._is_implied(node) and not await self._overlay.is_there(node.namespace, node.ref):
                return self._vanished(node)
            attr = self._directory(node)
            attr.attr_timeout = max(attr.attr_timeout, 0.001)
        node.doubted = False
        return attr

    def _vanished(self, node: Directory) -> Attr:
        """Answer for a directory that vanished because another client removed all of its content.

        The kernel would have looked its name up first, so it asks by a descriptor, or for the working directory: as on
        a disk, its holder keeps it. But if the kernel was told to forget the attributes alone, it may have come by the
        name, and has to look that up. Raises `StaleError`.
        """
        if node.doubted and not self._files.handles.lists(node.ino):
            node.doubted = False
            raise StaleError("nothing is in the directory any more")
        self.on_vanished(node)
        attr = self._directory(node)
        attr.links, attr.attr_timeout = 0, 0.001
        return attr

    def contents_arrived(self, namespace: NamespaceId, contents: Sequence[tuple[Key, bytes]]) -> None:
        """Take in values that the store answered: one that differs from the content shown last is dated now.

        Editors, make and rsync go by the mtime.
        """
        digests = [(key, digest(value)) for key, value in contents]
        try:
            self._local.found(namespace, digests, nanoseconds(self._now()))
        except JournalError as exc:  # a time is not worth failing a read
            log.debug("the times of %d keys are not kept: %s", len(contents), exc)

    # setattr

    async def setattr(self, node: Node, changes: Changes, handle: int | None = None) -> Attr:
        """Do chmod, truncate, utimens, through an open handle or by name.

        Raises `InvalidError` for an mtime below KV's floor.
        """
        before: Attr | None = None
        if changes.size is None:  # now, because nothing may be waited for once it took effect
            with suppress(StoreError):  # the kernel asks for the size when it needs it
                before = await answered(self.getattr(node))
        if isinstance(node, File):
            await self._set_file(node, changes, handle)
        elif isinstance(node, Directory):
            if changes.size is not None:
                raise IsADirectoryError_("a directory has no size to set")
            self._set_directory(node, changes)
        attr = self.peek(node)
        if before is not None and attr.attr_timeout <= 0 and not attr.size:  # else it was written meanwhile
            attr.size = before.size
            if isinstance(node, File):
                node.end = attr.size
        return attr

    async def _set_file(self, node: File, changes: Changes, handle: int | None) -> None:
        expiration: int | None = None
        sets_expiration = changes.mtime_ns is not None and self._expiration_is_mtime
        if changes.mtime_ns is not None and sets_expiration:
            expiration = expiration_for_mtime(changes.mtime_ns // SECOND, self._now())
        if changes.size is not None:
            await self._files.amending.truncate(node, changes.size, handle)
        clears = sets_expiration and expiration is None and self._expires(node)
        if (
            clears
        ):  # first, because an mtime does not show while there is an expiration, if that could not be cleared
            self._keep(node, changes, None)
        if sets_expiration:
            await self._files.amending.amend(node, lambda metadata, _: (metadata, expiration))
        if expiration is not None:
            self._tell_expiration(node, expiration)
        shared = node.open
        if changes.mode is not None and shared is not None:
            shared.mode, shared.written_last = changes.mode, False
        if changes.mtime_ns is not None and shared is not None:
            now_ns, mtime_ns = nanoseconds(self._now()), within_range(changes.mtime_ns)
            shared.mtime_ns = min(mtime_ns, now_ns) if expiration is not None else mtime_ns
            shared.written_last = False
        self._overlay.unsaved.touched()
        if node.detached or (shared is not None and shared.created):
            return
        try:
            self._keep(node, changes, expiration)
        except JournalFullError:
            if not clears and (expiration is None or changes.mode is not None):  # else only an atime is lost
                raise

    def _expires(self, node: File) -> bool:
        """Return whether the expiration of a file that has a name and was recorded is known to this machine."""
        if node.detached or (node.open is not None and node.open.created):
            return False
        view = self._overlay.known.peek(node.namespace, node.key, stale=True)
        return isinstance(view, View) and view.expiration is not None

    def _tell_expiration(self, node: File, expiration: int) -> None:
        """Log an expiration by a date that was copied here, because it may not have been meant so."""
        self.expirations += 1
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(min(expiration, LAST_DATE)))
        log.info(
            "%r expires at %s because its mtime was set to that; with --expiration=attribute an mtime is an mtime",
            *(node.key, when),
        )
        if hint := milliseconds_hint(expiration):
            log.warning("%r expires far from now: %s", node.key, hint)

    def _keep(self, node: File, changes: Changes, expiration: int | None) -> None:
        """Keep on this machine the attributes that KV has no place for. An expiration replaces the mtime."""
        if changes.mode is None and changes.mtime_ns is None and changes.atime_ns is None:
            return
        local = self._local.file_attrs(node.namespace, node.key) or LocalAttrs()
        mtime = local.mtime_ns
        if changes.mtime_ns is not None and expiration is None:
            mtime = within_range(changes.mtime_ns)
        self._local.set_file_attrs(
            node.namespace,
            node.key,
            replace(
                local,
                mode=changes.mode if changes.mode is not None else local.mode,
                mtime_ns=mtime,
                atime_ns=within_range(changes.atime_ns) if changes.atime_ns is not None else local.atime_ns,
                ctime_ns=nanoseconds(self._now()),
            ),
        )

    def _set_directory(self, node: Directory, changes: Changes) -> None:
        if node.detached or (changes.mode is None and changes.mtime_ns is None):
            return  # it was removed here, so that only a descriptor leads to it: nobody sees it any more
        ref, now = node.ref, nanoseconds(self._now())
        row = self._local.dir(node.namespace, ref.prefix, ref.start) or DirRow(ref.prefix, ref.start)
        node.changed = UNCHANGED if changes.mtime_ns is not None else node.changed
        mtime = row.mtime_ns if changes.mtime_ns is None else within_range(changes.mtime_ns)
        mode = row.mode if changes.mode is None else changes.mode
        self._local.add_dir(node.namespace, replace(row, mode=mode, mtime_ns=mtime, ctime_ns=now))

    # statfs

    def usage(self) -> tuple[int, int]:
        """Return keys and bytes known: cheap, never a request."""
        listings = self._overlay.listings.statistics()
        values = self._overlay.values.statistics()
        return listings.keys, values.bytes
