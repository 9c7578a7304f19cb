"""The account's namespaces, as last listed, and the three operations on them, which act at once."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

import trio

from kvfs.cache.patience import StalePatience
from kvfs.core.callers import waits
from kvfs.core.errors import DeniedError, NamespaceNotFoundError, UnavailableError
from kvfs.core.freshness import NEVER, is_fresh
from kvfs.core.model import Key, Namespace, NamespaceId
from kvfs.core.names import title_names
from kvfs.store.base import Store


class NamespaceTable:
    """Directory names ↔ namespaces. Raises what the store raises."""

    def __init__(self, store: Store, ttl: float, now: Callable[[], float]) -> None:
        self._store = store
        self._ttl = ttl
        self._now = now
        self._by_name: dict[str, Namespace] = {}
        self._by_id: dict[NamespaceId, Namespace] = {}
        self._known_at: float | None = None
        self._ours: dict[NamespaceId, tuple[float, Namespace | None]] = {}  # since when; None: deleted
        self._lock = trio.Lock()
        self.patience = StalePatience(float("inf"))  # endless, until it is given another
        # told when there are others than before
        self.on_listed: Callable[[list[Namespace]], None] | None = None

    def _is_fresh(self) -> bool:
        return self._known_at is not None and is_fresh(self._known_at, self._ttl, self._now())

    async def named(self, name: str) -> Namespace | None:
        """Return the namespace of a directory name.

        An unknown name is always asked for, because another client may have made it.
        """
        known = await self.names() if name in self._by_name else await self._names_for_new()
        return known.get(name)

    async def _names_for_new(self) -> dict[str, Namespace]:
        if self._known_at is None or self._is_fresh():
            return await self.names()
        if not self.patience.is_exhausted:
            with suppress(UnavailableError, DeniedError):  # the known namespaces are served on
                await self.patience.rest(self._list)
        return self._by_name

    async def names(self) -> dict[str, Namespace]:
        """Return every namespace by its directory name; stale ones while the store cannot be reached.

        The store's breaker keeps this from waiting at every look.
        """
        if self._is_fresh():
            return self._by_name
        if self._known_at is None:
            await self._list()
        elif not self.patience.is_spent:
            with suppress(UnavailableError, DeniedError):  # the known namespaces are served on
                await self.patience.ask(self._list)
        return self._by_name

    async def _list(self) -> None:
        waits()
        async with self._lock:
            if not self._is_fresh():
                asked_at = self._now()
                self._take(await self._store.list_namespaces(), asked_at)

    def learn(self, namespaces: list[Namespace]) -> None:
        """Take in a list that another part has just read."""
        self._take(namespaces, self._now())

    def _take(self, namespaces: list[Namespace], asked_at: float) -> None:
        """Accept a list of namespaces.

        Changes of ours that ended since the request win, because the list may be older.
        """
        self._ours = {id_: change for id_, change in self._ours.items() if change[0] >= asked_at}
        listed = {namespace.id: namespace for namespace in namespaces}
        for id_, (_, namespace) in self._ours.items():
            _set(listed, id_, namespace)
        self._know(listed)
        self._known_at = self._now()

    def _changed(self, id_: NamespaceId, namespace: Namespace | None) -> None:
        """Note a change of ours, without making the knowledge of the others any newer."""
        self._ours[id_] = (self._now(), namespace)
        known = dict(self._by_id)
        _set(known, id_, namespace)
        self._know(known)

    def _know(self, namespaces: dict[NamespaceId, Namespace]) -> None:
        is_new = namespaces != self._by_id
        self._by_id = namespaces
        self._by_name = title_names(list(namespaces.values()))
        if is_new and self.on_listed is not None:
            self.on_listed(list(namespaces.values()))

    def get(self, namespace: NamespaceId) -> Namespace | None:
        """Return one of the known namespaces."""
        return self._by_id.get(namespace)

    @property
    def known(self) -> Mapping[str, Namespace]:
        """Return the namespaces by directory name, as last listed."""
        return self._by_name

    def name_of(self, namespace: NamespaceId) -> str | None:
        """Return the directory name of a namespace, as last listed."""
        for name, known in self._by_name.items():
            if known.id == namespace:
                return name
        return None

    def ids(self) -> Iterable[NamespaceId]:
        """Return the ids of the known namespaces."""
        return self._by_id.keys()

    async def create(self, title: str) -> Namespace:
        """Create a namespace in the store, and know it."""
        created = await self._store.create_namespace(title)
        self._changed(created.id, created)
        return created

    async def rename(self, namespace: NamespaceId, title: str) -> None:
        """Give a namespace another title in the store."""
        await self._store.rename_namespace(namespace, title)
        old = self._by_id.get(namespace)
        renamed = Namespace(namespace, title, old.mode if old is not None else "")
        self._changed(namespace, renamed)

    async def delete_empty(self, namespace: NamespaceId, gone: Callable[[Key], bool]) -> bool:
        """Delete a namespace if the store itself says that it holds nothing; return whether it was deleted.

        `gone` is true for keys that this mount deleted, because listings may lag a minute behind.
        """
        cursor: str | None = None
        try:
            while True:
                page = await self._store.list_keys(namespace, cursor=cursor)
                if not page.is_whole or not all(gone(info.key) for info in page.keys):
                    return False
                cursor = page.cursor
                if cursor is None:
                    break
            await self._store.delete_namespace(namespace)
        except NamespaceNotFoundError:
            pass  # another client was quicker
        self._changed(namespace, None)
        return True

    def forget(self) -> None:
        """Ask again at the next use; known namespaces are served on if the store does not answer."""
        if self._known_at is not None:
            self._known_at = NEVER


def _set(table: dict[NamespaceId, Namespace], id_: NamespaceId, namespace: Namespace | None) -> None:
    if namespace is None:
        table.pop(id_, None)
    else:
        table[id_] = namespace
