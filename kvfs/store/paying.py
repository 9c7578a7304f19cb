"""Paying: a Store around a Store that says for whom each request is made, so that it is charged to its callers."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, ParamSpec, TypeVar

from kvfs.core.callers import Caller, current, shared_by
from kvfs.core.model import Key, NamespaceId
from kvfs.store.base import Store
from kvfs.store.wrapper import Around

P = ParamSpec("P")
T = TypeVar("T")

Payer = Callable[[NamespaceId, Key], Caller | None]
"""For whom a key is asked for or written; None: for whom the task that runs does its work."""

_MANY: Final = frozenset({"bulk_get", "bulk_put", "bulk_delete"})
_ONE: Final = frozenset({"get", "get_metadata", "put", "delete"})


class Paying(Around):
    """Finds out whose keys a request carries. Others (listings, namespaces) are of the task that asks."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.payer: Payer = lambda namespace, key: None

    def __repr__(self) -> str:
        return f"<Paying around {self._store!r}>"

    async def _call(
        self, operation: str, method: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        if operation not in _MANY and operation not in _ONE:
            return await method(*args, **kwargs)
        keys = args[1] if operation in _MANY else [args[1]]
        with shared_by(self._shares(args[0], keys)):  # type: ignore[arg-type]  # as `Store` says
            return await method(*args, **kwargs)

    def _shares(self, namespace: NamespaceId, keys: Iterable[Key]) -> Counter[Caller]:
        """Return the number of keys of each caller. Keys of nobody count only if all are nobody's."""
        payer, otherwise = self.payer, current()
        found = Counter(payer(namespace, key) or otherwise for key in keys)
        return Counter({caller: count for caller, count in found.items() if caller is not None})
