"""The index of all listings: the keys of each namespace, and the time until which they count as fresh.

Invariants:
- Only answers of the store are here. This mount's own changes lie over them in the overlay, and come in through `apply`
  once the store is sure to show them.
- A key that is inside a span and not in it does not exist, so absence is knowledge as well.
- All of a span has one age, that of its oldest page, *because* then nothing counts as fresh for too long.
- A span changes in place, so what is read of one holds until the next await.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from msgspec import Struct

from kvfs.cache.settled import Settled
from kvfs.cache.spans import Span, SpanIndex, successor
from kvfs.core.freshness import fresh_until, is_fresh
from kvfs.core.generation import Generation
from kvfs.core.model import Key, KeyInfo, KeyPage, Metadata, NamespaceId


class ListedAttributes(Struct, frozen=True):
    """Metadata and expiration of a listed key."""

    metadata: Metadata | None = None
    expiration: int | None = None


PLAIN = ListedAttributes()

_NOTHING: Final = SpanIndex()  # the index of a namespace that was never listed
_MOMENT = 1.0  # seconds for which any answer counts


def end_of(page: KeyPage, low: str) -> str:
    """Return the text up to which a page from `low` on knows everything; the last page knows the rest."""
    return max(low, page.keys[-1].key + "\0") if page.keys else low


@dataclass(frozen=True, slots=True)
class ListingStatistics:
    """Keys known, and in how many spans."""

    keys: int
    spans: int


class Listings:
    """Known keys of every namespace. All methods are plain calls: no waiting, no request."""

    def __init__(self, ttl: float, now: Callable[[], float]) -> None:
        # dependencies and constants
        self._ttl = max(ttl, _MOMENT)  # a caller must be able to use the answer
        self._now = now
        # mutable state
        self._namespaces: dict[NamespaceId, SpanIndex] = {}
        self.settled = Settled()
        self.answers = Generation()  # of whatever a listing answers
        self.forgotten = Generation()  # of what is to be listed anew

    def span_of(self, namespace: NamespaceId, key: str, *, stale: bool = False) -> Span | None:
        """Return the span that holds `key`, if it is fresh (or of any age with `stale`)."""
        index = self._namespaces.get(namespace)
        span = index.span_of(key) if index is not None else None
        if span is None or stale or is_fresh(span.known_at, self._ttl, self._now()):
            return span
        return None

    def fresh_until(self, span: Span) -> float:
        """Return the epoch seconds at which the span stops being fresh."""
        return fresh_until(span.known_at, self._ttl)

    def complete(self, namespace: NamespaceId, prefix: str, *, stale: bool = False) -> Span | None:
        """Return the one span that knows every key starting with `prefix`, if everything is known."""
        span = self.index(namespace).join(prefix, successor(prefix))
        if span is None or stale or is_fresh(span.known_at, self._ttl, self._now()):
            return span
        return None

    def finish(self, namespace: NamespaceId, prefix: str) -> None:
        """Take in the end of a whole listing: one span from now on, which is fresh for a moment even if it was slow."""
        span = self.complete(namespace, prefix, stale=True)
        if span is not None:
            self.answers.bump()
            span.known_at = max(span.known_at, self._now() - self._ttl + _MOMENT)

    def attributes(self, namespace: NamespaceId, key: str) -> ListedAttributes:
        """Return metadata and expiration of a key, as far as known."""
        found = self.index(namespace).attributes.get(key)
        return ListedAttributes(*found) if found is not None else PLAIN

    def index(self, namespace: NamespaceId) -> SpanIndex:
        """Return the keys of a namespace in order, of any age. The caller must not alter it, and must not await."""
        return self._namespaces.get(namespace, _NOTHING)

    def learn(
        self,
        namespace: NamespaceId,
        prefix: str,
        page: KeyPage,
        *,
        low: str | None = None,
        moment: int | None = None,
    ) -> Span | None:
        """Take in one page of the listing of `prefix`; `low` is where the page before it ended, if any.

        Keys that settled since the `moment` of the request are believed instead. Returns the span that holds the page;
        None for an empty page that says nothing yet.
        """
        low = prefix if low is None else low
        high = successor(prefix) if page.cursor is None else end_of(page, low)
        if high is not None and high <= low:
            return None
        index = self._namespaces.setdefault(namespace, SpanIndex())
        self.answers.bump()
        now = self._now()
        span = index.learn(low, high, page.keys, now, join=now - self._ttl / 2)
        if moment is not None:
            present, absent = self.settled.since(namespace, moment)
            index.apply(
                [info for info in present if low <= info.key and (high is None or info.key < high)],
                [key for key in absent if low <= key and (high is None or key < high)],
            )
        return span

    def apply(self, namespace: NamespaceId, present: Iterable[KeyInfo], absent: Iterable[Key]) -> None:
        """Bring the knowledge up to changes that the store took and now shows."""
        index = self._namespaces.get(namespace)
        if index is not None:
            self.answers.bump()
            index.apply(present, absent)

    def amend(self, namespace: NamespaceId, info: KeyInfo) -> None:
        """Take in the attributes that a read of one key answered: newer than the listing's, if that knows the key."""
        span = self.span_of(namespace, info.key, stale=True)
        if span is not None and span.has(info.key):
            if self.attributes(namespace, info.key) == ListedAttributes(info.metadata, info.expiration):
                return  # nothing new: most reads are so, and a directory that was read stays as it was told
            self.answers.bump()
            self._namespaces[namespace].apply([info], ())

    def forget(self, namespace: NamespaceId, prefix: str = "") -> None:
        """Drop what is known of the keys that start with `prefix`."""
        self.forgotten.bump()
        self.answers.bump()
        index = self._namespaces.get(namespace)
        if index is None:
            return
        if prefix:
            index.drop(prefix, successor(prefix))
        else:
            del self._namespaces[namespace]

    def statistics(self) -> ListingStatistics:
        """Count the keys and spans that are known."""
        spans = [span for index in self._namespaces.values() for span in index]
        return ListingStatistics(sum(len(span.keys) for span in spans), len(spans))

    def check_invariants(self) -> None:
        """Raise AssertionError when the knowledge of a namespace contradicts itself."""
        for index in self._namespaces.values():
            index.check_invariants()
