"""Names that the kernel was told are absent, which it believes for a moment."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

_SECONDS: Final = 2.0
_MOST: Final = 10_000  # absences of the last moments


class Absences:
    """Remembers them for as long as the kernel does. `seconds`: that long, at most the caches' time to live."""

    def __init__(self, now: Callable[[], float], ttl: float) -> None:
        self.seconds = min(_SECONDS, ttl)
        self._now = now
        self._told: deque[tuple[float, int, bytes]] = deque(maxlen=_MOST)

    def note(self, parent: int, name: bytes) -> None:
        """Note that the kernel is told that the name is not in this directory."""
        self._told.append((self._now() + self.seconds, parent, name))

    def take(self) -> Iterator[tuple[int, bytes]]:
        """Return directory and name of all that are believed now; they are not remembered any more."""
        now = self._now()
        while self._told:
            until, parent, name = self._told.popleft()
            if until > now:
                yield parent, name
