"""Sizes of clean values: they outlive the values, because `ls -l` asks for nothing else."""

from collections.abc import Callable
from itertools import islice

from kvfs.core.freshness import NEVER, is_fresh
from kvfs.core.generation import Generation
from kvfs.core.model import KeyRef, NamespaceId

KnownSize = tuple[int, float]
"""A size in bytes, and when (epoch seconds) the store answered it."""


class Sizes:
    """The size of each value that the store answered, of any age. The bound on their number is the caller's."""

    def __init__(self, ttl: float, now: Callable[[], float]) -> None:
        self._ttl = ttl
        self._now = now
        self._known: dict[KeyRef, KnownSize] = {}  # the oldest first
        self.generation = Generation()

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, place: KeyRef) -> bool:
        return place in self._known

    def get(self, place: KeyRef, *, stale: bool = False) -> int | None:
        """Return the size in bytes if it is known and fresh (or of any age with `stale`)."""
        found = self._known.get(place)
        if found is None or not (stale or is_fresh(found[1], self._ttl, self._now())):
            return None
        return found[0]

    def known(self, place: KeyRef) -> KnownSize | None:
        """Return the size, of any age, and when it was answered; one object until another answer or its end."""
        return self._known.get(place)

    def put(self, place: KeyRef, size: int, known_at: float) -> None:
        """Keep the size of a value that the store answered."""
        self.generation.bump()
        self._known.pop(place, None)  # to be the latest
        self._known[place] = (size, known_at)

    def make_stale(self, place: KeyRef) -> None:
        """Make the size stale."""
        if place in self._known:
            self.generation.bump()
            self._known[place] = (self._known[place][0], NEVER)

    def drop(self, place: KeyRef) -> KnownSize | None:
        """Forget the size of a key, and return it."""
        self.generation.bump()
        return self._known.pop(place, None)

    def oldest(self, count: int) -> list[KeyRef]:
        """Return so many of the keys whose sizes have been known for longest."""
        return list(islice(self._known, count))

    def under(self, namespace: NamespaceId, prefix: str) -> list[KeyRef]:
        """Return the keys that start with `prefix` and whose size is known."""
        return [place for place in self._known if place[0] == namespace and place[1].startswith(prefix)]
