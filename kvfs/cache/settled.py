"""Keys that settled while requests were under way: the answers of those requests may be older.

While the journal has a change of a key, the change answers. Once it has settled the store does. But an answer on its
way by then may have been given before the change arrived there, so it must not be believed.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from kvfs.core.generation import Generation
from kvfs.core.model import Key, KeyInfo, KeyRef, NamespaceId


class Settled:
    """Remembers settled keys for as long as a request that began before is under way."""

    def __init__(self) -> None:
        # Invariant: both ascend in moments; _places holds what settled after the first request under way began.
        self._generation = Generation()  # a moment is a number of it
        self._under_way: dict[int, int] = {}  # moment: requests that began then
        self._places = OrderedDict[KeyRef, tuple[int, KeyInfo | None]]()  # drained from its front

    @contextmanager
    def asking(self) -> Iterator[int]:
        """Wrap a request and the use of its answer; yield the moment it began."""
        moment = self.moment
        self._under_way[moment] = self._under_way.get(moment, 0) + 1
        try:
            yield moment
        finally:
            self._under_way[moment] -= 1
            if not self._under_way[moment]:
                del self._under_way[moment]
            self._forget()

    @property
    def moment(self) -> int:
        """Return this moment, for a caller that is inside `asking` already."""
        return self._generation.number

    def _forget(self) -> None:
        oldest = next(iter(self._under_way), self.moment)
        while self._places:
            place = next(iter(self._places))
            if self._places[place][0] > oldest:
                return
            del self._places[place]

    def note(self, namespace: NamespaceId, present: Iterable[KeyInfo], absent: Iterable[Key]) -> None:
        """Note that from now on the store answers for these keys, and which of them it has."""
        if not self._under_way:
            return
        self._generation.bump()
        moment = self.moment
        known: list[tuple[Key, KeyInfo | None]] = [(info.key, info) for info in present]
        for key, info in known + [(key, None) for key in absent]:
            self._places.pop((namespace, key), None)
            self._places[namespace, key] = moment, info

    def is_newer(self, place: KeyRef, moment: int) -> bool:
        """Return whether the key settled after that moment."""
        found = self._places.get(place)
        return found is not None and found[0] > moment

    def since(self, namespace: NamespaceId, moment: int) -> tuple[list[KeyInfo], list[Key]]:
        """Return the keys that settled after that moment: those that exist, and those that do not."""
        present: list[KeyInfo] = []
        absent: list[Key] = []
        for (where, key), (settled_at, info) in self._places.items():
            if where != namespace or settled_at <= moment:
                continue
            if info is None:
                absent.append(key)
            else:
                present.append(info)
        return present, absent
