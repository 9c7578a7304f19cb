"""Opening: the content that an open of a node reads, also if the file has lost its name meanwhile."""

from collections.abc import Callable
from typing import Final

from kvfs.cache.values import Clean
from kvfs.core.digest import INLINE_BYTES, digest
from kvfs.core.errors import NotFoundError, StaleError
from kvfs.core.freshness import is_fresh
from kvfs.core.model import Key, NamespaceId
from kvfs.vfs.file.identity import Identities
from kvfs.vfs.file.open_file import OpenFile
from kvfs.vfs.file.record import is_gone
from kvfs.vfs.file.rope import Rope
from kvfs.vfs.file.versions import Versions
from kvfs.vfs.inode.nodes import File
from kvfs.vfs.view.overlay import Overlay

_AGAIN: Final = 1.0  # seconds: a second look at a name within them is of the same call
_MOST_LOOKED: Final = 1024


class Opener:
    """Reads contents."""

    def __init__(
        self, overlay: Overlay, versions: Versions, identities: Identities, now: Callable[[], float]
    ) -> None:
        self._overlay = overlay
        self._journal = overlay.journal
        self._versions = versions
        self._identities = identities
        self._now = now
        self._looked: dict[tuple[NamespaceId, Key], float] = {}  # names the kernel was sent to anew, and when

    def is_at_hand(self, node: File) -> bool:
        """Return whether a content is open that an opener may share; one that takes no waiting is opened now."""
        if node.open is not None:
            return not node.open.superseded and self._versions.is_current(node)
        clean = None if node.detached else self._overlay.reads.at_hand(node.namespace, node.key)
        if clean is None or (len(clean.value) > INLINE_BYTES and not clean.digest):
            return False
        node.open = _opened(clean, self._identities.of(node, clean))
        return True

    async def load(self, node: File, *, write: bool = False) -> OpenFile:
        """Read what is at the file's name, and open it; `write`: a file that lost its name is looked up anew."""
        if node.detached:
            return await self._load_detached(node)
        asking = self._overlay.listings.settled.asking
        while True:
            if is_gone(node):
                break
            with asking() as moment:  # a change that came and settled meanwhile has left the journal again
                before = self._recorded(node)
                try:
                    clean = await self._overlay.reads.content(node.namespace, node.key, hurried=not write)
                    identity = await self._identities.at_opening(node, clean)
                except NotFoundError as exc:
                    if self._still_stands(node, before, moment):
                        raise StaleError(str(exc)) from exc
                    continue
                if self._still_stands(node, before, moment):  # else somebody wrote, closed or renamed it
                    return _opened(clean, identity)
        if write:
            self.look_again(node)
        return await self._load_detached(node)

    async def _load_detached(self, node: File) -> OpenFile:
        clean = await self.successor(node)
        return _opened(clean, digest(clean.value))

    def _recorded(self, node: File) -> tuple[Key, int | None]:
        """Return the journal's change of a file. When it differs, the bytes read before are out of date."""
        change = self._journal.get(node.namespace, node.key)
        return node.key, change.seq if change is not None else None

    def _still_stands(self, node: File, before: tuple[Key, int | None], moment: int) -> bool:
        """Return whether nothing was recorded since, and nothing settled since that moment."""
        settled = self._overlay.listings.settled
        return before == self._recorded(node) and not settled.is_newer((node.namespace, node.key), moment)

    async def emptied(self, node: File) -> OpenFile:
        """Open with O_TRUNC: nothing is read, only the attributes are kept."""
        if node.detached:
            return OpenFile(self.empty())
        view = await self._overlay.view(node.namespace, node.key)
        if view is None or node.detached:
            raise StaleError("the file was deleted")
        return OpenFile(self.empty(), view.metadata, view.expiration, None, self._base_at_opening(node))

    def _base_at_opening(self, node: File) -> bytes | None:
        """Return the base of a content written unread: the one that programs last wrote or read under the name.

        A change of ours counts already now, because it may have settled and left the journal before the first
        flush: then nobody else would know that the store's value is ours.
        """
        change = self._journal.get(node.namespace, node.key)
        if change is not None and not change.is_tombstone:
            return self._journal.digest(change)
        return self._overlay.last_seen.digest((node.namespace, node.key))

    def empty(self) -> Rope:
        """Return a content without bytes."""
        return Rope.of(open_stream=self._journal.stream)

    async def is_newest(self, node: File) -> bool:
        """Return True if an opener of the name may share what is open, if anything is."""
        if node.open is None:
            return True
        return not node.open.superseded and await self._versions.renew(node) is node

    async def successor(self, node: File) -> Clean:
        """Return the content that is now at the file's name: an open may be answered with it.

        Raises `StaleError`, the second time in a moment `NotFoundError`, where nothing is.
        """
        try:
            return await self._overlay.reads.content(node.namespace, node.key, hurried=True)
        except NotFoundError:
            self.look_again(node)
            raise

    def look_again(self, node: File) -> None:
        """Raise `StaleError`, by which the kernel looks the name up anew: what is there now is meant.

        It does so once a call. Of a name that is replaced at full speed that is not enough: the second time within
        a moment this returns, and what is done is done to a file that nobody can reach any more, as on a disk.
        """
        now = self._now()
        place = (node.namespace, node.key)
        last = self._looked.pop(place, None)
        if last is not None and is_fresh(last, _AGAIN, now):
            return
        if len(self._looked) >= _MOST_LOOKED:
            self._looked.clear()
        self._looked[place] = now
        raise StaleError("the file has lost its name")


def _opened(clean: Clean, identity: int | bytes) -> OpenFile:
    rope = Rope.of(clean.value)
    return OpenFile(
        rope, clean.metadata, clean.expiration, clean.value, identity=identity, known_at=clean.known_at
    )
