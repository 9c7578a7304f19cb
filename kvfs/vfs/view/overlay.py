"""Pending over cache over store: the one answer to "what is at this key?".

A change of this mount, from `close` until well after the server took it, hides whatever older answer the
store may still give. Below it lies what listings and values said, fresh first; when the store cannot be
reached, what they said before serves on.
"""

from collections.abc import Callable
from functools import partial

from kvfs.cache.lister import Lister
from kvfs.cache.loader import Loader
from kvfs.core.errors import DeniedError, UnavailableError
from kvfs.core.model import Key, NamespaceId
from kvfs.core.names import Child, DirRef
from kvfs.vfs.view.haste import Haste
from kvfs.vfs.view.known import Known
from kvfs.vfs.view.lastseen import LastSeen
from kvfs.vfs.view.reads import Reads
from kvfs.vfs.view.types import UNKNOWN, Unknown, View

__all__ = ["UNKNOWN", "Overlay", "Unknown", "View"]


class Overlay:
    """Answers what is there, asking the store if need be; writes nothing but caches.

    `known` is asked for what needs no waiting, `reads` for values, `haste` for how long to wait.
    """

    def __init__(self, known: Known, lister: Lister, loader: Loader) -> None:
        self.known = known
        self.journal = known.journal
        self.listings = known.listings
        self.values = known.values
        self.naming = known.naming
        self.ttl = known.ttl
        self.unsaved = known.unsaved
        self.lister = lister
        self.loader = loader
        self.haste = Haste(known)
        self.reads = Reads(known, loader, self.haste, self.view)
        self.last_seen = LastSeen()

    # one key

    async def view(self, namespace: NamespaceId, key: Key) -> View | None:
        """Return the view of a key; ask the store if need be."""
        found = self.known.peek(namespace, key)
        if found is UNKNOWN:
            directory = self.naming.parent_of_key(key).prefix
            was_there = isinstance(self.known.peek(namespace, key, stale=True), View)
            await self._resolve(namespace, directory, key, None, hurried=was_there)
            found = self.known.peek(namespace, key)
            if found is UNKNOWN:
                found = self.known.peek(namespace, key, stale=True)
        return None if found is UNKNOWN else found

    # one name

    async def child(self, namespace: NamespaceId, ref: DirRef, child: Child) -> Key | DirRef | None:
        """Return what `Known.peek_child` says of a name below a directory, asking the store if need be."""
        stale = False
        for _ in range(2):
            found = self.known.peek_child(namespace, child, stale=stale)
            if found is not UNKNOWN:
                return found
            asked = child.key if child.key is not None else Key(child.directory.prefix)  # type: ignore[union-attr]
            below = child.directory.prefix if child.directory is not None else None
            try:
                known = self.known.peek_child(namespace, child, stale=True)
                was_there = known is not None and known is not UNKNOWN
                stale = await self._resolve(namespace, ref.prefix, asked, below, hurried=was_there)
            except (UnavailableError, DeniedError):
                if (found := self.known.peek_child(namespace, child, stale=True)) is UNKNOWN:
                    raise
                return found
        found = self.known.peek_child(namespace, child, stale=True)
        return None if found is UNKNOWN else found

    async def _resolve(
        self, namespace: NamespaceId, directory: str, key: str, below: str | None, *, hurried: bool
    ) -> bool:
        """Ask the store about a name; true when only stale knowledge is to be had.

        `hurried`: that does where the store does not answer within a moment. Not where it says that nothing is
        there: somebody may have made it since.
        """
        known = self.lister.knows(namespace, key, below, stale=True)
        if known and (
            self.haste.does_for_now()
            if hurried
            else self.haste.patience.is_away() or self.haste.patience.is_exhausted
        ):
            return True
        resolve = partial(self.lister.resolve, namespace, directory, key, below)
        try:
            await self.haste.ask(resolve, hurried=hurried and known)
        except (UnavailableError, DeniedError):
            if not known:
                raise
            return True
        return False

    # directories

    async def is_there(self, namespace: NamespaceId, ref: DirRef) -> bool:
        """Return whether a directory exists (still), asking the store if need be."""
        return await self._asked(namespace, ref, self.known.has_directory) is not False

    async def is_empty(self, namespace: NamespaceId, ref: DirRef) -> bool:
        """Return whether nothing lies in a directory, asking the store if need be."""
        found = await self._asked(namespace, ref, self.known.live_below)
        if found is None:  # every key of the first page was deleted here: look at all of them
            await self.lister.whole(namespace, ref.prefix)
            found = self.known.live_below(namespace, ref)
        return not found

    async def _asked(
        self, namespace: NamespaceId, ref: DirRef, known: Callable[..., bool | None]
    ) -> bool | None:
        """Return what is known of a directory, asking the store if need be; None when a page of it does not tell."""
        found = known(namespace, ref)
        if found is None:
            was_so = known(namespace, ref, stale=True) is True
            stale = await self._resolve(namespace, ref.prefix, ref.prefix, ref.prefix, hurried=was_so)
            found = known(namespace, ref, stale=stale)
        return found

    async def keys_below(
        self, namespace: NamespaceId, ref: DirRef, progress: Callable[[], None]
    ) -> list[Key]:
        """Return every live key of a directory, in key order, asking the store for the whole listing.

        `progress` is called after every page of it.
        """
        await self.lister.whole(namespace, ref.prefix, progress=progress)
        span = self.listings.complete(namespace, ref.prefix)
        listed = list(self.known.listed_below(namespace, ref, span)) if span is not None else []
        written = [change.key for change in self.known.written_below(namespace, ref)]
        creating = self.unsaved.below(namespace, ref.prefix)
        return sorted({*listed, *written, *creating})
