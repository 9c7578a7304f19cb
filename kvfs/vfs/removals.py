"""Removal of names: the deletion in the journal, and what remains of the directory that the name was in."""

from collections.abc import Callable

from kvfs.core.errors import NotEmptyError
from kvfs.core.model import Key, NamespaceId
from kvfs.core.names import DirRef
from kvfs.core.times import nanoseconds
from kvfs.kept.local import DirRow
from kvfs.vfs.inode.nodes import Directory
from kvfs.vfs.inode.table import InodeTable
from kvfs.vfs.view.overlay import Overlay


class Removals:
    """Deletes keys, and keeps directories that came to be empty."""

    def __init__(self, overlay: Overlay, inodes: InodeTable, now: Callable[[], float]) -> None:
        self._overlay = overlay
        self._journal = overlay.journal
        self._inodes = inodes
        self._now = now

    def delete_key(self, namespace: NamespaceId, key: Key, directory: Directory | None) -> None:
        """Record the deletion, part the node from its name, and keep the directory if it was the last one there."""
        keeps = self.kept(directory, key.__eq__) if directory is not None else None
        node = self._inodes.peek_file(namespace, key)
        is_new = node is not None and node.open is not None and node.open.created
        # Somebody else may have made the key in the meantime: then that goes too.
        if not is_new or self._overlay.known.peek(namespace, key, stale=True) is not None:
            base = self._overlay.last_seen.digest((namespace, key))
            self._journal.record_delete(namespace, key, base=base, keeps=keeps)
        else:
            self.keep(namespace, keeps)
        if is_new:  # not before, because a deletion that could not be recorded leaves the file there
            self._overlay.unsaved.recorded(namespace, key)
        # Where no tombstone says so either, it must not seem to be there.
        self._overlay.values.drop((namespace, key))
        if node is not None:
            self._inodes.names.detach(node)
        if directory is not None:
            directory.changed = nanoseconds(self._now())

    def kept(self, directory: Directory, goes: Callable[[str], bool], comes: str = "") -> DirRow | None:
        """Return the directory to `keep` when its last entry leaves; None if others stay, or one is kept already.

        `goes` tells the keys and prefixes that leave, `comes` is one that a rename brings. To be recorded in the
        transaction of what leaves. A directory that only stands for a piece of a long name goes with it; the one
        around it stays.
        """
        ref, namespace = directory.ref, directory.namespace
        while ref.is_chunk:
            ref = self._overlay.naming.parent_of(ref)
        root = self._inodes.root
        if (
            not ref.prefix
            or (isinstance(root, Directory) and root.ref == ref)
            or comes.startswith(ref.prefix)
        ):
            return None
        if self._journal.attributes.has_dir(namespace, ref.prefix, ref.start):
            return None
        if self._overlay.known.live_below(namespace, ref, stale=True, goes=goes):
            return None
        return self.row(ref)

    def row(self, ref: DirRef, mode: int | None = None) -> DirRow:
        """Return the record of a directory that is made now."""
        now = nanoseconds(self._now())
        return DirRow(ref.prefix, ref.start, mode, now, now)

    def keep(self, namespace: NamespaceId, row: DirRow | None) -> None:
        """Record that a directory stands although nothing is in it."""
        if row is not None:
            self._journal.attributes.add_dir(namespace, row)

    async def check_empty(self, namespace: NamespaceId, ref: DirRef, name: bytes) -> None:
        """Raise `NotEmptyError` unless nothing lies in the directory."""
        own = self._overlay.naming.self_key(ref)
        has_own = own is not None and await self._overlay.view(namespace, own) is not None
        if has_own or not await self._overlay.is_empty(namespace, ref):
            raise NotEmptyError(f"{name!r} is not empty")
