"""Pending over cache over store: the one answer to "what is at this key?".

A change of this mount, from `close` until well after the server took it, hides whatever older answer the
store may still give. Below it lies what listings and values said, fresh first; when the store cannot be
reached, what they said before serves on.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

from kvfs.cache.flights import Flight
from kvfs.cache.lister import Lister
from kvfs.cache.listings import Listings
from kvfs.cache.loader import Loader
from kvfs.cache.patience import StalePatience
from kvfs.cache.values import Clean, Values
from kvfs.core.errors import DeniedError, NotFoundError, UnavailableError
from kvfs.core.expiry import is_expired
from kvfs.core.model import Key, NamespaceId
from kvfs.core.names import Child, DirRef, Naming
from kvfs.journal.journal import Journal
from kvfs.vfs.view.known import Known
from kvfs.vfs.view.types import UNKNOWN, Unknown, View

__all__ = ["UNKNOWN", "Overlay", "Unknown", "View"]


_REFRESHED: Final = 10.0  # seconds after `forget` in which the news is waited for


class Overlay(Known):
    """Reads of everything; writes nothing but caches."""

    def __init__(
        self,
        journal: Journal,
        listings: Listings,
        lister: Lister,
        values: Values,
        loader: Loader,
        naming: Naming,
        now: Callable[[], float],
        ttl: float,
    ) -> None:
        super().__init__(journal, listings, values, naming, now, ttl)
        self.lister = lister
        self.loader = loader
        self.patience = StalePatience(float("inf"))  # endless, until it is given another

    # one key

    async def view(self, namespace: NamespaceId, key: Key) -> View | None:
        """Return the view of a key; ask the store if need be."""
        found = self.peek(namespace, key)
        if found is UNKNOWN:
            directory = self.naming.parent_of_key(key).prefix
            await self._resolve(namespace, directory, key, None, hurried=self._was_there(namespace, key))
            found = self.peek(namespace, key)
            if found is UNKNOWN:
                found = self.peek(namespace, key, stale=True)
        return None if found is UNKNOWN else found

    async def size(self, namespace: NamespaceId, key: Key) -> int:
        """The exact size of a value, fetching it if need be. Raises `NotFoundError`."""
        view = await self.view(namespace, key)
        if view is None:
            raise NotFoundError(f"{key!r} is gone")
        if view.size is not None:
            if not view.ours:
                self.loader.touch((namespace, key), self.naming.parent_of_key(key).prefix)
            return view.size
        return len((await self._load(namespace, key, hurried=True)).value)

    def touch(self, namespace: NamespaceId, key: Key) -> None:
        """A size or value was told without a request: what is read ahead stays ahead."""
        if self.loader.is_marked((namespace, key)):
            self.loader.touch((namespace, key), self.naming.parent_of_key(key).prefix)

    def at_hand(self, namespace: NamespaceId, key: Key, *, ahead: bool = True) -> Clean | None:
        """Return the content without waiting, else None; `ahead`: a value read ahead stays marked as such."""
        place = (namespace, key)
        change = self.journal.get(namespace, key)
        held = self.values.get(place, stale=change is not None)
        if held is None:
            return None
        now = self._now()
        if change is not None:
            if change.is_tombstone or is_expired(change.expiration, now):
                return None
            if held.expiration == change.expiration and held.metadata == change.metadata:
                return held
            return Clean(held.value, change.metadata, change.expiration, now, held.digest)
        if is_expired(held.expiration, now):
            return None
        if self._is_listed_anew(place):
            return None
        if ahead:
            self.touch(namespace, key)
        return held

    async def content(self, namespace: NamespaceId, key: Key, *, hurried: bool = False) -> Clean:
        """The whole value with its attributes. Raises `NotFoundError`.

        `hurried`: an older one does where the store does not answer within a moment.
        """
        change = self.journal.get(namespace, key)
        if change is None:
            return await self._load(namespace, key, hurried=hurried)
        if change.is_tombstone or is_expired(change.expiration, self._now()):
            raise NotFoundError(f"{key!r} is gone")
        held = self.values.get((namespace, key), stale=True)
        if held is not None:
            return Clean(held.value, change.metadata, change.expiration, self._now(), held.digest)
        digest = self.journal.digest(change)
        value = await self.journal.read_value(change)
        clean = Clean(value, change.metadata, change.expiration, self._now(), digest)
        if self.journal.get(namespace, key) is change:  # kept for when it has settled and left the journal
            self.values.put((namespace, key), clean)
        return clean

    def ask(self, namespace: NamespaceId, key: Key, then: Callable[[Flight], None]) -> bool:
        """Have fetched what `content` would wait for, with others, and call `then` with it.

        False, and nothing is done, where it would not wait for the store, or for more than one value.
        """
        place = (namespace, key)
        if self.journal.get(namespace, key) is not None or self.lister.is_down():
            return False
        self._expire_outdated(place)
        return self.values.get(place) is None and self.loader.ask(place, then)

    def _expire_outdated(self, place: tuple[NamespaceId, Key]) -> None:
        if self._is_listed_anew(place):
            self.values.expire_one(place)

    def _is_listed_anew(self, place: tuple[NamespaceId, Key]) -> bool:
        """Return whether the value held is older than what the listing says of its key."""
        span = self.listings.span_of(*place)
        return span is not None and self._is_outdated(place, span, self.listings.attributes(*place))

    def is_known_since(self, namespace: NamespaceId, key: Key, known_at: float) -> bool:
        """Return True if what the store answered of a value at `known_at` (epoch seconds) need not be asked anew."""
        if known_at <= self._forgotten_at or not self.values.is_fresh(known_at):
            return False
        return not self._is_listed_anew((namespace, key))

    def is_patient(self) -> bool:
        """Return whether to wait for the store although an older answer is at hand: not after `forget`."""
        return self._now() - self._forgotten_at < _REFRESHED

    def does_for_now(self) -> bool:
        """Return whether what is known has to do: the store is away, or did not answer in time a moment ago."""
        return self.lister.is_down() or (self.patience.is_spent and not self.is_patient())

    async def _load(self, namespace: NamespaceId, key: Key, *, hurried: bool) -> Clean:
        place = (namespace, key)
        directory = self.naming.parent_of_key(key).prefix
        self._expire_outdated(place)
        old = self.values.get(place, stale=True)
        if old is not None and (self.lister.is_down() or (hurried and self.does_for_now())):
            return old
        load = partial(self.loader.load, place, directory)
        is_hurried = hurried and old is not None and not self.is_patient()
        try:
            clean = await (self.patience.ask(load) if is_hurried else self.patience.rest(load))
        except UnavailableError:
            old = self.values.get(place, stale=True)
            if old is None:
                raise
            return old
        if clean is None or is_expired(clean.expiration, self._now()):
            raise NotFoundError(f"{key!r} is gone")
        return clean

    # one name

    async def child(self, namespace: NamespaceId, ref: DirRef, child: Child) -> Key | DirRef | None:
        """Resolve a name below a directory: a directory wins over a file of an equal name."""
        stale = False
        for _ in range(2):
            found = self.peek_child(namespace, child, stale=stale)
            if found is not UNKNOWN:
                return found
            asked = child.key if child.key is not None else Key(child.directory.prefix)  # type: ignore[union-attr]
            below = child.directory.prefix if child.directory is not None else None
            try:
                known = self.peek_child(namespace, child, stale=True)
                was_there = known is not None and known is not UNKNOWN
                stale = await self._resolve(namespace, ref.prefix, asked, below, hurried=was_there)
            except (UnavailableError, DeniedError):
                if (found := self.peek_child(namespace, child, stale=True)) is UNKNOWN:
                    raise
                return found
        found = self.peek_child(namespace, child, stale=True)
        return None if found is UNKNOWN else found

    def forget(self, namespace: NamespaceId, prefix: str = "") -> None:
        """Make the caches ask anew for a place."""
        self._forgotten_at = self._now()
        self.listings.forget(namespace, prefix)
        self.values.expire(namespace, prefix)

    def _was_there(self, namespace: NamespaceId, key: Key) -> bool:
        return isinstance(self.peek(namespace, key, stale=True), View)

    async def _resolve(
        self, namespace: NamespaceId, directory: str, key: str, below: str | None, *, hurried: bool
    ) -> bool:
        """Ask the store about a name; true when only stale knowledge is to be had.

        `hurried`: that does where the store does not answer within a moment. Not where it says that nothing is
        there: somebody may have made it since.
        """
        known = self.lister.knows(namespace, key, below, stale=True)
        if known and (
            self.does_for_now() if hurried else self.lister.is_down() or self.patience.is_exhausted
        ):
            return True
        resolve = partial(self.lister.resolve, namespace, directory, key, below)
        is_hurried = hurried and known and not self.is_patient()
        try:
            await (self.patience.ask(resolve) if is_hurried else self.patience.rest(resolve))
        except (UnavailableError, DeniedError):
            if not known:
                raise
            return True
        return False

    # directories

    async def is_there(self, namespace: NamespaceId, ref: DirRef) -> bool:
        """Return whether a directory exists (still), asking the store if need be."""
        found = self.has_directory(namespace, ref)
        if found is None:
            was_there = self.has_directory(namespace, ref, stale=True) is True
            stale = await self._resolve(namespace, ref.prefix, ref.prefix, ref.prefix, hurried=was_there)
            found = self.has_directory(namespace, ref, stale=stale)
        return found is not False

    async def is_empty(self, namespace: NamespaceId, ref: DirRef) -> bool:
        """Return whether nothing lies in a directory, asking the store if need be."""
        found = self.live_below(namespace, ref)
        if found is None:
            was_full = self.live_below(namespace, ref, stale=True) is True
            stale = await self._resolve(namespace, ref.prefix, ref.prefix, ref.prefix, hurried=was_full)
            found = self.live_below(namespace, ref, stale=stale)
            if found is None:  # every key of the first page was deleted here: look at all of them
                await self.lister.whole(namespace, ref.prefix)
                found = self.live_below(namespace, ref)
        return not found

    async def keys_below(
        self, namespace: NamespaceId, ref: DirRef, progress: Callable[[], None]
    ) -> list[Key]:
        """Every live key of a directory, in key order, asking the store for the whole listing.

        `progress` is called after every page of it.
        """
        await self.lister.whole(namespace, ref.prefix, progress=progress)
        span = self.listings.complete(namespace, ref.prefix)
        listed = list(self.listed_below(namespace, ref, span)) if span is not None else []
        written = [change.key for change in self.written_below(namespace, ref)]
        creating = self.creating_below(namespace, ref.prefix)
        return sorted({*listed, *written, *creating})
