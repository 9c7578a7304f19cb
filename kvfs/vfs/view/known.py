"""Knowledge of keys and directories without a request: this mount's changes over the listings.

Nothing here waits, and nothing is a request. `Overlay` and `Reads` ask the store for what is not known.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from kvfs.cache.listings import ListedAttributes, Listings
from kvfs.cache.spans import Span, successor
from kvfs.cache.values import Values
from kvfs.core.expiry import is_expired
from kvfs.core.freshness import fresh_until, is_fresh, seconds_left
from kvfs.core.model import Change, Key, KeyRef, NamespaceId
from kvfs.core.names import Child, DirRef, Naming
from kvfs.journal.journal import Journal
from kvfs.kept.local import DirRow
from kvfs.vfs.view.types import UNKNOWN, Unknown, View
from kvfs.vfs.view.unsaved import Unsaved

_WITNESSES: Final = 1024  # directories of which a key is remembered


def _stays(_: str) -> bool:
    """Return that a key or prefix does not go."""
    return False


class Known:
    """Tells what is known now of keys, names and directories. None of it waits."""

    def __init__(
        self,
        journal: Journal,
        listings: Listings,
        values: Values,
        naming: Naming,
        now: Callable[[], float],
        ttl: float,
    ) -> None:
        self.journal = journal
        self._local = journal.attributes
        self.listings = listings
        self.values = values
        self.naming = naming
        self.now = now
        self.ttl = ttl
        self.unsaved = Unsaved()
        self.forgotten_at = float("-inf")
        self._creating = self.unsaved.creating
        self._witnesses: dict[tuple[NamespaceId, DirRef], Key] = {}  # a key of each that was live
        self._generations = journal.generation, listings.answers, self.unsaved.generation

    @property
    def stamp(self) -> int:
        """Grows whenever names or attributes may be others than before; time and `Values.changes` apart."""
        journal, listings, unsaved = self._generations
        return journal.number + listings.number + unsaved.number

    def forget(self, namespace: NamespaceId, prefix: str = "") -> None:
        """Make the caches ask anew for a place."""
        self.forgotten_at = self.now()
        self.listings.forget(namespace, prefix)
        self.values.make_stale(namespace, prefix)

    def _is_in(self, ref: DirRef, key: Key) -> bool:
        """Return whether a key with the directory's prefix lies in it: not all do where a long name is cut."""
        return not ref.is_chunk or bool(self.naming.split_child(ref, key)[0])

    def _is_any_below(self, rows: Iterable[DirRow], ref: DirRef) -> bool:
        """Return whether one of these directories, whose prefixes start with that of `ref`, lies below it."""
        for row in rows:
            made = DirRef(row.prefix, row.start)
            while len(made.prefix) > len(ref.prefix):
                if not ref.is_chunk or (made := self.naming.parent_of(made)) == ref:
                    return True
        return False

    def peek(self, namespace: NamespaceId, key: Key, *, stale: bool = False) -> View | Unknown | None:
        """Return the view of a key without waiting; None when it is known to be absent."""
        now = self.now()
        if self._creating and (made := self._creating.get((namespace, key))) is not None:
            return View(made.metadata, made.expiration, len(made.buffer), now + self.ttl, None, ours=True)
        change = self.journal.get(namespace, key)
        if change is not None:
            if change.is_tombstone or is_expired(change.expiration, now):
                return None
            return View(change.metadata, change.expiration, change.size, now + self.ttl, change, ours=True)
        span = self.listings.span_of(namespace, key, stale=stale)
        if span is None:
            return UNKNOWN
        if not span.has(key):
            return None
        found = self.listings.attributes(namespace, key)
        if is_expired(found.expiration, now):
            return None
        until = self.listings.fresh_until(span)
        place = (namespace, key)
        size = self.values.sizes.get(place, stale=stale)
        if size is not None and self._is_outdated(place, span, found):
            size = None
        elif size is not None:
            known = self.values.sizes.known(place)
            until = min(until, fresh_until(known[1] if known is not None else now, self.ttl))
        return View(found.metadata, found.expiration, size, until, None)

    def _is_outdated(self, place: KeyRef, span: Span, listed: ListedAttributes) -> bool:
        """Return whether a held value is older than a listing that has other attributes: it was written since.

        Else new attributes would show with the old content, and a change of them would be made to the old ones.
        """
        held = self.values.peek(place)
        if held is None or (held.expiration == listed.expiration and held.metadata == listed.metadata):
            return False
        return held.known_at < span.known_at

    def is_listed_anew(self, place: KeyRef) -> bool:
        """Return whether the value held is older than what the listing says of its key."""
        span = self.listings.span_of(*place)
        return span is not None and self._is_outdated(place, span, self.listings.attributes(*place))

    def peek_child(
        self, namespace: NamespaceId, child: Child, *, stale: bool = False
    ) -> Key | DirRef | Unknown | None:
        """Return what a name leads to: a directory wins over a file of an equal name. UNKNOWN: ask the store.

        This is the one rule; `Overlay.child` asks the store until it has an answer.
        """
        key, below = child.key, child.directory
        if key is not None and self._is_nothing_under(namespace, key, stale=stale):
            return None
        is_directory = False if below is None else self.has_directory(namespace, below, stale=stale)
        if is_directory:
            return below
        view = self.peek(namespace, key, stale=stale) if key is not None else None
        if view is UNKNOWN:
            return UNKNOWN
        if view is not None and view.ours and (stale or self._is_young(namespace, key, view.change)):
            return key  # written here, where no directory of the name was: no need to ask
        if is_directory is None:
            return UNKNOWN
        return key if view is not None else None

    def _is_young(self, namespace: NamespaceId, key: Key | None, change: Change | None) -> bool:
        """Return True if what was known when a file was written, or was created (no change), still counts."""
        made = self._creating.get((namespace, key)) if change is None and key is not None else None
        since = change.recorded_at if change is not None else made.known_at if made is not None else 0.0
        return since > self.forgotten_at and is_fresh(since, self.ttl, self.now())

    def has_directory(self, namespace: NamespaceId, ref: DirRef, *, stale: bool = False) -> bool | None:
        """Return whether a directory exists: made here, or with a live key below; None when that is not known."""
        if self._local.dir(namespace, ref.prefix, ref.start) is not None:
            return True
        return self.live_below(namespace, ref, stale=stale)

    def _is_nothing_under(self, namespace: NamespaceId, text: str, *, stale: bool) -> bool:
        """Return True if all that starts with this text is known, and nothing is there: no file and no directory.

        Most names that are looked up in vain are about to be made, and one look answers for both.
        """
        if self.journal.any_under(namespace, text):
            return False
        span = self.listings.span_of(namespace, text, stale=stale)
        if span is None or span.first_below(text) is not None or not span.knows_all(text):
            return False
        is_being_made = self._creating and self.unsaved.below(namespace, text)
        return not (is_being_made or self._local.dirs_under(namespace, text))

    def fresh_for(self, namespace: NamespaceId, ref: DirRef) -> float:
        """Return seconds for which a directory is known to be there, by its first listed key; 0: ask."""
        span = self.listings.span_of(namespace, ref.prefix)
        first = span.first_below(ref.prefix) if span is not None else None
        if span is None or first is None:
            return 0.0
        until = self.listings.fresh_until(span)
        expiration = self.listings.attributes(namespace, first).expiration
        return seconds_left(until, self.ttl, self.now(), expiration)

    def live_below(
        self,
        namespace: NamespaceId,
        ref: DirRef,
        *,
        stale: bool = False,
        goes: Callable[[str], bool] = _stays,
    ) -> bool | None:
        """Return whether something lies in a directory: a live key, or a directory made here.

        Keys and prefixes for which `goes` holds do not count. `rm -r` asks after every file: the key that answered
        last time most often does so again.
        """
        prefix, witness = ref.prefix, self._witnesses.get((namespace, ref))
        if (
            witness is not None
            and not goes(witness)
            and isinstance(self.peek(namespace, witness, stale=stale), View)
        ):
            return True
        if self.journal.any_under(namespace, prefix):
            for change in self.written_below(namespace, ref):
                if not goes(change.key):
                    return self._lives(namespace, ref, change.key)
        if self._creating:
            creating = self.unsaved.below(namespace, prefix)
            if any(self._is_in(ref, key) and not goes(key) for key in creating):
                return True
        made = self._local.dirs_under(namespace, prefix)
        if made and self._is_any_below((row for row in made if not goes(row.prefix)), ref):
            return True
        span = self.listings.span_of(namespace, prefix, stale=stale)
        if span is None:
            return None
        if span.first_below(prefix) is not None:
            for start in (witness, None):  # keys before it went first, most likely
                for key in self.listed_below(namespace, ref, span, start=start):
                    if not goes(key):
                        return self._lives(namespace, ref, key)
        return False if span.knows_all(prefix) else None

    def _lives(self, namespace: NamespaceId, ref: DirRef, key: Key) -> bool:
        """Remember a live key of a directory that was found; return True."""
        if len(self._witnesses) >= _WITNESSES:
            self._witnesses.clear()
        self._witnesses[namespace, ref] = key
        return True

    def written_below(self, namespace: NamespaceId, ref: DirRef) -> Iterator[Change]:
        """Yield live changes of this mount in a directory, in key order. The journal must not change meanwhile."""
        now = self.now()
        for change in self.journal.puts_under(namespace, ref.prefix):
            if not is_expired(change.expiration, now) and self._is_in(ref, change.key):
                yield change

    def listed_below(
        self, namespace: NamespaceId, ref: DirRef, span: Span, *, start: str | None = None
    ) -> Iterator[Key]:
        """Yield listed keys of a directory from `start` on that no change of this mount hides."""
        now = self.now()
        end = successor(ref.prefix)
        index = bisect_left(span.keys, ref.prefix if start is None else start)
        while index < len(span.keys):
            key = Key(span.keys[index])
            if end is not None and key >= end:
                return
            index += 1
            if self.journal.get(namespace, key) is not None:
                continue
            if is_expired(self.listings.attributes(namespace, key).expiration, now):
                continue
            if self._is_in(ref, key):
                yield key
