"""Namespaces that a configuration file names: they can be listed, and not made, renamed or deleted here."""

from typing import Final, NoReturn

from kvfs.core.errors import FixedNamespacesError, NamespaceNotFoundError
from kvfs.core.model import Namespace, NamespaceId

WAY_OUT: Final = (
    "a namespace of wrangler dev is a KV binding: edit kv_namespaces in the wrangler configuration"
)


class FixedNamespaces:
    """Base of the stores of this room: the operations on namespaces that they refuse."""

    async def list_namespaces(self) -> list[Namespace]:
        """Return all namespaces."""
        raise NotImplementedError

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


def _refuse(what: str) -> NoReturn:
    raise FixedNamespacesError(f"{what}: {WAY_OUT}")
