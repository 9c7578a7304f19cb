"""Around: a Store around a Store in which every call passes one place. It is the base of all wrappers."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import ParamSpec, TypeVar

from kvfs.core.limits import LIST_KEYS
from kvfs.core.model import Entry, Key, KeyPage, Metadata, Namespace, NamespaceId, ValueRead
from kvfs.store.base import Store

P = ParamSpec("P")
T = TypeVar("T")


class Around:
    """Hands every operation to the store inside; a subclass overrides `_call`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def _call(
        self, operation: str, method: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Pass every operation through here: its name, the inner store's method, and its arguments."""
        return await method(*args, **kwargs)

    async def list_namespaces(self) -> list[Namespace]:
        """See `Store`."""
        return await self._call("list_namespaces", self._store.list_namespaces)

    async def create_namespace(self, title: str) -> Namespace:
        """See `Store`."""
        return await self._call("create_namespace", self._store.create_namespace, title)

    async def get_namespace(self, namespace: NamespaceId) -> Namespace:
        """See `Store`."""
        return await self._call("get_namespace", self._store.get_namespace, namespace)

    async def rename_namespace(self, namespace: NamespaceId, title: str) -> None:
        """See `Store`."""
        await self._call("rename_namespace", self._store.rename_namespace, namespace, title)

    async def delete_namespace(self, namespace: NamespaceId) -> None:
        """See `Store`."""
        await self._call("delete_namespace", self._store.delete_namespace, namespace)

    async def list_keys(
        self, namespace: NamespaceId, *, prefix: str = "", cursor: str | None = None, limit: int = LIST_KEYS
    ) -> KeyPage:
        """See `Store`."""
        return await self._call(
            "list_keys", self._store.list_keys, namespace, prefix=prefix, cursor=cursor, limit=limit
        )

    async def get(self, namespace: NamespaceId, key: Key) -> ValueRead | None:
        """See `Store`."""
        return await self._call("get", self._store.get, namespace, key)

    async def get_metadata(self, namespace: NamespaceId, key: Key) -> Metadata | None:
        """See `Store`."""
        return await self._call("get_metadata", self._store.get_metadata, namespace, key)

    async def bulk_get(self, namespace: NamespaceId, keys: Sequence[Key]) -> Mapping[Key, Entry | None]:
        """See `Store`."""
        return await self._call("bulk_get", self._store.bulk_get, namespace, keys)

    async def put(self, namespace: NamespaceId, key: Key, entry: Entry) -> None:
        """See `Store`."""
        await self._call("put", self._store.put, namespace, key, entry)

    async def bulk_put(
        self, namespace: NamespaceId, entries: Mapping[Key, Entry], *, disguised: bool = False
    ) -> frozenset[Key]:
        """See `Store`."""
        options = {"disguised": True} if disguised else {}
        return await self._call("bulk_put", self._store.bulk_put, namespace, entries, **options)

    async def delete(self, namespace: NamespaceId, key: Key) -> None:
        """See `Store`."""
        await self._call("delete", self._store.delete, namespace, key)

    async def bulk_delete(self, namespace: NamespaceId, keys: Sequence[Key]) -> frozenset[Key]:
        """See `Store`."""
        return await self._call("bulk_delete", self._store.bulk_delete, namespace, keys)
