"""The parts that the stores of this room share: their namespaces are fixed, and one key is written as a bulk of one.

A configuration file names the namespaces, so they can be listed, and not made, renamed or deleted here.
"""

from typing import Final, NoReturn

from kvfs.core.errors import FixedNamespacesError, NamespaceNotFoundError, UnavailableError
from kvfs.core.model import Entry, Key, Namespace, NamespaceId
from kvfs.store.base import Store

WAY_OUT: Final = (
    "a namespace of wrangler dev is a KV binding: edit kv_namespaces in the wrangler configuration"
)


class FixedNamespaces(Store):
    """Base of the stores of this room: the operations on namespaces that they refuse, and writes of one key."""

    async def get_namespace(self, namespace: NamespaceId) -> Namespace:
        """Return one namespace by its id."""
        for known in await self.list_namespaces():
            if known.id == namespace:
                return known
        raise NamespaceNotFoundError(f"no binding of the project has the namespace {namespace}")

    async def create_namespace(self, title: str) -> Namespace:
        """Refuse."""
        _refuse(f"namespace {title!r} cannot be made")

    async def rename_namespace(self, namespace: NamespaceId, title: str) -> None:
        """Refuse."""
        _refuse(f"namespace {namespace} cannot be renamed to {title!r}")

    async def delete_namespace(self, namespace: NamespaceId) -> None:
        """Refuse."""
        _refuse(f"namespace {namespace} cannot be deleted")

    async def put(self, namespace: NamespaceId, key: Key, entry: Entry) -> None:
        """Replace one entry."""
        if await self.bulk_put(namespace, {key: entry}):
            raise UnavailableError(f"put: wrangler dev did not store {key!r}")

    async def delete(self, namespace: NamespaceId, key: Key) -> None:
        """Remove one key; success also when it did not exist."""
        await self.bulk_delete(namespace, [key])


def _refuse(what: str) -> NoReturn:
    raise FixedNamespacesError(f"{what}: {WAY_OUT}")
