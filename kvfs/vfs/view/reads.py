"""Reads of whole values: pending over cache over store.

A change of this mount hides whatever older value the store may still answer.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from kvfs.cache.flights import Flight
from kvfs.cache.loader import Loader
from kvfs.cache.values import Clean
from kvfs.core.errors import DeniedError, NotFoundError, UnavailableError
from kvfs.core.expiry import is_expired
from kvfs.core.freshness import is_fresh
from kvfs.core.latest import Latest
from kvfs.core.model import Change, Key, KeyRef, NamespaceId, Seq
from kvfs.journal.reader import AT_ONCE_BYTES
from kvfs.vfs.view.haste import Haste
from kvfs.vfs.view.known import Known
from kvfs.vfs.view.types import View

_SMALL: Final = 4096  # contents that wait and are read from memory: 16 MiB at most


class Reads:
    """Values and their sizes. `view` is `Overlay.view`."""

    def __init__(
        self,
        known: Known,
        loader: Loader,
        haste: Haste,
        view: Callable[[NamespaceId, Key], Awaitable[View | None]],
    ) -> None:
        self._known = known
        self._journal = known.journal
        self._values = known.values
        self._loader = loader
        self._haste = haste
        self._view = view
        self._small: Latest[Seq, Clean] = Latest(_SMALL)  # contents that wait and were read, by their change

    async def size(self, namespace: NamespaceId, key: Key) -> int:
        """Return the exact size of a value, fetching it if need be. Raises `NotFoundError`.

        As with values, an older one does where the store does not answer.
        """
        view = await self._view(namespace, key)
        if view is None:
            raise NotFoundError(f"{key!r} is gone")
        if view.size is not None:
            if not view.ours:
                self._loader.touch((namespace, key), self._known.naming.parent_of_key(key).prefix)
            return view.size
        before = self._known.peek(namespace, key, stale=True)
        known = before.size if isinstance(before, View) else None  # it outlives the value, which makes room
        if known is not None and self._haste.does_for_now():
            return known
        try:
            return len((await self._load(namespace, key, hurried=True, is_known=known is not None)).value)
        except (UnavailableError, DeniedError):
            if known is None:
                raise
            return known

    def touch(self, namespace: NamespaceId, key: Key) -> None:
        """Note that a size or value was told without a request, so that read-ahead stays ahead."""
        if self._loader.is_marked((namespace, key)):
            self._loader.touch((namespace, key), self._known.naming.parent_of_key(key).prefix)

    def at_hand(self, namespace: NamespaceId, key: Key, *, ahead: bool = True) -> Clean | None:
        """Return the content without waiting, else None; `ahead`: a value read ahead stays marked as such.

        Raises JournalError when the log answers something else than was recorded.
        """
        change = self._journal.get(namespace, key)
        if change is not None:
            return None if self._is_gone(change) else self._held_of(change)
        place = (namespace, key)
        held = self._values.get(place)
        if (
            held is None
            or is_expired(held.expiration, self._known.now())
            or self._known.is_listed_anew(place)
        ):
            return None
        if ahead:
            self.touch(namespace, key)
        return held

    def settles(self, change: Change) -> None:
        """Hold its content no more, because it is about to leave the journal: the cache has it, within its bound."""
        self._small.pop(change.seq, None)

    async def content(self, namespace: NamespaceId, key: Key, *, hurried: bool = False) -> Clean:
        """Return the whole value with its attributes. Raises `NotFoundError`, of a change JournalError.

        `hurried`: an older one does where the store does not answer within a moment.
        """
        change = self._journal.get(namespace, key)
        if change is None:
            return await self._load(namespace, key, hurried=hurried)
        if self._is_gone(change):
            raise NotFoundError(f"{key!r} is gone")
        if (held := self._held_of(change)) is not None:
            return held
        digest = self._journal.digest(change)
        value = await self._journal.read_value(change)
        clean = Clean(value, change.metadata, change.expiration, self._known.now(), digest)
        current = self._journal.get(namespace, key)
        if current is not None and current.seq == change.seq:  # kept for when it has left the journal
            self._values.put((namespace, key), clean)
        return clean

    def _is_gone(self, change: Change) -> bool:
        """Return whether nothing is at the key of a change any more."""
        if change.expiration is None:
            return change.is_tombstone
        return change.is_tombstone or is_expired(change.expiration, self._known.now())

    def _held_of(self, change: Change) -> Clean | None:
        """Return the content of a put, with its attributes, if it is small or the cache has it.

        Raises JournalError.
        """
        if change.size <= AT_ONCE_BYTES:
            if (small := self._small.get(change.seq)) is None:
                value, digest = self._journal.value(change), self._journal.digest(change)
                small = Clean(value, change.metadata, change.expiration, self._known.now(), digest)
                self._small.keep(change.seq, small)
            return small
        held = self._values.get((change.namespace, change.key), stale=True)
        if held is None or (held.expiration == change.expiration and held.metadata == change.metadata):
            return held
        return Clean(held.value, change.metadata, change.expiration, self._known.now(), held.digest)

    def ask(self, namespace: NamespaceId, key: Key, then: Callable[[Flight], None]) -> bool:
        """Have fetched what `content` would wait for, with others, and call `then` with it.

        False, and nothing is done, where it would not wait for the store, or for more than one value.
        """
        place = (namespace, key)
        if self._journal.get(namespace, key) is not None or self._haste.patience.is_away():
            return False
        self._distrust_outdated(place)
        return self._values.get(place) is None and self._loader.ask(place, then)

    def is_known_since(self, namespace: NamespaceId, key: Key, known_at: float) -> bool:
        """Return True if what the store answered of a value at `known_at` (epoch seconds) need not be asked anew."""
        if known_at <= self._known.forgotten_at or not is_fresh(known_at, self._known.ttl, self._known.now()):
            return False
        return not self._known.is_listed_anew((namespace, key))

    async def _load(
        self, namespace: NamespaceId, key: Key, *, hurried: bool, is_known: bool = False
    ) -> Clean:
        """Fetch the value, for a moment only where an older answer is at hand: `is_known` says so, or the cache."""
        place = (namespace, key)
        directory = self._known.naming.parent_of_key(key).prefix
        self._distrust_outdated(place)
        old = self._values.get(place, stale=True)
        if old is not None and (self._haste.patience.is_away() or (hurried and self._haste.does_for_now())):
            return old
        load = partial(self._loader.load, place, directory)
        try:
            clean = await self._haste.ask(load, hurried=hurried and (is_known or old is not None))
        except UnavailableError:
            old = self._values.get(place, stale=True)
            if old is None:
                raise
            return old
        if clean is None or is_expired(clean.expiration, self._known.now()):
            raise NotFoundError(f"{key!r} is gone")
        return clean

    def _distrust_outdated(self, place: KeyRef) -> None:
        if self._known.is_listed_anew(place):
            self._values.make_one_stale(place)
