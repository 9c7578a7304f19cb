"""Noting: a Store around a Store that remembers what was written through it, as far as that is little."""

import time
from collections.abc import Callable, Mapping
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
    """Remembers the last write of each key, of so many keys and bytes; what is beyond that is not remembered."""

    def __init__(self, store: Store, now: Callable[[], float] = time.time) -> None:
        super().__init__(store)
        self._now = now
        self._bytes = 0
        self.writes: dict[KeyRef, NotedWrite] = {}

    async def _call(self, call: StoreCall[T]) -> T:
        at = self._now()
        answer = await call()
        if call.is_write:
            entries: dict[Key, Entry | None] = dict.fromkeys(call.keys)
            if call.operation == "put":
                entries[call.args[1]] = call.args[2]
            elif call.operation == "bulk_put":
                entries.update(call.args[1])
            self._note(call.namespace, entries, answer, at)
        return answer

    def _note(
        self, namespace: NamespaceId, entries: Mapping[Key, Entry | None], left: object, at: float
    ) -> None:
        """`left` are the keys that the store wants again, if it is a set."""
        for key, entry in entries.items():
            place = (namespace, key)
            before = self.writes.pop(place, None)
            self._bytes -= _size(before.entry) if before is not None else 0
            if isinstance(left, frozenset) and key in left:
                continue
            if len(self.writes) < MOST_KEYS and self._bytes + _size(entry) <= MOST_BYTES:
                self.writes[place] = NotedWrite(entry, at)
                self._bytes += _size(entry)


def _size(entry: Entry | None) -> int:
    return len(entry.value) if entry is not None else 0
