"""Slow bulk writes: a store that takes its time for each pair if it is called within `pacing`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, TypeVar

import trio

from kvfs.core.model import Entry, Key, NamespaceId
from kvfs.store.wrapper import Around

T = TypeVar("T")

_SLICE_SECONDS: Final = 0.25

_cost: ContextVar[float] = ContextVar("cost", default=0.0)


@contextmanager
def pacing(seconds: float) -> Iterator[None]:
    """Let bulk writes in here take so many seconds for each pair."""
    token = _cost.set(seconds)
    try:
        yield
    finally:
        _cost.reset(token)


class PacedStore(Around):
    """A store that writes the pairs of a bulk write in slices, each when its time is over."""

    async def bulk_put(
        self, namespace: NamespaceId, entries: Mapping[Key, Entry], *, disguised: bool = False
    ) -> frozenset[Key]:
        """See `Store`."""
        failed: set[Key] = set()
        for keys in _slices(list(entries)):
            await trio.sleep(_cost.get() * len(keys))
            failed |= await super().bulk_put(namespace, {key: entries[key] for key in keys})
        return frozenset(failed)

    async def bulk_delete(self, namespace: NamespaceId, keys: Sequence[Key]) -> frozenset[Key]:
        """See `Store`."""
        failed: set[Key] = set()
        for some in _slices(keys):
            await trio.sleep(_cost.get() * len(some))
            failed |= await super().bulk_delete(namespace, some)
        return frozenset(failed)


def _slices(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield the items by what fits into a quarter of a second; all at once if they cost nothing."""
    cost = _cost.get()
    size = max(1, int(_SLICE_SECONDS / cost)) if cost else len(items)
    for start in range(0, len(items), size):
        yield items[start : start + size]
