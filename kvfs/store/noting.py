"""Noting: a Store around a Store that remembers what was written through it, as far as that is little."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

from msgspec import Struct

from kvfs.core.model import Entry, Key, KeyRef, NamespaceId
from kvfs.store.base import Store
from kvfs.store.wrapper import Around, StoreCall

T = TypeVar("T")

MOST_KEYS: Final = 10_000
MOST_BYTES: Final = 32 * 1024 * 1024


class NotedWrite(Struct, frozen=True, gc=False):
    """An entry that the store took; None: the key is deleted. The request began at `at` (epoch seconds)."""

    entry: Entry | None
    at: float


class Noting(Around):
    """Remembers the last write of each key, of so many keys and bytes; what is beyond that is not remembered.

    Nor is a key whose last write failed, *because* nobody knows which of its values the store has.
    """

    def __init__(self, store: Store, now: Callable[[], float] = time.time) -> None:
        super().__init__(store)
        self._now = now
        self._bytes = 0
        self.writes: dict[KeyRef, NotedWrite] = {}

    async def _call(self, call: StoreCall[T]) -> T:
        at = self._now()
        if call.is_write:
            self._forget(call.namespace, call.keys)
        answer = await call()
        if call.is_write:
            entries: dict[Key, Entry | None] = dict.fromkeys(call.keys)
            if call.operation == "put":
                entries[call.args[1]] = call.args[2]
            elif call.operation == "bulk_put":
                entries.update(call.args[1])
            self._note(call.namespace, entries, answer, at)
        return answer

    def _forget(self, namespace: NamespaceId, keys: Iterable[Key]) -> None:
        for key in keys:
            before = self.writes.pop((namespace, key), None)
            self._bytes -= _size(before.entry) if before is not None else 0

    def _note(
        self, namespace: NamespaceId, entries: Mapping[Key, Entry | None], left: object, at: float
    ) -> None:
        """`left` are the keys that the store wants again, if it is a set."""
        self._forget(namespace, entries)  # another write of it may have ended meanwhile
        for key, entry in entries.items():
            if isinstance(left, frozenset) and key in left:
                continue
            if len(self.writes) < MOST_KEYS and self._bytes + _size(entry) <= MOST_BYTES:
                self.writes[namespace, key] = NotedWrite(entry, at)
                self._bytes += _size(entry)


def _size(entry: Entry | None) -> int:
    return len(entry.value) if entry is not None else 0
