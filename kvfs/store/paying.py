"""Paying: a Store around a Store that says for whom each request is made, so that it is charged to its callers."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeVar

from kvfs.core.callers import Caller, current, shared_by
from kvfs.core.model import Key, NamespaceId
from kvfs.store.base import Store
from kvfs.store.wrapper import Around, StoreCall

T = TypeVar("T")

Payer = Callable[[NamespaceId, Key], Caller | None]
"""For whom a key is asked for or written; None: for whom the task that runs does its work."""


class Paying(Around):
    """Finds out whose keys a request carries. Others (listings, namespaces) are of the task that asks."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.payer: Payer = lambda namespace, key: None

    async def _call(self, call: StoreCall[T]) -> T:
        if not call.keys:
            return await call()
        with shared_by(self._shares(call.namespace, call.keys)):
            return await call()

    def _shares(self, namespace: NamespaceId, keys: Iterable[Key]) -> Counter[Caller]:
        """Return the number of keys of each caller. Keys of nobody count only if all are nobody's."""
        payer, otherwise = self.payer, current()
        found = Counter(payer(namespace, key) or otherwise for key in keys)
        return Counter({caller: count for caller, count in found.items() if caller is not None})
