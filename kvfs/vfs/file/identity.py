"""Identities of contents, which tell whether the kernel's pages of a file are of the content that is opened.

A content is told by its digest, or a small one whose digest nobody made by its hash. No open waits for a digest where
the kernel has no pages to compare: a number stands for it until the last close.
"""

from itertools import count
from typing import Final

import trio

from kvfs.cache.values import Clean
from kvfs.core.digest import INLINE_BYTES, digest
from kvfs.log.spool import digest_soon
from kvfs.vfs.file.open_file import OpenFile
from kvfs.vfs.file.outside import Invalidator
from kvfs.vfs.inode.nodes import File
from kvfs.vfs.view.overlay import Overlay

CHANGED: Final = -1
"""`File.shown` while the kernel's pages follow the changes made through it (a hash is never -1)."""

_MOST_DIGESTED: Final = 2  # values that wait for a thread to digest them
_PROVISIONAL: Final = 1 << 64  # from here on: numbers that are no hash


class Identities:
    """Makes them, and remembers in `File.shown` which one the kernel saw last."""

    def __init__(self, overlay: Overlay, invalidator: Invalidator) -> None:
        self._overlay = overlay
        self._invalidator = invalidator
        self._provisional = count(_PROVISIONAL)
        self._digested: dict[int, bytes] = {}  # values by provisional identity, while their digests are made

    @staticmethod
    def of(node: File, clean: Clean) -> int | bytes:
        """Return the identity of a small content, or of one with a digest, of the kind that the kernel saw last.

        Where it saw none the digest, if there is one, *because* the change in the journal has the same object.
        """
        if isinstance(node.shown, bytes):
            return clean.digest or digest(clean.value)
        if clean.digest and (node.shown is None or node.shown == CHANGED or len(clean.value) > INLINE_BYTES):
            return clean.digest
        return hash(clean.value)

    async def at_opening(self, node: File, clean: Clean) -> int | bytes:
        """Return the identity of a content about to be opened.

        The kernel may have no pages of the file to compare it with: then no open waits for a digest, which
        takes long. A number stands for it until the last close, when nobody waits.
        """
        value = clean.value
        if len(value) <= INLINE_BYTES or clean.digest:
            return self.of(node, clean)
        if node.shown is None:
            return next(self._provisional)
        if isinstance(node.shown, int) and self._digested.get(node.shown) is value:
            return node.shown
        return await self._digest_of(node, clean)

    async def _digest_of(self, node: File, clean: Clean) -> bytes:
        """Return the digest of a large value. It takes long, so a thread makes it, once; a small one needs none."""
        if clean.digest or len(clean.value) <= INLINE_BYTES:
            return clean.digest
        found = await trio.to_thread.run_sync(digest, clean.value)
        self._overlay.values.note_digest((node.namespace, node.key), clean, found)
        return found

    def closed(self, node: File, shared: OpenFile) -> None:
        """Replace a provisional identity by the digest, as soon as there is one, because the last handle is closed."""
        number, value = shared.identity, shared.closed
        if value is None or len(value) <= INLINE_BYTES:
            return
        if not isinstance(number, int) or number < _PROVISIONAL or number != node.shown:
            return
        if len(self._digested) >= _MOST_DIGESTED:  # threads that hang hold no more: the next open makes it
            return
        if not (shared.buffer.changed or node.detached or number in self._digested):
            self._digested[number] = value
            digest_soon(value, lambda found: self._known(node, number, found))

    def _known(self, node: File, number: int, found: bytes) -> None:
        value = self._digested.pop(number)
        place = (node.namespace, node.key)
        held = self._overlay.values.peek(place)
        if held is not None and held.value is value:
            self._overlay.values.note_digest(place, held, found)
        self._overlay.last_seen.digested(place, value, found)
        if node.shown == number:
            node.shown = found

    def show(self, node: File, shared: OpenFile) -> bool:
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
