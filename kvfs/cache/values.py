"""Clean values, bounded by bytes. Their sizes outlive them (`sizes`).

Everything here came from the store (or was sent to it and settled) and could be asked again.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from msgspec import Struct
from msgspec.structs import replace

from kvfs.cache.sizes import Sizes
from kvfs.core.freshness import NEVER, is_fresh
from kvfs.core.model import KeyRef, Metadata, NamespaceId

_OVERHEAD = 200  # bytes a cached entry costs beside its value, measured with tracemalloc
_SIZES = 1_000_000  # sizes remembered at the most


class Clean(Struct, frozen=True, gc=False):
    """A value as the store answered it at `known_at` (epoch seconds). `digest` of a large one, if anybody made it."""

    value: bytes
    metadata: Metadata | None
    expiration: int | None
    known_at: float
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class ValueStatistics:
    """Bytes and entries held, and the bound."""

    bytes: int
    entries: int
    limit: int


class Values:
    """The values that are held.

    The least recently used go first; one larger than the bound is kept alone until the next.
    """

    def __init__(self, limit: int, ttl: float, now: Callable[[], float]) -> None:
        # dependencies and constants
        self._limit = limit
        self._ttl = ttl
        self._now = now
        # mutable state. Invariants: _bytes is the sum of the lengths and overheads in _entries; their sizes are known.
        self.sizes = Sizes(ttl, now)
        self._entries: OrderedDict[KeyRef, Clean] = OrderedDict()
        self._bytes = 0

    def get(self, place: KeyRef, *, stale: bool = False) -> Clean | None:
        """Return the value if it is held and fresh (or of any age with `stale`)."""
        found = self._entries.get(place)
        if found is None:
            return None
        if not stale and not is_fresh(found.known_at, self._ttl, self._now()):
            return None
        self._entries.move_to_end(place)
        return found

    def peek(self, place: KeyRef) -> Clean | None:
        """Return the value if it is held, of any age, without counting as a use."""
        return self._entries.get(place)

    def note_digest(self, place: KeyRef, clean: Clean, digest: bytes) -> None:
        """Keep the digest that was made of a value with it, if the value is still held."""
        if self._entries.get(place) is clean:
            self._entries[place] = replace(clean, digest=digest)

    def put(self, place: KeyRef, clean: Clean) -> None:
        """Hold a value, evicting the least recently used ones beyond the bound."""
        before, size = self._entries.pop(place, None), len(clean.value)
        if before is not None:
            self._bytes -= len(before.value) + _OVERHEAD
        self._entries[place] = clean
        self._bytes += size + _OVERHEAD
        self.sizes.put(place, size, clean.known_at)
        while self._bytes > self._limit and len(self._entries) > 1:
            _, evicted = self._entries.popitem(last=False)
            self._bytes -= len(evicted.value) + _OVERHEAD
        self._keep_bound()

    def put_size(self, place: KeyRef, size: int, known_at: float) -> None:
        """Remember the size of a value that is not held, as of `known_at` (epoch seconds)."""
        self.drop(place)
        self.sizes.put(place, size, known_at)
        self._keep_bound()

    def _keep_bound(self) -> None:
        if len(self.sizes) > _SIZES:
            # many at once, because a dict that loses its first place looks at all that it lost before
            for oldest in self.sizes.oldest(1 + _SIZES // 16):
                self.drop(oldest)

    def make_stale(self, namespace: NamespaceId, prefix: str = "") -> None:
        """Make every key that starts with `prefix` stale; the old values still show what changed."""
        for place in self.sizes.under(namespace, prefix):
            self.make_one_stale(place)

    def make_one_stale(self, place: KeyRef) -> None:
        """Make one value stale."""
        self.sizes.make_stale(place)
        if place in self._entries:
            self._entries[place] = replace(self._entries[place], known_at=NEVER)

    def drop(self, place: KeyRef) -> None:
        """Forget value and size of one key."""
        self.sizes.drop(place)
        found = self._entries.pop(place, None)
        if found is not None:
            self._bytes -= len(found.value) + _OVERHEAD

    def rename(self, old: KeyRef, new: KeyRef) -> None:
        """Move value and size to another key."""
        if old == new:
            return
        clean, size = self._entries.get(old), self.sizes.known(old)
        self.drop(old)
        self.drop(new)
        if clean is not None:
            self.put(new, clean)
        elif size is not None:
            self.sizes.put(new, *size)

    def forget(self, namespace: NamespaceId, prefix: str = "") -> None:
        """Forget every value of the keys that start with `prefix`."""
        for place in self.sizes.under(namespace, prefix):
            self.drop(place)

    def statistics(self) -> ValueStatistics:
        """Count the bytes and values that are held."""
        return ValueStatistics(self._bytes, len(self._entries), self._limit)

    def check_invariants(self) -> None:
        """Raise AssertionError when the byte count is not the sum of what is held."""
        assert self._bytes == sum(len(clean.value) + _OVERHEAD for clean in self._entries.values())
        assert all(place in self.sizes for place in self._entries)
