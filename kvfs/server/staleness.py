"""Stale answers: a store that, asked within `staleness`, answers as of some seconds ago, as KV may.

It remembers what each changed key was before, for as long as anybody may ask.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, TypeVar

import trio

from kvfs.core.limits import LIST_KEYS
from kvfs.core.model import Entry, Key, KeyInfo, KeyPage, Metadata, NamespaceId, ValueRead
from kvfs.store.base import Store
from kvfs.store.checks import cursor_after, key_before
from kvfs.store.wrapper import Around, StoreCall

T = TypeVar("T")

_age: ContextVar[float] = ContextVar("age", default=0.0)

_STALE_CURSOR: Final = "stale-"


@contextmanager
def staleness(seconds: float) -> Iterator[None]:
    """Let reads in here be answered as of `seconds` ago."""
    token = _age.set(seconds)
    try:
        yield
    finally:
        _age.reset(token)


class KeyHistory:
    """The past of keys: for each, when it changed and its entry before, oldest first."""

    def __init__(
        self,
        longest: Callable[[], float],
        age: Callable[[], float] = _age.get,
        now: Callable[[], float] = trio.current_time,
    ) -> None:
        """`longest` and `age`: seconds that anybody may ask about, and that the answer being made is to be old."""
        self._longest = longest
        self._age = age
        self._now = now
        self._before: dict[NamespaceId, dict[Key, list[tuple[float, Entry | None]]]] = defaultdict(dict)

    @property
    def recording(self) -> bool:
        """True if anybody may ask for the past."""
        return self._longest() > 0

    def record(self, namespace: NamespaceId, key: Key, before: Entry | None) -> None:
        """Record that the key changes now; it was `before`."""
        now = self._now()
        changes = self._before[namespace].setdefault(key, [])
        changes[:] = [change for change in changes if change[0] >= now - self._longest()]
        changes.append((now, before))

    def past(self, namespace: NamespaceId) -> dict[Key, Entry | None]:
        """Return the keys that changed within the age in force, as they were before."""
        age = self._age()
        if not age:
            return {}
        moment = self._now() - age
        found: dict[Key, Entry | None] = {}
        for key, changes in self._before.get(namespace, {}).items():
            place = bisect_right(changes, moment, key=lambda change: change[0])
            if place < len(changes):
                found[key] = changes[place][1]
        return found


class StaleStore(Around):
    """Reads may be answered with the past; writes act at once, and namespaces are never stale."""

    def __init__(self, store: Store, history: KeyHistory) -> None:
        super().__init__(store)
        self._history = history

    async def _call(self, call: StoreCall[T]) -> T:
        if call.is_write and self._history.recording:
            for key in call.keys:
                before = await self._store.bulk_get(
                    call.namespace, [key]
                )  # the embedded store's: of any bytes
                self._history.record(call.namespace, key, before[key])
        return await call()

    async def list_keys(
        self, namespace: NamespaceId, *, prefix: str = "", cursor: str | None = None, limit: int = LIST_KEYS
    ) -> KeyPage:
        """Cut from a whole listing, with cursors of our own: simple, and this is for tests."""
        ours = cursor.startswith(_STALE_CURSOR) if cursor else self._history.recording
        if not ours:
            return await self._store.list_keys(namespace, prefix=prefix, cursor=cursor, limit=limit)
        keys = {line.key: line for line in await self._lines(namespace, prefix)}
        for key, entry in self._history.past(namespace).items():
            keys.pop(key, None)
            if entry is not None and key.startswith(prefix):
                keys[key] = KeyInfo(key, entry.metadata, entry.expiration)
        after = key_before("list keys", cursor.removeprefix(_STALE_CURSOR)) if cursor else ""
        ordered = [keys[key] for key in sorted(keys) if key > after]
        more = len(ordered) > limit
        return KeyPage(
            tuple(ordered[:limit]), _STALE_CURSOR + cursor_after(ordered[limit - 1].key) if more else None
        )

    async def get(self, namespace: NamespaceId, key: Key) -> ValueRead | None:
        """See `Store`."""
        past = self._history.past(namespace)
        if key in past:
            entry = past[key]
            return ValueRead(entry.value, entry.expiration) if entry else None
        return await self._store.get(namespace, key)

    async def get_metadata(self, namespace: NamespaceId, key: Key) -> Metadata | None:
        """See `Store`."""
        past = self._history.past(namespace)
        if key in past:
            entry = past[key]
            return entry.metadata if entry else None
        return await self._store.get_metadata(namespace, key)

    async def bulk_get(self, namespace: NamespaceId, keys: Sequence[Key]) -> Mapping[Key, Entry | None]:
        """See `Store`."""
        past = self._history.past(namespace)
        found = await self._store.bulk_get(namespace, keys)
        return {key: past.get(key, found[key]) for key in found}

    async def _lines(self, namespace: NamespaceId, prefix: str) -> list[KeyInfo]:
        lines: list[KeyInfo] = []
        cursor: str | None = None
        while True:
            page = await self._store.list_keys(namespace, prefix=prefix, cursor=cursor)
            lines += page.keys
            cursor = page.cursor
            if cursor is None:
                return lines
