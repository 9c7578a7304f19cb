"""The content that a change supersedes, as far as it is at hand: from journal and caches to the history.

At hand is what this machine holds without a request: the change that a newer one replaces, the content that an open
file read, a clean value of the cache. Nothing here asks the store, and nothing waits.
"""

import os
from collections.abc import Callable
from pathlib import Path

from kvfs.changes.rules import Row
from kvfs.core.digest import digest
from kvfs.core.errors import JournalError
from kvfs.core.expiry import is_expired
from kvfs.core.freshness import is_fresh
from kvfs.core.model import Change, ChangeState, How, Key, KeyRef, NamespaceId
from kvfs.history.bursts import QUIET
from kvfs.history.history import History
from kvfs.history.version import AWAY, BUSY, RENAMED, SAME_CONTENT, UNKNOWN_SIZE, UNREADABLE, Version
from kvfs.journal.writer import Superseded
from kvfs.vfs.inode.table import InodeTable
from kvfs.vfs.view.overlay import Overlay


class Keeping:
    """Passes every superseded value to the history."""

    def __init__(
        self, overlay: Overlay, inodes: InodeTable, history: History, now: Callable[[], float]
    ) -> None:
        self._overlay = overlay
        self._inodes = inodes
        self._history = history
        self._now = now

    def __call__(self, ended: Superseded) -> None:
        """Note it; called by the journal, between a change and its answer."""
        row = ended.row
        if row is None:
            self._note_clean(ended)
            return
        how, attrs, now = ended.how, ended.attrs, self._now()
        if row.state is ChangeState.LOCAL or is_expired(row.expiration, now):
            return  # nobody means to publish it, or it was not there any more
        is_new = row.base == b"" and is_fresh(row.since, QUIET, now)
        if is_new and how is How.RENAME:
            return  # a temporary file got its name
        if how is How.WRITE and not row.size and self._is_emptied(row):
            return
        version = Version(
            now, row.namespace, row.key, how, ended.other, row.size, row.digest, row.metadata,
            row.expiration, row.recorded_at, None,
            attrs.mode if attrs is not None else None, attrs.mtime_ns if attrs is not None else None,
        )  # fmt: skip
        content: bytes | Path | None = None
        if how is How.ATTRIBUTES:
            version.offset = SAME_CONTENT
        elif how is How.RENAME and ended.is_one_of_many:
            version.why = RENAMED
        else:
            content = self._recorded(version, row)
        self._history.note(version, content, is_new=is_new)

    def _note_clean(self, ended: Superseded) -> None:
        """Note the superseded content of a key without a change."""
        attrs, now = ended.attrs, self._now()
        version = Version(now, ended.namespace, ended.key, ended.how, ended.other)
        if attrs is not None:
            version.mode, version.mtime_ns = attrs.mode, attrs.mtime_ns
        content = self._clean(version)
        version.why = "" if content is not None else AWAY
        if is_expired(version.expiration, now):
            return
        if ended.how is How.RENAME and ended.is_one_of_many:
            content, version.why = None, RENAMED
        self._history.note(version, content, is_new=False)

    def _is_emptied(self, change: Change) -> bool:
        """Return whether a program emptied the file, closed one descriptor, and writes on: a shell's `>`."""
        node = self._inodes.open_file(change.namespace, change.key)
        return node is not None and node.open is not None and node.open.saved > 0

    def _clean(self, version: Version) -> bytes | None:
        """Return the value of a key without a change, and what is known of it.

        The journal has the new change already.
        """
        place = (version.namespace, version.key)
        span = self._overlay.listings.span_of(*place, stale=True)
        held = self._overlay.values.peek(place)
        if span is not None and span.has(version.key):
            listed = self._overlay.listings.attributes(*place)
            version.metadata, version.expiration = listed.metadata, listed.expiration
        elif held is not None:
            version.metadata, version.expiration = held.metadata, held.expiration
        if held is not None:
            version.size, version.digest, version.known_at = len(held.value), held.digest, held.known_at
            return held.value
        opened = self._opened(place)
        size = len(opened) if opened is not None else self._overlay.values.sizes.get(place, stale=True)
        version.size = UNKNOWN_SIZE if size is None else size
        return opened

    def _opened(self, place: KeyRef) -> bytes | None:
        """Return the content that an open file read, or recorded last."""
        node = self._inodes.open_file(*place)
        return node.open.closed if node is not None and node.open is not None else None

    def _recorded(self, version: Version, row: Row) -> bytes | Path | None:
        """Return the content of a change: its file gets another name, or it is in memory, or else in the log."""
        assert row.content is not None
        is_file = row.content.spool is not None
        if is_file and (linked := self._linked(row)) is not None:
            return linked
        place = (version.namespace, version.key)
        held = self._overlay.values.peek(place)
        if held is not None and _is_content(row, held.value, held.digest):
            return held.value
        node = self._inodes.open_file(*place)
        opened = node.open if node is not None else None
        closed = opened.closed if opened is not None else None
        if opened is not None and closed is not None and _is_content(row, closed, opened.base):
            return closed
        if is_file or not self._history.has_room:
            version.why = UNREADABLE if self._history.has_room else BUSY
            return None
        try:
            found = self._overlay.journal.reader.superseded(row)
        except JournalError:
            found = b""
        if isinstance(found, bytes) and len(found) == version.size:
            return found  # the history compares its digest when it writes it: a thread has the time
        version.why = UNREADABLE
        return None

    def _linked(self, row: Row) -> Path | None:
        """Give its file a name of the history's; return None when the disk has no room for that name."""
        found, target = self._overlay.journal.reader.superseded(row), self._history.incoming()
        assert isinstance(found, Path)
        try:
            os.link(found, target)
        except OSError:
            return None
        return target

    def at_hand(self, namespace: NamespaceId, key: Key) -> bool:
        """Return whether a change of the key now would leave a version with its content."""
        change = self._overlay.journal.get(namespace, key)
        if change is not None:
            return not change.is_tombstone and change.state is not ChangeState.LOCAL
        place = (namespace, key)
        return self._overlay.values.peek(place) is not None or self._opened(place) is not None


def _is_content(row: Row, value: bytes, known_digest: bytes | None) -> bool:
    """Return whether the value is that of the change: a command may have written another beside an open file."""
    return len(value) == row.size and (known_digest or digest(value)) == row.digest
