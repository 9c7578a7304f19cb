"""Inheritance: the attributes that a key passes on to the file that replaces it.

Editors and tools save by replacing: a new file renamed over the old one, or the old one renamed away and
the name created anew. To the user it is still the same key, so its metadata and expiration stay.
"""

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from kvfs.core.expiry import is_expired
from kvfs.core.latest import Latest
from kvfs.core.model import Key, Metadata, NamespaceId

_SECONDS = 60.0  # an editor creates the name anew within moments; nobody else's file is meant a minute later
_PLACES = 1024


class Legacy(Struct, frozen=True):
    """Attributes of a key that was renamed away."""

    metadata: Metadata | None
    expiration: int | None
    left_at: float


class Inheritance:
    """Remembers for a moment what was renamed away."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._left = Latest[tuple[NamespaceId, Key], Legacy](_PLACES)

    def leave(
        self, namespace: NamespaceId, key: Key, metadata: Metadata | None, expiration: int | None
    ) -> None:
        """Leave the attributes of a key that is renamed away for a file created under its name soon."""
        if metadata is None and expiration is None:
            self._left.pop((namespace, key), None)
            return
        self._left.keep((namespace, key), Legacy(metadata, expiration, self._now()))

    def find(self, namespace: NamespaceId, key: Key) -> Legacy | None:
        """Return the attributes that a file takes over which comes to be under this name."""
        legacy = self._left.get((namespace, key))
        if legacy is None or self._now() - legacy.left_at > _SECONDS:
            return None
        if is_expired(legacy.expiration, self._now()):
            return replace(legacy, expiration=None)
        return legacy

    def take(self, namespace: NamespaceId, key: Key) -> Legacy | None:
        """Return what `find` does, only once."""
        if not self._left:
            return None
        legacy = self.find(namespace, key)
        self._left.pop((namespace, key), None)
        return legacy
