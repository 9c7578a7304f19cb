"""The keys whose values are sent as base64, because a firewall objects to their text."""

from collections.abc import Iterable
from typing import Final

from kvfs.core.latest import Latest
from kvfs.core.model import Change, Key, KeyRef, NamespaceId
from kvfs.core.packing import fits_in_bulk

REMEMBERED: Final = 10_000  # keys, the latest


class Disguises:
    """Keys that were taken only in disguise."""

    def __init__(self) -> None:
        self._disliked = Latest[KeyRef, None](REMEMBERED)

    def remember(self, changes: Iterable[Change]) -> None:
        """Remember keys that were refused as text and taken as base64."""
        for change in changes:
            self._disliked.keep(change.place, None)

    def wanted(self, namespace: NamespaceId, keys: Iterable[Key]) -> bool:
        """Return True if one of the keys is among them."""
        return bool(self._disliked) and any((namespace, key) in self._disliked for key in keys)


def can_be_disguised(change: Change) -> bool:
    """True if a bulk body may carry its value as base64."""
    return not change.is_tombstone and fits_in_bulk(change)
