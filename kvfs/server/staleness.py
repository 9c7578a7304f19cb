"""Stale answers: a store that, asked within `staleness`, answers as of some seconds ago, as KV may.

It remembers what each changed key was before, for as long as any rule may ask.
"""

import base64
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import trio

from kvfs.core.limits import LIST_KEYS
from kvfs.core.model import Entry, Key, KeyInfo, KeyPage, Metadata, Namespace, NamespaceId, ValueRead
from kvfs.server.calls import Accounts
from kvfs.server.fault_rules import Faults
from kvfs.store.base import Store

_age: ContextVar[float] = ContextVar("age", default=0.0)

_STALE_CURSOR: Final = "stale-"


@contextmanager
def staleness(seconds: float) -> Iterator[None]:
    """Reads in here are answered as of `seconds` ago."""
    token = _age.set(seconds)
    try:
        yield
    finally:
        _age.reset(token)


class KeyHistory:
    """The past of keys: for each, when (monotonic) it changed and its entry before, oldest first."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._before: dict[NamespaceId, dict[Key, list[tuple[float, Entry | None]]]] = defaultdict(dict)

    @property
    def recording(self) -> bool:
        """True if any rule may ask for the past."""
        return self._faults.stale_seconds() > 0

    def record(self, namespace: NamespaceId, key: Key, before: Entry | None) -> None:
        """The key changes now; it was `before`."""
        oldest = trio.current_time() - self._faults.stale_seconds()
        changes = self._before[namespace].setdefault(key, [])
        changes[:] = [change for change in changes if change[0] >= oldest]
        changes.append((trio.current_time(), before))

    def past(self, namespace: NamespaceId) -> dict[Key, Entry | None]:
        """Return the keys that changed within the age in force, as they were before."""
        age = _age.get()
        if not age:
            return {}
        moment = trio.current_time() - age
        found: dict[Key, Entry | None] = {}
        for key, changes in self._before.get(namespace, {}).items():
            place = bisect_right(changes, moment, key=lambda change: change[0])
            if place < len(changes):
                found[key] = changes[place][1]
        return found


class StaleAccounts:
    """`Accounts` whose stores may answer with the past."""

    def __init__(self, accounts: Accounts, faults: Faults) -> None:
        self._accounts = accounts
        self._history = KeyHistory(faults)

    def for_account(self, account: str) -> Store:
        """The store of one account. Namespace ids are unique, so all share one history."""
        return StaleStore(self._accounts.for_account(account), self._history)


class StaleStore:
    """A `Store` around a `Store`; namespaces are never stale."""

    def __init__(self, store: Store, history: KeyHistory) -> None:
        self._store = store
        self._history = history

    async def list_namespaces(self) -> list[Namespace]:
        return await self._store.list_namespaces()

    async def create_namespace(self, title: str) -> Namespace:
        return await self._store.create_namespace(title)

    async def get_namespace(self, namespace: NamespaceId) -> Namespace:
        return await self._store.get_namespace(namespace)

    async def rename_namespace(self, namespace: NamespaceId, title: str) -> None:
        await self._store.rename_namespace(namespace, title)

    async def delete_namespace(self, namespace: NamespaceId) -> None:
        await self._store.delete_namespace(namespace)

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
        after = _decoded(cursor) if cursor else ""
        ordered = [keys[key] for key in sorted(keys) if key > after]
        more = len(ordered) > limit
        return KeyPage(tuple(ordered[:limit]), _encoded(ordered[limit - 1].key) if more else None)

    async def get(self, namespace: NamespaceId, key: Key) -> ValueRead | None:
        past = self._history.past(namespace)
        if key in past:
            entry = past[key]
            return ValueRead(entry.value, entry.expiration) if entry else None
        return await self._store.get(namespace, key)

    async def get_metadata(self, namespace: NamespaceId, key: Key) -> Metadata | None:
        past = self._history.past(namespace)
        if key in past:
            entry = past[key]
            return entry.metadata if entry else None
        return await self._store.get_metadata(namespace, key)

    async def bulk_get(self, namespace: NamespaceId, keys: Sequence[Key]) -> Mapping[Key, Entry | None]:
        past = self._history.past(namespace)
        found = await self._store.bulk_get(namespace, keys)
        return {key: past.get(key, found[key]) for key in found}

    async def put(self, namespace: NamespaceId, key: Key, entry: Entry) -> None:
        await self._record(namespace, [key])
        await self._store.put(namespace, key, entry)

    async def bulk_put(
        self, namespace: NamespaceId, entries: Mapping[Key, Entry], *, disguised: bool = False
    ) -> frozenset[Key]:
        await self._record(namespace, entries)
        return await self._store.bulk_put(namespace, entries)

    async def delete(self, namespace: NamespaceId, key: Key) -> None:
        await self._record(namespace, [key])
        await self._store.delete(namespace, key)

    async def bulk_delete(self, namespace: NamespaceId, keys: Sequence[Key]) -> frozenset[Key]:
        await self._record(namespace, keys)
        return await self._store.bulk_delete(namespace, keys)

    async def _record(self, namespace: NamespaceId, keys: Iterable[Key]) -> None:
        if not self._history.recording:
            return
        for key in keys:
            found = await self._store.get(namespace, key)
            metadata = await self._store.get_metadata(namespace, key)
            before = Entry(found.value, metadata, found.expiration) if found else None
            self._history.record(namespace, key, before)

    async def _lines(self, namespace: NamespaceId, prefix: str) -> list[KeyInfo]:
        lines: list[KeyInfo] = []
        cursor: str | None = None
        while True:
            page = await self._store.list_keys(namespace, prefix=prefix, cursor=cursor)
            lines += page.keys
            cursor = page.cursor
            if cursor is None:
                return lines


def _encoded(key: Key) -> str:
    return _STALE_CURSOR + base64.urlsafe_b64encode(key.encode()).decode()


def _decoded(cursor: str) -> str:
    return base64.urlsafe_b64decode(cursor[len(_STALE_CURSOR) :]).decode()
