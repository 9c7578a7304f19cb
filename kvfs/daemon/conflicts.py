"""Keeps what the sender met that another client had changed meanwhile, for `kvfs status` and `kvfs sync`."""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from kvfs.core.model import Key, NamespaceId
from kvfs.sender.events import Event

SHOWN: Final = 100  # the latest, by name

Item = dict[str, Any]


class ConflictLog:
    """Conflicts since the start. Each is told once by the next sync or unmount, and listed by the status."""

    def __init__(self, path_of: Callable[[NamespaceId, Key], str], now: Callable[[], float]) -> None:
        self._path_of = path_of
        self._now = now
        self._items: deque[Item] = deque(maxlen=SHOWN)
        self._count = 0
        self._told = 0

    def note(self, event: Event) -> None:
        """One more. The caller passes an event of kind CONFLICT."""
        assert event.namespace is not None
        assert event.key is not None
        copy = self._path_of(event.namespace, event.copy) if event.copy is not None else ""
        path = self._path_of(event.namespace, event.key)
        self._items.append({"path": path, "copy": copy, "at": self._now()})
        self._count += 1

    def status(self) -> Item:
        """How many there were, and the latest."""
        return {"count": self._count, "items": list(self._items)}

    def untold(self) -> Item:
        """Those that nobody was told of yet. From now on they count as told."""
        count = self._count - self._told
        self._told = self._count
        return {"count": count, "items": list(self._items)[-count:] if count else []}
