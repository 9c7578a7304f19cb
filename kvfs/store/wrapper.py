"""Around: a Store around a Store in which every call passes one place. It is the base of all wrappers."""

from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Concatenate, Final, Generic, ParamSpec, TypeVar

from kvfs.core.model import Key, NamespaceId
from kvfs.store.base import Store

P = ParamSpec("P")
T = TypeVar("T")

READS: Final = frozenset({"get", "bulk_get"})
WRITES: Final = frozenset({"put", "bulk_put", "delete", "bulk_delete"})
_NAMING_KEYS: Final = READS | WRITES | {"get_metadata"}


@dataclass(frozen=True, slots=True)
class StoreCall(Generic[T]):
    """One call of a store: the name of the operation, the method that does it, and its arguments. Call it to pass on.

    Every operation but a listing has positional arguments alone; the keys are the second.
    """

    operation: str
    method: Callable[..., Awaitable[T]]
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __call__(self) -> Awaitable[T]:
        return self.method(*self.args, **self.kwargs)

    @property
    def namespace(self) -> NamespaceId:
        """The namespace that it is for. Only for an operation on keys."""
        found: NamespaceId = self.args[0]
        return found

    @property
    def keys(self) -> Collection[Key]:
        """The keys whose values or metadata are read or written; none for other operations."""
        if self.operation not in _NAMING_KEYS:
            return ()
        named: Key | Collection[Key] = self.args[1]
        return [named] if isinstance(named, str) else named

    @property
    def is_read(self) -> bool:
        """True if it reads values."""
        return self.operation in READS

    @property
    def is_write(self) -> bool:
        """True if it writes or deletes keys."""
        return self.operation in WRITES


def _passed(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["Around", P], Coroutine[Any, Any, T]]:
    """Return the method of `Around` for one of `Store`."""
    operation = method.__name__

    @wraps(method)
    async def passed(self: "Around", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._call(StoreCall(operation, getattr(self._store, operation), args, kwargs))

    return passed


class Around(Store):
    """Hands every operation to the store inside; a subclass overrides `_call`, or single operations."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __repr__(self) -> str:
        return f"<{type(self).__name__} around {self._store!r}>"

    async def _call(self, call: StoreCall[T]) -> T:
        """Pass every operation through here."""
        return await call()

    list_namespaces = _passed(Store.list_namespaces)
    create_namespace = _passed(Store.create_namespace)
    get_namespace = _passed(Store.get_namespace)
    rename_namespace = _passed(Store.rename_namespace)
    delete_namespace = _passed(Store.delete_namespace)
    list_keys = _passed(Store.list_keys)
    get = _passed(Store.get)
    get_metadata = _passed(Store.get_metadata)
    bulk_get = _passed(Store.bulk_get)
    put = _passed(Store.put)
    bulk_put = _passed(Store.bulk_put)
    delete = _passed(Store.delete)
    bulk_delete = _passed(Store.bulk_delete)
